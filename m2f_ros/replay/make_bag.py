"""Writes sources as rosbag2, with calibration and ground truth if known.

Below the camera's namespace: `image` (or `image/compressed`), `camera_info`, `ground_truth` (train ids; mono8, or
mono16 above 255 classes) with its latched `ground_truth/legend`, and, where instances are known,
`ground_truth/panoptic` with `ground_truth/segments`. Where the samples have it, `depth/image_raw` (32FC1, metres along
the optical axis, registered to the camera, NaN where unknown) with `depth/camera_info`, and `ground_truth/grid` with
`ground_truth/grid/seen`; for the whole vehicle /tf, /tf_static, /lidar/points, and /lidar/ground_truth (the same points
with label, 255 for none, and instance) with its latched legend. All messages of a frame carry its stamp; frames of a
bag keep their log times.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from m2f_ros.bags import topics
from m2f_ros.bags.messages import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    LEGEND,
    POINT_CLOUD,
    SEGMENTS,
    TF_MESSAGE,
    Messages,
)
from m2f_ros.bags.writer import BagWriter, DiskFullError
from m2f_ros.errors import FrameError, SourceError
from m2f_ros.frame.bgr import to_bgr
from m2f_ros.frame.calibration import Calibration, image_size, read_calibration, trouble
from m2f_ros.frame.compressed import decode_compressed
from m2f_ros.frame.frame import Frame
from m2f_ros.processes.stopping import Stop
from m2f_ros.sources.ground_truth import panoptic_truth
from m2f_ros.sources.sample import Sample, Source, TrueGrid
from m2f_ros.taxonomy import Taxonomy

log = logging.getLogger("m2f_ros.replay")

TRANSPORTS = ("raw", "compressed")
# Files whose bytes are a compressed message.
_PASSED_THROUGH = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}


@dataclass(frozen=True)
class MadeBag:
    """A bag that `make_bag` wrote.

    Attributes:
        frames: number of frames.
        labels: number of frames with a label.
        cut: why the bag ends before the source, or "".
        problem: why frames of the source are missing, or "".
        signal: number of the signal that ended it, or 0.
    """

    path: Path
    frames: int
    labels: int
    cut: str = ""
    problem: str = ""
    signal: int = 0


class DriveWriter:
    """Writes the samples of one camera into a bag."""

    def __init__(
        self,
        bag: BagWriter,
        taxonomy: Taxonomy | None,
        *,
        namespace: str = topics.CAMERA,
        transport: str = "raw",
        calibration: Calibration | None = None,
    ) -> None:
        """taxonomy: taxonomy of the labels. calibration: replaces the samples' own.

        Raises SourceError for an impossible namespace or transport.
        """
        if transport not in TRANSPORTS:
            raise SourceError(f"transport {transport}: must be {' or '.join(TRANSPORTS)}")
        self._bag, self._taxonomy = bag, taxonomy
        self._base = topics.namespaced(namespace) + "/"
        self._compressed = transport == "compressed"
        self._calibration = calibration
        self._messages = Messages(bag.types)
        self._begun = self._warned = False

    def write(self, sample: Sample, stamp_ns: int) -> None:
        """Add a frame taken at stamp_ns (nanoseconds since 1970).

        Raises SourceError if the calibration is for another size.
        """
        make, truth = self._messages, topics.GROUND_TRUTH + "/"

        def put(name: str, kind: str, message: Any) -> None:
            self._bag.write(self._base + name, kind, message, sample.log_ns)

        if self._taxonomy and not self._begun:
            self._latch(self._base + truth + topics.LEGEND, LEGEND, make.legend(self._taxonomy), sample.log_ns)
        self._write_space(sample, stamp_ns)
        self._begun = True
        header = make.header(stamp_ns, sample.frame_id)
        if self._compressed:
            put(topics.COMPRESSED, COMPRESSED_IMAGE, self._compress(sample, header))
        else:
            put(topics.IMAGE, IMAGE, make.image(sample.image, sample.encoding, header))
        if info := self._info(sample):
            put(topics.CAMERA_INFO, CAMERA_INFO, make.camera_info(info, header))
        if sample.depth is not None:
            put(topics.DEPTH, IMAGE, make.depth(sample.depth, header))
            if info:
                image, depth = sample.image.shape[1::-1], sample.depth.shape[::-1]
                put(topics.DEPTH_INFO, CAMERA_INFO, make.camera_info(info.fitted(image, depth), header))
        if sample.truth_grid:
            for name, kind, message in self._grids(sample.truth_grid, stamp_ns):
                put(truth + name, kind, message)
        if sample.label is None:
            return
        encoding = "mono8" if sample.label.dtype == np.uint8 else "mono16"
        put(topics.GROUND_TRUTH, IMAGE, make.image(sample.label, encoding, header))
        if sample.instances is not None and self._taxonomy:
            ids, segments = panoptic_truth(sample.label, sample.instances, self._taxonomy)
            put(truth + topics.PANOPTIC, IMAGE, make.image(ids, "mono16", header))
            put(truth + topics.SEGMENTS, SEGMENTS, make.segments(segments, header))

    def _latch(self, topic: str, kind: str, message: Any, log_ns: int) -> None:
        self._bag.add_topic(topic, kind, latched=True)
        self._bag.write(topic, kind, message, log_ns)

    def _write_space(self, sample: Sample, stamp_ns: int) -> None:
        """Write transforms, before the images that they place, and clouds."""
        make, write = self._messages, self._bag.write
        still, moving = ([one[:3] for one in sample.tf if one.static is static] for static in (True, False))
        if still and not self._begun:
            self._latch(topics.TF_STATIC, TF_MESSAGE, make.transforms(still, stamp_ns), sample.log_ns)
        if moving:
            write(topics.TF, TF_MESSAGE, make.transforms(moving, stamp_ns), sample.log_ns)
        for cloud in sample.clouds:
            write(f"{topics.LIDAR}/{topics.POINTS}", POINT_CLOUD, make.cloud(cloud), sample.log_ns)
        if sample.truth_clouds and self._taxonomy and not self._begun:
            legend = f"{topics.LIDAR}/{topics.GROUND_TRUTH}/{topics.LEGEND}"
            self._latch(legend, LEGEND, make.legend(self._taxonomy), sample.log_ns)
        for cloud in sample.truth_clouds:
            write(f"{topics.LIDAR}/{topics.GROUND_TRUTH}", POINT_CLOUD, make.cloud(cloud), sample.log_ns)

    def _grids(self, grid: TrueGrid, stamp_ns: int) -> list[tuple[str, str, Any]]:
        """Return (name, type, message) of the true grid and of what is seen of it."""
        from m2f_ros.bags.space_messages import GRID, SpaceMessages  # needs torch

        make, header = SpaceMessages(self._bag.types), self._messages.header(stamp_ns, grid.frame_id)
        named = ((topics.GRID, grid.cells), (f"{topics.GRID}/{topics.SEEN}", grid.seen))
        return [(name, GRID, make.grid(cells, grid.resolution, grid.origin, header)) for name, cells in named]

    def _info(self, sample: Sample) -> Calibration | None:
        height, width = sample.image.shape[:2]
        if self._calibration:
            size = image_size(self._calibration) or (0, 0)
            if size != (width, height):
                raise SourceError(f"{sample.name}: its calibration is of {size[0]}x{size[1]}, it is {width}x{height}")
            return self._calibration
        if sample.calibration and not self._warned and (wrong := trouble(sample.calibration, (width, height))):
            self._warned = True
            log.warning("%s%s %s; it is passed on as it is", self._base, topics.CAMERA_INFO, wrong)
        return sample.calibration

    def _compress(self, sample: Sample, header: Any) -> Any:
        """Make a compressed message from the bytes of the sample's file if they decode to the sample, else a JPEG."""
        if sample.path and (format := _PASSED_THROUGH.get(sample.path.suffix.lower())):
            message = self._messages.compressed_file(sample.path.read_bytes(), format, header)
            try:
                image = decode_compressed(message).data
            except FrameError:
                image = None  # OpenCV decodes damaged files, too
            # Not equal if EXIF rotates the picture, which messages do not support.
            if image is not None and np.array_equal(image if image.ndim == 3 else cv2.merge([image] * 3), sample.image):
                return message
        if sample.encoding == "mono8":
            return self._messages.compressed(sample.image, "mono8", header, "jpeg")
        return self._messages.compressed(to_bgr(Frame(sample.image, sample.encoding)), "bgr8", header, "jpeg")


def make_bag(
    source: Source,
    out: str | Path,
    *,
    calibration: str | Path | None = None,
    namespace: str = topics.CAMERA,
    transport: str = "raw",
    storage: str = "mcap",
    compression: str = "none",
    progress: Callable[[int], object] = lambda count: None,
) -> MadeBag:
    """Write a source into a new rosbag2 at `out`; the same arguments give the same bytes.

    calibration: ROS camera_info YAML. progress: function of the number of frames so far.
    Ctrl-C or a full disk leaves a valid bag of the frames so far, and the result has the reason; any other error leaves
    nothing. Raises SourceError for errors of the source and of writing.
    """
    info = read_calibration(calibration) if calibration else None
    out = Path(out)
    frames = labels = 0
    cut = ""
    with Stop() as stopped:
        bag = BagWriter(out, storage, compression)
        try:
            writer = DriveWriter(bag, source.taxonomy, namespace=namespace, transport=transport, calibration=info)
            for sample in source:
                try:
                    writer.write(sample, source.start_ns + sample.stamp_ns)
                except DiskFullError:
                    if not frames:
                        raise
                    cut = "the disk is full"
                    break
                frames += 1
                labels += sample.label is not None
                progress(frames)
                if stopped():
                    cut = "interrupted"
                    break
            bag.close()
        except BaseException as error:
            bag.remove()
            if isinstance(error, OSError):
                raise SourceError(
                    f"{out}: cannot be written ({error.strerror or error}); nothing of it is left"
                ) from None
            raise
    return MadeBag(out, frames, labels, cut, source.problem, stopped.number)
