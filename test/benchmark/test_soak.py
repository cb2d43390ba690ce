"""The criteria, the JSON and the page of `m2f soak`, and the watch on a process."""

from __future__ import annotations

import mmap
import os
import threading
from dataclasses import asdict, replace

import numpy as np
import pytest

from m2f_ros.benchmark.result import read
from m2f_ros.benchmark.soak import Sample, Soak, criteria, describe, new_soak, page, write, write_soak_page
from m2f_ros.errors import ConfigError, OutputError
from m2f_ros.processes.use import process_use, shared_memory_mb

MINUTES = 20


def sample(time_s: float, **values) -> Sample:
    usual = dict(
        resident_mb=1000.0, anonymous_mb=700.0, shared_mb=60.0, files=30, threads=25, cores=0.8, shm_mb=200.0,
        log_lines=int(20 + time_s / 60), rates_hz=[10.0, 9.8], p50_ms=[20.0, 21.5], p99_ms=[40.0, -1.0],
    )  # fmt: skip
    return Sample(time_s=time_s, **usual | values)


@pytest.fixture
def soak() -> Soak:
    """A run that holds everything."""
    times = [-20.0, -10.0, *np.arange(3.0, 60 * MINUTES, 3.0).tolist()]
    return new_soak(
        versions={"rclpy": "9.9"}, minutes=float(MINUTES), model="street", image=(192, 256), rate_hz=10.0,
        hostile=["sizes", "cdr"], seed=0, sent={"sizes": 3000, "cdr": 90000, "call": 10, "answer": 9},
        cameras={"raw": {"state": "segmenting", "received": "12000"}}, ended_s=None, status=0,
        samples=[asdict(sample(time)) for time in times],
    )  # fmt: skip


def missed(soak: Soak) -> list[str]:
    return [criterion.what for criterion in criteria(soak) if not criterion.met]


def changed(soak: Soak, change) -> Soak:
    """change(sample) gives values of it, or {}."""
    return replace(soak, samples=[replace(s, **change(s)) for s in soak.samples])


@pytest.mark.process
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: {}, []),
        # Anything goes in the first five minutes.
        (lambda s: {"resident_mb": 2000.0, "files": 99, "threads": 99} if s.time_s < 300 else {}, []),
        # A little more, or a moment of much more.
        (lambda s: {"resident_mb": 1009.0} if s.time_s > 900 else {}, []),
        (lambda s: {"resident_mb": 1900.0} if 900 < s.time_s < 910 else {}, []),
        (lambda s: {"resident_mb": 1000 + s.time_s / 60}, ["resident memory"]),
        # It came back: it was not within the bound all the same.
        (lambda s: {"resident_mb": 1100.0} if 600 < s.time_s < 800 else {}, ["resident memory"]),
        # Peers come and go, and a leak of one a minute.
        (lambda s: {"files": 30 + int(s.time_s) % 4, "threads": 25 + int(s.time_s) % 3}, []),
        (lambda s: {"files": 30 + int(s.time_s) % 4 + int(s.time_s / 60)}, ["file descriptors"]),
        (lambda s: {"threads": 25 + int(s.time_s / 400)}, ["threads"]),
        (lambda s: {"log_lines": 100}, ["lines of log"]),
        # One bad minute of one camera.
        (lambda s: {"rates_hz": [4.9, 9.8]} if 600 < s.time_s < 720 else {}, ["labels of the good camera 'raw'"]),
        (lambda s: {"rates_hz": [10.0, 4.8]} if s.time_s >= 0 else {}, ["labels of the good camera 'jpeg'"]),
        (lambda s: {"rates_hz": [10.0, 0.0]}, ["labels of the good camera 'jpeg'"]),
    ],
)
def test_criteria(soak, change, expected):
    assert missed(changed(soak, change)) == expected


@pytest.mark.process
def test_an_end_that_is_none(soak):
    assert missed(replace(soak, status=-11)) == ["exit status after SIGTERM"]
    short = replace(soak, ended_s=20.0, status=0, samples=[s for s in soak.samples if s.time_s < 20])
    assert len(missed(short)) == 7  # all but the log: nothing is met because nothing was seen
    assert "MISSED  the node lives: it ended after 20 s" in describe(short)
    assert len(missed(replace(soak, samples=[]))) == 5


@pytest.mark.process
def test_a_short_run_is_judged_by_its_own_length(soak):
    def grow(minutes: float) -> Soak:
        samples = [sample(t, resident_mb=1000 + t) for t in np.arange(0, 60 * minutes, 2.0).tolist()]
        return replace(soak, minutes=minutes, samples=[sample(-5.0), *samples])

    assert missed(grow(3.0)) == ["resident memory"]


@pytest.mark.process
def test_json_and_page(soak, tmp_path):
    write(soak, tmp_path / "soak.json")
    assert read(tmp_path / "soak.json", Soak) == soak
    assert max(map(len, (tmp_path / "soak.json").read_text().splitlines())) < 300
    text = page(soak, "soak.png")
    assert "**All 8 criteria met.**" in text and "good images of 256x192 at 10 Hz each, for 20 minutes" in text
    assert "| cdr | 90000 |" in text and "| raw | segmenting | 12000 |" in text
    assert "**1 of 8 criteria missed.**" in page(replace(soak, status=1), "soak.png")
    assert "no hostile camera" in page(replace(soak, hostile=[], sent={}), "soak.png")
    with pytest.raises(ConfigError, match="cannot be read"):
        write_soak_page(tmp_path / "none.json", tmp_path / "soak.md")


@pytest.mark.process
def test_the_plot(soak, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is absent")
    write(soak, tmp_path / "soak.json")
    write_soak_page(tmp_path / "soak.json", tmp_path / "docs" / "soak.md")
    assert "(images/soak.png)" in (tmp_path / "docs" / "soak.md").read_text()
    assert (tmp_path / "docs" / "images" / "soak.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.process
def test_files_of_the_users_stay(soak, tmp_path):
    (tmp_path / "notes.md").write_text("mine")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "soak.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"notes\.md: is there, and not of this command"):
        write(soak, tmp_path / "notes.md")
    write(soak, tmp_path / "soak.json")
    write(soak, tmp_path / "soak.json")
    in_the_way = {"notes.md": "is there, and not", "soak.md": r"soak\.png: is in the way, and .* does not show"}
    for name, line in in_the_way.items():
        with pytest.raises(OutputError, match=line):
            write_soak_page(tmp_path / "soak.json", tmp_path / name)
    assert (tmp_path / "notes.md").read_text() == "mine"
    assert (tmp_path / "images" / "soak.png").read_bytes() == b"mine"


def test_what_a_process_holds():
    before = process_use(os.getpid())
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
    # Mapped, since an allocator may give out what earlier tests have freed.
    mapped = mmap.mmap(-1, 50_000_000, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory = np.frombuffer(mapped, np.uint8)
    memory[:] = 1
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        after = process_use(os.getpid())
    finally:
        end.set()
        thread.join()
        for file in files:
            os.close(file)
    assert (after.files - before.files, after.threads - before.threads) == (5, 1)
    assert after.anonymous_mb - before.anonymous_mb > 45 and memory.all()
    assert after.resident_mb >= after.anonymous_mb and after.cpu_s >= before.cpu_s > 0
    assert process_use(2**22 + 1) is None  # no process has that number


def test_shared_memory(tmp_path):
    (tmp_path / "segment").write_bytes(bytes(2_000_000))
    assert shared_memory_mb(tmp_path) == pytest.approx(2.0, rel=0.05)
    assert shared_memory_mb(tmp_path / "none") == 0
