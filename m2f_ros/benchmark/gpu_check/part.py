"""One part of the check, in a process of its own: python -m m2f_ros.benchmark.gpu_check.part KIND ARGUMENTS RESULT.

KIND is a key of KINDS, ARGUMENTS a JSON object, RESULT the file for what is found: {"result": …}, and "failed" or
"not_run" with the reason. The file is replaced whenever there is more, so that it is complete whenever the process is
ended.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2f_ros import signals
from m2f_ros.errors import M2fError, words_of
from m2f_ros.files import file_name, whole, write_whole

if TYPE_CHECKING:
    import numpy as np

    from m2f_ros.benchmark.inputs import Case
    from m2f_ros.model import Network

FULL_HD = (1080, 1920)
FRAMES = 8  # of the street
ROUNDS = 3  # of the matrix
LONGEST = 10  # tests whose time is noted
Note = Callable[[dict], None]


class NotHere(Exception):
    """A thing that the part needs is not on this machine."""


class FailedTests(Exception):
    """Some tests failed, or none was found."""


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
        "why_no_cuda": None if cuda else why,
        "described": asdict(fields["machine"]),
        **{name: fields[name] for name in ("versions", "commit", "dirty")},
    }
    note(found)
    types = {"fp16": torch.float16, "bf16": torch.bfloat16} if cuda else {"fp32": torch.float32}
    found["matrix_product_tflop_per_s"] = {name: machine.gemm_rate(device, t) / 1e12 for name, t in types.items()}
    found["copy_gb_per_s"] = machine.copy_rate(device) / 1e9
    note(found)


class Account:
    """A plugin of pytest: notes the outcome of each test as soon as it is known, so that a kill loses nothing.

    few: number of cases of each test that are run; 0: all.
    """

    def __init__(self, note: Note, few: int):
        self._note, self._few = note, few
        self._outcomes: dict[str, str] = {}
        self._skips: Counter[str] = Counter()
        self._failures: dict[str, str] = {}
        self._seconds: Counter[str] = Counter()

    def pytest_collection_modifyitems(self, items: list) -> None:
        if self._few:
            cases: dict[str, list] = {}
            for item in items:
                cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
            items[:] = [item for of_one in cases.values() for item in of_one[: self._few]]

    def pytest_collectreport(self, report: Any) -> None:
        if not report.passed:
            self._add(report)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._seconds[report.nodeid] += report.duration
        if report.when == "call" or not report.passed:
            self._add(report)

    def _add(self, report: Any) -> None:
        """Add a module that was not imported, a test, or a set-up or tear-down that did not pass."""
        self._outcomes[report.nodeid] = report.outcome
        if report.failed:
            self._failures[report.nodeid] = report.longreprtext[
                -1500:
            ]  # the end says what was wrong, the rest is where
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", "")
            self._skips[reason.removeprefix("Skipped: ")] += 1
        self._note(self.found())

    def found(self) -> dict:
        """Numbers of tests by outcome, reasons of skips, the end of each failure's text, and the longest tests."""
        counts = Counter(self._outcomes.values())
        return {
            "collected": len(self._outcomes),
            **{name: counts[name] for name in ("passed", "failed", "skipped")},
            "skips": dict(self._skips),
            "failures": self._failures,
            "longest_s": {test: round(value, 2) for test, value in self._seconds.most_common(LONGEST)},
        }


def tests(arguments: dict, note: Note) -> None:
    """pytest with the tests at `paths` of the checkout that is the current folder."""
    import pytest

    # Tests of kernels switch torch's deterministic algorithms on, which cuBLAS takes part in with this alone.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    account = Account(note, arguments.get("few") or 0)
    ignored = [f"--ignore={path}" for path in arguments.get("ignore", ())]
    code = pytest.main([*arguments["paths"], "-v", "-p", "no:cacheprovider", *ignored], plugins=[account])
    found = account.found()
    note(found)
    if found["failed"]:
        raise FailedTests(f"{found['failed']} of {found['collected']} tests failed, first {min(found['failures'])}")
    # Where all modules are skipped no test is collected, and that is no fault.
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) or not found["collected"]:
        raise FailedTests(f"pytest ended with {code!r} and {found['collected']} tests")


def bench(arguments: dict, note: Note) -> None:
    """`m2f bench` against HF; the result goes to the folder `out` too."""
    from m2f_ros.benchmark.result import Settings, shape, write
    from m2f_ros.benchmark.runner import run
    from m2f_ros.benchmark.targets import figures

    options = {name: arguments[name] for name in ("model", "device", "rounds", "seconds")}
    settings = Settings(size=tuple(arguments["size"]), rate=30.0, **options)
    result = run(settings, partial(print, flush=True))
    name = f"{result.device}_{Path(settings.model).name}_{shape(settings.size)}_{result.precision}.json"
    file = file_name(name.replace("-", "_"))
    write(result, Path(arguments["out"], file))
    found: dict[str, Any] = {"file": file, "weights": result.weights.origin, "targets": figures({file: result})}
    for c in result.contestants:
        side = {"ours": "ours", "theirs": "hf"}[c.side]
        found |= {f"{side}_ms": c.time_ms.median, f"{side}_fps": c.throughput_fps, f"{side}_agreement": c.agreement}
    note(found | {"roofline_share": result.best.roofline_share})


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
    profile_frame(model, case, list(street(arguments, case.size)[:1]), found, note)


def matrix(arguments: dict, note: Note) -> None:
    """This pipeline and transformers' network in turns: a row for each point [height, width, batch].

    The weights are loaded once for all points. `compiled`: transformers' network under torch.compile.
    """
    _needs("transformers")
    import cv2

    from m2f_ros.benchmark import theirs
    from m2f_ros.benchmark.measure import agreement, median, released
    from m2f_ros.benchmark.ours import Ours
    from m2f_ros.benchmark.runner import enter, take_turns, throughput

    model, case, found = subject(arguments)
    network = theirs.make("compiled" if arguments.get("compiled") else "hf", case).network
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
                for name, entry in (("ours", ours), ("hf", hf)):
                    row[f"{name}_ms"], row[f"{name}_setup_s"] = 1000 * median(entry.seconds), entry.setup_s
                    row[f"{name}_memory_mb"], row[f"{name}_fps"] = entry.memory_mb, batch / median(entry.seconds)
                count = max(4, min(200, round(400 / row["ours_ms"])))
                row["ours_fps"] = throughput(ours, batches, count, case.device, repeats=1)
                row["ratio"] = row["hf_ms"] / row["ours_ms"]
        except Exception as error:  # a point that is too large leaves the others their turn
            row["error"] = f"{type(error).__name__}: {words_of(error)}"
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


KINDS = {function.__name__: function for function in (machine, tests, bench, ablation, profile, matrix, node)}


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
    signal.alarm(round(float(os.environ.get("M2F_SECONDS", 600))) + 10)
    answer: dict = {"result": None}

    def note(found: dict | None) -> None:
        answer["result"] = found
        write_whole(Path(result), json.dumps(answer))

    try:
        KINDS[kind](json.loads(arguments), note)
    except NotHere as reason:
        answer["not_run"] = str(reason)
    except (M2fError, FailedTests) as error:
        answer["failed"] = str(error)
    note(answer["result"])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
