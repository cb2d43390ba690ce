"""Depth, transforms and clouds of a lidar, read from a bag beside the images of its cameras."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from m2f_ros.bags.cloud_topic import Clouds, choose_cloud
from m2f_ros.bags.depth_topic import DepthImages, choose_depth
from m2f_ros.bags.messages import POINT_CLOUD
from m2f_ros.bags.reader import Bag, Message
from m2f_ros.bags.transform_topic import DriveTransforms
from m2f_ros.errors import SourceError, SpaceError
from m2f_ros.sources.sample import Sample, SpaceOptions, log


class BagSpace:
    """The topics that were asked for.

    Attributes:
        depth: image topic -> depth topic.
        cloud: topic of clouds, or None.
        lines: on cameras without depth, and missing transforms.
    """

    def __init__(self, bag: Bag, cameras: Mapping[str, str], options: SpaceOptions) -> None:
        """cameras: image topic -> name of the camera.

        Raises SourceError for topics that are needed and not there, or not plain.
        """
        if options.grid:
            raise SourceError(f"grid: not for {bag.path}: only the simulated street has it")
        self._bag, self._options = bag, options
        self.depth: dict[str, str] = {}
        self.lines: list[str] = []
        if options.depth:
            self.depth, self.lines = choose_depth(bag, cameras, options.depth_topics)
        self.cloud = choose_cloud(bag, options.cloud_topic) if options.clouds else None
        missing = list(self.lines) if options.depth and not self.depth else []
        if options.clouds and not self.cloud:
            missing.append(f"no topic of {POINT_CLOUD}")
            self.lines.append(missing[-1])
        if missing and options.needed:
            raise SourceError(f"{bag.path}: {'; '.join(missing)}")

    def reader(self) -> SpaceReader:
        """Begin to read, for a pass over the images."""
        bag, slop = self._bag, self._options.slop
        return SpaceReader(
            {image: DepthImages(bag, topic, slop) for image, topic in self.depth.items()},
            Clouds(bag, self.cloud, slop) if self.cloud else None,
            DriveTransforms(bag) if self._options.transforms else None,
        )


class SpaceReader:
    """Adds to the samples of a pass what belongs to them."""

    def __init__(
        self, depth: Mapping[str, DepthImages], clouds: Clouds | None, transforms: DriveTransforms | None
    ) -> None:
        self._depth, self._clouds, self._transforms = depth, clouds, transforms

    def skip(self, message: Message) -> None:
        """Pass over an image that is not wanted."""
        if self._clouds:
            self._clouds.due(message.taken_ns, message.log_ns, wanted=False)

    def fill(self, sample: Sample, message: Message) -> None:
        """Add to a sample; to a damaged one only transforms, and the clouds that are due."""
        before = self._damage()
        self._fill(sample, message)
        more = (line for line, count in self._damage().items() if count > before[line])
        sample.lost = next(more, "")

    def _damage(self) -> dict[str, int]:
        """Return how much was found damaged so far, by the line on one of it."""
        found = {f"a depth image of {depth.topic} cannot be used": depth.damaged for depth in self._depth.values()}
        if self._clouds:
            found[f"a cloud of {self._clouds.topic} is damaged"] = self._clouds.damaged
        if self._transforms:
            line = f"a transform of {' and '.join(self._transforms.topics)} is damaged, or fits no tree of frames"
            found[line] = self._transforms.damaged + self._transforms.refused
        return found

    def _fill(self, sample: Sample, message: Message) -> None:
        if self._clouds:
            sample.clouds = tuple(self._clouds.due(message.taken_ns, message.log_ns))
        if self._transforms:
            sample.transforms = self._transforms.at(message.log_ns)
        if sample.frame is None:
            return
        if depth := self._depth.get(message.topic):
            height, width = sample.image.shape[:2]
            try:
                sample.depth = depth.at(sample.stamp_ns, message.log_ns, (height, width))
            except SpaceError as error:
                log.warning("skipped a depth image: %s", error)

    def end(self, say: Callable[[str], None]) -> list[str]:
        """Say what is missing at the end of a pass; return what is damaged. say: function of a line."""
        problems = []
        for image, depth in self._depth.items():
            depth.read_on()
            if depth.damaged:
                problems.append(f"{depth.damaged} depth images of {depth.topic} cannot be used")
            if depth.missing and not depth.paired:
                problems.append(
                    f"no stamp of a depth image of {depth.topic} is within {depth.slop:g} s of an image of {image}"
                )
            if depth.empty and depth.empty == depth.paired:
                problems.append(f"no depth image of {depth.topic} has a depth that is known")
            elif depth.empty:
                say(f"{depth.empty} depth images of {depth.topic} know no depth")
            if depth.missing and depth.paired:
                say(f"{depth.missing} images of {image} have no depth image within {depth.slop:g} s")
        if self._clouds:
            if left := self._clouds.left():
                late = f"{left} clouds of {self._clouds.topic} are later than the last image"
                if self._clouds.due_ever:
                    say(f"{late}, and are left out")
                else:  # none has a label: the clocks of lidar and camera differ
                    problems.append(f"all {late}: their stamps must be of one clock")
            if self._clouds.damaged:
                problems.append(f"{self._clouds.damaged} clouds of {self._clouds.topic} are damaged")
        if found := self._transforms:
            if not found.topics:
                say("it has no transforms, neither /tf nor /tf_static")
            if found.damaged:
                problems.append(f"{found.damaged} transforms of {' and '.join(found.topics)} are damaged")
            if found.refused:
                problems.append(f"{found.refused} transforms of {' and '.join(found.topics)} fit no tree of frames")
            if found.changed:
                say(f"{found.changed} transforms of {' and '.join(found.topics)} took the place of others")
        return problems
