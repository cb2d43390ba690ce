"""Sources of recorded and simulated data: `open_source` finds out what a path or name stands for."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import FrameError, SourceError
from m2f_ros.frame.bit_depth import AUTO
from m2f_ros.frame.pictures import open_picture
from m2f_ros.sources.sample import Sample, Source

# The street of a plain "street": one that the shipped model was not trained on.
UNSEEN_SEED = 2004
# Taken of a source without an end, where nobody says how many.
ENDLESS_FRAMES = 100
# Formats of Video4Linux that are a JPEG for each frame.
_JPEGS = {cv2.VideoWriter.fourcc(*name) for name in ("MJPG", "JPEG")}
_DAMAGED = 100  # frames in a row of which no more is hoped for

__all__ = ["Sample", "Source", "open_source"]


def open_source(
    spec: str,
    *,
    labels: str | None = None,
    taxonomy: str | None = None,
    rate: float | None = None,
    frames: int | None = None,
    topic: str | None = None,
    stamps: str | None = None,
    bit_depth: int = AUTO,
) -> Source:
    """Open a source of images; everything but a live camera is checked by reading its first frame.

    spec: "street" or "street:SEED" (the simulated street, endless), /dev/videoN (endless), a video file, an
        image or a folder of images, a rosbag2 folder, .mcap or .db3 file.
    labels: folder of label PNGs for them; for a bag also a topic of mono8 or mono16 label images ("/…").
    taxonomy: what the ids in the labels mean: a taxonomy's name or YAML file; guessed where it is plain.
    rate: Hz, instead of the source's own (a folder's is 10). frames: at most so many. topic: of a bag.
    bit_depth: see BitDepth; of a bag, or a folder of images.
    stamps: text file with the stamp of each frame of a folder or video, as `stamps.read_stamps` reads it.
    Raises SourceError, or TaxonomyError for a wrong taxonomy.
    """
    spec, labels, taxonomy = str(spec), labels and str(labels), taxonomy and str(taxonomy)
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise SourceError(f"rate {rate:g}: must be more than 0 Hz")
    if frames is not None and frames < 1:
        raise SourceError(f"frames {frames}: must be at least 1")
    if taxonomy and not labels:
        raise SourceError(f"taxonomy {taxonomy}: says what the ids in labels mean; give the labels as well")
    if stamps and rate:
        raise SourceError(f"rate {rate:g}: not with stamps {stamps}, which say when each frame was taken")

    if spec == "street" or spec.startswith("street:"):
        _refuse(spec, "the simulated street has labels of its own", labels=labels, topic=topic, stamps=stamps)
        return StreetSource(spec, rate=rate, frames=frames)
    if re.fullmatch(r"/dev/video\d+", spec):
        _refuse(spec, "a live camera has none", labels=labels, topic=topic, stamps=stamps)
        return CameraSource(spec, rate=rate, frames=frames)

    # Here, since the street needs neither rosbags nor av.
    from m2f_ros.bags.files import bag_path, is_bag
    from m2f_ros.sources.bag import BagSource
    from m2f_ros.sources.files import FolderSource, VideoSource, is_image

    path = bag_path(spec)
    if not path.exists() and not is_bag(path):
        raise SourceError(f"{spec}: does not exist; give a video, a folder of images, a rosbag2, /dev/videoN or street")
    options = {"labels": labels, "taxonomy": taxonomy, "rate": rate, "frames": frames}
    if is_bag(path):
        _refuse(spec, "its messages have stamps", stamps=stamps)
        source: Source = BagSource(path, topic=topic, bit_depth=bit_depth, **options)
    else:
        _refuse(spec, "only a rosbag2 has topics", topic=topic)
        if path.is_dir() or is_image(path):
            source = FolderSource(path, stamps=stamps, bit_depth=bit_depth, **options)
        else:
            source = VideoSource(path, stamps=stamps, **options)
    next(iter(source))  # raises where nothing can be read
    return source


def _refuse(spec: str, why: str, **options: str | None) -> None:
    for name, value in options.items():
        if value:
            raise SourceError(f"{name} {value}: not for {spec}: {why}")


class StreetSource(Source):
    """The simulated street: endless, with exact labels."""

    def __init__(self, spec: str, *, rate: float | None = None, frames: int | None = None) -> None:
        from m2f_ros.street import Street

        _, _, seed = spec.partition(":")
        if not re.fullmatch(r"\d*", seed):
            raise SourceError(f"{spec}: the seed behind street: must be a whole number")
        super().__init__(spec, rate or 10.0, None, frames=frames, taxonomy=taxonomies.get("cityscapes"))
        self._street = Street(seed=int(seed or UNSEEN_SEED), rate=self.rate)

    def _samples(self) -> Iterator[Sample]:
        index = 0
        while True:
            frame = self._street.frame(index)
            stamp_ns = round(index * 1e9 / self.rate)
            name = f"street_{index:06d}"
            camera = self._street.camera
            yield Sample(
                index,
                stamp_ns,
                name,
                frame.image,
                "rgb8",
                label=frame.label,
                camera=camera,
                instances=frame.instance,
            )
            index += 1


class CameraSource(Source):
    """A camera that Video4Linux knows; frames are stamped from the first one on."""

    def __init__(self, spec: str, *, rate: float | None = None, frames: int | None = None) -> None:
        if not Path(spec).exists():
            present = sorted(str(p) for p in Path("/dev").glob("video*"))
            raise SourceError(f"{spec}: no such camera; there is {', '.join(present) or 'none'}")
        self._asked_rate = rate
        self.name = spec
        capture = self._open()
        own_rate = capture.get(cv2.CAP_PROP_FPS)
        capture.release()
        super().__init__(spec, rate or (own_rate if own_rate > 0 else 30.0), None, frames=frames)

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(self.name, cv2.CAP_V4L2)
        if not capture.isOpened():
            raise SourceError(
                f"{self.name}: cannot be opened as a camera; another program may hold it, "
                "or this user may lack the right to (group video)"
            )
        if self._asked_rate:
            capture.set(cv2.CAP_PROP_FPS, self._asked_rate)
        # OpenCV hands over the camera's JPEGs as they are: its own decoder fills in what is missing.
        self._jpeg = int(capture.get(cv2.CAP_PROP_FOURCC)) in _JPEGS
        if self._jpeg and not capture.set(cv2.CAP_PROP_CONVERT_RGB, 0):
            raise SourceError(f"{self.name}: its driver does not hand over JPEGs undecoded; choose another format")
        return capture

    def _samples(self) -> Iterator[Sample]:
        capture = self._open()
        start = None
        index = damaged = 0
        try:
            while True:
                read, image = capture.read()
                if not read:
                    raise SourceError(f"{self.name}: the camera gives no more frames (after {index})")
                now = time.monotonic_ns()
                if self._jpeg:
                    try:
                        image = _decoded(image)
                    except FrameError as error:
                        damaged += 1
                        if damaged == _DAMAGED:
                            raise SourceError(f"{self.name}: {damaged} damaged frames, the last: {error}") from None
                        if damaged == 1:
                            self._skip(str(error))
                        continue
                    damaged = 0
                start = now if start is None else start
                yield Sample(index, now - start, f"{Path(self.name).name}_{index:06d}", image, "bgr8")
                index += 1
        finally:
            capture.release()


def _decoded(data: np.ndarray) -> np.ndarray:
    """(H, W, 3) BGR of the bytes of a JPEG, behind which others may lie. Raises FrameError."""
    image = open_picture(memoryview(np.ascontiguousarray(data).reshape(-1))).pixels()
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image
