"""Which images go through the network together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2f_ros.errors import SourceError
from m2f_ros.pipeline import Frame
from m2f_ros.replay.batches import batches
from m2f_ros.sources.sample import Sample


def recorded(kinds):
    """Images of so many rows; None: a damaged one."""
    frames = [None if kind is None else Frame(np.zeros((kind, 4), np.uint8), "mono8") for kind in kinds]
    return [Sample(i, i, str(i), frame) for i, frame in enumerate(frames)]


def grouped(images, size, part):
    return [
        ([image.index for image in b.images], [image.index for image in b.readable], b.end)
        for b in batches(images, lambda height, width: (height, width), size, part)
    ]


KINDS = st.lists(st.sampled_from([1, 2, None]), max_size=30)


@given(KINDS, st.integers(1, 5), st.integers(1, 8))
def test_every_image_is_in_one_batch_that_keeps_to_its_bounds(kinds, size, part):
    begin = 0
    for images, readable, end in grouped(recorded(kinds), size, part):
        assert images == list(range(begin, end))
        assert readable == [i for i in images if kinds[i] is not None]
        assert len(readable) <= size and len({kinds[i] for i in readable}) <= 1
        assert begin // part == (end - 1) // part
        begin = end
    assert begin == len(kinds)


@given(KINDS, st.integers(1, 5), st.integers(1, 8))
def test_from_the_end_of_a_batch_on_they_are_the_same(kinds, size, part):
    images = recorded(kinds)
    whole = grouped(images, size, part)
    for number, (_, _, end) in enumerate(whole):
        assert grouped(images[end:], size, part) == whole[number + 1 :]


@given(st.lists(st.sampled_from("ab"), max_size=20), st.integers(1, 5), st.integers(1, 8))
def test_apart_no_batch_has_two_images_of_a_camera(cameras, size, part):
    images = [Sample(i, i, camera, Frame(np.zeros((2, 4), np.uint8), "mono8")) for i, camera in enumerate(cameras)]
    found = list(batches(images, lambda *size: size, size, part, apart=True))
    assert [image.index for batch in found for image in batch.images] == list(range(len(cameras)))
    for batch in found:
        named = [image.camera for image in batch.readable]
        assert len(set(named)) == len(named) <= size


def test_an_error_comes_behind_what_was_before_it():
    def broken():
        yield from recorded([1, 1])
        raise SourceError("damaged")

    found = batches(broken(), lambda *size: size, 8, 8)
    assert [image.index for image in next(found).images] == [0, 1]
    with pytest.raises(SourceError, match="damaged"):
        next(found)
