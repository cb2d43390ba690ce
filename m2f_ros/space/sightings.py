"""The newest labelled frames of each camera, and what they see of a cloud."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from m2f_ros.space.cloud import Cloud
from m2f_ros.space.labelled import Labelled
from m2f_ros.space.lidar import NO_CAMERA, View, label_cloud
from m2f_ros.space.poses import Poses, may_come
from m2f_ros.space.transforms import TransformError

if TYPE_CHECKING:
    from m2f_ros.space.camera_model import CameraModel

SEEN = 4  # newest frames of a camera that are kept


class Sighting(NamedTuple):
    """A frame. number: that of its camera. model: of images of the size of its labels."""

    number: int
    labelled: Labelled
    model: CameraModel


class Sightings:
    """Frames that clouds may belong to. For use by one thread."""

    def __init__(
        self,
        cameras: Sequence[str],
        slop: Callable[[], float],
        poses: Poses,
        still: Callable[[TransformError], None],
        miss: Callable[[TransformError], None],
    ) -> None:
        """cameras: names of all cameras, whose numbers are their order.

        slop: function that returns the most seconds between the stamps of a cloud and a frame.
        still: takes why the base's motion is not taken out.
        miss: takes why one camera of several labels nothing.
        """
        self._slop, self._poses, self._still, self._miss = slop, poses, still, miss
        self._seen: dict[str, deque[tuple[Labelled, CameraModel]]] = {name: deque(maxlen=SEEN) for name in cameras}

    def __iter__(self) -> Iterator[Labelled]:
        """Yield the frames, camera by camera, oldest first."""
        for seen in self._seen.values():
            yield from (labelled for labelled, _ in seen)

    def see(self, labelled: Labelled, model: CameraModel) -> None:
        """Keep a frame, whose arrays nobody changes any more."""
        # Without what no cloud needs, so that its labels do not depend on who listens to other outputs.
        kept = replace(labelled, ids=None, segments=(), picture=None)
        self._seen[labelled.camera].append((kept, model))

    def newest(self, camera: str) -> int | None:
        """Return the stamp of a camera's newest frame; None without one."""
        seen = self._seen[camera]
        return seen[-1][0].stamp_ns if seen else None

    def near(self, stamp_ns: int) -> list[Sighting]:
        """Return the frame of each camera that is nearest to a stamp, and within the slop of it."""
        found = []
        for number, seen in enumerate(self._seen.values()):
            labelled, model = min(seen, key=lambda one: abs(one[0].stamp_ns - stamp_ns), default=(None, None))
            if labelled is None or model is None or abs(labelled.stamp_ns - stamp_ns) > round(self._slop() * 1e9):
                continue
            found.append(Sighting(number, labelled, model))
        return found

    def may_come(self, frame: str, stamp_ns: int) -> bool:
        """Return True if a transform that a cloud of this frame needs is not there, and may come."""
        return any(may_come(partial(self._pose, one.labelled, frame, stamp_ns)) for one in self.near(stamp_ns))

    def label(self, cloud: Cloud) -> Cloud | None:
        """Return a cloud with its labels, see `label_cloud`; None if no frame is of its time.

        The field "camera" has the number of the camera among all. Raises SpaceError for a cloud that cannot be placed.
        """
        views, cameras = [], []
        trouble: TransformError | None = None
        for number, labelled, model in self.near(cloud.stamp_ns):
            try:
                views.append(View(labelled, model, self._placed(labelled, cloud.frame_id, cloud.stamp_ns)))
                cameras.append(number)
            except TransformError as error:
                trouble = error
        if not views:
            if trouble is not None:
                raise trouble
            return None
        if trouble is not None:  # the other cameras go on
            self._miss(trouble)
        labels = label_cloud(cloud, views)
        if cameras != list(range(len(cameras))):  # a camera was left out: those after it keep their numbers
            index, numbers = labels.column("camera"), np.full(NO_CAMERA + 1, NO_CAMERA, np.uint8)
            numbers[: len(cameras)] = cameras
            index[...] = numbers[index]
        return labels

    def clear(self) -> None:
        """Forget all frames."""
        for seen in self._seen.values():
            seen.clear()

    def _placed(self, labelled: Labelled, frame: str, stamp_ns: int) -> np.ndarray:
        """Return the transform of a cloud's points to a camera, without the base's motion if that is not known."""
        try:
            return self._pose(labelled, frame, stamp_ns)
        except TransformError as error:
            found = self._pose(labelled, frame, stamp_ns, still=True)
            self._still(error)
            return found

    def _pose(self, labelled: Labelled, frame: str, stamp_ns: int, still: bool = False) -> np.ndarray:
        moving = not still and bool(self._poses.fixed_frame)
        of = labelled
        return self._poses.camera_from_cloud(of.camera, of.frame_id, of.stamp_ns, frame, stamp_ns, moving)
