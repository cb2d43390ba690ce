"""The way of a frame: upload, resize, network, head, overlay, download.

On CUDA three streams, ordered by events, let the upload of one frame, the work on another and the download of a third
overlap; the host waits for nothing but a frame's own result. On a CPU the same calls run one after the other.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import queue
import time
import warnings
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from m2f_ros.errors import ConfigError
from m2f_ros.model import STRIDE, Mask2Former, heads
from m2f_ros.pipeline.colour import to_rgb
from m2f_ros.pipeline.frame import Frame
from m2f_ros.pipeline.overlay import blend
from m2f_ros.taxonomy import Taxonomy

OUTPUTS = frozenset({"label", "overlay"})


@dataclass(frozen=True)
class Segmentation:
    """What was asked for of one frame, at the frame's own size.

    Attributes:
        label: (height, width) uint8, or uint16 above 255 classes: train ids.
        overlay: (height, width, 3) uint8 BGR, or None if it was not wanted.
        stages: milliseconds of each stage, in their order.
    """

    label: np.ndarray
    overlay: np.ndarray | None
    stages: dict[str, float]


def choose_device(name: str) -> torch.device:
    """ "auto" is the first CUDA device, else the CPU.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name!r} cannot be used ({reason}); take 'auto', 'cpu' or 'cuda:0'") from None
    return device


def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed tensors: getting it from the kernel anew costs a page fault per 4 KiB.

    Does nothing where the C library is not glibc.
    """
    mmap_threshold, trim_threshold = -3, -1  # malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option in (mmap_threshold, trim_threshold):
            libc.mallopt(option, 1 << 30)


def network_size(height: int, width: int, max_pixels: int | None) -> tuple[int, int]:
    """(height, width) of the network's input: nearest multiples of STRIDE, shrunk to max_pixels first."""
    scale = min(1.0, math.sqrt(max_pixels / (height * width))) if max_pixels else 1.0
    return tuple(max(STRIDE, round(side * scale / STRIDE) * STRIDE) for side in (height, width))


class Pipeline:
    """Segments frames with one network on one device.

    `submit` is called from one thread only; tickets may be waited for in any thread.

    Args:
        model: as `m2f_ros.model.load` gives it. It is moved to the device.
        taxonomy: of the model's classes; gives the colours.
        device: "auto", "cpu", "cuda", "cuda:1", …
        dtype: of the network; None takes float16 on CUDA and float32 on a CPU.
        slots: frames in flight on CUDA at most; submit waits for one to be released.
        max_pixels: larger images are shrunk to about this many for the network; None takes the model's own bound.
        alpha: weight of the class colours in the overlay, 0..1.
    Raises:
        ConfigError: no such device, or classes that are not the model's.
    """

    def __init__(
        self,
        model: Mask2Former,
        taxonomy: Taxonomy,
        *,
        device: str = "auto",
        dtype: torch.dtype | None = None,
        slots: int = 2,
        max_pixels: int | None = None,
        alpha: float = 0.5,
    ):
        if len(taxonomy.classes) != model.config.num_classes:
            raise ConfigError(
                f"taxonomy {taxonomy.name!r} has {len(taxonomy.classes)} classes, the model {model.config.num_classes}"
            )
        self.taxonomy = taxonomy
        self.alpha = alpha
        self.max_pixels = model.config.max_pixels if max_pixels is None else max_pixels
        self.device = choose_device(device)
        cuda = self.device.type == "cuda"
        if not cuda:
            keep_freed_memory()
        self.dtype = dtype or (torch.float16 if cuda else torch.float32)
        self.model = model.to(self.device, self.dtype, memory_format=torch.channels_last)
        self._mean = torch.tensor(model.config.mean, device=self.device).view(1, 3, 1, 1)
        self._scale = 1 / torch.tensor(model.config.std, device=self.device).view(1, 3, 1, 1)
        self._palette = torch.from_numpy(taxonomy.palette()[: len(taxonomy.classes)]).to(self.device)
        self._streams = (
            {name: torch.cuda.Stream(self.device) for name in ("upload", "compute", "download")} if cuda else {}
        )
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for _ in range(slots):
            self._free.put(_Slot(cuda))

    @torch.inference_mode()
    def submit(self, frame: Frame, want: Collection[str] = OUTPUTS) -> Ticket:
        """Start on a frame.

        On CUDA this returns while the device works; where every slot is in flight it first waits for a release.

        Args:
            want: of "label" (always made) and "overlay".
        """
        slot = self._free.get()
        slot.marks.clear()
        try:
            slot.mark("")
            with self._on("upload"):
                raw = slot.upload(frame.data, self.device)
                slot.mark("upload")
            with self._after("upload", "compute", raw):
                outputs = self._compute(raw, frame.encoding, want, slot)
            with self._after("compute", "download", *outputs.values()):
                arrays = slot.download(outputs)
                slot.mark("download")
                slot.finish()
        except BaseException:
            self._free.put(slot)
            raise
        return Ticket(slot, arrays, self._free)

    def segment(self, frame: Frame, want: Collection[str] = OUTPUTS) -> Segmentation:
        """Submit, wait and give arrays of the caller's own."""
        with self.submit(frame, want) as result:
            overlay = None if result.overlay is None else result.overlay.copy()
            return Segmentation(result.label.copy(), overlay, result.stages)

    def _compute(self, raw: Tensor, encoding: str, want: Collection[str], slot: _Slot) -> dict[str, Tensor]:
        rgb = to_rgb(raw, encoding)
        height, width = rgb.shape[:2]
        size = network_size(height, width, self.max_pixels)
        pixels = rgb.permute(2, 0, 1)[None].float()
        if size != (height, width):
            # Averaging over the source's pixels when shrinking, as PIL does for upstream's test images.
            pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        pixels = ((pixels - self._mean) * self._scale).to(self.dtype, memory_format=torch.channels_last)
        slot.mark("preprocess")
        class_logits, mask_logits, _ = self.model(pixels)
        slot.mark("network")
        scores = heads.semantic_scores(class_logits, mask_logits, size)
        label = heads.semantic_labels(scores, (height, width))[0]
        # Labels of more than 255 classes travel as uint16; torch converts to it but computes little in it.
        outputs = {"label": label.to(torch.uint8 if self.taxonomy.dtype is np.uint8 else torch.uint16)}
        slot.mark("head")
        if "overlay" in want:
            outputs["overlay"] = blend(rgb, label, self._palette, self.alpha)
            slot.mark("overlay")
        return outputs

    def _on(self, stream: str) -> contextlib.AbstractContextManager:
        return torch.cuda.stream(self._streams[stream]) if self._streams else contextlib.nullcontext()

    @contextlib.contextmanager
    def _after(self, before: str, stream: str, *tensors: Tensor):
        """Work on `stream` that starts when `before` has come so far; `tensors` stay alive until it is done."""
        if not self._streams:
            yield
            return
        self._streams[stream].wait_stream(self._streams[before])
        with torch.cuda.stream(self._streams[stream]):
            yield
            for tensor in tensors:
                tensor.record_stream(self._streams[stream])


class Ticket:
    """A frame in flight: a context manager that gives its result; or call `result` and, done with it, `release`."""

    def __init__(self, slot: _Slot, arrays: dict[str, np.ndarray], free: queue.SimpleQueue[_Slot]):
        self._slot, self._arrays, self._free = slot, arrays, free
        self._released = False

    def result(self) -> Segmentation:
        """Wait for this frame alone. The arrays are the slot's own memory: valid until `release`."""
        self._slot.wait()
        return Segmentation(self._arrays["label"], self._arrays.get("overlay"), self._slot.stages())

    def release(self) -> None:
        """Give the slot back for another frame."""
        if not self._released:
            self._released = True
            self._slot.wait()
            self._free.put(self._slot)

    def __enter__(self) -> Segmentation:
        return self.result()

    def __exit__(self, *error: object) -> None:
        self.release()


class _Slot:
    """Page-locked memory of one frame in flight, and the times of its stages."""

    def __init__(self, cuda: bool):
        self.cuda = cuda
        self.marks: list[tuple[str, object]] = []
        self.done = torch.cuda.Event() if cuda else None
        self.pinned: dict[str, Tensor] = {}

    def upload(self, data: np.ndarray, device: torch.device) -> Tensor:
        if not self.cuda:
            # A view of the message's own memory; torch has no read-only tensors, and nothing here writes to it.
            return torch.from_numpy(data) if data.flags.writeable else _view(data)
        pinned = self._pinned("input", data.shape, torch.uint8)
        pinned.numpy()[...] = data  # the only copy on the host: asynchronous uploads need page-locked memory
        return pinned.to(device, non_blocking=True)

    def download(self, outputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
        if not self.cuda:
            return {name: tensor.numpy() for name, tensor in outputs.items()}
        return {
            name: self._pinned(name, tensor.shape, tensor.dtype).copy_(tensor, non_blocking=True).numpy()
            for name, tensor in outputs.items()
        }

    def _pinned(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        buffer = self.pinned.get(name)
        if buffer is None or buffer.shape != shape or buffer.dtype != dtype:
            buffer = self.pinned[name] = torch.empty(shape, dtype=dtype, pin_memory=True)
        return buffer

    def mark(self, stage: str) -> None:
        """Note that `stage` ends here, in the current stream's order."""
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append((stage, event))
        else:
            self.marks.append((stage, time.perf_counter()))

    def finish(self) -> None:
        if self.done is not None:
            self.done.record()

    def wait(self) -> None:
        if self.done is not None:
            self.done.synchronize()

    def stages(self) -> dict[str, float]:
        pairs = zip(self.marks, self.marks[1:], strict=False)
        if self.cuda:
            return {stage: before.elapsed_time(event) for (_, before), (stage, event) in pairs}
        return {stage: (now - before) * 1000 for (_, before), (stage, now) in pairs}


def _view(data: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "not writable": see upload
        return torch.from_numpy(data)
