"""Jobs on several processes, or over a cluster with Ray; what a worker that died had not done is done again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from m2f_ros.errors import ConfigError, WorkerError

Job, Outcome = TypeVar("Job"), TypeVar("Outcome")
RETRIES = 2


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_jobs(
    function: Callable[[Job], Outcome], jobs: Sequence[Job], workers: int, *, ray: bool = False, retries: int = RETRIES
) -> Iterator[tuple[int, Outcome]]:
    """(number of the job, function(job)), in the order in which they are done.

    function, jobs and what comes back have to be picklable; what a job does must not depend on who does it. workers:
    processes. ray: on Ray's workers, of the cluster that RAY_ADDRESS names, else on this machine. An error of the
    function is raised as it is; WorkerError where workers died `retries` + 1 times in a row without finishing a job.
    """
    if ray:
        return _on_ray(function, jobs, workers, retries)
    return _in_processes(function, jobs, workers, retries)


def _in_processes(
    function: Callable[[Job], Outcome], jobs: Sequence[Job], workers: int, retries: int
) -> Iterator[tuple[int, Outcome]]:
    left = dict(enumerate(jobs))
    in_vain = 0
    while left:
        before = len(left)
        # Forked processes hang where the parent has used OpenCV's threads.
        with ProcessPoolExecutor(min(workers, len(left)), mp_context=get_context("spawn")) as pool:
            futures = {pool.submit(function, job): i for i, job in left.items()}
            try:
                for future in as_completed(futures):
                    try:
                        outcome = future.result()
                    except BrokenProcessPool:  # of all that were not done yet
                        continue
                    del left[futures[future]]
                    yield futures[future], outcome
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        in_vain = in_vain + 1 if len(left) == before else 0
        if in_vain > retries:
            raise WorkerError(_died(jobs[min(left)], in_vain))


def _on_ray(
    function: Callable[[Job], Outcome], jobs: Sequence[Job], workers: int, retries: int
) -> Iterator[tuple[int, Outcome]]:
    try:
        import ray
    except ImportError:
        raise ConfigError("Ray is not installed: pip install 'm2f_ros[ray]'") from None
    started = not ray.is_initialized()
    if started:
        address = os.environ.get("RAY_ADDRESS")
        ray.init(address, log_to_driver=False, **({} if address else {"num_cpus": workers, "include_dashboard": False}))
    remote = ray.remote(max_retries=retries)(function)
    refs = {remote.remote(job): i for i, job in enumerate(jobs)}
    try:
        while refs:
            ready, _ = ray.wait(list(refs))
            i = refs.pop(ready[0])
            try:
                yield i, ray.get(ready[0])
            except ray.exceptions.WorkerCrashedError:
                raise WorkerError(_died(jobs[i], retries + 1)) from None
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
    finally:
        for ref in refs:
            ray.cancel(ref, force=True)
        if started:
            ray.shutdown()


def _died(job: object, times: int) -> str:
    return (
        f"a worker died {times} times over {job}: is there memory for so many? Give fewer with --workers, or 1 to see "
        "what it died of"
    )
