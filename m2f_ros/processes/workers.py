"""Runs jobs in several processes, or on a cluster with Ray, and retries the job of a worker that died."""

from __future__ import annotations

import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from multiprocessing import get_context, resource_tracker
from typing import Any, NoReturn, TypeVar
from unittest.mock import patch

from m2f_ros import signals
from m2f_ros.errors import ConfigError, WorkerError, to_install

log = logging.getLogger("m2f_ros.processes")

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")
RETRIES = 2


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_jobs(
    function: Callable[[Job], Outcome],
    jobs: Sequence[Job],
    workers: int,
    *,
    ray: bool = False,
    retries: int = RETRIES,
    cores: int = 1,
    gpus: float = 0,
    begin: Callable[[], None] | None = None,
    failed: Callable[[Job, WorkerError], Outcome] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[int, Outcome]]:
    """Yield (number of the job, function(job)), in order of completion.

    function, jobs and results have to be picklable, and a result must not depend on the process. An error of the
    function is raised unchanged.

    Args:
        workers: number of processes; an existing Ray cluster decides itself.
        ray: True to use Ray's workers, of the cluster at RAY_ADDRESS, else on this machine.
        retries: number of retries of a job whose worker died. Then WorkerError is raised, or `failed` returns the
            outcome.
        cores: CPU cores that Ray reserves for a job.
        gpus: GPUs that Ray reserves for a job.
        begin: function that is called first in each process; not with Ray.
        stopped: function that returns True to start no more jobs, and to drop those on Ray.
    """
    failed = failed or _raise
    if ray:
        return _on_ray(function, jobs, workers, retries, cores, gpus, failed, stopped)
    return _in_processes(function, jobs, workers, retries, begin, failed, stopped)


def _in_processes(
    function: Callable[[Job], Outcome],
    jobs: Sequence[Job],
    workers: int,
    retries: int,
    begin: Callable[[], None] | None,
    failed: Callable[[Job, WorkerError], Outcome],
    stopped: Callable[[], bool],
) -> Iterator[tuple[int, Outcome]]:
    left, deaths = deque(range(len(jobs))), [0] * len(jobs)

    def pool() -> ProcessPoolExecutor:
        # Forked processes hang if the parent has used OpenCV's threads.
        return ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=_begin, initargs=(begin, os.getpid())
        )

    # Pools of one process each, since a larger pool does not report which job killed a process.
    idle = [pool() for _ in range(min(workers, len(jobs)))]
    running: dict[Future, tuple[ProcessPoolExecutor, int]] = {}
    try:
        while True:
            while idle and left and not stopped():
                i, worker = left.popleft(), idle.pop()
                with _signals_wait():
                    try:
                        future = worker.submit(function, jobs[i])
                    except BrokenProcessPool:  # it died between two jobs
                        worker = pool()
                        future = worker.submit(function, jobs[i])
                running[future] = worker, i
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                worker, i = running.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    idle.append(pool())
                    deaths[i] += 1
                    if deaths[i] <= retries:
                        log.warning("a worker died over %s; another one goes on with it", jobs[i])
                        left.appendleft(i)
                        continue
                    outcome = failed(jobs[i], _died(jobs[i], deaths[i]))
                else:
                    idle.append(worker)
                yield i, outcome
    finally:
        for worker, _ in running.values():
            worker.shutdown(wait=False, cancel_futures=True)
        # Waited for, all at once: the end of the interpreter may write to a pipe that its pool is just closing, and
        # print a traceback. (CPython's concurrent/futures/process.py, _python_exit)
        if idle:
            with ThreadPoolExecutor(len(idle)) as ending:
                list(ending.map(ProcessPoolExecutor.shutdown, idle))


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Block signals, so that a process started in the block receives none before it can handle them."""
    # The tracker is started before, since its start, with the first process, would unblock the signals.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals.ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_worker(parent: int) -> None:
    """Prepare a process of a pool to end with its parent, and by SIGTERM, which the parent sends on Ctrl-C."""
    signals.act_as_usual()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signals.end_with_parent(parent, signal.SIGKILL)


def _begin(begin: Callable[[], None] | None, parent: int) -> None:
    begin_worker(parent)
    if begin is not None:
        begin()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.ENDING)


def _on_ray(
    function: Callable[[Job], Outcome],
    jobs: Sequence[Job],
    workers: int,
    retries: int,
    cores: int,
    gpus: float,
    failed: Callable[[Job, WorkerError], Outcome],
    stopped: Callable[[], bool],
) -> Iterator[tuple[int, Outcome]]:
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        # A cluster of this machine alone listens on the loopback address. The variable works on Linux too.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError(f"Ray is not installed: {to_install('ray')}") from None
    started = not ray.is_initialized()
    if started:
        here: dict[str, Any] = {} if address else {"num_cpus": workers * cores, "include_dashboard": False}
        before = signal.getsignal(signal.SIGTERM)
        # Without its dashboard Ray still starts the dashboard's process, to report its use. With the report switched
        # off, the process asks the metadata servers of three clouds where it runs.
        quiet = nullcontext() if address else patch("ray._private.node.Node.start_api_server", create=True)
        try:
            with quiet:
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **here)
        except ConnectionError as error:
            raise ConfigError(f"RAY_ADDRESS {address}: no Ray cluster there ({' '.join(str(error).split())})") from None
        except Exception as error:  # Ray has no error type for a node that does not start
            raise ConfigError(f"Ray does not start: {' '.join(str(error).split())}") from None
        finally:
            signal.signal(signal.SIGTERM, before)  # Ray has taken it

    @ray.remote(max_retries=retries, num_cpus=cores, num_gpus=gpus)
    def do(function: Callable[[Job], Outcome], job: Job) -> Outcome:
        return function(job)

    refs = {do.remote(function, job): i for i, job in enumerate(jobs)}
    try:
        while refs and not stopped():
            ready, _ = ray.wait(list(refs), timeout=1)
            for ref in ready:
                i = refs.pop(ref)
                try:
                    outcome = ray.get(ref)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                except ray.exceptions.RayError:  # crashed, out of memory, or its machine is gone
                    outcome = failed(jobs[i], _died(jobs[i], retries + 1))
                yield i, outcome
    finally:
        for ref in refs:
            ray.cancel(ref)
        # Wait for the jobs to end before their processes do.
        ray.wait(list(refs), num_returns=len(refs), timeout=30) if refs else None
        if started:
            ray.shutdown()


def _raise(job: object, error: WorkerError) -> NoReturn:
    raise error


def _died(job: object, times: int) -> WorkerError:
    return WorkerError(
        f"a worker died {times} times over {job}: is there memory for so many? Give fewer with --workers, or 1 to see "
        "what it died of"
    )
