"""Requests and answers of Hugging Face's inference API for image-segmentation."""

from __future__ import annotations

import base64
import io
import json
from typing import Any, NamedTuple

import numpy as np

from m2f_ros.errors import ConfigError, SourceError, words_of
from m2f_ros.frame.frame import Frame
from m2f_ros.pipeline.images import Found, Thresholds, decoded, frame_of_bytes, png

PARAMETERS = ("subtask", *Thresholds._fields)


class Question(NamedTuple):
    """An image and its parameters.

    Attributes:
        frame: the image.
        subtask: name, or None for the model's default.
        thresholds: those that the client sent, else transformers' defaults.
    """

    frame: Frame
    subtask: str | None
    thresholds: Thresholds


def question_of(body: bytes, is_json: bool, most: int) -> Question:
    """Read a request: bytes of an image, or JSON {"inputs": base64, "parameters": {…}}.

    Args:
        most: largest number of pixels of an image.
    Raises:
        TooLargeError: the image has more pixels.
        SourceError: it has no image that can be read.
        ConfigError: a parameter is unknown, or no number where one must be.
    """
    if not is_json:
        return Question(frame_of_bytes(body, "the image", most), None, Thresholds())
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"the request is no JSON: {words_of(error, 80)}") from None
    if not isinstance(content, dict) or not isinstance(content.get("inputs"), str):
        raise SourceError('the request has no image: send {"inputs": base64, "parameters": {…}}, or an image\'s bytes')
    parameters = parameters_of(content.get("parameters"))
    return Question(frame_of_bytes(decoded(content["inputs"]), "the image", most), *parameters)


def parameters_of(content: Any) -> tuple[str | None, Thresholds]:
    """Return subtask and thresholds; absent ones and null are the defaults. Raises ConfigError."""
    if not isinstance(content, dict | None):
        raise ConfigError("parameters must be an object")
    given = {name: value for name, value in (content or {}).items() if value is not None}
    for name in given:
        if name not in PARAMETERS:
            raise ConfigError(f"there is no parameter {name!r}; take some of {', '.join(PARAMETERS)}")
    subtask = given.pop("subtask", None)
    if subtask is not None and not isinstance(subtask, str):
        raise ConfigError(f"subtask is {subtask!r}; it must be a name")
    return subtask, Thresholds(**given)


def answer_of(found: list[Found]) -> list[dict[str, Any]]:
    """Return segments in the form of the inference API: label, score, and mask as a PNG in base64."""
    return [
        {
            "label": one.label,
            "score": one.score,
            "mask": base64.b64encode(png(one.mask.view(np.uint8) * np.uint8(255))).decode(),
        }
        for one in found
    ]


def array_of(label: np.ndarray, as_npy: bool) -> bytes:
    """Encode a label image: a PNG, or NumPy's format."""
    if not as_npy:
        return png(label)
    file = io.BytesIO()
    np.save(file, label, allow_pickle=False)
    return file.getvalue()
