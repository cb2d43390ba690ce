"""Camera models: pixels as OpenCV's and image_geometry's, rays back again, and calibrations that place nothing."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from m2f_ros.errors import SpaceError
from m2f_ros.frame.calibration import Calibration, Region, image_size
from m2f_ros.space.camera_model import CameraModel

SIZE = (640, 480)
PLAIN = Calibration.pinhole(*SIZE, 430.0, 425.0, 315.0, 243.0)
# A pose of the second camera of a stereo pair: turned a little, 12 cm to the right.
TURN = cv2.Rodrigues(np.array([0.02, -0.03, 0.01]))[0]
STEREO = replace(PLAIN, r=tuple(TURN.ravel()), p=(410.0, 0, 320, -49.2, 0, 410, 240, 0, 0, 0, 1, 0))
GRID = np.stack(np.meshgrid(np.arange(0.0, 640, 13), np.arange(0.0, 480, 11)), -1)

small = st.floats(-0.01, 0.01)


def lens(model, *coefficients):
    return st.tuples(*coefficients).map(lambda d: replace(PLAIN, distortion_model=model, d=d))


radial = (st.floats(-0.35, 0.35), st.floats(-0.1, 0.1))
below = (st.floats(0, 0.5), st.floats(0, 0.1), st.floats(0, 0.01))
tilted = st.floats(-0.05, 0.05)
LENSES = {
    "plumb_bob 4": lens("plumb_bob", *radial, small, small),
    "plumb_bob 5": lens("plumb_bob", *radial, small, small, small),
    "rational_polynomial 8": lens("rational_polynomial", *radial, small, small, small, *below),
    "rational_polynomial 12": lens("rational_polynomial", *radial, *[small] * 3, *below, *[small] * 4),
    "rational_polynomial 14": lens("rational_polynomial", *radial, *[small] * 3, *below, *[small] * 4, tilted, tilted),
    "equidistant 4": lens("equidistant", *[st.floats(-0.05, 0.05)] * 4),
}
LENS = st.one_of(*LENSES.values())
POINT = st.tuples(st.floats(-0.8, 0.8), st.floats(-0.6, 0.6), st.floats(0.3, 60)).map(
    lambda p: np.array([p[0] * p[2], p[1] * p[2], p[2]])
)


def by_opencv(calibration, points, matrix=None):
    """Pixels (N, 2) of points (N, 3) in the raw image of the whole sensor, from the frame that R turns from."""
    matrix = calibration.matrix() if matrix is None else matrix
    d, zero = np.array(calibration.d), np.zeros(3)
    if calibration.distortion_model == "equidistant" and any(d):
        return cv2.fisheye.projectPoints(points[:, None], zero, zero, matrix, d)[0][:, 0]
    return cv2.projectPoints(points[:, None], zero, zero, matrix, d if len(d) else None)[0][:, 0]


@pytest.mark.parametrize("name", LENSES)
@given(data=st.data(), points=st.lists(POINT, min_size=1, max_size=20).map(np.array))
def test_points_fall_where_opencv_says(name, data, points):
    calibration = data.draw(LENSES[name])
    pixels, depth = CameraModel.of(calibration, SIZE).project(points)
    folded = np.isnan(pixels).any(-1)
    assert np.abs(pixels - by_opencv(calibration, points))[~folded].max(initial=0) < 1e-4
    np.testing.assert_array_equal(depth, points[:, 2])


@given(calibration=LENS, pixels=st.lists(st.tuples(st.floats(-50, 690), st.floats(-50, 530)), min_size=1, max_size=20))
def test_a_ray_falls_on_its_pixel(calibration, pixels):
    model, pixels = CameraModel.of(calibration, SIZE), np.array(pixels)
    rays = model.unproject(pixels)
    none = np.isnan(rays).any(-1)
    assert (np.isnan(rays).all(-1) == none).all() and (rays[~none, 2] == 1).all()
    back, depth = model.project(rays * 7.0)
    assert np.abs(back - pixels)[~none].max(initial=0) < 1e-4
    assert np.isnan(back[none]).all() and (depth[~none] == 7).all()


@given(calibration=LENS, point=POINT)
def test_each_point_in_view_has_its_ray(calibration, point):
    model = CameraModel.of(calibration, SIZE)
    pixel, depth = model.project(point)
    assume(np.isfinite(pixel).all() and _grows(model, point))
    np.testing.assert_allclose(model.unproject(pixel) * depth, point, rtol=1e-6, atol=1e-6)


def _grows(model, point):
    """True if the image of the way from the axis to the point never turns back: the lens does not fold there."""
    way = np.linspace(0, 1.02, 60)[:, None] * (point[:2] / point[2])
    pixels, _ = model.project(np.concatenate([way, np.ones((60, 1))], -1))
    corner = np.concatenate([way + 1e-4, np.ones((60, 1))], -1)
    steps = np.diff(pixels, axis=0)
    return np.isfinite(model.project(corner)[0]).all() and bool((steps @ (pixels[-1] - pixels[0]) > 0).all())


@pytest.mark.parametrize("name", ["plumb_bob 5", "rational_polynomial 14", "equidistant 4"])
@given(
    data=st.data(),
    offset=st.tuples(st.integers(0, 99), st.integers(0, 99)),
    binning=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    rectify=st.booleans(),
    point=POINT,
)
def test_turn_region_and_binning_as_image_geometry_reads_them(name, data, offset, binning, rectify, point):
    calibration = replace(
        data.draw(LENSES[name]),
        r=STEREO.r,
        roi=Region(*offset, 300, 500, rectify),
        binning_x=binning[0],
        binning_y=binning[1],
    )
    # unrectifyPoint: the ray, turned back by R, through K and the distortion.
    whole = by_opencv(calibration, (TURN.T @ point)[None])[0]
    expected = (whole - offset) / np.maximum(binning, 1)
    model = CameraModel.of(calibration, image_size(calibration))
    pixel, depth = model.project(point)
    if np.isfinite(pixel).all():
        assert np.abs(pixel - expected).max() < 1e-4
    assert depth == point[2]
    ray = model.unproject(pixel)
    if np.isfinite(ray).all():
        np.testing.assert_allclose(ray * depth, point, atol=1e-5)


def test_the_second_camera_of_a_stereo_pair_sees_from_its_own_place():
    rectified = CameraModel.of(STEREO, SIZE, rectified=True)
    np.testing.assert_allclose(rectified.centre, [0.12, 0, 0])
    point = np.array([0.5, -0.2, 4.0])
    pixel, depth = rectified.project(point)
    u, v, w = np.array(STEREO.p).reshape(3, 4) @ [*point, 1]  # project3dToPixel
    np.testing.assert_allclose(pixel, [u / w, v / w])
    np.testing.assert_allclose(rectified.unproject(pixel) * depth + rectified.centre, point)
    raw = CameraModel.of(STEREO, SIZE)
    expected = by_opencv(STEREO, (TURN.T @ (point - [0.12, 0, 0]))[None])[0]
    np.testing.assert_allclose(raw.project(point)[0], expected)
    np.testing.assert_allclose(raw.unproject(raw.project(point)[0]) * 4 + raw.centre, point)


def test_the_rectified_image_has_p_alone():
    fisheye = replace(STEREO, distortion_model="equidistant", d=(0.1, 0, 0, 0), binning_x=2, roi=Region(20, 8, 0, 0))
    model = CameraModel.of(fisheye, (320, 480), rectified=True)
    np.testing.assert_allclose(model.project(np.array([0.12, 0.0, 1.0]))[0], [(320 - 20) / 2, 240 - 8])
    unknown = replace(fisheye, distortion_model="from the shop")
    assert CameraModel.of(unknown, (320, 480), rectified=True).size == (320, 480)


@given(calibration=LENS, scale=st.sampled_from([0.25, 0.5, 1.5, 2.0]), point=POINT)
def test_a_scaled_calibration_projects_onto_the_same_spot(calibration, scale, point):
    size = (round(640 * scale), round(480 * scale))
    fitted = calibration.fitted(SIZE, size)
    whole, _ = CameraModel.of(calibration, SIZE).project(point)
    scaled, _ = CameraModel.of(fitted, size).project(point)
    np.testing.assert_allclose((scaled + 0.5) / scale - 0.5, whole, atol=1e-6)
    same, _ = CameraModel.of(calibration, size).project(point)  # which it scales by itself
    np.testing.assert_allclose(same, scaled, atol=1e-6)


def test_what_is_behind_or_folded_has_no_pixel():
    model = CameraModel.of(PLAIN, SIZE)
    pixels, depth = model.project(np.array([[0, 0, -1.0], [1, 1, 0], [np.nan, 0, 1], [0, 0, 1]]))
    assert np.isnan(pixels).any(-1).tolist() == [True, True, True, False]
    assert depth.tolist() == [-1, 0, 1, 1]
    # r (1 - 0.3 r²) grows up to r = 1.05, about 46 degrees: further out the polynomial comes back to the centre.
    barrel = CameraModel.of(replace(PLAIN, d=(-0.3, 0, 0, 0)), SIZE)
    pixels, _ = barrel.project(np.array([[1.04, 0, 1], [1.1, 0, 1], [1.8, 0, 1]]))
    assert np.isnan(pixels).any(-1).tolist() == [False, True, True]


def test_corners_without_light_have_no_ray():
    # 150 pixels a radian: 90 degrees end 235 pixels from the centre.
    fisheye = replace(Calibration.pinhole(640, 480, 150, 150, 319.5, 239.5), distortion_model="equidistant")
    rays = CameraModel.of(replace(fisheye, d=(1e-9, 0, 0, 0)), SIZE).rays()
    y, x = np.mgrid[:480, :640]
    radius = np.hypot(x - 319.5, y - 239.5) / 150
    np.testing.assert_array_equal(np.isnan(rays[..., 0]), radius >= np.pi / 2)
    seen = radius < 1.5
    np.testing.assert_allclose(np.hypot(rays[..., 0], rays[..., 1])[seen], np.tan(radius[seen]), rtol=1e-5)
    # The largest image of r (1 - 0.3 r²) is 0.70.
    barrel = CameraModel.of(replace(PLAIN, d=(-0.3, 0, 0, 0)), SIZE)
    assert np.isfinite(barrel.unproject(np.array([315 + 0.7 * 430, 243.0]))).all()
    assert np.isnan(barrel.unproject(np.array([315 + 0.71 * 430, 243.0]))).all()


@pytest.mark.parametrize("model", ["plumb_bob", "rational_polynomial", "equidistant", ""])
@pytest.mark.parametrize("d", [(), (0.0,) * 4])
def test_coefficients_of_zero_are_no_distortion(model, d):
    camera = CameraModel.of(replace(PLAIN, distortion_model=model, d=d), SIZE)
    np.testing.assert_allclose(camera.project(np.array([1.0, 0.5, 2]))[0], [315 + 215, 243 + 106.25])
    np.testing.assert_allclose(camera.unproject(np.array([745.0, 243])), [1, 0, 1])


@pytest.mark.parametrize("stride", [1, 2, 7])
def test_rays_of_the_pixels(stride):
    model = CameraModel.of(replace(PLAIN, d=(-0.2, 0.1, 0.001, 0, 0)), SIZE)
    rays = model.rays(stride)
    assert rays is model.rays(stride) and rays.dtype == np.float32 and not rays.flags.writeable
    columns, rows = np.arange(0.0, 640, stride), np.arange(0.0, 480, stride)
    expected = model.unproject(np.stack(np.meshgrid(columns, rows), -1))
    np.testing.assert_array_equal(rays, expected.astype(np.float32))


def test_a_model_is_made_once():
    assert CameraModel.of(PLAIN, SIZE) is CameraModel.of(replace(PLAIN), SIZE)
    assert CameraModel.of(PLAIN, SIZE).size == SIZE


def test_arrays_of_any_kind():
    model = CameraModel.of(replace(PLAIN, d=(-0.2, 0.1, 0.001, 0, 0)), SIZE)
    points = np.array([[[1, 0.5, 2], [0.1, 0.2, 3]]])
    expected = model.project(points)[0]
    frozen = points.copy()
    frozen.flags.writeable = False
    for same in (points.astype(">f8"), frozen, points[:, ::-1][:, ::-1], np.asfortranarray(points)):
        np.testing.assert_array_equal(model.project(same)[0], expected)
    pixels, depth = model.project(points.astype(np.float32))
    assert pixels.dtype == depth.dtype == np.float32 and pixels.shape == (1, 2, 2) and depth.shape == (1, 2)
    np.testing.assert_allclose(pixels, expected, atol=1e-3)
    pixels, depth = model.project(torch.from_numpy(points))
    assert isinstance(pixels, torch.Tensor) and pixels.dtype == torch.float64
    np.testing.assert_array_equal(pixels.numpy(), expected)
    rays = model.unproject(torch.from_numpy(expected).float())
    assert rays.dtype == torch.float32
    np.testing.assert_allclose(rays.numpy() * points[..., 2:], points, atol=1e-5)
    assert model.unproject(np.array([3, 4])).dtype == np.float64
    assert model.project(np.empty((0, 3)))[0].shape == (0, 2)
    assert model.unproject(np.empty((0, 2))).shape == (0, 3)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"width": 0}, r"has no size \(0x480\): the camera is not calibrated"),
        ({"k": (0.0,) * 9}, "has a K of zeros: the camera is not calibrated"),
        ({"k": (430.0, *(0.0,) * 8)}, "focal length of zero: the camera is not calibrated"),
        ({"k": (np.inf, *PLAIN.k[1:])}, "numbers that are not finite"),
        ({"width": 480}, "is of 480x480, the images are 640x480, which is another shape"),
        ({"distortion_model": "thin\nplate"}, r"model 'thin\\nplate' is not supported: .* plumb_bob, rational_poly"),
        ({"distortion_model": "", "d": (0.1,) * 4}, "model '' is not supported"),
        ({"distortion_model": "equidistant", "d": (0.1,) * 5}, "5 distortion coefficients, which equidistant has not"),
        ({"d": (0.1,) * 6}, "6 distortion coefficients, which plumb_bob has not: it has 0, 4, 5, 8, 12 or 14"),
        ({"r": (2.0, 0, 0, 0, 1, 0, 0, 0, 1)}, "R is no rotation"),
    ],
)
def test_calibrations_that_place_nothing(fields, says):
    with pytest.raises(SpaceError, match=says) as caught:
        CameraModel.of(replace(PLAIN, **{"d": (0.1,) * 4, **fields}), SIZE)
    assert "\n" not in str(caught.value)


def test_a_rectified_image_needs_p():
    with pytest.raises(SpaceError, match="P of zeros"):
        CameraModel.of(replace(PLAIN, p=(0.0,) * 12), SIZE, rectified=True)
    np.testing.assert_allclose(CameraModel.of(replace(PLAIN, p=(0.0,) * 12, r=(0.0,) * 9), SIZE).centre, 0)


def test_images_of_the_whole_sensor_are_whole_in_spite_of_a_region():
    camera = replace(PLAIN, roi=Region(20, 30, 240, 320), binning_x=2)
    np.testing.assert_allclose(CameraModel.of(camera, SIZE).project(np.array([0.0, 0, 1]))[0], [315, 243])


@pytest.mark.parametrize("binning", [1, 2])
def test_as_image_geometry(binning):
    geometry = pytest.importorskip("image_geometry", reason="image_geometry is absent")
    messages = pytest.importorskip("sensor_msgs.msg", reason="sensor_msgs is absent")
    calibration = replace(STEREO, d=(-0.2, 0.05, 0.001, -0.002, 0.01), roi=Region(40, 20, 400, 500))
    if binning > 1:  # of P, its Python forgets to scale Tx; its C++ does not
        calibration = replace(calibration, p=(*STEREO.p[:3], 0.0, *STEREO.p[4:]), binning_x=2, binning_y=2)
    info = messages.CameraInfo(width=640, height=480, distortion_model="plumb_bob")
    info.d, info.k, info.r, info.p = (list(map(float, getattr(calibration, name))) for name in "dkrp")
    info.roi.x_offset, info.roi.y_offset, info.roi.height, info.roi.width = 40, 20, 400, 500
    info.binning_x = info.binning_y = binning
    oracle, size, point = geometry.PinholeCameraModel(), image_size(calibration), np.array([0.3, -0.2, 2.5])
    oracle.fromCameraInfo(info)
    rectified, _ = CameraModel.of(calibration, size, rectified=True).project(point)
    np.testing.assert_allclose(rectified, oracle.project3dToPixel(point), atol=1e-4)
    mono = replace(calibration, p=(*STEREO.p[:3], 0.0, *STEREO.p[4:]))
    raw, _ = CameraModel.of(mono, size).project(point)
    rectified, _ = CameraModel.of(mono, size, rectified=True).project(point)
    oracle.P[:, 3] = 0
    np.testing.assert_allclose(rectified, np.ravel(oracle.rectifyPoint(raw)), atol=0.02)  # OpenCV iterates 5 times


@given(calibration=LENS, points=st.lists(POINT, min_size=1, max_size=20).map(np.array))
def test_a_resized_model_is_that_of_the_resized_calibration(calibration, points):
    model, size = CameraModel.of(calibration, SIZE), (320, 240)
    smaller = CameraModel.of(calibration, size)
    np.testing.assert_allclose(model.resized(size).project(points)[0], smaller.project(points)[0], atol=1e-9)
    assert model.resized(SIZE) is model
    np.testing.assert_allclose(model.resized(size).resized(SIZE).numbers(), model.numbers(), atol=1e-9)
    assert not np.array_equal(model.numbers(), smaller.numbers())
