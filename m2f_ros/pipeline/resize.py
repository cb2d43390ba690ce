"""The size of the network's input, and the placement of the frame in it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from m2f_ros.errors import ConfigError, say_once
from m2f_ros.model import STRIDE, NetworkConfig
from m2f_ros.model.preprocessor import multiple

MODES = ("stretch", "pad", "shortest", "longest", "fixed")
# Bound if neither the user nor the model sets one: Cityscapes and full HD images keep their size.
DEFAULT_MAX_PIXELS = 1024 * 2048


class Placement(NamedTuple):
    """Placement of a frame in the network's input.

    Attributes:
        content: (height, width) of the frame, in the top left corner.
        network: (height, width) of the network's input.
    """

    content: tuple[int, int]
    network: tuple[int, int]


@dataclass(frozen=True)
class Resize:
    """Rule for the size of the network's input, a multiple of its stride. Results keep the frame's size.

    Attributes:
        mode:
            "stretch": the frame's own size, each side stretched to the nearest multiple.
            "pad": the frame's own size, padded.
            "shortest": the shorter side becomes `shortest`, or less if the longer one would exceed `longest`; padded.
                Upstream's test size on Cityscapes. (detectron2: ResizeShortestEdge)
            "longest": the longer side becomes `longest`; padded.
            "fixed": `height` x `width`, stretched.
        max_pixels: most pixels of the network's input, padding included; larger frames are shrunk. None, in the modes
            "stretch" and "pad": the model's bound or size; see `for_model`.
        min_pixels: least pixels in the modes "stretch" and "pad"; smaller frames are enlarged to about this number,
            within max_pixels. None: see max_pixels.
        edges: the model's (shortest, longest) for the modes "stretch" and "pad": as mode "shortest", then each side is
            rounded up to a multiple, as in transformers.
        stride: stride of the network, set by `for_model`; until then 1 accepts every size.
        by_default: True if max_pixels is DEFAULT_MAX_PIXELS; the first frame that it shrinks is logged.
    Raises:
        ConfigError: the mode is unknown, or a number is out of range.
    """

    mode: str = "stretch"
    shortest: int = 1024
    longest: int = 2048
    height: int = 1024
    width: int = 2048
    max_pixels: int | None = None
    min_pixels: int | None = None
    edges: tuple[int, int] | None = None
    stride: int = STRIDE
    by_default: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"resize mode {self.mode!r} is unknown; take {', '.join(MODES)}")
        for name in ("shortest", "longest", "height", "width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"resize: {name} is {getattr(self, name)}; it must be 1 or more")
        least = self.stride * self.stride
        if self.max_pixels is not None and self.max_pixels < least:
            raise ConfigError(f"resize: max_pixels is {self.max_pixels}; it must be {least} or more")
        if self.mode == "fixed" and (self.height % self.stride or self.width % self.stride):
            nearest = " x ".join(str(multiple(side, self.stride)) for side in (self.height, self.width))
            raise ConfigError(
                f"resize: {self.height} x {self.width} (height x width) are no multiples of {self.stride}; "
                f"take {nearest}"
            )

    @property
    def names_a_size(self) -> bool:
        """True if the mode, not the frame, sets the network's size."""
        return self.mode in ("shortest", "longest", "fixed")

    def for_model(self, config: NetworkConfig) -> Resize:
        """Return a copy with the model's stride, and its sizes, or DEFAULT_MAX_PIXELS, in place of None."""
        if self.stride != config.stride:
            return replace(self, stride=config.stride).for_model(config)
        if config.resize and config.resize[0] in ("only", "within"):
            return self._of_one_size(*config.resize)
        if self.names_a_size:
            return self
        if config.resize and self.min_pixels is None and self.max_pixels is None:
            mode, first, second = config.resize
            if mode == "shortest":
                return replace(self, edges=(first, second))._bounded()
            return replace(self, mode=mode, height=first, width=second)._bounded()
        bounds = {name: getattr(config, name) for name in ("min_pixels", "max_pixels") if getattr(self, name) is None}
        return replace(self, **bounds)._bounded()

    def _of_one_size(self, rule: str, height: int, width: int) -> Resize:
        """Return the rule for a network that takes one size alone: stretched to it, or padded within it."""
        if self.mode == "fixed" and (self.height, self.width) == (height, width):
            return self
        if self.names_a_size or self.min_pixels or self.max_pixels:
            raise ConfigError(
                f"resize: the network takes images of {height} x {width} alone; leave out the size, min_pixels and "
                "max_pixels"
            )
        if rule == "within" or self.mode == "pad":
            return replace(self, mode="longest", longest=max(height, width))
        return replace(self, mode="fixed", height=height, width=width)

    def _bounded(self) -> Resize:
        return self if self.max_pixels else replace(self, max_pixels=DEFAULT_MAX_PIXELS, by_default=True)

    def place(self, height: int, width: int) -> Placement:
        """Return the placement of a frame of this size."""
        if self.mode == "fixed":
            height, width = self.height, self.width
        scale = 1.0
        if self.edges:
            scale = min(self.edges[0] / min(height, width), self.edges[1] / max(height, width))
        elif self.mode == "shortest":
            scale = min(self.shortest / min(height, width), self.longest / max(height, width))
        elif self.mode == "longest":
            scale = self.longest / max(height, width)
        elif not self.names_a_size and self.min_pixels:
            scale = max(scale, math.sqrt(self.min_pixels / (height * width)))
        placement = self._at(height, width, scale)
        if not self.max_pixels or _pixels(placement) <= self.max_pixels:
            return placement
        if self.by_default:
            say_once(
                f"images that would take more than {self.max_pixels} pixels of the network's input are shrunk to about "
                "so many, for neither the model nor the user names a bound: max_pixels sets one"
            )
        scale = min(scale, math.sqrt(self.max_pixels / (height * width)))
        placement = self._at(height, width, scale)
        if _pixels(placement) <= self.max_pixels:
            return placement
        # Bisection, since sides are rounded: the number of pixels only grows with the scale.
        low, high = 0.0, scale
        while high - low > 1e-4 * scale or not low:
            middle = (low + high) / 2
            if _pixels(self._at(height, width, middle)) <= self.max_pixels:
                low = middle
            else:
                high = middle
        return self._at(height, width, low)

    def _at(self, height: int, width: int, scale: float) -> Placement:
        """Return the placement of a frame of this size at this scale."""
        if self.edges:
            short, long = sorted((height, width))
            # An edge that decides gives the side itself: a product with the scale may fall just below a whole number,
            # and transformers rounds down.
            short_side = min(self.edges[0], self.edges[1] * short / long, scale * short * (1 + 1e-9))
            sides = max(2, round(short_side)), max(2, int(short_side * long / short))
            content = sides if height <= width else sides[::-1]
            network = self._up(content)
            return Placement(network if self.mode == "stretch" else content, network)
        if self.mode in ("stretch", "fixed"):
            size = multiple(height * scale, self.stride), multiple(width * scale, self.stride)
            return Placement(size, size)
        # At least two pixels: PyTorch's antialiased interpolation to a single column is wrong.
        content = max(2, round(height * scale)), max(2, round(width * scale))
        return Placement(content, self._up(content))

    def _up(self, size: tuple[int, int]) -> tuple[int, int]:
        height, width = (math.ceil(side / self.stride) * self.stride for side in size)
        return height, width


def _pixels(placement: Placement) -> int:
    return placement.network[0] * placement.network[1]
