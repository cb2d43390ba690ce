"""Single images, in the form of transformers' image-segmentation pipeline.

`m2f_ros.pipeline("image-segmentation", model=…)` makes an `ImageSegmenter`. The names of parameters and keys are those
of transformers/pipelines/image_segmentation.py.
"""

from __future__ import annotations

import base64
import binascii
import threading
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

from m2f_ros.errors import ConfigError, FrameError, SourceError, words_of
from m2f_ros.frame.frame import Frame
from m2f_ros.frame.pictures import JPEG, MAX_BYTES, MAX_PIXELS, PNG, bits_of, open_picture, read_bytes, used
from m2f_ros.frame.pictures.bounds import TooManyPixelsError, check_bytes
from m2f_ros.frame.pictures.files import picture_of
from m2f_ros.pipeline.build import PipelineSettings, build_pipeline
from m2f_ros.pipeline.pipeline import Pipeline
from m2f_ros.pipeline.segmentation import Segmentation

TASK = "image-segmentation"
SUBTASKS = ("panoptic", "instance", "semantic")
_DATA_URL = "data:image/"


class TooLargeError(SourceError):
    """An image of more pixels than are taken."""


class Thresholds(NamedTuple):
    """Thresholds of a call, with transformers' defaults. Semantic segmentation has none.

    Attributes:
        threshold: class probability that a segment must exceed, 0..1.
        mask_threshold: mask probability from which on a pixel is in a mask, 0..1.
        overlap_mask_area_threshold: least share of its own mask that a segment must keep, 0..1.
    """

    threshold: float = 0.9
    mask_threshold: float = 0.5
    overlap_mask_area_threshold: float = 0.5


DEFAULT = Thresholds()


class Found(NamedTuple):
    """A segment of an image.

    Attributes:
        label: name of its class.
        score: class probability, 0..1; None for semantic segmentation.
        mask: (height, width) bool.
    """

    label: str
    score: float | None
    mask: np.ndarray


class ImageSegmenter:
    """Segments images and returns what transformers' image-segmentation pipeline returns. Thread-safe.

    Masks of pixel classifiers equal transformers' where the sizes of the network's input are equal. Masks of mask
    classifiers are made in upstream's order of operations, at the image's size: transformers resizes mask logits to
    384x384 before, so that pixels beside edges differ.

    Args:
        pipeline: pipeline of the model; nothing else may submit to it.
    """

    def __init__(self, pipeline: Pipeline):
        self.pipeline = pipeline
        self._lock = threading.Lock()

    @property
    def subtasks(self) -> tuple[str, ...]:
        """Names of the model's subtasks. The first one is the default, as in transformers."""
        if self.pipeline.finds_instances:
            return SUBTASKS[1:]
        return SUBTASKS if self.pipeline.finds_segments else ("semantic",)

    def __call__(
        self,
        images: Any,
        *,
        subtask: str | None = None,
        threshold: float = DEFAULT.threshold,
        mask_threshold: float = DEFAULT.mask_threshold,
        overlap_mask_area_threshold: float = DEFAULT.overlap_mask_area_threshold,
        timeout: float | None = None,
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """Segment an image, or several.

        Args:
            images: PIL image, path, http(s) URL, base64 text, bytes of a file, an open file, (height, width, 3) uint8
                RGB array, or a row's image of `datasets` ({"bytes": …, "path": …}); or an iterable of these.
            subtask: "panoptic", "instance" (the things among the panoptic segments) or "semantic"; None for the first
                that the model has.
            threshold, mask_threshold, overlap_mask_area_threshold: see `Thresholds`.
            timeout: seconds to wait for a URL; None without a limit.
        Returns:
            For each image a list of {"score", "label", "mask"}: float, or None for semantic; name of the class; PIL
            image of mode "L" and of the image's size, 255 inside and 0 outside. A single image gives one such list.
        Raises:
            SourceError: an image cannot be read.
            ConfigError: the model has no such subtask, or a number is out of range.
        """
        thresholds = Thresholds(threshold, mask_threshold, overlap_mask_area_threshold)
        single = isinstance(
            images, str | Path | bytes | bytearray | memoryview | Image.Image | np.ndarray | Mapping
        ) or hasattr(images, "read")
        frames = (frame_of(image, timeout) for image in ([images] if single else images))
        results = [[_as_dict(one) for one in found] for found in self.segment(frames, subtask, thresholds)]
        return results[0] if single else results

    def segment(
        self, frames: Iterable[Frame], subtask: str | None = None, thresholds: Thresholds = DEFAULT
    ) -> Iterator[list[Found]]:
        """Yield the segments of each frame. Raises as a call does."""
        subtask = self.check(subtask, thresholds)
        want = [want_of(subtask)]
        for frame in frames:
            with self._lock:  # for one frame alone: `frames` may come from another call
                self.set(thresholds)
                with self.pipeline.submit(frame, want) as result:
                    found = found_in(result, subtask, self.pipeline)
            yield found

    def set(self, thresholds: Thresholds) -> None:
        """Apply thresholds to the frames that are submitted from here on."""
        score, mask, overlap = thresholds
        self.pipeline.tuning = replace(
            self.pipeline.tuning, score_threshold=score, mask_threshold=mask, overlap_threshold=overlap
        )

    def check(self, subtask: str | None, thresholds: Thresholds) -> str:
        """Return the subtask's name. Raises ConfigError as a call does."""
        for name, value in thresholds._asdict().items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value!r}; it must be a number from 0 to 1")
        if self.pipeline.fixed_masks and thresholds.mask_threshold != DEFAULT.mask_threshold:
            raise ConfigError(
                f"mask_threshold is {thresholds.mask_threshold}; this model's masks end at {DEFAULT.mask_threshold}"
            )
        if subtask is None:
            return self.subtasks[0]
        if subtask not in SUBTASKS:
            raise ConfigError(f"there is no subtask {subtask!r}; take {', '.join(self.subtasks)}")
        if subtask not in self.subtasks:
            finds = "instances alone" if self.pipeline.finds_instances else "no segments"
            raise ConfigError(f"the model finds {finds}: take subtask {' or '.join(self.subtasks)}, not {subtask}")
        return subtask

    def detections(self, image: Any, **options: Any) -> Any:
        """Return the segments of one image as `supervision.Detections`, with masks. options: see a call.

        Raises ModuleNotFoundError without supervision.
        """
        import supervision

        frames = iter([frame_of(image, options.pop("timeout", None))])
        subtask = options.pop("subtask", None)
        (found,) = self.segment(frames, subtask, Thresholds(**options))
        names = [one.name for one in self.pipeline.taxonomy.classes]
        masks = np.array([one.mask for one in found], bool)
        if not found:
            return supervision.Detections.empty()
        scores = [one.score for one in found]
        return supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks).astype(np.float32),
            mask=masks,
            confidence=None if None in scores else np.array(scores, np.float32),
            class_id=np.array([names.index(one.label) for one in found]),
            data={"class_name": np.array([one.label for one in found])},
        )

    def close(self) -> None:
        """Free the model and the device's memory."""
        self.pipeline.close()


def pipeline(task: str = TASK, model: str = "street", **settings: Any) -> ImageSegmenter:
    """Make a segmenter of images, as `transformers.pipeline` does.

    Args:
        task: "image-segmentation".
        model: shipped model, folder or hub id; see `PipelineSettings`.
        settings: further fields of `PipelineSettings`, such as device="cuda" and precision="fp16".
    Raises:
        ConfigError: another task, or settings that the machine or the model does not support.
        CheckpointError: the model does not exist, or cannot be read.
    """
    if task != TASK:
        raise ConfigError(f"there is no task {task!r}; the only one is {TASK!r}")
    known = PipelineSettings.__dataclass_fields__
    for name in settings:
        if name not in known:
            raise ConfigError(f"there is no setting {name!r}; take some of {', '.join(known)}")
    return ImageSegmenter(build_pipeline(PipelineSettings(model=model, **settings)))


def _as_dict(found: Found) -> dict[str, Any]:
    return {"score": found.score, "label": found.label, "mask": Image.fromarray(found.mask * np.uint8(255))}


def want_of(subtask: str) -> str:
    """Return the output that a subtask is made from."""
    return "label" if subtask == "semantic" else "panoptic"


def found_in(result: Segmentation, subtask: str, pipeline: Pipeline) -> list[Found]:
    """Return the segments of a frame: by id, or for semantic segmentation by train id, those that occur."""
    taxonomy = pipeline.taxonomy
    if subtask == "semantic":
        label = result.label
        assert label is not None
        found = np.flatnonzero(np.bincount(label.ravel(), minlength=taxonomy.unlabelled + 1))
        return [Found(taxonomy.classes[i].name, None, label == i) for i in found if i != taxonomy.unlabelled]
    ids = result.ids
    assert ids is not None and result.segments is not None
    everything = subtask == "panoptic" or pipeline.finds_instances
    return [
        Found(taxonomy.classes[one.train_id].name, one.score, ids == one.id)
        for one in result.segments
        if everything or taxonomy.classes[one.train_id].thing
    ]


def frame_of(image: Any, timeout: float | None = None) -> Frame:
    """Read an image in one of the forms that `ImageSegmenter` takes, upright. Raises SourceError."""
    if isinstance(image, Mapping):
        if image.get("bytes") is None and image.get("path") is None:
            raise SourceError("an image of a dataset has neither bytes nor path")
        image = image["path"] if image.get("bytes") is None else image["bytes"]
    if hasattr(image, "read") and not isinstance(image, Image.Image):
        image = image.read()
    if isinstance(image, Image.Image):
        return _of_pillow(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise SourceError(f"an array {image.shape} of {image.dtype} is no image; give uint8 (height, width, 3) RGB")
        return Frame(image, "rgb8")
    if isinstance(image, bytes | bytearray | memoryview):
        return frame_of_bytes(bytes(image), "an image in memory")
    if isinstance(image, Path):
        return _of_path(image)
    if not isinstance(image, str):
        raise SourceError(f"{type(image).__name__} is no image; give a PIL image, a path, a URL, bytes or an array")
    if image.startswith(("http://", "https://")):
        return frame_of_bytes(_fetched(image, timeout), image)
    if image.startswith(_DATA_URL) or (len(image) > 255 and not Path(image[:255]).exists()):
        return frame_of_bytes(decoded(image), "base64")
    return _of_path(Path(image))


def frame_of_bytes(data: bytes, where: str, most: int = MAX_PIXELS) -> Frame:
    """Decode the content of an image file, upright.

    Args:
        where: prefix of the message.
        most: largest number of pixels. A larger JPEG or PNG is refused by its header.
    Raises:
        TooLargeError: it has more pixels.
        SourceError: it cannot be decoded.
    """
    try:
        if data.startswith((JPEG, PNG)):
            header = open_picture(data)
            _check_size(header.width, header.height, most)
        picture = picture_of(data)
        _check_size(picture.shape[1], picture.shape[0], most)
    except TooManyPixelsError as error:
        raise TooLargeError(f"{where}: {error}") from None
    except FrameError as error:
        raise SourceError(f"{where}: {error}") from None
    if picture.dtype != np.uint8:
        return _of_16_bits(picture)
    return Frame(picture, "mono8" if picture.ndim == 2 else "bgr8")


def _of_pillow(image: Image.Image) -> Frame:
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16") or (upright.mode == "I" and np.array(upright).max(initial=0) > 255):
            values = np.array(upright)  # convert() would clip the values above 255
            if values.min() < 0 or values.max() >= 1 << 16:
                raise SourceError(f"an image of mode {upright.mode} has values beyond 16 bits")
            return _of_16_bits(values.astype(np.uint16))
        return Frame(np.array(upright.convert("RGB")), "rgb8")
    except (OSError, SyntaxError) as error:
        raise SourceError(f"an image of Pillow cannot be read: {words_of(error, 80)}") from None


def _of_16_bits(picture: np.ndarray) -> Frame:
    return Frame(picture, "mono16" if picture.ndim == 2 else "bgr16", bits_of(used(picture)))


def _check_size(width: int, height: int, most: int) -> None:
    if width * height > most:
        raise TooLargeError(f"the image has {width * height} pixels; at most {most} are taken")


def decoded(text: str) -> bytes:
    """Decode base64, also in lines, or as a data URL. Raises SourceError."""
    if text.startswith(_DATA_URL):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SourceError(f"the image is no base64: {words_of(error, 80)}") from None


def png(image: np.ndarray) -> bytes:
    """Encode (height, width) uint8 or uint16, at the fastest level of compression."""
    done, data = cv2.imencode(".png", image, (cv2.IMWRITE_PNG_COMPRESSION, 1))
    assert done
    return data.tobytes()


def _of_path(path: Path) -> Frame:
    try:
        data = read_bytes(path)
    except (OSError, FrameError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SourceError(f"{path}: it cannot be read: {reason}") from None
    return frame_of_bytes(data, str(path))


def _fetched(url: str, timeout: float | None) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "m2f_ros"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            data = answer.read(MAX_BYTES + 1)
        check_bytes(len(data))
    except (OSError, ValueError, FrameError) as error:
        raise SourceError(f"{url}: it cannot be fetched: {words_of(error, 200)}") from None
    return data
