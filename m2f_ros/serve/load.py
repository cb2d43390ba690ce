"""A load of requests on a server, beside the rate of the pipeline alone, in turns.

The server is a process of its own; this one holds the clients, and the pipeline that it is compared with.
"""

from __future__ import annotations

import http.client
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import simplejpeg

from m2f_ros.errors import ConfigError
from m2f_ros.frame.frame import Frame
from m2f_ros.pipeline.build import PipelineSettings, build_pipeline
from m2f_ros.street import Street

SEED = 2004


@dataclass(frozen=True)
class Load:
    """Figures of a load.

    Attributes:
        requests: number of requests.
        answers: HTTP status -> number of answers; 0 for a connection without an answer.
        rate: answers a second, median of the rounds.
        pipeline_rate: frames a second of the pipeline alone, median of the rounds.
        p50, p99: milliseconds from request to answer, of all answers of status 200.
        different: answers of status 200 whose labels are not the first answer's.
    """

    requests: int
    answers: dict[int, int]
    rate: float
    pipeline_rate: float
    p50: float
    p99: float
    different: int

    @property
    def lost(self) -> int:
        """Requests without an answer of status 200, or with other labels."""
        return self.requests - self.answers.get(200, 0) + self.different


def measure(
    settings: PipelineSettings,
    options: Sequence[str],
    requests: int,
    clients: int,
    size: tuple[int, int],
    rounds: int,
    say: Callable[[str], object],
) -> Load:
    """Send requests to /label of a server, and frames to a pipeline with the same settings, in turns.

    Args:
        options: further options of `m2f serve`.
        requests: number of requests in all.
        clients: number of clients, each of which sends its next request when it has the answer.
        size: (height, width) of the image, a JPEG of a simulated street.
        rounds: number of turns.
    Raises:
        ConfigError: the server does not start.
    """
    image = Street(SEED, size[1], size[0]).frame(0).image
    body = simplejpeg.encode_jpeg(image, 90, "RGB", "420")
    pipeline = build_pipeline(settings)
    frame = Frame(image, "rgb8")
    pipeline.segment(frame, ["label"])
    answers: Counter[int] = Counter()
    seconds: list[float] = []
    rates, own_rates = [], []
    labels: Counter[bytes] = Counter()
    with _server(settings, options) as port, ThreadPoolExecutor(clients) as pool:
        _ask(port, body)
        for number in range(rounds):
            count = requests * (number + 1) // rounds - requests * number // rounds
            own = max(3, count // 4)
            began = time.perf_counter()
            for _ in range(own):
                pipeline.segment(frame, ["label"])
            own_rates.append(own / (time.perf_counter() - began))
            began = time.perf_counter()
            for status, took, label in pool.map(lambda _: _ask(port, body), range(count)):
                answers[status] += 1
                if status == 200:
                    seconds.append(took)
                    labels[label] += 1
            rates.append(count / (time.perf_counter() - began))
            say(f"turn {number + 1} of {rounds}: {rates[-1]:.2f} answers a second, {own_rates[-1]:.2f} frames alone")
    pipeline.close()
    if not seconds:
        raise ConfigError(f"no request was answered: {dict(answers)}")
    points = statistics.quantiles(seconds, n=100) if len(seconds) > 1 else seconds * 99
    different = sum(labels.values()) - max(labels.values())
    median = statistics.median
    return Load(
        requests, dict(answers), median(rates), median(own_rates), 1e3 * points[49], 1e3 * points[98], different
    )


def describe(load: Load) -> str:
    """Return the figures in words."""
    statuses = ", ".join(f"{number} of status {status}" for status, number in sorted(load.answers.items()))
    return (
        f"{load.requests} requests: {statuses}; {load.lost} lost\n"
        f"{load.rate:.2f} answers a second, {load.rate / load.pipeline_rate:.2f} of the pipeline's "
        f"{load.pipeline_rate:.2f} frames a second\n"
        f"latency p50 {load.p50:.1f} ms, p99 {load.p99:.1f} ms, {load.p99 / load.p50:.2f} times the median"
    )


@contextmanager
def _server(settings: PipelineSettings, options: Sequence[str]) -> Iterator[int]:
    command = [sys.executable, "-m", "m2f_ros", "serve", settings.model, "--port", "0", *options]
    for name in ("device", "precision", "backend", "threads"):
        command += [f"--{name}", str(getattr(settings, name))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line, lines = "", []
        for line in process.stderr:
            lines.append(line.strip())
            if found := re.search(r"http://[^/]*:(\d+)/models/", line):
                break
        else:
            raise ConfigError(f"the server does not start: {lines[-1] if lines else 'it says nothing'}")
        # Later lines must not fill the pipe.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        try:
            yield int(found[1])
        finally:
            process.send_signal(signal.SIGTERM)


_local = threading.local()


def _ask(port: int, body: bytes) -> tuple[int, float, bytes]:
    """Return the status of a request, its seconds, and the answer. Connections are kept."""
    began = time.perf_counter()
    try:
        connection = getattr(_local, "connection", None)
        if connection is None or connection.port != port:
            connection = _local.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        connection.request("POST", "/label", body)
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException):
        _local.connection = None
        return 0, time.perf_counter() - began, b""
    return answer.status, time.perf_counter() - began, content
