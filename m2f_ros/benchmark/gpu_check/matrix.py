"""This pipeline and transformers' network in turns, at many sizes and batches with the weights loaded once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from m2f_ros.benchmark.frames import read_frames
from m2f_ros.benchmark.gpu_check.subject import subject
from m2f_ros.benchmark.huggingface import HuggingFace
from m2f_ros.benchmark.memory import collect
from m2f_ros.benchmark.others import Other
from m2f_ros.benchmark.ours import Ours
from m2f_ros.benchmark.stats import agreement, median
from m2f_ros.benchmark.throughput import seconds_of
from m2f_ros.benchmark.weights import Checkpoint
from m2f_ros.files import whole
from m2f_ros.model import Mask2Former
from m2f_ros.pipeline.device import PRECISIONS

ROUNDS = 3
IN_TURN = 5  # batches of ours for one of the others
FRAMES = 8
Note = Callable[[dict], None]


def run_matrix(arguments: dict, note: Note) -> None:
    """For each of the points [height, width, batch] a row; see `row`."""
    model, weights, device, precision = subject(arguments)
    hf = HuggingFace(weights, PRECISIONS[precision]).to(device)
    found = {"model": arguments["model"], "precision": precision, "weights": weights.origin, "rows": []}
    points = arguments["points"]
    images = street(Path(arguments["scratch"]), max(tuple(point[:2]) for point in points))
    for height, width, batch in points:
        frames = [cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in images]
        found["rows"].append(row(model, weights, hf, frames, batch, device, precision))
        note(found)
        print(found["rows"][-1], flush=True)
        collect(device)


def run_compiled(arguments: dict, note: Note) -> None:
    """One row, transformers' network being compiled; the time of that too."""
    model, weights, device, precision = subject(arguments)
    hf = torch.compile(HuggingFace(weights, PRECISIONS[precision]).to(device), dynamic=False)
    frames = street(Path(arguments["scratch"]), tuple(arguments["size"]))
    other = Other("compiled", hf, weights, tuple(arguments["size"]), device, PRECISIONS[precision])
    start = time.perf_counter()
    other.labels(frames[:1])
    found = {"model": arguments["model"], "precision": precision, "weights": weights.origin}
    found["compile_s"] = time.perf_counter() - start
    note(found)
    found["rows"] = [row(model, weights, hf, frames, 1, device, precision)]
    note(found)


def row(
    model: Mask2Former,
    weights: Checkpoint,
    network: torch.nn.Module,
    frames: Sequence[np.ndarray],
    batch: int,
    device: torch.device,
    precision: str,
) -> dict:
    """Times of one batch, alone, of either side, in turns; frames a second; what both take of the device's memory.

    agreement: of the labels of the two on the first batch, both in this precision. error: what went wrong, and that
    figures are missing.
    """
    size = frames[0].shape[:2]
    batches = [[frames[(i + j) % len(frames)] for j in range(batch)] for i in range(0, len(frames), batch)]
    found: dict = {"size": size, "batch": batch}
    try:
        restart_memory(device)
        ours = Ours("eager", weights, size, device, precision, model)
        ours.warm_up(batches[0])
        labels = ours.labels(batches[0])
        found["ours_memory_mb"] = peak_mb(device)
        restart_memory(device)
        other = Other("hf", network, weights, size, device, PRECISIONS[precision])
        theirs = other.labels(batches[0])
        found["hf_memory_mb"] = peak_mb(device)
        found["agreement"] = agreement(labels, theirs)
        own_times, other_times = [], []
        for i in range(ROUNDS):
            chosen = batches[i % len(batches)]
            for _ in range(IN_TURN if device.type == "cuda" else 1):
                start = time.perf_counter()
                ours.finish(ours.start(chosen))
                own_times.append(1000 * (time.perf_counter() - start))
            start = time.perf_counter()
            other.finish(other.start(chosen))
            other_times.append(1000 * (time.perf_counter() - start))
        found["ours_ms"], found["hf_ms"] = median(own_times), median(other_times)
        found["ratio"] = found["hf_ms"] / found["ours_ms"]
        found["ours_fps"] = _frames_a_second(ours, batches, found["ours_ms"], device)
        found["hf_fps"] = 1000 * batch / found["hf_ms"]
    except Exception as error:  # one that is too large leaves the others their turn
        found["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return found


def _frames_a_second(
    ours: Ours, batches: Sequence[Sequence[np.ndarray]], alone_ms: float, device: torch.device
) -> float:
    """In steady state, of about 0.4 s. alone_ms: of a batch by itself, which on a CPU says it."""
    if device.type != "cuda":
        return 1000 * len(batches[0]) / alone_ms
    count = max(4, min(200, round(400 / alone_ms)))
    seconds = seconds_of(lambda i: ours.start(batches[i % len(batches)]), ours.finish, count, ours.in_flight)
    return count * len(batches[0]) / seconds


def street(scratch: Path, size: tuple[int, int]) -> np.ndarray:
    """(FRAMES, *size, 3) uint8 RGB of the simulated street, drawn once for all processes with this `scratch`."""
    path = scratch / f"street_{size[0]}x{size[1]}.npy"
    if not path.exists():
        with whole(path) as partial, partial.open("wb") as file:
            np.save(file, np.stack(read_frames("street", size, FRAMES)))
    return np.load(path)


def restart_memory(device: torch.device) -> None:
    collect(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_mb(device: torch.device) -> float | None:
    """Most that torch had of the device since `restart_memory`, the weights of both sides among it."""
    return torch.cuda.max_memory_reserved(device) / 1e6 if device.type == "cuda" else None
