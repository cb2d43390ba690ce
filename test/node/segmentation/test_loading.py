"""From parameters to a pipeline. Needs no ROS."""

import subprocess
import sys

import numpy as np
import pytest

from m2f_ros.errors import ConfigError
from m2f_ros.node.parameters import NodeSettings
from m2f_ros.node.segmentation.loading import load_pipeline
from m2f_ros.pipeline import Frame


def settings(**changed):
    return NodeSettings(device="cpu", **changed)


@pytest.mark.heavy
def test_it_is_ready_for_the_sizes_that_are_named(small_model, tmp_path, monkeypatch):
    pytest.importorskip("openvino", reason="OpenVINO is absent")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def load(*sizes):
        load_pipeline(settings(model=str(small_model), backend="openvino", image_sizes=sizes)).close()
        return sorted(path.stem.split("-", 1)[1] for path in tmp_path.rglob("*.blob"))

    assert load() == []
    assert load("96x64", "95x66", "64x96") == ["64x96-1", "96x64-1"]  # the nearest multiples of 32, height first


@pytest.mark.parametrize(
    "bf16, precision, expected", [(True, "auto", "bf16"), (False, "auto", "fp32"), (True, "fp32", "fp32")]
)
def test_precision(bf16, precision, expected, small_model, tmp_path, monkeypatch):
    openvino = pytest.importorskip("m2f_ros.pipeline.backends.openvino", reason="OpenVINO is absent")
    if "BF16" not in openvino.core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bf16")
    monkeypatch.setattr("m2f_ros.pipeline.device.cpu_has_bf16", lambda: bf16)
    pipeline = load_pipeline(settings(model=str(small_model), precision=precision))
    assert (pipeline.backend, pipeline.precision) == ("openvino", expected)
    pipeline.close()


def test_images_come_as_if_they_were_the_first(small_model):
    image = Frame(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8), "bgr8")
    labels = []
    for sizes in [(), ("96x64",)]:
        pipeline = load_pipeline(settings(model=str(small_model), backend="eager", smoothing=0.9, image_sizes=sizes))
        labels.append(pipeline.segment(image).label)
        pipeline.close()
    assert np.array_equal(*labels)


@pytest.mark.parametrize("text", ["640", "640x", "x480", "640×480", "640x480x3", "0x480", "640 x 480", "-1x5"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigError, match=rf"^parameter 'image_sizes': '{text}' is no size; take WIDTH") as error:
        load_pipeline(settings(model="absent", image_sizes=("640x480", text)))
    assert "\n" not in str(error.value)


@pytest.mark.process
@pytest.mark.ros
def test_topics_need_not_wait_for_torch():
    """Its import takes seconds; the node imports it in the thread that loads the model."""
    pytest.importorskip("rclpy", reason="rclpy is not installed")
    line = "import sys, m2f_ros.node.segmentation_node; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", line], check=True, timeout=120)
