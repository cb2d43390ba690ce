"""How many of 16 bits a camera uses, as images come."""

import numpy as np
import pytest

from m2f_ros.errors import ConfigError
from m2f_ros.frame.bit_depth import BitDepth


def run(setting, *images):
    """The bits taken for each image, given by its values, and the lines said."""
    said = []
    depth = BitDepth(setting, said.append)
    return [depth(np.array([values], np.uint16)) for values in images], said


def test_what_comes_decides_and_what_is_taken_is_said():
    taken, said = run(0, [0, 0], [17, 900], [5], [4000, 1], [3], [901])
    assert taken == [16, 10, 10, 12, 12, 12]
    assert said == [
        "10 of the 16 bits are taken as used, by the values so far; bit_depth sets another",
        "12 of the 16 bits, no longer 10, are taken as used, by the values so far; bit_depth sets another",
    ]


def test_values_at_the_high_end_use_all():
    taken, said = run(0, [16 << 4], [20 << 4], [4095 << 4])
    assert taken == [16, 16, 16] and len(said) == 1 and said[0].startswith("16 of the 16 bits are")
    # Until the low bits are set, too.
    assert run(0, [512], [513, 1000], [300])[0] == [16, 10, 10]


def test_it_never_goes_back():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, limit, 50) for limit in (600, 4096, 30, 60000, 900, 4096)]
    taken, said = run(0, *images)
    assert taken == [10, 12, 12, 16, 16, 16] and len(said) == 3


def test_as_told():
    assert run(12, [5], [4095], [9]) == ([12, 12, 12], [])
    taken, said = run(10, [1023], [1024], [65535])
    assert taken == [10, 10, 10]
    assert said == ["values exceed bit_depth 10 and are white; set what the camera has, or 0"]
    assert run(16, [1], [65535]) == ([16, 16], [])
    with pytest.raises(ConfigError, match="bit_depth is 8; take 0, by the values that come, or one of 10, 12, 14, 16"):
        BitDepth(8, print)
