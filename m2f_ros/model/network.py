"""The interface of networks for the pipeline, the heads, the backends and the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from m2f_ros.errors import CheckpointError
from m2f_ros.model.quantised import Quantisation
from m2f_ros.taxonomy import Taxonomy


class MaskClassification(NamedTuple):
    """The result of a network with queries, each a mask and a class.

    Attributes:
        class_logits: (B, queries, classes + 1); the last class is "no object".
        mask_logits: (B, queries, h, w), before the sigmoid; usually at a quarter of the input's size.
    """

    class_logits: Tensor
    mask_logits: Tensor


class TrackedMasks(NamedTuple):
    """A MaskClassification with the embeddings of its queries, which are alike for one object in two frames.

    Attributes:
        class_logits, mask_logits: see MaskClassification.
        embeddings: (B, queries, C), of which class and mask are predicted.
    """

    class_logits: Tensor
    mask_logits: Tensor
    embeddings: Tensor


class PixelLogits(NamedTuple):
    """The result of a network that classifies pixels.

    Attributes:
        logits: (B, classes, h, w), before the softmax, at the input's size or a fraction of it.
    """

    logits: Tensor


class LabelMap(NamedTuple):
    """The result of a network in a file that ends in argmax: classes alone, without scores.

    Attributes:
        label: (B, h, w) train ids, or the taxonomy's value for unlabelled; at the input's size or a fraction of it.
    """

    label: Tensor


class Instances(NamedTuple):
    """The result of a network that finds instances, a fixed number of candidates, each with a map of the whole input.

    Attributes:
        scores: (B, candidates, classes) score of each class, 0..1; 0 for a candidate that is none.
        mask_logits: (B, candidates, h, w), above 0 inside; at the input's size or a fraction of it.
    """

    scores: Tensor
    mask_logits: Tensor


class BoxedInstances(NamedTuple):
    """The result of a network that finds instances, a fixed number of candidates, each with a map of its own box.

    Attributes:
        scores: (B, candidates, classes) score of each class, 0..1; 0 for a candidate that is none.
        masks: (B, candidates, m, m) probabilities inside the box.
        boxes: (B, candidates, 4) float32, left, top, right, bottom in pixels of the network's input.
    """

    scores: Tensor
    masks: Tensor
    boxes: Tensor


Result = MaskClassification | PixelLogits | LabelMap | TrackedMasks | Instances | BoxedInstances
INSTANCES = Instances, BoxedInstances
MASKS = MaskClassification, TrackedMasks
SEGMENTS = *MASKS, *INSTANCES  # results with segments
GAPS = LabelMap, *INSTANCES  # results that leave pixels without a label


class NetworkConfig(Protocol):
    """Configuration of a network: each family has its own frozen dataclass with at least these attributes.

    Attributes:
        labels: class names, in the order of the train ids.
        taxonomy: taxonomy in the checkpoint, or None.
        mean: mean of the input's R, G, B in 0..255.
        std: standard deviation of the input's R, G, B in 0..255.
        stride: number whose multiples are the height and width of the input.
        min_pixels: least number of pixels as in training; smaller images are enlarged by default.
        max_pixels: largest number of pixels as in training; larger images are shrunk by default.
        resize: default size of the network's input, ("fixed", height, width), or ("shortest", shorter side, longest
            longer side); None if the checkpoint has none. Without it and the bounds above, images keep their size.
        summary: short description of the network.
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
        """Return the contents of config.json, in JSON types; `read` restores an equal config."""


class Network(nn.Module):
    """Base class of all networks.

    Attributes:
        gives: type of the result.
        captures: True if no shape depends on the pixels: a call with a plan can be captured, exported and compiled.
        config: shape, classes and preprocessing.
        quantisation: products that precision int8 computes in eight bits; None if the checkpoint has none.
    """

    gives: type[MaskClassification] | type[PixelLogits] | type[TrackedMasks] | type[Instances] | type[BoxedInstances]
    captures: ClassVar[bool] = True
    config: NetworkConfig
    quantisation: Quantisation | None = None

    def plan(self, height: int, width: int) -> Any:
        """Precompute tensors for images of one size. A caller keeps the plan and passes it to `forward`.

        A plan is nested tuples of tensors and integers, on the network's device and in its precision, and stale after a
        change of weights. Gradients pass through it. The default is None, for networks without a plan.

        Raises:
            ValueError: height or width is not a multiple of config.stride.
        """
        self.check_size(height, width)
        return None

    def memory(self) -> Tensor | None:
        """Return what the network hands from a frame to the next, as before a stream's first frame, without a batch.

        None, the default: frames do not depend on each other. Otherwise `forward` takes a third argument, `memory`:
        that of each image's stream, (B, …), or None for first frames. The field of its output after those of `gives`
        is the memory for the next frames.
        """
        return None

    def forward(self, pixels: Tensor, plan: Any = None) -> tuple:
        """Segment normalised images.

        With a plan the call neither uploads data nor synchronises, if the network `captures`: it can be captured in a
        CUDA graph, exported and compiled.

        Args:
            pixels: (B, 3, H, W) RGB, (value - config.mean) / config.std of values in 0..255; H and W multiples of
                config.stride.
            plan: plan for this size; None to make one.
        Returns:
            A named tuple of the fields of `gives`, then of fields for the family's loss.
        Raises:
            ValueError: the size is not a multiple of config.stride, or the plan is for another size.
        """
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def result(self, output: tuple) -> Result:
        """Return the part of `forward`'s output for the heads."""
        return self.gives(*output[: len(self.gives._fields)])

    def run(self, forward: Callable[..., tuple], pixels: Tensor, plan: Any, memory: Tensor | None) -> Result:
        """Return the result for images by `forward`, a form of this network, and overwrite the memory.

        memory: (B, …) float32 of the images' streams; None for a network without memory.
        """
        if memory is None:
            return self.result(forward(pixels, plan))
        output = forward(pixels, plan, memory.to(pixels.dtype))
        memory.copy_(output[len(self.gives._fields)])
        return self.result(output)

    def example(self, height: int, width: int, batch: int = 1) -> Tensor:
        """Return example images for export or compilation: zeros (B, 3, H, W) of the network's dtype."""
        weight = next(self.parameters())
        return torch.zeros(batch, 3, height, width, dtype=weight.dtype, device=weight.device)

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError if height or width is not a multiple of config.stride."""
        stride = self.config.stride
        if height % stride or width % stride or min(height, width) <= 0:
            raise ValueError(f"images of {height}x{width}: height and width must be multiples of {stride}")

    def encoder(self) -> nn.Module:
        """Return the part whose weights usually come from another training: it learns at a rate of its own."""
        raise CheckpointError(f"a {type(self).__name__} cannot be trained here: its encoder is not known")

    def class_layer(self) -> nn.Module:
        """Return the layer with an output for each class."""
        raise CheckpointError(f"a {type(self).__name__} cannot be trained here: its class layer is not known")

    def initialise(self) -> None:
        """Initialise the weights for training from scratch. By default the constructor's stay."""

    def fold_norms(self) -> None:
        """Fold batch norms into the layers before them, for inference. By default there are none."""

    def give_embeddings(self) -> None:
        """Give TrackedMasks in place of MaskClassification from now on.

        Raises:
            CheckpointError: the network does not give the embeddings of queries, as by default.
        """
        raise CheckpointError(f"a {type(self).__name__} gives no embeddings of queries")

    def use_float8(self) -> None:
        """Convert the layers that gain most by float8 products, in place, for inference; see `m2f_ros.model.float8`.

        Raises:
            CheckpointError: no layer is converted, as by default.
        """
        raise CheckpointError(f"a {type(self).__name__} has no layers for float8 products; take fp16")

    def keeps_float(self, product: str) -> bool:
        """Return True for a product that eight bits spoil: of coordinates or of the results. By default none is.

        Args:
            product: name of a product (see `quantised.Product`), or of a module's weight: "decoder.fc1:weight".
        """
        return False

    def unused_weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return tensors, by their keys on disk, that the network does not use but other programs expect in files."""
        return {}


M = TypeVar("M", bound=nn.Module)

if TYPE_CHECKING:

    class Modules(nn.ModuleList, Generic[M]):
        """An nn.ModuleList with typed members."""

        def __iter__(self) -> Iterator[M]: ...

else:
    Modules = nn.ModuleList
