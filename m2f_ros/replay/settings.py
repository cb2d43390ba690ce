"""Settings of a replay: images of the drive, model and outputs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

from m2f_ros.bags.writer import STORAGES, can_compress
from m2f_ros.errors import ConfigError, say_once
from m2f_ros.frame.bit_depth import AUTO, DEPTHS
from m2f_ros.frame.outputs import NAMES, REPLAYED, SPATIAL_NAMES, needed
from m2f_ros.processes.workers import available_cores
from m2f_ros.space.compute import SpaceSettings

TRUTH = "truth"  # in place of a model's name: the drive's own labels
NO_DEPTH = ("none",)  # in place of depth topics: the depth images of a drive are left alone
_OF_SEGMENTS = ("panoptic", "detections")  # outputs that are nothing without segments
_TRUE = frozenset({"label", "confidence"})  # images that these make
# More threads do not speed up the shipped model on one image.
MOST_THREADS = 4


def default_threads() -> int:
    """Return the default number of CPU threads, independent of the number of workers, since rounding depends on it."""
    return min(available_cores(), MOST_THREADS)


@dataclass(frozen=True)
class Settings:
    """All settings that determine the result, except the drive itself.

    Attributes:
        model, device, precision, backend: see `m2f_ros.model.load` and `Pipeline`. The model TRUTH is the drive's own
            ground truth, of one camera.
        batch: largest batch size.
        outputs: names of outputs; see m2f_ros.frame.outputs.
        topics: image topics of a bag; empty for all cameras.
        frames: most frames of all cameras together; None for all, or ENDLESS_FRAMES of the simulated street.
        bit_depth: see BitDepth.
        size: (height, width) of the network's input, multiples of its stride; None for the frame's.
        max_pixels: most pixels of the network's input; None for the model's own bound.
        tta, windows, window_overlap: see `Views.parse`.
        storage, compression: see BagWriter.
        video: True to write overlay.mp4.
        png: True to write labels as PNG, too.
        threads: number of CPU threads.
        track_by: see `Pipeline`.
        part: number of images in one file of the bag, also the most images that a killed run loses.
        space: settings of the outputs in space, for all drives.
        depth_topics, cloud_topic: see SpaceOptions; depth_topics may be NO_DEPTH.
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
    tta: str = ""
    windows: str = ""
    window_overlap: float = 0.25
    storage: str = "mcap"
    compression: str = "none"
    video: bool = False
    png: bool = False
    threads: int = 0
    track_by: str = "overlap"
    part: int = 128
    space: SpaceSettings = field(default_factory=SpaceSettings)
    depth_topics: tuple[str, ...] = ()
    cloud_topic: str | None = None

    def __post_init__(self) -> None:
        if not self.threads:
            object.__setattr__(self, "threads", default_threads())
        for name, least in (("batch", 1), ("part", 1), ("threads", 1), ("frames", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}; it must be {least} or more")
        if self.bit_depth not in DEPTHS:
            raise ConfigError(f"bit_depth is {self.bit_depth}; take one of {', '.join(map(str, DEPTHS))}")
        names = (*NAMES, *SPATIAL_NAMES)
        unknown = [name for name in self.outputs if name not in names]
        if unknown or not self.outputs:
            raise ConfigError(f"outputs: there is no {', '.join(unknown) or 'name'}; take some of {', '.join(names)}")
        if self.storage not in STORAGES:
            raise ConfigError(f"storage is {self.storage}; take {' or '.join(STORAGES)}")
        if not can_compress(self.storage, self.compression):
            raise ConfigError(
                f"compression is {self.compression} with storage {self.storage}; "
                "take none or message, or chunk with mcap"
            )
        if self.model == TRUTH:
            self._check_truth()
        if self.depth_topics == NO_DEPTH and "points" in self.outputs:
            raise ConfigError("outputs: points are made of depth images; leave out --depth-topic none")
        for setting, output in (("video", "overlay"), ("png", "label")):
            if getattr(self, setting) and output not in self.outputs:
                raise ConfigError(f"{setting} needs {output} among the outputs, not {', '.join(self.outputs)} alone")

    def _check_truth(self) -> None:
        if lacking := [name for name in self.outputs if needed([name]) - _TRUE]:
            made = [name for name in (*NAMES, *SPATIAL_NAMES) if not needed([name]) - _TRUE]
            raise ConfigError(
                f"outputs: true labels make no {', '.join(lacking)}; name some of {', '.join(made)} (a model in a "
                f"folder of this name is ./{TRUTH})"
            )
        if len(self.topics) > 1:
            raise ConfigError(f"topics: true labels are of one camera, not of {', '.join(self.topics)}: name one")

    def without_segments(self, reason: str = "") -> Settings:
        """Return the settings for a network that finds no segments.

        Args:
            reason: why there are none; "" for a network that classifies pixels.
        Raises:
            ConfigError: an output that was asked for is of segments. REPLAYED loses it, which is said.
        """
        more = "" if reason else ", or take another model"
        reason = reason or f"{self.model} classifies pixels and finds no segments"
        made = tuple(name for name in self.outputs if name not in _OF_SEGMENTS)
        if made == self.outputs:
            return self
        if self.outputs != REPLAYED:
            lacking = next(name for name in self.outputs if name in _OF_SEGMENTS)
            raise ConfigError(f"outputs: {reason}: leave out {lacking}{more}")
        say_once(f"{reason}: outputs are {', '.join(made)}")
        return replace(self, outputs=made)

    @property
    def spatial(self) -> bool:
        """True if an output is one in space."""
        return not set(self.outputs).isdisjoint(SPATIAL_NAMES)

    def record(self) -> dict:
        """Return the settings in JSON types, those of space only where an output needs them, masks for all outputs."""
        left_out: tuple[str, ...] = () if self.spatial else ("space", "depth_topics", "cloud_topic")
        # A replay that an earlier version began has none.
        left_out += () if self.tta or self.windows else ("tta", "windows", "window_overlap")
        left_out += ("track_by",) if self.track_by == "overlap" else ()
        kept = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name not in left_out
        }
        masks = {camera: path for camera, path in self.space.ignore_masks.items() if path}
        return kept | ({"ignore_masks": masks} if masks and not self.spatial else {})
