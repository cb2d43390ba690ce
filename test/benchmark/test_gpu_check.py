"""The check of what needs a GPU: its account of time and failures, with made up parts, and what runs without one."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from m2f_ros import kernels
from m2f_ros.benchmark.gpu_check import part, preflight, profile, runner
from m2f_ros.benchmark.gpu_check.plan import (
    FAILED,
    FILE,
    FULL,
    KIND,
    LATE,
    NOT_RUN,
    PASSED,
    FailedPart,
    Part,
    matrix_points,
    parts,
)
from m2f_ros.benchmark.gpu_check.runner import LOG, RESERVE, Options, Outcome, check, passed, run_part
from m2f_ros.benchmark.gpu_check.text import check_sections, describe, section
from m2f_ros.errors import ConfigError
from m2f_ros.pipeline.streams import CaptureError, Cuda

ROOT = Path(__file__).resolve().parents[2]
MACHINE = {
    "device": "cuda",
    "gpu": "a GPU",
    "why_no_cuda": None,
    "described": {"gpu": "a GPU", "cpu": "a CPU"},
    "commit": "0123456789abcdef",
    "dirty": False,
}


class Machine:
    """Runs parts that take what `takes` says, by name, and end as `ends` says."""

    def __init__(self, takes=None, ends=None, machine=MACHINE, finds=None):
        self.takes, self.ends, self.machine, self.finds = takes or {}, ends or {}, machine, finds or {}
        self.now = 0.0
        self.limits: dict[str, float] = {}
        self.arguments: dict[str, dict] = {}

    def clock(self):
        return self.now

    def run(self, part, arguments, limit):
        self.limits[part.name], self.arguments[part.name] = limit, arguments
        wanted = self.takes.get(part.name, 1)
        self.now += min(wanted, limit)
        outcome = Outcome(part.name, part.kind, part.what, PASSED, min(wanted, limit), limit, result={"ms": 1.0})
        outcome.result = self.finds.get(part.name, outcome.result)
        if part.name == "machine":
            outcome.result = self.machine
        elif wanted > limit:
            outcome.status, outcome.error = LATE, "not done"
        elif part.name in self.ends:
            outcome.status, outcome.error = self.ends[part.name], "why"
        return outcome


def account(tmp_path, machine, **options):
    said = []
    content = check(Options(tmp_path, **options), said.append, machine.run, machine.clock)
    assert json.loads((tmp_path / FILE).read_text()) == json.loads(json.dumps(content))
    return content, {part["name"]: part["status"] for part in content["parts"]}, said


def test_all_parts_run_in_their_order(tmp_path) -> None:
    content, states, _ = account(tmp_path, Machine())
    assert list(states) == ["machine", *(part.name for part in parts(True, None, None))]
    assert set(states.values()) == {PASSED}
    assert passed(content)


def test_no_part_gets_more_than_is_left(tmp_path) -> None:
    machine = Machine(takes={part.name: 1e6 for part in parts(True, None, None)} | {"preflight": 80})
    content, states, _ = account(tmp_path, machine)
    assert machine.now <= 9 * 60 - RESERVE
    planned = {part.name: part for part in parts(True, None, None)}
    begun = [name for name in states if name != "machine" and states[name] != NOT_RUN]
    assert all(planned[name].least_s <= machine.limits[name] <= planned[name].most_s for name in begun)
    assert begun == [name for name in planned if name in begun]
    assert NOT_RUN in states.values()
    # Tests that did not come to an end did not pass.
    assert not passed(content)


def test_more_minutes_are_more_for_each_part(tmp_path) -> None:
    machine = Machine()
    account(tmp_path, machine, minutes=18)
    assert all(machine.limits[part.name] == 2 * part.most_s for part in parts(True, None, None))


@pytest.mark.parametrize("machine", [{"ends": {"preflight": FAILED}}, {"takes": {"preflight": 1e6}}])
def test_the_large_parts_need_the_preflight(machine, tmp_path) -> None:
    content, states, _ = account(tmp_path, Machine(**machine))
    large = [part.name for part in parts(True, None, None) if part.needs]
    assert {"profile", "benchmark", "ablation"} <= set(large)
    assert {states[name] for name in large} == {NOT_RUN}
    assert {part["error"] for part in content["parts"] if part["name"] in large} == {"preflight did not pass"}
    assert states["CUDA tests"] == PASSED
    assert not passed(content)
    _, states, _ = account(tmp_path, Machine(**machine), only=("profile",))
    assert states["profile"] == PASSED


def test_a_part_that_fails_leaves_the_others_their_turn(tmp_path) -> None:
    content, states, said = account(tmp_path, Machine(ends={"benchmark": FAILED}))
    assert Counter(states.values()) == {PASSED: len(states) - 1, FAILED: 1}
    assert "benchmark: failed: why" in said
    assert not passed(content)


def test_a_measurement_without_time_is_no_failure_but_tests_are(tmp_path) -> None:
    assert passed(account(tmp_path, Machine(takes={"ablation": 1e6}))[0])
    assert not passed(account(tmp_path, Machine(takes={"memory": 1e6}))[0])
    assert passed(account(tmp_path, Machine(ends={"node": NOT_RUN}))[0])


@pytest.mark.parametrize("found", [None, {}, {"rows": []}, {"rows": [{"error": "OSError: x"}] * 2}])
def test_a_part_without_figures_fails(found, tmp_path) -> None:
    content, states, said = account(tmp_path, Machine(finds={"ablation": found}))
    assert states["ablation"] == FAILED
    assert not passed(content)
    assert any(line.startswith("ablation: failed: ") for line in said)
    if found == {"rows": [{"error": "OSError: x"}] * 2}:
        assert "none of 2 rows has figures; first OSError: x" in describe(content, tmp_path)


def test_rows_with_errors_beside_others_are_counted(tmp_path) -> None:
    rows = [{"error": "OSError: x", "traceback": "line 1"}, {"ms": 2.0, "gain": 1.5}]
    content, states, _ = account(tmp_path, Machine(finds={"ablation": {"rows": rows}}))
    assert states["ablation"] == PASSED
    assert "1 rows without figures, 1 rows, gain 1.50 to 1.50" in describe(content, tmp_path)
    assert "line 1" not in section("here", content)


@pytest.mark.parametrize("found", [{"fallbacks": 1, "ms": 2.0}, {"rows": [{"fallbacks": 0}, {"fallbacks": 1}]}])
@pytest.mark.parametrize("takes", [1, 1e6])
def test_graphs_that_were_given_up_fail_a_part(takes, found, tmp_path) -> None:
    content, states, _ = account(tmp_path, Machine(takes={"ablation": takes}, finds={"ablation": found}))
    assert states["ablation"] == FAILED
    assert "fallbacks 1: CUDA graphs were given up" in describe(content, tmp_path)
    assert not passed(content)


def test_what_was_found_is_kept_when_it_is_killed(tmp_path) -> None:
    machine = Machine()

    def run(part, arguments, limit):
        if part.name == "ablation":
            raise KeyboardInterrupt
        return machine.run(part, arguments, limit)

    with pytest.raises(KeyboardInterrupt):
        check(Options(tmp_path), lambda line: None, run, machine.clock)
    names = [part["name"] for part in json.loads((tmp_path / FILE).read_text())["parts"]]
    planned = [part.name for part in parts(True, None, None)]
    assert names == ["machine", *planned[: planned.index("ablation")]]


def test_a_model_takes_the_place_of_the_largest(tmp_path) -> None:
    machine = Machine()
    account(tmp_path, machine, model="folder", size=(256, 512))
    assert machine.arguments["ablation"]["model"] == "folder"
    assert machine.arguments["benchmark"]["size"] == (256, 512)
    assert {point[2] for point in machine.arguments["matrix folder"]["points"]} == {1, 2, 8}


def test_some_parts_only(tmp_path) -> None:
    _, states, _ = account(tmp_path, Machine(), only=("profile", "ablation"))
    assert list(states) == ["machine", "profile", "ablation"]
    with pytest.raises(ConfigError, match="--only 'tests': there is no such part here; take some of preflight, "):
        account(tmp_path, Machine(), only=("tests",))


def test_a_folder_that_cannot_be_made(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--out .*file"):
        check(Options(tmp_path / "file"), run=Machine().run)


def test_the_matrix_is_what_is_asked_for() -> None:
    points = matrix_points(FULL)
    assert sorted(map(tuple, points)) == sorted(
        (*size, batch) for size in ((1024, 2048), (768, 1536), (512, 1024)) for batch in (1, 2, 8)
    )
    assert [point[2] for point in points[:3]] == [1, 1, 1]


def in_process(tmp_path, code: str, limit: float) -> Outcome:
    """A part whose process finds a module with this code in the place of its own."""
    folder = tmp_path / "m2f_ros" / "benchmark" / "gpu_check"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent, folder.parents[1]):
        (package / "__init__.py").touch()
    (folder / "part.py").write_text(f"import json, pathlib, subprocess, sys, time\nresult = sys.argv[3]\n{code}\n")
    here = SimpleNamespace(__file__=str(tmp_path / "m2f_ros" / "__init__.py"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("m2f_ros.benchmark.gpu_check.runner.m2f_ros", here)
        patch.chdir(tmp_path)
        return run_part(Part("p", "kind", "what", limit, 0), {"a": 1}, limit)


@pytest.mark.process
def test_a_process_that_ends_badly(tmp_path) -> None:
    code = "pathlib.Path(result).write_text('{\"result\": {\"rows\": 3}}'); raise ValueError('broken')"
    outcome = in_process(tmp_path, code, 60)
    assert (outcome.status, outcome.result) == (FAILED, {"rows": 3})
    assert outcome.error.splitlines()[-1] == "ValueError: broken"
    assert outcome.log.startswith("Traceback (most recent call last):")


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A file: the deadline of a part is the moment at which its process makes that."""
    begun = tmp_path / "begun"

    class Popen(subprocess.Popen):
        def wait(self, timeout=None):
            if timeout is None or begun.exists():
                return super().wait(timeout)
            while self.poll() is None and not begun.exists():
                time.sleep(0.01)
            raise subprocess.TimeoutExpired(self.args, timeout)

    monkeypatch.setattr("m2f_ros.benchmark.gpu_check.runner.subprocess.Popen", Popen)
    monkeypatch.setattr("m2f_ros.benchmark.gpu_check.runner.GRACE", 240.0)
    return begun


@pytest.mark.process
def test_a_process_that_does_not_end(tmp_path, begun) -> None:
    lock = tmp_path / "lock"
    code = (
        "import fcntl, os\n"
        f"file = open({str(lock)!r}, 'w')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "os.set_inheritable(file.fileno(), True)\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(900)'], close_fds=False)\n"
        "pathlib.Path(result).write_text('{\"result\": 5}')\n"
        "print('x' * 20000, flush=True)\n"
        f"pathlib.Path({str(begun)!r}).touch()\n"
        "time.sleep(900)"
    )
    outcome = in_process(tmp_path, code, 3)
    assert (outcome.status, outcome.result, outcome.error) == (LATE, 5, "not done after 3 s")
    assert len(outcome.log) == LOG
    assert outcome.log.splitlines()[-1] == "KeyboardInterrupt"
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as soon as what it started has ended too


@pytest.mark.process
def test_a_process_says_what_it_lacks_and_what_failed(tmp_path) -> None:
    answer = "pathlib.Path(result).write_text(json.dumps({'result': None, %r: 'why'}))"
    assert in_process(tmp_path / "a", answer % "not_run", 60).status == NOT_RUN
    failed = in_process(tmp_path / "b", answer % "failed", 60)
    assert (failed.status, failed.error) == (FAILED, "why")


def run_tests(tmp_path, code: str, **options) -> dict:
    """The answer of a part that runs a module of tests with this code."""
    (tmp_path / "test_it.py").write_text(f"import pytest\n{code}\n")
    result = tmp_path / "result.json"
    arguments = json.dumps({"paths": ["test_it.py"], **options})
    command = [sys.executable, "-m", "m2f_ros.benchmark.gpu_check.part", "tests", arguments, str(result)]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    return json.loads(result.read_text())


@pytest.mark.process
@pytest.mark.parametrize("workers", [0, 2])
def test_tests_are_accounted_for_one_by_one(workers, tmp_path) -> None:
    answer = run_tests(
        tmp_path,
        "@pytest.mark.parametrize('i', range(4))\ndef test_a(i): assert i != 2\n"
        "def test_b(): pytest.skip('no wheels')\n"
        "@pytest.fixture\ndef broken(): raise OSError('no such thing')\ndef test_c(broken): pass",
        workers=workers,
    )
    result = answer["result"]
    assert (result["collected"], result["passed"], result["failed"], result["skipped"]) == (6, 3, 2, 1)
    assert result["skips"] == {"no wheels": 1}
    assert set(result["failures"]) == {"test_it.py::test_a[2]", "test_it.py::test_c"}
    assert "no such thing" in result["failures"]["test_it.py::test_c"]
    assert answer["failed"] == "2 of 6 tests failed, first test_it.py::test_a[2]"


@pytest.mark.process
def test_few_cases_of_each_test(tmp_path) -> None:
    code = "@pytest.mark.parametrize('i', range(4))\ndef test_a(i): pass\ndef test_b(): pass"
    answer = run_tests(tmp_path, code, few=2)
    assert (answer["result"]["collected"], answer["result"]["passed"]) == (3, 3)
    assert "failed" not in answer


@pytest.mark.process
def test_a_module_that_cannot_be_imported_is_a_failure(tmp_path) -> None:
    answer = run_tests(tmp_path, "import no_such_module")
    assert answer["result"]["failed"] == 1
    assert "no_such_module" in json.dumps(answer["result"]["failures"])


@pytest.mark.process
def test_where_nothing_is_collected(tmp_path) -> None:
    assert "failed" in run_tests(tmp_path, "")
    assert "failed" not in run_tests(tmp_path, "pytest.skip('not here', allow_module_level=True)")


@pytest.mark.parametrize(
    "kernel, what",
    [
        ("_window_attention", "this package's kernels"),
        ("_labels", "this package's kernels"),
        ("pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<32>>", "attention"),
        ("nvjet_hsh_256x128_64x4_2x1_v_bz_coopB_bias_TNN", "matrix products"),
        ("sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize128x128x64", "matrix products"),
        ("sm90_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc", "convolutions"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<c10::Half, float>", "norms"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("void at::native::(anonymous namespace)::upsample_bilinear2d_out_frame<float>", "resampling"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::GeluCUDAKernelImpl>", "elementwise"),
        ("something new", "other"),
    ],
)
def test_kernels_in_groups(kernel, what) -> None:
    assert profile.group(kernel) == what


@pytest.mark.process
def kernel_event(name, at, category="kernel", **args) -> dict:
    return {"name": name, "ts": at, "dur": 2.5, "cat": category, "args": args}


def test_kernels_in_their_order() -> None:
    events = [
        kernel_event("_b", 12.0, grid=[4, 1, 1], block=[64, 1, 1], **{"registers per thread": 128, "device": 0}),
        kernel_event("Memcpy HtoD", 10.5, "gpu_memcpy", bytes=64),
        kernel_event("aten::add", 9.0, "cpu_op"),
        {"name": "process_name"},
    ]
    assert profile.in_order({"traceEvents": events}) == [
        {"name": "Memcpy HtoD", "at_us": 0.0, "us": 2.5, "bytes": 64},
        {"name": "_b", "at_us": 1.5, "us": 2.5, "grid": [4, 1, 1], "block": [64, 1, 1], "registers": 128},
    ]


def test_a_module_is_called_again_with_what_it_was_given() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh(), torch.nn.Identity())
    seen = profile.calls_of(model, lambda: model(model[0](torch.ones(2))))
    assert {path: count for path, (count, _) in seen.items()} == {"0": 2, "1": 1}
    assert torch.equal(seen["0"][1](), model[0](torch.ones(2)))
    assert not model[0]._forward_pre_hooks


class FirstFrames:
    """A pipeline whose frames have these labels, and which gives graphs up if `fails`."""

    def __init__(self, labels, fails=False):
        self.labels, self.fails, self.counters = iter(labels), fails, {"fallbacks": 0}

    def segment(self, frame, want):
        label = next(self.labels)
        if label == 1:  # the second frame
            with contextlib.suppress(CaptureError):
                Cuda.capture(None, lambda: None)
            self.counters["fallbacks"] = int(self.fails)
        return SimpleNamespace(label=np.full((2, 2), label != 2))


WRONG = [0, 1, 4]


@pytest.mark.parametrize(
    "labels, fails, fault",
    [
        ([0, 1, 3], False, None),
        ([0, 1, 2], False, "only 0.0000% of the labels of the replayed frame"),
        ([0, 1, 3], True, "the work was not captured"),
        (WRONG, False, "only 50.00% of the labels are those without kernels"),
    ],
)
def test_the_first_frames(labels, fails, fault, monkeypatch) -> None:
    def capture(device, work):
        torch.cuda.CUDAGraph()
        if fails:
            raise CaptureError("operation not permitted")

    monkeypatch.setattr(Cuda, "capture", capture)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda keep_graph=False: keep_graph)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    for name, value in (
        ("make_backend", lambda *_: None),
        ("channels_last", lambda *_: None),
        ("make_pipeline", lambda *_, **__: FirstFrames(labels, fails)),
        ("memory", lambda device: {"allocated_mb": 1.0}),
        ("nodes", lambda graph: 7 * graph),
        ("without", lambda *_: {"none": 0.5 if labels == WRONG else 0.95}),
    ):
        monkeypatch.setattr(preflight, name, value)
    found, notes = {}, []
    case = SimpleNamespace(device=None, precision="fp16")
    frame = np.zeros((2, 2, 3), np.uint8)
    with contextlib.nullcontext() if fault is None else pytest.raises(FailedPart, match=fault):
        preflight.first_frames(None, case, frame, found, notes.append)
    assert set(found) >= {"eager", "captured", "replayed", "attention", "triton", "nodes", "fallbacks", "agreement"}
    assert found["nodes"] == (0 if fails else 7)
    assert ["CaptureError: operation not permitted" in trace for trace in found["failed_captures"]] == [True] * fails


def test_after_an_error_of_the_device_the_preflight_waits_for_each_launch(monkeypatch) -> None:
    def fail(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    runs = []
    case = SimpleNamespace(cuda=True, size=(2, 2))
    monkeypatch.setattr(part, "subject", lambda _: (None, case, {}))
    monkeypatch.setattr(part, "street", lambda *_: [None])
    monkeypatch.setattr(preflight, "first_frames", fail)
    monkeypatch.setattr(
        part.subprocess, "run", lambda command, **_: runs.append((command[3], os.environ[part.BLOCKING]))
    )
    monkeypatch.setattr(os, "environ", {})
    for _ in range(2):  # the second one in the process that the first one starts
        with pytest.raises(RuntimeError, match="illegal memory access"):
            part.preflight({"scratch": ""}, lambda _: None)
    assert runs == [("preflight", "1")]


def test_the_wrong_kernel_is_found() -> None:
    label = np.array([[1, 1], [1, 2]])

    def segment(frame, want):
        return SimpleNamespace(label=label if "gelu" in kernels._off else label + 1)

    alike = preflight.without(SimpleNamespace(segment=segment), None, label + 1)
    assert set(alike) == {"none", *kernels.names}
    assert {name: value for name, value in alike.items() if value == 1} == {"gelu": 1}


def test_attention_is_counted_by_its_kind() -> None:
    names = [
        "aten::mm",
        *["aten::_scaled_dot_product_cudnn_attention"] * 2,
        "aten::_scaled_dot_product_flash_attention",
    ]
    assert preflight.attention(names) == {"cudnn": 2, "flash": 1}


def hanging_test(begun) -> str:
    return f"def test_z():\n    import time\n    open({str(begun)!r}, 'w').close()\n    time.sleep(900)\n"


@pytest.mark.process
def test_tests_that_do_not_end_keep_the_results_of_the_others(tmp_path, begun, monkeypatch) -> None:
    (tmp_path / "test_it.py").write_text("def test_a(): pass\n" + hanging_test(begun))
    monkeypatch.chdir(tmp_path)
    outcome = run_part(Part("p", "tests", "tests", 12, 0), {"paths": ["test_it.py"]}, 12)
    assert (outcome.status, outcome.error) == (LATE, "not done after 12 s")
    assert (outcome.result["collected"], outcome.result["passed"]) == (1, 1)


@pytest.mark.process
def test_killed_tests_keep_the_results_of_the_others(tmp_path, begun, monkeypatch) -> None:
    (tmp_path / "test_it.py").write_text("def test_a(): pass\ndef test_b(): assert 0\n" + hanging_test(begun))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("m2f_ros.benchmark.gpu_check.runner.signal.SIGINT", signal.SIGKILL)
    outcome = run_part(Part("p", "tests", "tests", 14, 0), {"paths": ["test_it.py"]}, 14)
    assert outcome.status == LATE
    counts = {name: outcome.result[name] for name in ("collected", "passed", "failed", "skipped")}
    assert counts == {"collected": 2, "passed": 1, "failed": 1, "skipped": 0}
    assert outcome.result["failures"].keys() == {"test_it.py::test_b"}
    assert "assert 0" in outcome.result["failures"]["test_it.py::test_b"]


def test_a_check_of_a_newer_version_is_read(tmp_path, caplog) -> None:
    content, _, _ = account(tmp_path, Machine())
    (tmp_path / FILE).write_text(json.dumps(content | {"schema": 9, "power_w": 1}))
    assert check_sections(tmp_path) == [section("gpu_check", content)]
    assert "schema 9, newer than 1" in caplog.text


@pytest.mark.more
@pytest.mark.process
def test_on_this_machine(tmp_path) -> None:
    """The whole way, as a process, without a GPU: the smallest of everything."""
    command = [sys.executable, "-m", "m2f_ros.cli", "gpu-check", "--device", "cpu", "--out", str(tmp_path)]
    command += ["--model", "street", "--size", "64x64", "--only", "CUDA tests,ablation,profile,matrix street"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "2"}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "No CUDA device was found" in done.stdout
    content = json.loads((tmp_path / FILE).read_text())
    assert (content["kind"], content["device"]) == (KIND, "cpu")
    found = {part["name"]: part for part in content["parts"]}
    assert {part["status"] for part in found.values()} == {PASSED}, found
    tests = found["CUDA tests"]["result"]
    assert tests["failed"] == 0
    assert tests["collected"] == tests["passed"] + tests["skipped"] > 40
    rows = {row["without"]: row for row in found["ablation"]["result"]["rows"]}
    assert set(rows) == {
        "plans kept for a size",
        "oneDNN's products",
        "labels where the class may change only",
        "all of this",
    }
    assert all(row["error"] is None and row["gain"] > 0 and row["agreement"] > 0.99 for row in rows.values()), rows
    profile = found["profile"]["result"]
    assert 0 < len(profile["frame"]["top"]) <= 25
    assert profile["frame"]["busy_ms"] >= sum(kernel["ms"] for kernel in profile["frame"]["top"]) > 0
    modules = {row["module"]: row for row in profile["rows"]}
    assert {"backbone", "pixel_decoder", "decoder", "decoder.layers.0"} <= set(modules)
    assert modules["decoder"]["us"] > modules["decoder.layers.0"]["us"] > 0
    for row in found["matrix street"]["result"]["rows"]:
        assert row["ratio"] == pytest.approx(row["hf_ms"] / row["ours_ms"])
        assert row["agreement"] > 0.99
    page = section("here", content)
    assert all(f"### {name}" in page for name in ("ablation", "profile", "matrix street"))
    assert check_sections(tmp_path) == [page.replace("## here\n", "## gpu_check\n")]


def test_the_page_of_benchmarks_refuses_another_file_of_that_name(tmp_path) -> None:
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(ConfigError, match=r"gpu_check\.json is not what m2f gpu-check writes"):
        check_sections(tmp_path)


def test_the_last_table_names_every_part_and_target(tmp_path) -> None:
    content, states, _ = account(tmp_path, Machine(ends={"node": NOT_RUN}))
    text = describe(content, tmp_path)
    assert all(name in text for name in states)
    assert "Swin-L 1024x2048 fp16, batch 1: share of the roofline" in text
    assert "No CUDA device" not in text


@pytest.mark.process
def test_what_it_imports_needs_no_msgspec() -> None:
    """It runs from a checkout, where the dependencies may not be installed."""
    modules = ["gpu_check.runner", "gpu_check.part", "gpu_check.text", "runner", "ablation"]
    code = "import sys; sys.modules['msgspec'] = None\n" + "".join(f"import m2f_ros.benchmark.{m}\n" for m in modules)
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


@pytest.mark.process
def test_clocks_and_power_are_sampled_beside(tmp_path, monkeypatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho '1980, 2619, 650.5, 61, [N/A]'\necho '345, 2619, 70, 30, [N/A]'\nexec sleep 900\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with runner._beside(tmp_path / "samples", "1-2") as read:
        while len(read() or ()) < 4 or read()["power_w"][0] > 70:
            time.sleep(0.01)
    assert read() == {
        "sm_clock_mhz": [345, 1980, 1980],
        "memory_clock_mhz": [2619, 2619, 2619],
        "power_w": [70, 650.5, 650.5],
        "temperature_c": [30, 61, 61],
    }


def test_without_nvidia_smi_nothing_is_sampled(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with runner._beside(tmp_path / "samples", "1-2") as read:
        pass
    assert read() is None
