"""Ignore masks: read from PNG, fitted to an image, and taken out of a frame."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from m2f_ros.errors import SpaceError
from m2f_ros.frame.calibration import Calibration
from m2f_ros.frame.segment import Segment
from m2f_ros.space.camera_model import CameraModel
from m2f_ros.space.ignore import fitted, read_mask, without
from m2f_ros.space.labelled import Labelled
from m2f_ros.space.points import points

BONNET = np.zeros((6, 8), bool)
BONNET[4:, 2:6] = True


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [None, 3])
def test_what_is_not_black_is_ignored(tmp_path, dtype, channels):
    image = BONNET.astype(dtype)
    if channels:
        image = np.stack([image * 0, image, image * 0], -1)  # any channel will do
    cv2.imwrite(str(tmp_path / "mask.png"), image)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), BONNET)


def test_masks_that_cannot_be_used(tmp_path):
    cv2.imwrite(str(tmp_path / "all.png"), np.full((4, 4), 255, np.uint8))
    with pytest.raises(SpaceError, match=r"ignore mask .*all.png: it ignores every pixel; paint black"):
        read_mask(tmp_path / "all.png")
    with pytest.raises(SpaceError, match=r"ignore mask .*none.png: it cannot be read"):
        read_mask(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("black and white")
    with pytest.raises(SpaceError, match=r"ignore mask .*text.png: "):
        read_mask(tmp_path / "text.png")


def test_a_mask_for_another_size():
    np.testing.assert_array_equal(fitted(BONNET, (8, 6)), BONNET)
    np.testing.assert_array_equal(fitted(BONNET, (16, 12)), BONNET.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(fitted(BONNET.repeat(2, 0).repeat(2, 1), (8, 6)), BONNET)
    with pytest.raises(SpaceError, match="the ignore mask is of 8x6, the labels are 8x8, which is another shape"):
        fitted(BONNET, (8, 8))


def frame():
    ids = np.ones((6, 8), np.uint16)
    ids[4:, 2:6], ids[3:5, 0:3] = 2, 3
    segments = (
        Segment(1, 0, 0.9, 36, (0, 0, 8, 6)),
        Segment(2, 13, 0.8, 7, (2, 4, 4, 2)),
        Segment(3, 13, 0.7, 6, (0, 3, 3, 2)),
    )
    return Labelled(
        "",
        0,
        "camera",
        Calibration.pinhole(8, 6, 5, 5, 3.5, 2.5),
        np.zeros((6, 8), np.uint8),
        255,
        np.full((6, 8), 200, np.uint8),
        ids,
        segments,
        depth=np.full((6, 8), 2, np.float32),
    )


def test_nothing_is_left_of_ignored_pixels():
    before = frame()
    after = without(before, BONNET)
    assert (after.label == np.where(BONNET, 255, 0)).all() and (after.confidence == np.where(BONNET, 0, 200)).all()
    assert (np.isnan(after.depth) == BONNET).all() and ((after.ids == 0) == BONNET).all()
    # The bonnet's segment is gone; the others keep what is outside.
    assert [s.id for s in after.segments] == [1, 3]
    for segment in after.segments:
        y, x = np.nonzero(after.ids == segment.id)
        assert segment.area == len(x)
        assert segment.box == (x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1)
    assert before.label.max() == 0 and np.isfinite(before.depth).all()  # as it was
    cloud = points(after, 1, CameraModel.of(after.calibration, (8, 6)))
    assert (np.isnan(cloud.xyz()).all(-1).reshape(6, 8) == BONNET).all()
    assert (after.label.dtype, after.confidence.dtype, after.ids.dtype, after.depth.dtype) == (
        before.label.dtype,
        before.confidence.dtype,
        before.ids.dtype,
        before.depth.dtype,
    )


def test_what_was_not_computed_stays_so():
    bare = replace(frame(), confidence=None, ids=None, depth=None, segments=())
    after = without(bare, BONNET)
    assert after.confidence is after.ids is after.depth is None
    small = replace(frame(), depth=np.ones((3, 4), np.float32))
    assert np.isnan(without(small, BONNET).depth).sum() == 2
