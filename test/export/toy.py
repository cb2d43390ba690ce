"""A family of two layers that gives logits of pixels: an export takes a second in every format."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from m2f_ros.model import Network, PixelLogits
from m2f_ros.model.config import read_shared, shared_contents
from m2f_ros.model.keys import KeyMap
from m2f_ros.model.layout import read_json
from m2f_ros.model.registry import Family
from m2f_ros.taxonomy import Taxonomy

STRIDE = 8


@dataclass(frozen=True)
class ToyConfig:
    labels: tuple[str, ...]
    mean: tuple[float, ...] = (100.0, 110.0, 120.0)
    std: tuple[float, ...] = (60.0, 50.0, 40.0)
    taxonomy: Taxonomy | None = field(default=None, repr=False)
    min_pixels: int | None = None
    max_pixels: int | None = None
    resize: tuple[str, int, int] | None = None
    stride: int = STRIDE
    summary: str = "a toy"

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    @classmethod
    def read(cls, folder: Path) -> ToyConfig:
        return cls(**read_shared(folder, read_json(folder / "config.json"), STRIDE))

    def contents(self) -> dict:
        return shared_contents(self)


class ToyNetwork(Network):
    gives = PixelLogits
    config: ToyConfig

    def __init__(self, config: ToyConfig):
        super().__init__()
        self.config = config
        self.features = nn.Conv2d(3, 12, STRIDE, stride=STRIDE)
        self.classes = nn.Conv2d(12, config.num_classes, 3, padding=1)

    def forward(self, pixels: Tensor, plan: None = None) -> PixelLogits:
        self.check_size(*pixels.shape[-2:])
        return PixelLogits(self.classes(self.features(pixels).relu()))


TOY = Family(ToyConfig, ToyNetwork, KeyMap(to_disk=[(r"^", "toy.")], landmark="toy.features.weight"))
