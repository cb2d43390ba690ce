"""This pipeline and transformers' network in turns, at many sizes and batches with the weights loaded once."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from m2f_ros import taxonomy as taxonomies
from m2f_ros.benchmark.frames import read_frames
from m2f_ros.benchmark.gpu_check.subject import subject
from m2f_ros.benchmark.huggingface import HuggingFace
from m2f_ros.benchmark.others import Other
from m2f_ros.benchmark.stats import agreement, median
from m2f_ros.benchmark.weights import Checkpoint
from m2f_ros.model import Mask2Former
from m2f_ros.pipeline import Frame, Pipeline, Resize, Ticket
from m2f_ros.pipeline.backends import make_backend
from m2f_ros.pipeline.device import PRECISIONS

ROUNDS = 3
SLOTS = 2
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

    agreement: of the labels of the two, both in this precision. error: what went wrong, and that figures are missing.
    """
    size = frames[0].shape[:2]
    batches = [[frames[(i + j) % len(frames)] for j in range(batch)] for i in range(0, len(frames), batch)]
    found: dict = {"size": size, "batch": batch}
    try:
        restart_memory(device)
        ours = Ours(model, size, device, precision)
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
        found["ours_fps"] = ours.frames_a_second(batches, found["ours_ms"], device)
        found["hf_fps"] = 1000 * batch / found["hf_ms"]
    except Exception as error:  # one that is too large leaves the others their turn
        found["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return found


class Ours:
    """The pipeline for batches of one size, warm."""

    def __init__(self, model: Mask2Former, size: tuple[int, int], device: torch.device, precision: str):
        model = model.to(device, memory_format=torch.channels_last)
        classes = taxonomies.match(model.config.labels) or taxonomies.from_names("model", model.config.labels)
        self.pipeline = Pipeline(
            model,
            classes,
            device=str(device),
            precision=precision,
            backend=make_backend("eager", model, precision),
            slots=SLOTS,
            resize=Resize("fixed", height=size[0], width=size[1]),
        )

    def start(self, frames: Sequence[np.ndarray]) -> Ticket:
        return self.pipeline.submit_batch([Frame(frame, "rgb8") for frame in frames], {"label"})

    def finish(self, ticket: Ticket) -> None:
        with ticket:
            pass

    def labels(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """(B, height, width); as often as it takes for every slot to have its graph."""
        for _ in range(2 * SLOTS if self.pipeline.device.type == "cuda" else 0):
            self.finish(self.start(frames))
        with self.start(frames) as results:
            return np.stack([result.label for result in results])

    def frames_a_second(self, batches: Sequence[Sequence[np.ndarray]], alone_ms: float, device: torch.device) -> float:
        """As many batches in flight as there are slots; about 0.4 s of them."""
        if device.type != "cuda":
            return 1000 * len(batches[0]) / alone_ms
        count = max(4, min(200, round(400 / alone_ms)))
        flying: list[Ticket] = []
        start = time.perf_counter()
        for i in range(count):
            if len(flying) == SLOTS:
                self.finish(flying.pop(0))
            flying.append(self.start(batches[i % len(batches)]))
        for ticket in flying:
            self.finish(ticket)
        return count * len(batches[0]) / (time.perf_counter() - start)


def street(scratch: Path, size: tuple[int, int]) -> np.ndarray:
    """(FRAMES, *size, 3) uint8 RGB of the simulated street, drawn once for all processes with this `scratch`."""
    path = scratch / f"street_{size[0]}x{size[1]}.npy"
    if not path.exists():
        partial = path.with_suffix(".partial.npy")
        np.save(partial, np.stack(read_frames("street", size, FRAMES)))
        partial.replace(path)
    return np.load(path)


def restart_memory(device: torch.device) -> None:
    collect(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_mb(device: torch.device) -> float | None:
    """Most that torch had of the device since `restart_memory`, the weights of both sides among it."""
    return torch.cuda.max_memory_reserved(device) / 1e6 if device.type == "cuda" else None


def collect(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
