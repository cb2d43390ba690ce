"""Settings of a replay: images of the drive, model and outputs."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from m2f_ros.bags.writer import STORAGES, can_compress
from m2f_ros.errors import ConfigError
from m2f_ros.frame.bit_depth import AUTO, DEPTHS
from m2f_ros.frame.outputs import NAMES, REPLAYED
from m2f_ros.processes.workers import available_cores

# More threads do not speed up the shipped model on one image.
MOST_THREADS = 4


def default_threads() -> int:
    """Return the default number of CPU threads, independent of the number of workers, since rounding depends on it."""
    return min(available_cores(), MOST_THREADS)


@dataclass(frozen=True)
class Settings:
    """All settings that determine the result, except the drive itself.

    Attributes:
        model, device, precision, backend: see `m2f_ros.model.load` and `Pipeline`.
        batch: largest batch size.
        outputs: names of outputs; see m2f_ros.frame.outputs.
        topics: image topics of a bag; empty for all cameras.
        frames: most frames of all cameras together; None for all, or ENDLESS_FRAMES of the simulated street.
        bit_depth: see BitDepth.
        size: (height, width) of the network's input, multiples of its stride; None for the frame's.
        max_pixels: most pixels of the network's input; None for the model's own bound.
        storage, compression: see BagWriter.
        video: True to write overlay.mp4.
        png: True to write labels as PNG, too.
        threads: number of CPU threads.
        part: number of images in one file of the bag, also the most images that a killed run loses.
    Raises:
        ConfigError: a number is out of range, or an output is unknown or missing for another setting.
    """

    model: str = "street"
    device: str = "auto"
    precision: str | None = None
    backend: str = "auto"
    batch: int = 1
    outputs: tuple[str, ...] = REPLAYED
    topics: tuple[str, ...] = ()
    frames: int | None = None
    bit_depth: int = AUTO
    size: tuple[int, int] | None = None
    max_pixels: int | None = None
    storage: str = "mcap"
    compression: str = "none"
    video: bool = False
    png: bool = False
    threads: int = 0
    part: int = 128

    def __post_init__(self) -> None:
        if not self.threads:
            object.__setattr__(self, "threads", default_threads())
        for name, least in (("batch", 1), ("part", 1), ("threads", 1), ("frames", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}; it must be {least} or more")
        if self.bit_depth not in DEPTHS:
            raise ConfigError(f"bit_depth is {self.bit_depth}; take one of {', '.join(map(str, DEPTHS))}")
        unknown = [name for name in self.outputs if name not in NAMES]
        if unknown or not self.outputs:
            raise ConfigError(f"outputs: there is no {', '.join(unknown) or 'name'}; take some of {', '.join(NAMES)}")
        if self.storage not in STORAGES:
            raise ConfigError(f"storage is {self.storage}; take {' or '.join(STORAGES)}")
        if not can_compress(self.storage, self.compression):
            raise ConfigError(
                f"compression is {self.compression} with storage {self.storage}; "
                "take none or message, or chunk with mcap"
            )
        for setting, output in (("video", "overlay"), ("png", "label")):
            if getattr(self, setting) and output not in self.outputs:
                raise ConfigError(f"{setting} needs {output} among the outputs, not {', '.join(self.outputs)} alone")

    def record(self) -> dict:
        """Return the settings in JSON types."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
