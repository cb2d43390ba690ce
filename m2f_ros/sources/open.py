"""Opens sources of recorded and simulated data by path or name."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import cv2
import numpy as np

from m2f_ros.errors import FrameError, SourceError
from m2f_ros.frame.bit_depth import AUTO
from m2f_ros.frame.frame import Frame
from m2f_ros.frame.pictures import open_picture
from m2f_ros.sources.sample import NOTHING, Options, Sample, Source, SpaceOptions
from m2f_ros.sources.street import StreetSource

# Default number of frames of an endless source.
ENDLESS_FRAMES = 100
# Video4Linux formats with one JPEG a frame.
_JPEGS = {cv2.VideoWriter.fourcc(*name) for name in ("MJPG", "JPEG")}
_DAMAGED = 100  # consecutive damaged frames before an error

__all__ = ["Sample", "Source", "SpaceOptions", "open_drive", "open_source"]


def open_source(
    spec: str | Path,
    *,
    labels: str | Path | None = None,
    taxonomy: str | Path | None = None,
    rate: float | None = None,
    frames: int | None = None,
    topic: str | None = None,
    stamps: str | None = None,
    bit_depth: int = AUTO,
    space: SpaceOptions = NOTHING,
) -> Source:
    """Open a source of one camera. Unless it is a live camera, its first frame is read as a check.

    Damaged frames are skipped with a warning.

    spec: "street" or "street:SEED" (the simulated street, endless), /dev/videoN (endless), a video file, an
        image or a folder of images, a rosbag2 folder, .mcap or .db3 file.
    topic: image topic, for a bag with several cameras.
    labels, taxonomy, rate, frames, stamps, bit_depth, space: see Options.
    Raises SourceError, or TaxonomyError for a wrong taxonomy.
    """
    spec = str(spec)
    options = Options(
        str(labels) if labels else None,
        str(taxonomy) if taxonomy else None,
        rate,
        frames,
        (topic,) if topic else (),
        stamps,
        bit_depth,
        space,
    )
    if is_street(spec):
        options.refuse(spec, "the simulated street has labels of its own", "labels", "topics", "stamps")
        return StreetSource(spec, options)
    if re.fullmatch(r"/dev/video\d+", spec):
        options.refuse(spec, "a live camera has none", "labels", "topics", "stamps")
        options.refuse_space(spec)
        return CameraSource(spec, options)

    # Imported here, since the street needs neither rosbags nor av.
    from m2f_ros.bags.files import bag_path, is_bag
    from m2f_ros.bags.reader import Bag
    from m2f_ros.sources.bag import one_camera
    from m2f_ros.sources.files import FolderSource, VideoSource, is_image

    path = bag_path(spec)
    if not path.exists() and not is_bag(path):
        raise SourceError(f"{spec}: does not exist; give a video, a folder of images, a rosbag2, /dev/videoN or street")
    source: Source
    if is_bag(path):
        options.refuse(spec, "its messages have stamps", "stamps")
        source = one_camera(Bag(path), options)
    else:
        options.refuse(spec, "only a rosbag2 has topics", "topics")
        options.refuse_space(spec)
        source = (FolderSource if path.is_dir() or is_image(path) else VideoSource)(path, options)
    next(iter(source))  # raises if nothing can be read
    return source


def open_drive(
    spec: str,
    topics: Sequence[str] = (),
    frames: int | None = None,
    bit_depth: int = AUTO,
    space: SpaceOptions = NOTHING,
) -> Source:
    """Open a recorded drive with all its cameras: a rosbag2, or another source of `open_source` except a live camera.

    Damaged frames of a bag are yielded, too, with their problem.

    topics: image topics of a bag; empty for all cameras. frames: most frames of all cameras together; None for all, or
    ENDLESS_FRAMES of the street. bit_depth: see BitDepth. space: what of space is wanted beside the images.
    Raises SourceError if the drive or a topic does not exist, or cannot be read.
    """
    from m2f_ros.bags.files import bag_path, is_bag
    from m2f_ros.bags.reader import Bag
    from m2f_ros.sources.bag import all_cameras

    path = bag_path(spec)
    if is_bag(path):
        return all_cameras(Bag(path), spec, Options(topics=topics, frames=frames, bit_depth=bit_depth, space=space))
    if topics:
        raise SourceError(f"--topics {','.join(topics)}: not for {spec}: only a rosbag2 has topics")
    if path.is_char_device():
        raise SourceError(f"{spec}: a live camera cannot be replayed; record it, or run segmentation_node")
    source = open_source(spec, frames=frames, bit_depth=bit_depth, space=space)
    if source.length is None:
        source.end_after(ENDLESS_FRAMES)
    return source


def is_street(spec: str) -> bool:
    """Return True if the name is that of a simulated street."""
    return spec.partition(":")[0] == "street"


class CameraSource(Source):
    """A Video4Linux camera; stamps count from the first frame."""

    def __init__(self, spec: str, options: Options) -> None:
        if not Path(spec).exists():
            present = sorted(str(p) for p in Path("/dev").glob("video*"))
            raise SourceError(f"{spec}: no such camera; there is {', '.join(present) or 'none'}")
        self._asked_rate = options.rate
        self.name = spec
        capture = self._open()
        own_rate = capture.get(cv2.CAP_PROP_FPS)
        capture.release()
        super().__init__(spec, options.rate or (own_rate if own_rate > 0 else 30.0), None, frames=options.frames)

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(self.name, cv2.CAP_V4L2)
        if not capture.isOpened():
            raise SourceError(
                f"{self.name}: cannot be opened as a camera; another program may hold it, "
                "or this user may lack the right to (group video)"
            )
        if self._asked_rate:
            capture.set(cv2.CAP_PROP_FPS, self._asked_rate)
        # OpenCV must not decode the camera's JPEGs: its decoder hides truncation.
        self._jpeg = int(capture.get(cv2.CAP_PROP_FOURCC)) in _JPEGS
        if self._jpeg and not capture.set(cv2.CAP_PROP_CONVERT_RGB, 0):
            raise SourceError(f"{self.name}: its driver does not hand over JPEGs undecoded; choose another format")
        return capture

    def _samples(self, first: int) -> Iterator[Sample]:
        capture = self._open()
        start_ns = time.monotonic_ns()
        good = damaged = 0
        try:
            for index in count():
                read, image = capture.read()
                if not read:
                    raise SourceError(f"{self.name}: the camera gives no more frames (after {good})")
                now_ns, frame, problem = time.monotonic_ns(), None, ""
                try:
                    frame = Frame(_decoded(image) if self._jpeg else image, "bgr8")
                except FrameError as error:
                    problem = str(error)
                damaged = 0 if frame else damaged + 1
                if damaged == _DAMAGED:
                    raise SourceError(f"{self.name}: {damaged} damaged frames, the last: {problem}")
                if not good:
                    start_ns = now_ns
                if damaged < 2:  # log only the first in a row
                    name = f"{Path(self.name).name}_{good:06d}"
                    yield self._sample(index, now_ns - start_ns, name, frame, problem=problem)
                good += frame is not None
        finally:
            capture.release()


def _decoded(data: np.ndarray) -> np.ndarray:
    """Decode a JPEG, with or without padding behind it, to (H, W, 3) BGR. Raises FrameError."""
    image = open_picture(memoryview(np.ascontiguousarray(data).tobytes())).pixels()
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image
