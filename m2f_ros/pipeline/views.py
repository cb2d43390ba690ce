"""Test-time augmentation and sliding windows: a frame goes through the network several times, and scores are averaged.

Scales and flips follow upstream (mask2former/test_time_augmentation.py, SemanticSegmentorWithTTA): the class scores of
each view, as probabilities, are resized to the frame, turned back and averaged. Windows follow the usual inference
(mmseg's slide_inference): the mean of the scores where windows overlap.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from m2f_ros.errors import ConfigError
from m2f_ros.model import heads
from m2f_ros.model.network import MASKS, PixelLogits, Result
from m2f_ros.model.preprocessor import multiple
from m2f_ros.pipeline.resize import Placement

MOST_SIZES = 4  # sizes of the network's input that backends keep; see `backends.SIZES`
_FLIP = "flip"
Size = tuple[int, int]


class View(NamedTuple):
    """A pass of a frame through the network.

    Attributes:
        placement: size of the whole frame, and of that with padding.
        windows: (top, left) of each window in the padded frame.
        size: (height, width) of a window, the network's input.
        flip: True if the frame is mirrored from left to right.
    """

    placement: Placement
    windows: tuple[tuple[int, int], ...]
    size: Size
    flip: bool


@dataclass(frozen=True)
class Views:
    """Which views of a frame are averaged.

    Attributes:
        scales: factors on the size of the network's input; see `Resize`.
        flip: True to add each view mirrored.
        window: (height, width) of windows; None for whole frames.
        overlap: least share of a window that its neighbour covers, too, 0..0.9.
    Raises:
        ConfigError: a number is out of range.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: Size | None = None
    overlap: float = 0.25

    def __post_init__(self) -> None:
        if not self.scales or len(set(self.scales)) < len(self.scales):
            raise ConfigError(f"tta: {_shown(self.scales)} has a scale twice, or none")
        if not all(0.1 <= scale <= 4 for scale in self.scales):
            raise ConfigError(f"tta: scales are {_shown(self.scales)}; they must be 0.1 to 4")
        if len(self.scales) > MOST_SIZES:
            raise ConfigError(f"tta: {len(self.scales)} scales; at most {MOST_SIZES} are kept ready")
        if not 0 <= self.overlap <= 0.9:
            raise ConfigError(f"window_overlap is {self.overlap}; it must be 0 to 0.9")

    def __bool__(self) -> bool:
        """True if there is more than the whole frame at its size."""
        return self.scales != (1.0,) or self.flip or self.window is not None

    @classmethod
    def parse(cls, tta: str = "", windows: str = "", overlap: float = 0.25) -> Views:
        """Read texts as of `m2f replay --tta 0.75,1,1.25+flip --windows 512x1024`; empty ones for none.

        Raises ConfigError for another form.
        """
        scales: tuple[float, ...] = (1.0,)
        flip, window = False, None
        if tta:
            text, _, rest = tta.replace(" ", "").partition("+")
            if text == _FLIP and not rest:
                text, rest = "1", _FLIP
            if rest not in ("", _FLIP) or (tta.count("+") and not rest):
                raise ConfigError(f"tta is {tta!r}; take scales and flip, as in 0.75,1,1.25+flip, or flip")
            try:
                scales, flip = tuple(float(scale) for scale in text.split(",")), rest == _FLIP
            except ValueError:
                raise ConfigError(f"tta is {tta!r}; take scales and flip, as in 0.75,1,1.25+flip, or flip") from None
        if windows:
            found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", windows)
            if not found:
                raise ConfigError(f"windows is {windows!r}; take HEIGHTxWIDTH, as in 512x1024")
            window = int(found[1]), int(found[2])
        return cls(scales, flip, window, overlap)

    def check(self, stride: int, one_size: Size | None) -> None:
        """Raise ConfigError if a network cannot take the views. one_size: the only size that the network takes."""
        if one_size and self.scales != (1.0,):
            raise ConfigError(
                f"tta: the network takes {one_size[0]}x{one_size[1]} alone: leave out the scales; flip is possible"
            )
        if self.window:
            if one_size and self.window != one_size:
                raise ConfigError(f"windows: the network takes {one_size[0]}x{one_size[1]} alone: take that")
            if not all(self.window) or any(side % stride for side in self.window):
                near = "x".join(str(multiple(side, stride)) for side in self.window)
                raise ConfigError(f"windows: height and width must be multiples of {stride}: take {near}")

    def of(self, placement: Placement, stride: int) -> tuple[View, ...]:
        """Return the views of a frame, by its placement in the network's input."""
        views = []
        for scale in self.scales:
            scaled = _scaled(placement, scale, stride)
            size = self._size(scaled.network)
            rows, columns = (_starts(*sides, self.overlap) for sides in zip(scaled.network, size, strict=True))
            windows = tuple((top, left) for top in rows for left in columns)
            views += [View(scaled, windows, size, flip) for flip in ((False, True) if self.flip else (False,))]
        return tuple(views)

    def sizes(self, network: Size, stride: int) -> list[Size]:
        """Return the sizes of the network's input for frames of this size with padding, each once."""
        found = (self._size(_scaled(Placement(network, network), scale, stride).network) for scale in self.scales)
        return list(dict.fromkeys(found))

    def _size(self, network: Size) -> Size:
        return network if self.window is None else (min(self.window[0], network[0]), min(self.window[1], network[1]))


WHOLE = Views()


def average(
    views: tuple[View, ...],
    frame_size: Size,
    classes: int,
    pixels_of: Callable[[Placement, bool], Tensor],
    network: Callable[[Tensor], Result],
) -> Tensor:
    """Return the mean class scores of the views of a frame, (1, classes, *frame_size) float32.

    Args:
        pixels_of: gives the normalised frame (1, 3, *placement.network) for a placement, mirrored or not.
        network: gives the result for pixels (1, 3, *size).
    Raises:
        ConfigError: the network gives no class scores of pixels.
    """
    total: Tensor | None = None
    for view in views:
        scores = _scores(view, pixels_of(view.placement, view.flip), classes, network)
        height, width = view.placement.content
        scores = heads.resize(scores[..., :height, :width], frame_size)
        if view.flip:
            scores = scores.flip(-1)
        total = scores if total is None else total.add_(scores)
    assert total is not None
    return total.div_(len(views))


def _scores(view: View, pixels: Tensor, classes: int, network: Callable[[Tensor], Result]) -> Tensor:
    """Return the scores of a view, (1, classes, *view.placement.network), mirrored where the view is."""
    height, width = view.size
    if len(view.windows) == 1:
        return _class_scores(network(pixels), view.size)
    total = pixels.new_zeros((1, classes, *view.placement.network), dtype=torch.float32)
    count = pixels.new_zeros((1, 1, *view.placement.network), dtype=torch.float32)
    for top, left in view.windows:
        place = (..., slice(top, top + height), slice(left, left + width))
        part = network(pixels[place].contiguous(memory_format=torch.channels_last))
        total[place] += _class_scores(part, view.size)
        count[place] += 1
    return total.div_(count)


def _class_scores(result: Result, size: Size) -> Tensor:
    """Return (1, classes, *size) float32: sums over queries of probabilities, or probabilities of pixels."""
    if isinstance(result, MASKS):
        return heads.semantic_scores(result.class_logits.float(), result.mask_logits.float(), size)
    if isinstance(result, PixelLogits):
        return heads.resize(result.logits.float(), size).softmax(1)
    raise ConfigError("tta and windows: the network gives no class scores of pixels: leave both out")


def _scaled(placement: Placement, scale: float, stride: int) -> Placement:
    """Return the placement of a frame at another scale. The size with padding depends on that of the first alone."""
    if scale == 1:
        return placement
    (height, width), (rows, columns) = placement
    network = multiple(rows * scale, stride), multiple(columns * scale, stride)
    content = tuple(
        max(1, round(side * new / old))
        for side, new, old in zip((height, width), network, (rows, columns), strict=True)
    )
    return Placement((content[0], content[1]), network)


def _starts(whole: int, part: int, overlap: float) -> list[int]:
    """Return the first pixels of the fewest windows of a side that overlap enough, evenly spread."""
    if part >= whole:
        return [0]
    number = 1 + math.ceil((whole - part) / max(1, math.floor(part * (1 - overlap))))
    return [round(i * (whole - part) / (number - 1)) for i in range(number)]


def _shown(scales: tuple[float, ...]) -> str:
    return ",".join(f"{scale:g}" for scale in scales) or "none"
