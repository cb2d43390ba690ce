"""A checkpoint as a Hugging Face Inference Endpoint."""

from __future__ import annotations

import base64
import importlib.util
import io
import json

import numpy as np
import pytest
from PIL import Image

import m2f_ros
from m2f_ros.errors import ConfigError, SourceError


@pytest.fixture(scope="module")
def handler(small_model):
    """As the endpoint's server loads it."""
    spec = importlib.util.spec_from_file_location("handler", small_model / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(path=str(small_model))


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))


@pytest.mark.parametrize("form", ["pil", "bytes", "base64"])
def test_an_endpoint_answers_as_the_pipeline(form, handler, image, small_model):
    file = io.BytesIO()
    image.save(file, "PNG")
    inputs = {"pil": image, "bytes": file.getvalue(), "base64": base64.b64encode(file.getvalue()).decode()}[form]
    found = handler({"inputs": inputs, "parameters": {"subtask": "semantic"}})
    json.dumps(found)
    wanted = m2f_ros.pipeline(model=str(small_model), precision="auto")(image, subtask="semantic")
    assert [one["label"] for one in found] == [one["label"] for one in wanted] and len(found) > 1
    for own, other in zip(found, wanted, strict=True):
        mask = Image.open(io.BytesIO(base64.b64decode(own["mask"])))
        np.testing.assert_array_equal(np.asarray(mask), np.asarray(other["mask"]))


@pytest.mark.parametrize("inputs", [None, 7, "/etc/hostname", "http://127.0.0.1:9/a.png", b"hello"])
def test_neither_paths_nor_urls_are_read(inputs, handler):
    with pytest.raises(SourceError):
        handler({"inputs": inputs})


def test_wrong_parameters(handler, image):
    with pytest.raises(ConfigError, match="there is no parameter 'treshold'"):
        handler({"inputs": image, "parameters": {"treshold": 1}})
