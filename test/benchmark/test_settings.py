"""What a user can get wrong is one line."""

import pytest

from m2f_ros.benchmark.settings import Settings, parse_names, parse_size
from m2f_ros.errors import ConfigError


@pytest.mark.parametrize(
    "wrong, line",
    [
        ({"size": (250, 512)}, "--size 250x512: height and width of the network's input must be multiples of 32"),
        ({"size": (250, 512)}, "; take 256x512"),
        ({"size": (0, 32)}, "take 32x32"),
        ({"against": ("tensorrt",)}, "--against tensorrt: not known; take some of hf, compiled, openvino, onnxruntime"),
        ({"backends": ("eager", "eager")}, "names one of them twice"),
        ({"backends": ()}, "--backend: names none"),
        ({"precision": "int4"}, "--precision int4: not known"),
        ({"rounds": 0}, "--rounds 0: must be at least 1"),
        ({"batch": 0}, "--batch 0: must be at least 1"),
        ({"threads": 0}, "--threads 0: must be at least 1"),
        ({"rate": 0.0}, "--rate 0: must be above 0"),
        ({"seconds": -1.0}, "--seconds -1: must be 0 to 3600"),
        ({"frame_size": (0, 5)}, "--frame-size 0x5"),
    ],
)  # fmt: skip
def test_impossible_values(wrong, line):
    with pytest.raises(ConfigError) as error:
        Settings(**wrong)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_sizes_and_names():
    assert parse_size("256x512", "--size") == (256, 512)
    for wrong in ("256", "256x", "axb", "256x512x3", "-1x4"):
        with pytest.raises(ConfigError, match="HEIGHTxWIDTH"):
            parse_size(wrong, "--size")
    assert parse_names("hf, compiled") == ("hf", "compiled")
    assert parse_names("none") == parse_names("") == ()
