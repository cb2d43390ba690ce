"""The outputs in space of segmented frames and clouds, as the node and the replay have them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from m2f_ros.errors import SpaceError
from m2f_ros.frame.calibration import Calibration, Region
from m2f_ros.space.base_grid import BaseGrid
from m2f_ros.space.cloud import Cloud
from m2f_ros.space.detections import Detection, detections
from m2f_ros.space.grid_settings import GridSettings
from m2f_ros.space.labelled import Labelled
from m2f_ros.space.obstacles import Scan
from m2f_ros.space.points import points
from m2f_ros.space.poses import Poses
from m2f_ros.space.sightings import Sightings
from m2f_ros.space.transforms import TransformError, Transforms
from m2f_ros.taxonomy import Taxonomy

if TYPE_CHECKING:
    from m2f_ros.space.camera_model import CameraModel

_GROUND = ("grid", "obstacles")


@dataclass(frozen=True)
class SpaceSettings:
    """Settings of the outputs in space, by the names of the node's parameters.

    Attributes:
        cameras: names of all cameras; "" for an only camera.
        base_frame: frame of grid, obstacles and extrinsics: x forward, y left, z up.
        fixed_frame: frame that stands still, by which the base's own motion is taken out; "": it is not.
        points_stride: pixels from one point to the next.
        points_slop: most seconds between the stamps of a frame and its depth image; whoever pairs them keeps to it.
        lidar_slop: most seconds between the stamps of a cloud and a frame.
        grid: settings of the grid.
        grid_costs: YAML file of the costs of classes; "" for the package's.
        extrinsics: camera -> x, y, z, roll, pitch, yaw of its body in base_frame; of others, and where it is empty, tf
            says it.
        lidar_extrinsics: the same of the lidar; empty: tf says it.
        rectified: camera -> True if its images are rectified.
        ignore_masks: camera -> PNG of its ignored pixels, "" for none; whoever segments the frames keeps to it.
    """

    cameras: tuple[str, ...] = ("",)
    base_frame: str = "base_link"
    fixed_frame: str = "odom"
    points_stride: int = 2
    points_slop: float = 0.02
    lidar_slop: float = 0.1
    grid: GridSettings = field(default_factory=GridSettings)
    grid_costs: str = ""
    extrinsics: Mapping[str, Sequence[float]] = field(default_factory=dict)
    lidar_extrinsics: Sequence[float] = ()
    rectified: Mapping[str, bool] = field(default_factory=dict)
    ignore_masks: Mapping[str, str] = field(default_factory=dict)


class Found(NamedTuple):
    """An output.

    Attributes:
        name: see frame.outputs.SPATIAL.
        camera: its camera; "" for one of all cameras.
        value: of points and lidar a Cloud, of detections a list, of the grid (rows, columns) int8, of obstacles a Scan.
        stamp_ns: stamp of its header, nanoseconds.
        frame_id: frame of its header.
    """

    name: str
    camera: str
    value: Cloud | list[Detection] | np.ndarray | Scan
    stamp_ns: int
    frame_id: str


class Space:
    """Makes the outputs. Keeps the grid, and the newest frames for clouds. Not thread-safe.

    An output that cannot be made is left out, and the others are made.
    """

    def __init__(
        self,
        settings: SpaceSettings,
        taxonomy: Taxonomy,
        fail: Callable[[str, SpaceError], None],
        tell: Callable[[str], None],
    ) -> None:
        """taxonomy: of the labels. fail: function that takes the name of an output and why it was not made.
        tell: function that logs a line; each is given once.

        Raises ConfigError for a wrong file of costs, TransformError for extrinsics that are none
        or a base_frame without a name.
        """
        s = self.settings = settings
        self._taxonomy, self._fail, self._tell = taxonomy, fail, tell
        self._told: set[str] = set()
        self._poses = Poses(s.base_frame, s.fixed_frame, s.extrinsics, s.lidar_extrinsics, Transforms())
        self._grid = BaseGrid(s.grid, s.grid_costs, taxonomy, self._poses, self._still, self._tell_once)
        self._sightings = Sightings(
            s.cameras, lambda: s.lidar_slop, self._poses, self._still, lambda error: fail("lidar", error)
        )

    def frame(self, labelled: Labelled, transforms: Transforms, want: Collection[str]) -> list[Found]:
        """Return the outputs that a frame gives.

        labelled: frame, with its depth where it has one; nobody changes its label, confidence and depth any more.
        transforms: at the frame's time, and that of the frame before.
        want: names of outputs; with "lidar" the frame is kept for `cloud`.
        """
        self._poses.transforms = transforms
        found = []
        camera, stamp, frame_id = labelled.camera, labelled.stamp_ns, labelled.frame_id
        if "points" in want:
            try:
                cloud = points(labelled, self.settings.points_stride, self._model(labelled))
                found.append(Found("points", camera, cloud, stamp, frame_id))
            except SpaceError as error:
                self._fail("points", error)
        if "detections" in want:
            found.append(Found("detections", camera, self._detections(labelled), stamp, frame_id))
        if ground := [name for name in _GROUND if name in want]:
            try:
                self._grid.observe(labelled, self._model(labelled))
                found += [self._of_ground(name) for name in ground]
            except SpaceError as error:
                for name in ground:
                    self._fail(name, error)
        if "lidar" in want:
            try:
                self._sightings.see(labelled, self._model(labelled))
            except SpaceError as error:
                self._fail("lidar", error)
        return found

    def cloud(self, cloud: Cloud, transforms: Transforms) -> Found | None:
        """Return a cloud of the lidar with labels, of the frame of each camera that is nearest in time.

        None if it cannot be labelled, as without a frame within `lidar_slop`.
        """
        self._poses.transforms = transforms
        try:
            labels = self._sightings.label(cloud)
            if labels is None:
                slop = self.settings.lidar_slop
                raise SpaceError(f"no frame within lidar.slop ({slop:g} s) of a cloud of {cloud.frame_id}")
        except SpaceError as error:
            self._fail("lidar", error)
            return None
        return Found("lidar", "", labels, cloud.stamp_ns, cloud.frame_id)

    def clear(self) -> None:
        """Forget the grid and the frames, as after a jump of the time."""
        self._grid.clear()
        self._sightings.clear()

    def state(self) -> dict[str, np.ndarray]:
        """Return copies of all that later outputs depend on, for `restore`."""
        arrays = {f"grid/{name}": array for name, array in self._grid.state().items()}
        for number, labelled in enumerate(self._sightings):
            arrays[f"frame/{number}/about"] = _as_array(_about(labelled))
            arrays[f"frame/{number}/label"] = labelled.label
            if labelled.confidence is not None:
                arrays[f"frame/{number}/confidence"] = labelled.confidence
            if labelled.depth is not None:
                arrays[f"frame/{number}/depth"] = labelled.depth
        return arrays

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take the state of another Space of the same settings."""
        self.clear()
        self._grid.restore(_below("grid/", arrays))
        number = 0
        while own := _below(f"frame/{number}/", arrays):
            about = _from_about(_from_array(own["about"]))
            labelled = Labelled(**about, label=own["label"], confidence=own.get("confidence"), depth=own.get("depth"))
            self._sightings.see(labelled, self._model(labelled))
            number += 1

    def _model(self, labelled: Labelled) -> CameraModel:
        if labelled.calibration is None:
            of = f" of camera {labelled.camera}" if labelled.camera else ""
            raise SpaceError(f"no camera_info{of} came: nothing places its pixels in space")
        height, width = labelled.label.shape
        rectified = self.settings.rectified.get(labelled.camera, False)
        from m2f_ros.space.camera_model import CameraModel  # needs torch, whose import takes seconds

        return CameraModel.of(labelled.calibration, (width, height), rectified)

    def _detections(self, labelled: Labelled) -> list[Detection]:
        """Return the things of a frame, without their places in space where these cannot be had."""
        if labelled.depth is not None:
            try:
                return detections(labelled, self._taxonomy, self._model(labelled))
            except SpaceError as error:
                self._fail("detections", error)
        return detections(labelled, self._taxonomy)

    def _still(self, error: TransformError) -> None:
        """Log why the base's motion is not taken out, once for each kind of reason."""
        line = f"the base's motion is not taken out: {error}; fixed_frame names another frame, or ''"
        self._tell_once(line, error.kind)

    def _tell_once(self, line: str, kind: str = "") -> None:
        """Log a line, or the first one of a kind."""
        if (kind or line) not in self._told:
            self._told.add(kind or line)
            self._tell(line)

    def _of_ground(self, name: str) -> Found:
        value = self._grid.occupancy() if name == "grid" else self._grid.obstacles()
        return Found(name, "", value, self._grid.stamp_ns, self._poses.base_frame)


def _about(labelled: Labelled) -> dict:
    """Return what a labelled frame has beside its arrays, in JSON types."""
    calibration = labelled.calibration
    return {
        "camera": labelled.camera,
        "stamp_ns": labelled.stamp_ns,
        "frame_id": labelled.frame_id,
        "unlabelled": labelled.unlabelled,
        "calibration": None if calibration is None else asdict(calibration),
    }


def _from_about(about: dict) -> dict:
    found = about["calibration"]
    if found is not None:
        numbers = {name: tuple(found[name]) for name in ("d", "k", "r", "p")}
        about["calibration"] = Calibration(**{**found, **numbers, "roi": Region(**found["roi"])})
    return about


def _as_array(content: dict) -> np.ndarray:
    return np.frombuffer(json.dumps(content).encode(), np.uint8)


def _from_array(array: np.ndarray) -> dict:
    found: dict = json.loads(array.tobytes())
    return found


def _below(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
