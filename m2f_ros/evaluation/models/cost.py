"""The cost of models: latency in turns on the same frames, memory, parameters and operations."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from m2f_ros import kernels
from m2f_ros.benchmark.machine import count
from m2f_ros.benchmark.measure import MemoryWatch
from m2f_ros.errors import M2fError
from m2f_ros.frame.frame import Frame
from m2f_ros.model import load
from m2f_ros.pipeline import Pipeline
from m2f_ros.pipeline.build import build_pipeline
from m2f_ros.pipeline.device import choose_device
from m2f_ros.pipeline.exported import is_export
from m2f_ros.replay.job import pipeline_settings
from m2f_ros.replay.settings import Settings

WARM_UP = 3  # frames; on CUDA a slot captures its graph at the second one


@dataclass(frozen=True)
class Cost:
    """The cost of a model.

    Attributes:
        network: short description of the network.
        device, precision, backend: of the pipeline.
        size: (height, width) of the network's input for the first frame.
        parameters: number of weights; None for an export.
        gflop: operations of the network for a frame, 10^9; a multiply-add is two. None for an export.
        memory_mb: peak memory while it segments beyond that before it was loaded, 10^6 bytes: of the GPU, on a CPU of
            the process.
        p50_ms, p99_ms: percentiles of the time from a frame to its labels, one frame in flight.
        frames: number of frames timed.
    """

    network: str
    device: str
    precision: str
    backend: str
    size: tuple[int, int]
    parameters: int | None
    gflop: float | None
    memory_mb: float
    p50_ms: float
    p99_ms: float
    frames: int


@dataclass
class _Model:
    pipeline: Pipeline
    network: str
    parameters: int | None
    gflop: float | None
    memory_mb: float


def measure(
    models: Mapping[str, Settings], frames: Sequence[Frame], rounds: int
) -> tuple[dict[str, Cost], dict[str, str]]:
    """Time all models in turns, frame by frame, so that a slow minute of the machine counts for all of them.

    All models are in memory together.

    Args:
        models: settings of each model's replay, by name.
        frames: different frames.
        rounds: number of frames to time; they repeat.
    Returns:
        The cost of each model by name, and for each that failed a line that says why.
    """
    loaded: dict[str, _Model] = {}
    problems: dict[str, str] = {}
    for name, settings in models.items():
        try:
            loaded[name] = _load(settings, frames)
        except M2fError as error:
            problems[name] = str(error)
    times: dict[str, list[float]] = {name: [] for name in loaded}
    for i in range(rounds):
        for name, model in loaded.items():
            times[name].append(_milliseconds(model.pipeline, frames[i % len(frames)]))
    return {name: _cost(model, frames[0], times[name]) for name, model in loaded.items()}, problems


def _load(settings: Settings, frames: Sequence[Frame]) -> _Model:
    watch = MemoryWatch(choose_device(settings.device))
    pipeline = build_pipeline(pipeline_settings(settings))
    watch.restart()
    for i in range(WARM_UP):
        _milliseconds(pipeline, frames[i % len(frames)])
    memory = watch.peak_mb()
    if is_export(settings.model):
        return _Model(pipeline, f"export {settings.model}", None, None, memory)
    network = load(settings.model).to(pipeline.device)
    height, width = pipeline.resize.place(*frames[0].data.shape[:2]).network
    with kernels.off():
        flops, _ = count(lambda: network(network.example(height, width)))
    weights = sum(parameter.numel() for parameter in network.parameters())
    return _Model(pipeline, network.config.summary, weights, flops / 1e9, memory)


def _milliseconds(pipeline: Pipeline, frame: Frame) -> float:
    start = time.perf_counter()
    with pipeline.submit(frame, {"label"}):
        return 1000 * (time.perf_counter() - start)


def _cost(model: _Model, frame: Frame, times: Sequence[float]) -> Cost:
    pipeline = model.pipeline
    p50, p99 = map(float, np.percentile(times, (50, 99)))
    return Cost(
        network=model.network,
        device=_device_name(pipeline.device),
        precision=pipeline.precision,
        backend=pipeline.backend,
        size=pipeline.resize.place(*frame.data.shape[:2]).network,
        parameters=model.parameters,
        gflop=model.gflop,
        memory_mb=model.memory_mb,
        p50_ms=p50,
        p99_ms=p99,
        frames=len(times),
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
