"""The interface of networks: everything that the pipeline, the heads, the backends and the training ask of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from m2f_ros.taxonomy import Taxonomy


class MaskClassification(NamedTuple):
    """The result of a network of queries, each of them a mask and a class.

    Attributes:
        class_logits: (B, queries, classes + 1); the last class is "no object".
        mask_logits: (B, queries, h, w), before the sigmoid; usually at a quarter of the input's size.
    """

    class_logits: Tensor
    mask_logits: Tensor


class PixelLogits(NamedTuple):
    """The result of a network that classifies pixels.

    Attributes:
        logits: (B, classes, h, w), before the softmax, at the input's size or a fraction of it.
    """

    logits: Tensor


Result = MaskClassification | PixelLogits


class NetworkConfig(Protocol):
    """Shape and meaning of a network: each family has a frozen dataclass of its own with at least these.

    Attributes:
        labels: class names; their order is the train id.
        taxonomy: of the labels, where the checkpoint has one.
        mean, std: of the input's R, G, B in 0..255.
        stride: height and width of the input are multiples of it.
        min_pixels, max_pixels: smaller images are enlarged, larger ones shrunk to about this many pixels by default, as
            the network was trained.
        resize: the size of the network's input by default, of a checkpoint that names it so: ("fixed", height, width),
            or ("shortest", pixels of the shorter side, or fewer where the longer one would exceed, pixels). Without
            it, and without the bounds above, images keep their size.
        summary: the network in words.
    """

    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def taxonomy(self) -> Taxonomy | None: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    @property
    def stride(self) -> int: ...
    @property
    def min_pixels(self) -> int | None: ...
    @property
    def max_pixels(self) -> int | None: ...
    @property
    def resize(self) -> tuple[str, int, int] | None: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def summary(self) -> str: ...

    @classmethod
    def read(cls, folder: Path) -> NetworkConfig:
        """Read the config of a checkpoint folder. Raises CheckpointError."""

    def contents(self) -> dict[str, Any]:
        """Contents of config.json, from which `read` makes an equal config; JSON types only."""


class Network(nn.Module):
    """A network of some family.

    Attributes:
        gives: the type of its result. Instances (boxes with masks) have neither a type in `Result` nor a head yet.
        config: shape, classes and preprocessing.
    """

    gives: ClassVar[type[MaskClassification] | type[PixelLogits]]
    config: NetworkConfig

    def plan(self, height: int, width: int) -> Any:
        """Prepare for images of one size. A caller that segments many of them keeps the plan and hands it to `forward`.

        A plan is nested tuples of tensors and integers, on the network's device and in its precision, and stale once
        weights change. Gradients pass through it. A network that needs none keeps this method, which returns None.

        Raises:
            ValueError: height or width is no multiple of config.stride.
        """
        self.check_size(height, width)
        return None

    def forward(self, pixels: Tensor, plan: Any = None) -> tuple:
        """Segment normalised images.

        With a plan nothing is made from the host's data and nothing is read back: the call can be captured in a CUDA
        graph, exported and compiled.

        Args:
            pixels: (B, 3, H, W) RGB, (value - config.mean) / config.std of values in 0..255; H and W multiples of
                config.stride.
            plan: for this size; None makes one.
        Returns:
            A named tuple: the fields of `gives`, and after them the ones that only the family's loss takes.
        Raises:
            ValueError: a size that is no multiple of config.stride, or a plan for another size.
        """
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def result(self, output: tuple) -> Result:
        """The part of `forward`'s output that the heads take."""
        return self.gives(*output[: len(self.gives._fields)])

    def example(self, height: int, width: int, batch: int = 1) -> Tensor:
        """Images of one size, to export or compile the network with: zeros (B, 3, H, W) of its own dtype."""
        weight = next(self.parameters())
        return torch.zeros(batch, 3, height, width, dtype=weight.dtype, device=weight.device)

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError unless height and width are multiples of config.stride."""
        stride = self.config.stride
        if height % stride or width % stride or min(height, width) <= 0:
            raise ValueError(f"images of {height}x{width}: height and width must be multiples of {stride}")

    def initialise(self) -> None:
        """Draw the weights that training from nothing starts from. The constructor's own stay as they are."""

    def fold_norms(self) -> None:
        """Fold batch norms into the layers before them, for inference. A network without any has nothing to do."""

    def unused_weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Tensors, by their keys on disk, that other programs look for in the family's files and no image passes."""
        return {}


M = TypeVar("M", bound=nn.Module)

if TYPE_CHECKING:

    class Modules(nn.ModuleList, Generic[M]):
        """An nn.ModuleList whose members' type is known."""

        def __iter__(self) -> Iterator[M]: ...

else:
    Modules = nn.ModuleList
