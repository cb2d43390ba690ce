"""Where frames go in the network's input."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from m2f_ros import errors
from m2f_ros.errors import ConfigError
from m2f_ros.model import ModelConfig, SwinConfig
from m2f_ros.pipeline.colour import resampled
from m2f_ros.pipeline.resize import MODES, Placement, Resize

SIDES = st.integers(1, 16384)


@given(
    mode=st.sampled_from(MODES), height=SIDES, width=SIDES, most=st.none() | st.integers(32 * 32, 1 << 22),
    least=st.none() | st.integers(1, 1 << 20), shortest=st.integers(1, 2048), longest=st.integers(1, 4096),
)  # fmt: skip
def test_any_frame_fits(mode, height, width, most, least, shortest, longest):
    resize = Resize(mode, shortest=shortest, longest=longest, max_pixels=most, min_pixels=least)
    placement = resize.place(height, width)
    for content, network in zip(*placement, strict=True):
        assert network % 32 == 0
        assert 2 <= content <= network < content + 32
    if mode in ("stretch", "fixed"):
        assert placement.content == placement.network
    if mode in ("shortest", "longest"):
        assert max(placement.content) <= max(longest, 2) or min(placement.content) == 2
    if most:
        assert placement.network[0] * placement.network[1] <= most
    if least and not resize.names_a_size and not most:
        assert placement.content[0] * placement.content[1] >= least * 0.4 - 1024  # each to multiples of 32


@given(mode=st.sampled_from(["stretch", "pad"]), height=SIDES, width=SIDES, own=st.none() | st.tuples(SIDES, SIDES))
def test_there_is_a_bound_where_nobody_names_one(mode, height, width, own):
    """A model may name edges, which long sides and padding exceed."""
    config = ModelConfig(SwinConfig(), ("a",), resize=own and ("shortest", *own))
    placement = Resize(mode).for_model(config).place(height, width)
    assert placement.network[0] * placement.network[1] <= 1024 * 2048


def test_the_default_bound_is_said_where_it_bites_and_is_nobodys_else(caplog):
    errors.say_once.cache_clear()
    config = ModelConfig(SwinConfig(), ("a",))
    named = replace(config, max_pixels=1 << 23)
    for size in ((1024, 2048), (1080, 1920)):
        Resize().for_model(config).place(*size)
    assert Resize(max_pixels=1 << 24).for_model(config).place(2160, 3840) == Placement((2176, 3840), (2176, 3840))
    assert Resize().for_model(named).place(2160, 3840) == Placement((2176, 3840), (2176, 3840))
    assert Resize("fixed", height=2048, width=4096).for_model(config).place(9, 9).network == (2048, 4096)
    assert not caplog.records
    for size in ((2160, 3840), (4096, 16384)):
        Resize().for_model(config).place(*size)
    (record,) = caplog.records
    assert "shrunk" in record.getMessage() and "max_pixels" in record.getMessage()


@pytest.mark.parametrize(
    ("resize", "frame", "placement"),
    [
        (Resize(), (480, 640), ((480, 640), (480, 640))),
        (Resize(), (360, 480), ((352, 480), (352, 480))),
        (Resize(), (375, 1242), ((384, 1248), (384, 1248))),
        (Resize(max_pixels=480 * 360), (480, 640), ((352, 480), (352, 480))),
        (Resize(max_pixels=480 * 360), (375, 1242), ((224, 768), (224, 768))),
        (Resize(min_pixels=640 * 480), (360, 480), ((480, 640), (480, 640))),
        (Resize(min_pixels=640 * 480), (480, 640), ((480, 640), (480, 640))),
        (Resize(min_pixels=640 * 480), (1080, 1920), ((1088, 1920), (1088, 1920))),
        (Resize(min_pixels=640 * 480, max_pixels=480 * 360), (120, 160), ((352, 480), (352, 480))),
        (Resize("pad", min_pixels=640 * 480), (360, 480), ((480, 640), (480, 640))),
        (Resize("longest", longest=640, min_pixels=1 << 20), (360, 480), ((480, 640), (480, 640))),
        (Resize(), (1, 1), ((32, 32), (32, 32))),
        (Resize(), (10, 5000), ((32, 4992), (32, 4992))),
        (Resize("pad"), (360, 480), ((360, 480), (384, 480))),
        (Resize("pad"), (1, 4000), ((2, 4000), (32, 4000))),
        (Resize("pad", max_pixels=2048), (16384, 2), ((64, 2), (64, 32))),
        (Resize(min_pixels=324000, max_pixels=324000), (1, 16384), ((32, 10112), (32, 10112))),
        (Resize("shortest"), (1024, 2048), ((1024, 2048), (1024, 2048))),
        (Resize("shortest"), (1080, 1920), ((1024, 1820), (1024, 1824))),
        (Resize("shortest"), (1, 4000), ((2, 2048), (32, 2048))),
        (Resize("longest", longest=640), (1080, 1920), ((360, 640), (384, 640))),
        (Resize("fixed", height=512, width=1024), (7, 9), ((512, 1024), (512, 1024))),
        (Resize("fixed", height=512, width=1024, max_pixels=256 * 512), (7, 9), ((256, 512), (256, 512))),
    ],
)
def test_sizes(resize, frame, placement):
    assert resize.place(*frame) == Placement(*placement)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "crop"}, "resize mode 'crop' is unknown; take stretch, pad"),
        ({"mode": "fixed", "height": 500}, "500 x 2048 .* no multiples of 32; take 512 x 2048"),
        ({"shortest": 0}, "shortest is 0"),
        ({"max_pixels": 5}, "max_pixels is 5"),
    ],
)
def test_what_cannot_be(options, words):
    with pytest.raises(ConfigError, match=words):
        Resize(**options)


@pytest.mark.parametrize("size", [(20, 31), (64, 64), (97, 130)])
def test_resampling_is_pils_but_for_a_level_here_and_there(size):
    image = pytest.importorskip("PIL.Image", reason="Pillow is absent")
    picture = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    expected = np.asarray(image.fromarray(picture).resize(size[::-1], image.Resampling.BILINEAR))
    actual = resampled(torch.from_numpy(picture).permute(2, 0, 1)[None], size)
    difference = np.abs(actual[0].permute(1, 2, 0).numpy() - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01  # PIL's weights have more bits


@given(height=st.integers(1, 40), width=st.integers(1, 40), rows=st.integers(2, 40), columns=st.integers(2, 40))
def test_whole_levels_are_at_most_one_from_the_mean(height, width, rows, columns):
    picture = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    planes = torch.from_numpy(picture).permute(2, 0, 1)[None]
    exact = F.interpolate(planes.float(), (rows, columns), mode="bilinear", antialias=True)
    actual = resampled(planes, (rows, columns))
    assert (actual == actual.round()).all()
    assert (actual - exact).abs().max() < 1.5


def test_enlarging_is_bilinear():
    picture = np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)
    expected = cv2.resize(picture, (21, 18), interpolation=cv2.INTER_LINEAR).astype(int)
    actual = resampled(torch.from_numpy(picture).permute(2, 0, 1)[None], (18, 21))[0].permute(1, 2, 0).numpy()
    assert np.abs(actual - expected).max() <= 1
