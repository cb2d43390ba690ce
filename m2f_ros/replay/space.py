"""The outputs in space of a replay, as messages of a bag."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from m2f_ros.bags.messages import POINT_CLOUD, Messages
from m2f_ros.bags.space_messages import DETECTIONS, GRID, SCAN, SpaceMessages
from m2f_ros.bags.topics import is_rectified, names_of
from m2f_ros.errors import ConfigError, SourceError, SpaceError, say_once
from m2f_ros.frame.bgr import to_bgr
from m2f_ros.frame.frame import Ignored
from m2f_ros.frame.outputs import SPATIAL, SPATIAL_NAMES
from m2f_ros.frame.segment import Segment
from m2f_ros.pipeline import Segmentation
from m2f_ros.replay.settings import NO_DEPTH, TRUTH, Settings
from m2f_ros.sources.open import ENDLESS_FRAMES, open_drive, open_source
from m2f_ros.sources.sample import Sample, Source, SpaceOptions
from m2f_ros.space.cloud import Cloud
from m2f_ros.space.compute import Found, Space, SpaceSettings
from m2f_ros.space.ignore import fitted, read_mask
from m2f_ros.space.labelled import Labelled
from m2f_ros.space.obstacles import Scan
from m2f_ros.space.transforms import Transforms
from m2f_ros.taxonomy import Taxonomy

T = TypeVar("T")

_WITH_DEPTH = {"points", "detections", "grid", "obstacles", "lidar"}  # outputs that take depth images where they are
_WITH_TRANSFORMS = {"grid", "obstacles", "lidar"}


def open_for(drive: str, settings: Settings) -> Source:
    """Open a drive with what the outputs need beside its images.

    Depth images that no output cannot do without may be missing, which is said. Raises as `open_drive`.
    """
    outputs = set(settings.outputs)
    space = SpaceOptions(
        depth=bool(outputs & _WITH_DEPTH) and settings.depth_topics != NO_DEPTH,
        transforms=bool(outputs & _WITH_TRANSFORMS),
        clouds="lidar" in outputs,
        depth_topics=() if settings.depth_topics == NO_DEPTH else settings.depth_topics,
        cloud_topic=settings.cloud_topic,
        slop=settings.space.points_slop,
    )
    if not space.depth or "points" in outputs or settings.depth_topics:
        return _open(drive, settings, space)
    try:
        return _open(drive, settings, space)
    except SourceError as error:
        without = _open(drive, settings, replace(space, depth=False))
        say_once(f"{error}: {', '.join(sorted(outputs & _WITH_DEPTH))} without depth")
        return without


def _open(drive: str, settings: Settings, space: SpaceOptions) -> Source:
    if settings.model != TRUTH:
        return open_drive(drive, settings.topics, settings.frames, settings.bit_depth, space)
    topic = settings.topics[0] if settings.topics else None
    found = open_source(drive, frames=settings.frames, topic=topic, bit_depth=settings.bit_depth, space=space)
    if found.length is None:
        found.end_after(ENDLESS_FRAMES)
    return found


class Masks:
    """The ignore masks of cameras. Raises SpaceError for a file that cannot be read."""

    def __init__(self, settings: SpaceSettings) -> None:
        self._ignored = {camera: Ignored(read_mask(path)) for camera, path in settings.ignore_masks.items() if path}

    def apply(self, sample: Sample) -> Sample:
        """Ignore these pixels of a sample's frame; return the sample."""
        ignored = self._ignored.get(sample.camera)
        if ignored is not None and sample.frame is not None:
            sample.frame = replace(sample.frame, ignored=ignored)
        return sample


class Placed(NamedTuple):
    """A message of an output in space. camera: its camera; "" of an output of all cameras."""

    output: str
    camera: str
    type: str
    message: Any


class SpaceOutputs:
    """Makes the outputs in space of samples.

    Args:
        settings: those of space by the cameras of the drive, see `of_drive`.
        taxonomy: taxonomy of the labels.
        fail: function that takes the name of an output and why it was not made.
        tell: function that logs a line on the drive.
    Raises:
        ConfigError: a file is wrong.
    """

    def __init__(
        self,
        settings: Settings,
        taxonomy: Taxonomy,
        make: Messages,
        own: SpaceMessages,
        fail: Callable[[str, SpaceError], None],
        tell: Callable[[str], None],
    ) -> None:
        self._want = frozenset(settings.outputs) & set(SPATIAL_NAMES)
        self._make, self._own, self._unlabelled = make, own, taxonomy.unlabelled
        self._settings = settings.space
        self._space = Space(self._settings, taxonomy, fail, tell)

    def of(
        self,
        sample: Sample,
        result: Segmentation | None,
        panoptic: tuple[np.ndarray, Sequence[Segment]] | None,
    ) -> list[Placed]:
        """Return the messages of a sample: those of its frame, and of the clouds that are due.

        result: None for a damaged image. panoptic: tracked ids and segments, where they were asked for.
        """
        found: list[Found] = []
        transforms = sample.transforms or Transforms()
        if result is not None:
            found += self._space.frame(self._labelled(sample, result, panoptic), transforms, self._want)
        if "lidar" in self._want:
            found += [labelled for cloud in sample.clouds if (labelled := self._space.cloud(cloud, transforms))]
        return [self._placed(one) for one in found]

    def state(self) -> dict[str, np.ndarray]:
        """Return all that later messages depend on; see Space.state."""
        return self._space.state()

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self._space.restore(arrays)

    def _labelled(
        self, sample: Sample, result: Segmentation, panoptic: tuple[np.ndarray, Sequence[Segment]] | None
    ) -> Labelled:
        assert sample.frame is not None and sample.header is not None, "an image that was segmented has both"
        label, confidence = result.images["label"], result.images.get("confidence")
        if "lidar" in self._want:  # kept beyond the life of the result
            label, confidence = label.copy(), None if confidence is None else confidence.copy()
        height, width = label.shape
        ids, segments = panoptic or (None, ())
        depth = sample.depth
        if depth is not None and sample.frame.ignored is not None:
            depth = np.where(fitted(sample.frame.ignored.mask, depth.shape[::-1]), np.float32(np.nan), depth)
        size = sample.frame.size[::-1]
        return Labelled(
            sample.camera,
            sample.header.sec * 1_000_000_000 + sample.header.nanosec,
            sample.header.frame_id,
            None if sample.calibration is None else sample.calibration.fitted(size, (width, height)),
            label,
            self._unlabelled,
            confidence,
            ids,
            segments,
            to_bgr(sample.frame) if "points" in self._want else None,
            depth,
        )

    def _placed(self, found: Found) -> Placed:
        value, make = found.value, self._make
        if isinstance(value, Cloud):
            return Placed(found.name, found.camera, POINT_CLOUD, make.cloud(value))
        header = make.header(found.stamp_ns, found.frame_id)
        if isinstance(value, np.ndarray):
            grid = self._settings.grid
            origin = (*grid.origin, grid.ground_height)
            return Placed(found.name, "", GRID, self._own.grid(value, grid.resolution, origin, header))
        if isinstance(value, Scan):
            return Placed(found.name, "", SCAN, self._own.scan(value, header))
        return Placed(found.name, found.camera, DETECTIONS, self._own.detections(value, header))


def of_drive(settings: Settings, drive: Source) -> Settings:
    """Return the settings with those of space by the cameras of a drive.

    Values of the camera "" are the default of all cameras. A camera is named as the outputs name it or, where no other
    one has that name, by the namespace of its topic or the whole topic, so that `--topics` keeps the names.

    Raises ConfigError where they name another camera, or one camera twice.
    """
    known = {camera: camera for camera in drive.cameras}
    aliases = Counter(name for topic in drive.topics.values() for name in {*names_of(topic)})
    for camera, topic in drive.topics.items():
        known |= {name: camera for name in names_of(topic) if aliases[name] == 1 and name not in known}
    space, rectified = settings.space, _by_camera(settings.space.rectified, known, drive)
    for camera, topic in drive.topics.items():
        if settings.spatial and is_rectified(topic) and not rectified.get(camera):
            rectified[camera] = True
            say_once(f"the images of {topic} are taken as rectified, by that name")
    space = replace(
        space,
        cameras=drive.cameras,
        extrinsics=_by_camera(space.extrinsics, known, drive),
        rectified=rectified,
        ignore_masks=_by_camera(space.ignore_masks, known, drive),
    )
    return replace(settings, space=space)


def _by_camera(given: Mapping[str, T], known: Mapping[str, str], drive: Source) -> dict[str, T]:
    """Return the value of each camera that has one. known: possible name -> camera. Raises ConfigError."""
    found: dict[str, T] = {}
    for name, value in given.items():
        if not name:
            continue
        if name not in known:
            names = ", ".join(
                f"{camera or 'one without a name'}{f' ({topic})' if (topic := drive.topics.get(camera)) else ''}"
                for camera in drive.cameras
            )
            raise ConfigError(f"camera.{name}.…: the drive has no such camera; its cameras: {names}")
        if known[name] in found:
            raise ConfigError(f"camera.{name}.…: another name of the same camera has a value, too")
        found[known[name]] = value
    if "" in given:
        found = dict.fromkeys(drive.cameras, given[""]) | found
    return found


def is_each(name: str) -> bool:
    """Return True if an output in space has a topic for each camera."""
    return next(output.each for output in SPATIAL if output.name == name)
