"""Jobs on processes: each done once, again where its worker died, and the same whoever does them."""

import multiprocessing
import os
import sys
from functools import partial
from pathlib import Path

import pytest

from m2f_ros.errors import WorkerError
from m2f_ros.processes.workers import map_jobs

sys.path.insert(0, str(Path(__file__).parent))
from worker_jobs import square

JOBS = [3, 5, 7]


def begun(folder, job):
    return len(list(folder.glob(f"{job}_*")))


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_each_job_is_done_once(tmp_path, workers):
    assert dict(map_jobs(partial(square, folder=tmp_path), JOBS, workers)) == {0: 9, 1: 25, 2: 49}
    assert [begun(tmp_path, job) for job in JOBS] == [1, 1, 1]


def test_no_jobs():
    assert list(map_jobs(abs, [], 2)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_the_job_of_a_worker_that_died_is_done_again(tmp_path, workers):
    function = partial(square, folder=tmp_path, deadly=5, times=2)
    assert dict(map_jobs(function, JOBS, workers, retries=2)) == {0: 9, 1: 25, 2: 49}
    assert [begun(tmp_path, job) for job in JOBS] == [1, 3, 1]


def test_a_job_that_kills_each_worker_does_not_cost_the_others(tmp_path):
    function = partial(square, folder=tmp_path, deadly=5, times=9)
    found = dict(map_jobs(function, JOBS, 2, retries=1, failed=lambda job, error: str(error)))
    assert (found[0], found[2]) == (9, 49) and "a worker died 2 times over 5" in found[1]
    assert [begun(tmp_path, job) for job in JOBS] == [1, 2, 1]
    with pytest.raises(WorkerError, match="a worker died 1 times over 5"):
        list(map_jobs(function, JOBS, 1, retries=0))


def test_a_worker_that_died_between_two_jobs_is_replaced(tmp_path):
    found = map_jobs(partial(square, folder=tmp_path), JOBS, 1)
    first = next(found)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    worker.join()
    assert dict([first, *found]) == {0: 9, 1: 25, 2: 49}


def test_an_error_of_a_job_is_raised_as_it_is():
    with pytest.raises(ZeroDivisionError):
        list(map_jobs(partial(divmod, 1), [1, 0], 2))


def test_once_stopped_no_job_begins(tmp_path):
    found = []
    for i, value in map_jobs(partial(square, folder=tmp_path), JOBS, 1, stopped=lambda: bool(found)):
        found.append((i, value))
    assert found == [(0, 9)]
    assert [begun(tmp_path, job) for job in JOBS] == [1, 0, 0]


@pytest.mark.process
def test_on_ray(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="Ray is absent")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    function = partial(square, folder=tmp_path, deadly=5, times=1)
    assert dict(map_jobs(function, JOBS, 2, ray=True, retries=1)) == {0: 9, 1: 25, 2: 49}
    assert [begun(tmp_path, job) for job in JOBS] == [1, 2, 1]
