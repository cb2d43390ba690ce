"""The check of what needs a GPU: its account of time and failures, with made up parts, and what runs without one."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from m2f_ros.benchmark.gpu_check import profile
from m2f_ros.benchmark.gpu_check.plan import (
    FAILED,
    FILE,
    FULL,
    KIND,
    LATE,
    NOT_RUN,
    PASSED,
    Part,
    matrix_points,
    parts,
)
from m2f_ros.benchmark.gpu_check.runner import RESERVE, Options, Outcome, check, passed, run_part
from m2f_ros.benchmark.gpu_check.text import check_sections, describe, section
from m2f_ros.errors import ConfigError

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

    def __init__(self, takes=None, ends=None, machine=MACHINE):
        self.takes, self.ends, self.machine = takes or {}, ends or {}, machine
        self.now = 0.0
        self.limits: dict[str, float] = {}
        self.arguments: dict[str, dict] = {}

    def clock(self):
        return self.now

    def run(self, part, arguments, limit):
        self.limits[part.name], self.arguments[part.name] = limit, arguments
        wanted = self.takes.get(part.name, 1)
        self.now += min(wanted, limit)
        outcome = Outcome(part.name, part.kind, part.what, PASSED, min(wanted, limit), limit)
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
    machine = Machine(takes={part.name: 1e6 for part in parts(True, None, None)})
    content, states, _ = account(tmp_path, machine)
    assert machine.now <= 9 * 60 - RESERVE
    planned = {part.name: part for part in parts(True, None, None)}
    begun = [name for name in states if name != "machine" and states[name] != NOT_RUN]
    assert all(planned[name].least_s <= machine.limits[name] <= planned[name].most_s for name in begun)
    assert begun == list(planned)[: len(begun)]
    assert NOT_RUN in states.values()
    # Tests that did not come to an end did not pass.
    assert not passed(content)


def test_more_minutes_are_more_for_each_part(tmp_path) -> None:
    machine = Machine()
    account(tmp_path, machine, minutes=18)
    assert all(machine.limits[part.name] == 2 * part.most_s for part in parts(True, None, None))


def test_a_part_that_fails_leaves_the_others_their_turn(tmp_path) -> None:
    content, states, said = account(tmp_path, Machine(ends={"benchmark": FAILED}))
    assert Counter(states.values()) == {PASSED: len(states) - 1, FAILED: 1}
    assert "benchmark: failed: why" in said
    assert not passed(content)


def test_a_measurement_without_time_is_no_failure_but_tests_are(tmp_path) -> None:
    assert passed(account(tmp_path, Machine(takes={"ablation": 1e6}))[0])
    assert not passed(account(tmp_path, Machine(takes={"memory": 1e6}))[0])
    assert passed(account(tmp_path, Machine(ends={"node": NOT_RUN}))[0])


def test_what_was_found_is_kept_when_it_is_killed(tmp_path) -> None:
    machine = Machine()

    def run(part, arguments, limit):
        if part.name == "ablation":
            raise KeyboardInterrupt
        return machine.run(part, arguments, limit)

    with pytest.raises(KeyboardInterrupt):
        check(Options(tmp_path), lambda line: None, run, machine.clock)
    names = [part["name"] for part in json.loads((tmp_path / FILE).read_text())["parts"]]
    assert names == ["machine", "CUDA tests", "kernel tests", "benchmark"]


def test_a_model_takes_the_place_of_the_largest(tmp_path) -> None:
    machine = Machine()
    account(tmp_path, machine, model="folder", size=(256, 512))
    assert machine.arguments["ablation"]["model"] == "folder"
    assert machine.arguments["benchmark"]["size"] == (256, 512)
    assert {point[2] for point in machine.arguments["matrix folder"]["points"]} == {1, 2, 4, 8}


def test_some_parts_only(tmp_path) -> None:
    _, states, _ = account(tmp_path, Machine(), only=("profile", "ablation"))
    assert list(states) == ["machine", "ablation", "profile"]
    with pytest.raises(ConfigError, match="--only 'tests': there is no such part here; take some of CUDA tests, "):
        account(tmp_path, Machine(), only=("tests",))


def test_a_folder_that_cannot_be_made(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--out .*file"):
        check(Options(tmp_path / "file"), run=Machine().run)


def test_the_matrix_is_what_is_asked_for() -> None:
    points = matrix_points(FULL)
    assert sorted(map(tuple, points)) == sorted(
        (*size, batch) for size in ((1024, 2048), (768, 1536), (512, 1024)) for batch in (1, 2, 4, 8)
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


@pytest.mark.process
def test_a_process_that_does_not_end(tmp_path) -> None:
    lock = tmp_path / "lock"
    code = (
        "import fcntl, os\n"
        f"file = open({str(lock)!r}, 'w')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "os.set_inheritable(file.fileno(), True)\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(900)'], close_fds=False)\n"
        "pathlib.Path(result).write_text('{\"result\": 5}')\n"
        "time.sleep(900)"
    )
    outcome = in_process(tmp_path, code, 3)
    assert (outcome.status, outcome.result, outcome.error) == (LATE, 5, "not done after 3 s")
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as soon as what it started has ended too


@pytest.mark.process
def test_a_process_says_what_it_lacks_and_what_failed(tmp_path) -> None:
    answer = "pathlib.Path(result).write_text(json.dumps({'result': None, %r: 'why'}))"
    assert in_process(tmp_path / "a", answer % "not_run", 60).status == NOT_RUN
    failed = in_process(tmp_path / "b", answer % "failed", 60)
    assert (failed.status, failed.error) == (FAILED, "why")


def run_tests(tmp_path, code: str, few: int | None = None) -> dict:
    """The answer of a part that runs a module of tests with this code."""
    (tmp_path / "test_it.py").write_text(f"import pytest\n{code}\n")
    result = tmp_path / "result.json"
    arguments = json.dumps({"paths": ["test_it.py"], "few": few})
    command = [sys.executable, "-m", "m2f_ros.benchmark.gpu_check.part", "tests", arguments, str(result)]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    return json.loads(result.read_text())


@pytest.mark.process
def test_tests_are_accounted_for_one_by_one(tmp_path) -> None:
    answer = run_tests(
        tmp_path,
        "@pytest.mark.parametrize('i', range(4))\ndef test_a(i): assert i != 2\n"
        "def test_b(): pytest.skip('no wheels')\n"
        "@pytest.fixture\ndef broken(): raise OSError('no such thing')\ndef test_c(broken): pass",
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
def test_tests_that_do_not_end_keep_the_results_of_the_others(tmp_path, monkeypatch) -> None:
    (tmp_path / "test_it.py").write_text("import time\ndef test_a(): pass\ndef test_b(): time.sleep(900)\n")
    monkeypatch.chdir(tmp_path)
    outcome = run_part(Part("p", "tests", "tests", 12, 0), {"paths": ["test_it.py"]}, 12)
    assert (outcome.status, outcome.error) == (LATE, "not done after 12 s")
    assert (outcome.result["collected"], outcome.result["passed"]) == (1, 1)


@pytest.mark.process
def test_killed_tests_keep_the_results_of_the_others(tmp_path, monkeypatch) -> None:
    code = "import os, time\ndef test_a(): pass\ndef test_b(): assert 0\ndef test_c(): time.sleep(900)\n"
    (tmp_path / "test_it.py").write_text(code)
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


@pytest.mark.process
def test_on_this_machine(tmp_path) -> None:
    """The whole way, as a process, without a GPU: the smallest of everything."""
    command = [sys.executable, "-m", "m2f_ros.cli", "gpu-check", "--device", "cpu", "--out", str(tmp_path)]
    command += ["--model", "street", "--size", "64x64", "--only", "CUDA tests,ablation,profile,matrix street"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "2"}, capture_output=True, text=True, timeout=240
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
    assert {"backbone", "pixel_decoder", "decoder"} <= set(profile["modules_ms"])
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
