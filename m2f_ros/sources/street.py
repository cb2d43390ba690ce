"""The simulated street as a source, with depth, transforms and a lidar."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import SourceError
from m2f_ros.frame.frame import Frame
from m2f_ros.sources.sample import Options, Sample, Source, TrueGrid
from m2f_ros.space.cloud import Cloud
from m2f_ros.space.transforms import Transforms

if TYPE_CHECKING:
    from m2f_ros.street.lidar import Scan

# Seed of plain "street": the shipped model was not trained on this street.
UNSEEN_SEED = 2004


class StreetSource(Source):
    """The simulated street: endless, with exact labels."""

    def __init__(self, spec: str, options: Options) -> None:
        from m2f_ros.street import Street
        from m2f_ros.street.lidar import Lidar

        _, _, seed = spec.partition(":")
        if not re.fullmatch(r"\d{0,18}", seed):
            raise SourceError(
                f"{spec[:40]}: the seed behind street: must be a whole number from 0, of at most 18 digits"
            )
        self._space = options.space
        if options.space.depth_topics or options.space.cloud_topic:
            raise SourceError(f"{spec}: the simulated street has no topics; only a rosbag2 has")
        self._lidar = Lidar(*options.space.lidar_size)
        super().__init__(
            spec,
            options.rate or 10.0,
            None,
            frames=options.frames,
            taxonomy=taxonomies.get("cityscapes"),
            keep_damaged=True,  # it has none, and reading may begin anywhere
        )
        self._street = Street(seed=int(seed or UNSEEN_SEED), rate=self.rate)
        self._pose = lru_cache(maxsize=4)(self._street.pose)

    def _samples(self, first: int) -> Iterator[Sample]:
        for index in count(first):
            drawn = self._street.frame(index)
            sample = self._sample(
                index,
                self._stamp(index),
                f"street_{index:06d}",
                Frame(drawn.image, "rgb8"),
                calibration=self._street.camera,
                label=drawn.label,
                instances=drawn.instance,
            )
            if self._space.depth:
                sample.depth = np.where(np.isfinite(drawn.depth), drawn.depth, np.float32(np.nan))
            if self._space.transforms:
                sample.transforms, sample.tf = self._transforms(index), tuple(self._pose(index).transforms())
            if self._space.clouds:
                scan = self._street.scan(index, self._lidar)
                cloud, truth = clouds_of(scan, self.start_ns + sample.stamp_ns)
                sample.clouds, sample.truth_clouds = (cloud,), (truth,)
            if self._space.grid:
                sample.truth_grid = self._grid(index, drawn.depth)
            yield sample

    def _stamp(self, index: int) -> int:
        return round(index * 1e9 / self.rate)

    def _transforms(self, index: int) -> Transforms:
        """Return the transforms of a frame and of those before and behind it."""
        found = Transforms(seconds=4 / self.rate)
        for at in range(max(0, index - 1), index + 2):
            for parent, child, matrix, static in self._pose(at).transforms():
                found.put(parent, child, matrix, self.start_ns + self._stamp(at), static)
        return found

    def _grid(self, index: int, depth: np.ndarray) -> TrueGrid:
        """Return the true grid of a frame, of the size and costs that a node has by default."""
        from m2f_ros.space.costs import read_costs
        from m2f_ros.space.grid import GridSettings
        from m2f_ros.street.plan import plan, seen
        from m2f_ros.street.pose import BASE

        settings = GridSettings()
        cells = plan(self._street, index, settings, read_costs("", taxonomies.get("cityscapes")))
        shown = seen(self._street, index, settings, cells, depth)
        return TrueGrid(cells, shown, settings.resolution, (*settings.origin, settings.ground_height), BASE)


def clouds_of(scan: Scan, stamp_ns: int) -> tuple[Cloud, Cloud]:
    """Make the cloud of a scan, x, y, z and ring, and the same points with their true label and instance.

    Both are organised as the scan is. stamp_ns: nanoseconds since 1970.
    """
    from m2f_ros.street.pose import LIDAR

    x, y, z = np.moveaxis(scan.points, -1, 0)
    ring = np.broadcast_to(np.arange(len(x), dtype=np.uint16)[:, None], x.shape)
    cloud = Cloud.of_columns({"x": x, "y": y, "z": z, "ring": ring}, x.shape, LIDAR, stamp_ns, is_dense=False)
    return cloud, cloud.appended({"label": scan.label, "instance": scan.instance})
