"""One part of the check, in a process of its own: python -m m2f_ros.benchmark.gpu_check.part KIND ARGUMENTS RESULT.

KIND is a key of KINDS, ARGUMENTS a JSON object, RESULT the file for what is found: {"result": …}, and "failed" or
"not_run" with the reason. The file is replaced whenever there is more, so that it is complete whenever the process is
ended.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2f_ros import signals
from m2f_ros.benchmark.gpu_check.plan import FailedPart
from m2f_ros.errors import M2fError
from m2f_ros.files import file_name, whole, write_whole

if TYPE_CHECKING:
    import numpy as np

    from m2f_ros.benchmark.gpu_check.sweep import Recorded
    from m2f_ros.benchmark.inputs import Case
    from m2f_ros.model import Network

FULL_HD = (1080, 1920)
FRAMES = 8  # of the street
ROUNDS = 3  # of the matrix
BLOCKING = "CUDA_LAUNCH_BLOCKING"
MODULE = [sys.executable, "-m", "m2f_ros.benchmark.gpu_check.part"]
Note = Callable[[dict], None]


class NotHere(Exception):
    """A thing that the part needs is not on this machine."""


def machine(arguments: dict, note: Note) -> None:
    """Device, versions, commit, and the rates of matrix products and copies."""
    import torch

    from m2f_ros.benchmark import machine
    from m2f_ros.pipeline.device import choose_device

    device = choose_device(arguments["device"])
    cuda, fields = device.type == "cuda", machine.run_fields(device)
    why = f"PyTorch {torch.__version__}, built for CUDA {torch.version.cuda}, sees none"
    if torch.cuda.is_available():
        why = f"--device {arguments['device']} was asked for"
    elif not torch.backends.cuda.is_built():
        why = f"PyTorch {torch.__version__} is built without CUDA"
    found = {
        "device": device.type,
        "gpu": fields["machine"].gpu,
        "uuid": str(getattr(torch.cuda.get_device_properties(device), "uuid", "")) if cuda else None,
        "why_no_cuda": None if cuda else why,
        "described": asdict(fields["machine"]),
        **{name: fields[name] for name in ("versions", "commit", "dirty")},
    }
    note(found)
    types = {"fp16": torch.float16, "bf16": torch.bfloat16} if cuda else {"fp32": torch.float32}
    found["matrix_product_tflop_per_s"] = {name: machine.gemm_rate(device, t) / 1e12 for name, t in types.items()}
    found["copy_gb_per_s"] = machine.copy_rate(device) / 1e9
    note(found)


def tests(arguments: dict, note: Note) -> None:
    """See `gpu_check.account`."""
    from m2f_ros.benchmark.gpu_check.account import run_tests

    run_tests(arguments, note)


def bench(arguments: dict, note: Note) -> None:
    """`m2f bench` against HF; the result goes to the folder `out` too."""
    from m2f_ros.benchmark.result import Settings, shape, write
    from m2f_ros.benchmark.runner import run
    from m2f_ros.benchmark.targets import figures

    options = {name: arguments[name] for name in ("model", "device", "rounds", "seconds")}
    backends = tuple(arguments.get("backends", ("eager",)))
    settings = Settings(size=tuple(arguments["size"]), rate=30.0, backends=backends, **options)
    result = run(settings, partial(print, flush=True))
    extra = "".join(f"_{name}" for name in backends[1:])
    name = f"{result.device}_{Path(settings.model).name}_{shape(settings.size)}_{result.precision}{extra}.json"
    file = file_name(name.replace("-", "_"))
    write(result, Path(arguments["out"], file))
    found: dict[str, Any] = {"file": file, "weights": result.weights.origin, "targets": figures({file: result})}
    for c in result.contestants:
        side = {"ours": c.name.replace("ours ", "ours_").removesuffix("_eager"), "theirs": "hf"}[c.side]
        found |= {f"{side}_ms": c.time_ms.median, f"{side}_fps": c.throughput_fps, f"{side}_agreement": c.agreement}
    given_up = sum(c.fallbacks or 0 for c in result.ours)
    note(found | {"roofline_share": result.best.roofline_share, "fallbacks": given_up})


def subject(arguments: dict) -> tuple[Network, Case, dict]:
    """The network on the device in fp32, the case of it, and the fields that a part's result begins with."""
    from m2f_ros.benchmark.inputs import Case, checkpoint
    from m2f_ros.model import load
    from m2f_ros.pipeline.device import choose_device, choose_precision

    device = choose_device(arguments["device"])
    weights = checkpoint(arguments["model"], Path(arguments["scratch"]), device)
    size = tuple(arguments["size"] if "size" in arguments else arguments["points"][0][:2])
    case = Case(weights, size, device, choose_precision(None, device))
    found = {"model": arguments["model"], "size": size, "precision": case.precision, "weights": weights.origin}
    return load(weights.folder, device=device), case, found


def street(arguments: dict, size: tuple[int, int]) -> np.ndarray:
    """(FRAMES, *size, 3) uint8 RGB of the simulated street, drawn once for all parts."""
    import numpy as np

    from m2f_ros.benchmark.inputs import read_frames

    path = Path(arguments["scratch"], f"street_{size[0]}x{size[1]}.npy")
    if not path.exists():
        with whole(path) as new, new.open("wb") as file:
            np.save(file, np.stack(read_frames("street", size, FRAMES)))
    return np.load(path)


def preflight(arguments: dict, note: Note) -> None:
    """See `gpu_check.preflight`."""
    from m2f_ros.benchmark.gpu_check.preflight import first_frames

    model, case, found = subject(arguments)
    try:
        first_frames(model, case, street(arguments, case.size)[0], found, note)
    except RuntimeError:
        # The device reports an error at a later call than the faulty one, and then ends all work of this process. In
        # another, the host waits for each launch: the log has its traceback, too.
        if case.cuda and BLOCKING not in os.environ:
            print(f"again with {BLOCKING}=1", flush=True)
            os.environ[BLOCKING] = "1"
            file = Path(arguments["scratch"], "again.json")
            subprocess.run([*MODULE, "preflight", json.dumps(arguments), str(file)], check=False)
        raise


def sweep(arguments: dict, note: Note) -> None:
    """See `gpu_check.sweep`. The kernels' arguments are those of a frame."""
    from m2f_ros.benchmark.gpu_check import sweep
    from m2f_ros.benchmark.gpu_check.preflight import compiled
    from m2f_ros.pipeline.device import choose_device

    device, found = choose_device(arguments["device"]), {"rows": list[dict]()}
    sweep.sweep([*sweep.products(), *sweep.attentions(), *sweep.norms(), *sweep.windows()], device, note, found)
    sweep.sweep_blocks(kernel_calls(arguments), device, note, found)
    note(found | {"triton": compiled()})


def kernel_calls(arguments: dict) -> dict[str, Recorded]:
    """The calls of kernels that a frame needs."""
    from m2f_ros.benchmark.gpu_check.preflight import WANT
    from m2f_ros.benchmark.gpu_check.sweep import recorded
    from m2f_ros.benchmark.ours import channels_last, make_pipeline
    from m2f_ros.pipeline import Frame
    from m2f_ros.pipeline.backends import make_backend

    model, case, _ = subject(arguments)
    backend = make_backend("eager", channels_last(model, case), case.precision)
    with recorded() as calls:
        make_pipeline(case, backend, graphs=False, slots=1).segment(
            Frame(street(arguments, case.size)[0], "rgb8"), WANT
        )
    return calls


def once(arguments: dict, note: Note) -> None:
    """Call each kernel of a frame once, as `counters` profiles it: the first call of each, with the largest maps."""
    import torch

    calls = {(call.module, call.function): call for call in reversed(kernel_calls(arguments).values())}
    with torch.inference_mode():
        for call in calls.values():
            torch.cuda.synchronize()
            torch.cuda.profiler.start()
            call.run(call.args, call.kwargs)
            torch.cuda.synchronize()
            torch.cuda.profiler.stop()
    note({"kernels": [call.name for call in calls.values()]})


def counters(arguments: dict, note: Note) -> None:
    """Nsight Compute on kernels of a frame: hardware counters, as a table in the file ncu.csv."""
    file = Path(arguments["out"], "ncu.csv")
    options = [
        "--clock-control",
        "none",
        "--profile-from-start",
        "off",
        "--set",
        "detailed",
        "--kernel-name",
        "regex:^_",
    ]
    command = [_program("ncu"), *options, "--csv", "--log-file", str(file)]
    found: dict = {}
    _under(command, "once", arguments, found, note)
    rows = [line for line in file.read_text(errors="replace").splitlines() if line.startswith('"')]
    if len(rows) < 2:
        raise FailedPart("ncu counted nothing: see ncu.csv")
    note(found | {"file": file.name, "lines": len(rows) - 1})


def sanitizer(arguments: dict, note: Note) -> None:
    """compute-sanitizer's memcheck on one case of each kernel test."""
    # torch's own allocator would hide what lies beyond a tensor.
    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    _under(
        [_program("compute-sanitizer"), "--tool", "memcheck", "--error-exitcode", "86"], "tests", arguments, {}, note
    )


def _under(command: list[str], kind: str, arguments: dict, found: dict, note: Note) -> None:
    """Run a part under a program, and note what it found, even if it is late.

    Raises:
        FailedPart: the part failed, or the program says so.
    """
    file = Path(arguments["scratch"], f"under_{kind}.json")
    try:
        code = subprocess.run([*command, *MODULE, kind, json.dumps(arguments), str(file)], check=False).returncode
    finally:
        answer = json.loads(file.read_text()) if file.exists() else {}
        found |= answer.get("result") or {}
        note(found)
    if code or "failed" in answer:
        raise FailedPart(answer.get("failed") or f"{Path(command[0]).name} ended with {code}: see the log")


def _program(name: str) -> str:
    if path := shutil.which(name):
        return path
    raise NotHere(f"there is no {name} on the PATH")


def ablation(arguments: dict, note: Note) -> None:
    """See `m2f_ros.benchmark.ablation`."""
    from m2f_ros.benchmark.ablation import ablate

    model, case, found = subject(arguments)
    frames = list(street(arguments, case.size)[: 4 if case.cuda else 2])
    found["rows"] = []
    for row in ablate(model, case, frames, arguments["rounds"], arguments["seconds"]):
        found["rows"].append(asdict(row))
        note(found)
        print(row, flush=True)


def profile(arguments: dict, note: Note) -> None:
    """See `gpu_check.profile`."""
    from m2f_ros.benchmark.gpu_check.profile import profile_frame

    model, case, found = subject(arguments)
    profile_frame(model, case, list(street(arguments, case.size)[:1]), Path(arguments["out"]), found, note)


def matrix(arguments: dict, note: Note) -> None:
    """This pipeline and transformers' network in turns: a row for each point [height, width, batch].

    The weights are loaded once for all points.
    """
    _needs("transformers")
    import cv2

    from m2f_ros.benchmark import theirs
    from m2f_ros.benchmark.measure import agreement, median, released, said
    from m2f_ros.benchmark.ours import Ours
    from m2f_ros.benchmark.runner import enter, take_turns, throughput

    model, case, found = subject(arguments)
    network = theirs.make("hf", case).network
    found["rows"] = []
    images = street(arguments, case.size)
    for height, width, batch in arguments["points"]:
        row: dict[str, Any] = {"size": (height, width), "batch": batch}
        point = replace(case, size=(height, width))
        frames = [cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in images]
        batches = [frames[i : i + batch] for i in range(0, FRAMES, batch)][:ROUNDS]
        try:
            with released(case.device):
                ours = enter("ours", partial(Ours, "eager", point, model), batches, 2, case.device)
                make = partial(theirs.Theirs, "hf", network, point, case.dtype)
                hf = enter("theirs", make, batches, 0, case.device)
                row["agreement"] = agreement(ours.labels, hf.labels)
                take_turns([ours, hf], batches, ROUNDS)
                row["fallbacks"] = ours.contestant.fallbacks
                for name, entry in (("ours", ours), ("hf", hf)):
                    row[f"{name}_ms"], row[f"{name}_setup_s"] = 1000 * median(entry.seconds), entry.setup_s
                    row[f"{name}_memory_mb"], row[f"{name}_fps"] = entry.memory_mb, batch / median(entry.seconds)
                count = max(4, min(200, round(400 / row["ours_ms"])))
                row["ours_fps"] = throughput(ours, batches, count, case.device, repeats=1)
                row["ratio"] = row["hf_ms"] / row["ours_ms"]
        except Exception as error:  # a point that is too large leaves the others their turn
            row |= said(error)
        found["rows"].append(row)
        note(found)
        print(row, flush=True)


def node(arguments: dict, note: Note) -> None:
    """`m2f demo` with a camera of 1920x1080: the camera, the node and a recorder as three processes."""
    for name in ("rclpy", "rosbags", "mcap", "av"):
        _needs(name)
    import cv2

    from m2f_ros.benchmark.inputs import checkpoint
    from m2f_ros.pipeline.device import choose_device
    from m2f_ros.replay.demo import Options, run

    scratch, count = Path(arguments["scratch"]), arguments["frames"]
    weights = checkpoint(arguments["model"], scratch, choose_device(arguments["device"]))
    images = scratch / "full_hd"
    images.mkdir(exist_ok=True)
    for i, image in enumerate(street(arguments, FULL_HD)):
        cv2.imwrite(str(images / f"{i:05}.jpg"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    for i in range(FRAMES, count):
        os.link(images / f"{i % FRAMES:05}.jpg", images / f"{i:05}.jpg")
    played = {"source": str(images), "rate": arguments["rate"], "frames": count, "timeout": 40.0}
    options = Options(**played, model=str(weights.folder), device=arguments["device"], out=scratch / "node")
    note({"size": FULL_HD, "weights": weights.origin, **run(options)})


_ALL = (machine, preflight, tests, bench, sweep, counters, sanitizer, once, ablation, profile, matrix, node)
KINDS = {function.__name__: function for function in _ALL}


def _needs(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise NotHere(f"{name} cannot be imported here ({error})") from None


def main(kind: str, arguments: str, result: str) -> int:
    """The exit status."""
    # The parent ends this process in time. If the parent was killed, this process ends with it, or by itself.
    if parent := os.environ.pop(signals.PARENT, ""):
        signals.end_with_parent(int(parent), signal.SIGKILL)
    seconds = float(os.environ.get("M2F_SECONDS", 600))
    signal.alarm(round(seconds) + 10)
    # A wait for the device inside a library does not see SIGINT: this says where it is.
    faulthandler.enable()
    faulthandler.dump_traceback_later(max(1.0, seconds - 5))
    answer: dict = {"result": None}

    def note(found: dict | None) -> None:
        answer["result"] = found
        write_whole(Path(result), json.dumps(answer))

    try:
        KINDS[kind](json.loads(arguments), note)
    except NotHere as reason:
        answer["not_run"] = str(reason)
    except (M2fError, FailedPart) as error:
        traceback.print_exc()
        answer["failed"] = str(error)
    note(answer["result"])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
