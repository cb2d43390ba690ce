"""Hostile messages by seed: the same ones again, and each of them can be sent."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("rclpy", reason="rclpy is absent")
from rcl_interfaces.srv import SetParameters
from rclpy.serialization import serialize_message

from m2f_ros.errors import FrameError
from m2f_ros.frame.raw import decode
from m2f_ros.node.load import mutations


def some(seed: int) -> list[object]:
    """A few of each kind; of bytes their number, for CDR leaves bytes without a value between two fields."""
    source = random.Random(seed)
    found = []
    for make in (mutations.odd_fields, mutations.odd_picture, mutations.odd_info):
        for _ in range(40):
            message = make(source)
            found += [serialize_message(message) and repr(message), len(mutations.odd_bytes(source, make(source)))]
    asked = SetParameters.Request(parameters=[mutations.odd_parameter(source) for _ in range(40)])
    return [*found, serialize_message(asked) and repr(asked)]


def test_a_seed_gives_the_same_messages_again():
    assert some(7) == some(7)
    assert some(7) != some(8)


def test_images_of_odd_sizes_are_good():
    source = random.Random(0)
    for _ in range(40):
        message = mutations.odd_size(source)
        assert decode(message).size == (message.height, message.width)


def test_odd_fields_are_mostly_refused_and_in_one_line():
    source = random.Random(0)
    refused = 0
    for _ in range(300):
        try:
            decode(mutations.odd_fields(source))
        except FrameError as error:
            refused += 1
            assert "\n" not in str(error)
    assert 100 < refused < 300  # some are good after all, and must be taken
