"""Clouds: read from anything that PointCloud2 allows, extended without loss, refused in one line."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_typestore

from m2f_ros.errors import SpaceError
from m2f_ros.space.cloud import DATATYPES, Cloud, Field

TYPES = get_typestore(Stores.ROS2_KILTED).types
HEADER = TYPES["std_msgs/msg/Header"](TYPES["builtin_interfaces/msg/Time"](7, 5), "lidar")


def message(columns, shape, big=False, gap=0, pad=0, dense=False, type="sensor_msgs/msg/PointCloud2"):
    """A message whose fields have `gap` bytes between them, and rows `pad` bytes at the end."""
    height, width = shape
    order = ">" if big else "<"
    offset, fields, rows = gap, [], []
    for name, values in columns.items():
        kind = values.dtype.str[1:]
        count = values.size // (height * width) if height * width else 1
        fields.append(TYPES["sensor_msgs/msg/PointField"](name, offset, DATATYPES[kind], count))
        rows.append((name, order + kind, (count,), offset))
        offset += count * values.itemsize + gap
    kind = np.dtype(
        {
            "names": [row[0] for row in rows],
            "formats": [row[1:3] for row in rows],
            "offsets": [row[3] for row in rows],
            "itemsize": max(1, offset),
        }
    )
    points = np.zeros(height * width, kind)
    for name, values in columns.items():
        points[name] = values.reshape(points[name].shape)
    data = np.frombuffer(points.tobytes(), np.uint8).reshape(height, width * kind.itemsize)
    data = np.pad(data, ((0, 0), (0, pad))).ravel()
    step = width * kind.itemsize + pad
    return TYPES[type](HEADER, height, width, fields, big, kind.itemsize, step, data, dense)


KINDS = st.sampled_from(sorted(DATATYPES))
SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 6))


@st.composite
def clouds(draw):
    """(columns, shape, message): x, y, z of any types among other fields, in any order and packing."""
    shape = draw(SHAPES)
    seed = np.random.default_rng(draw(st.integers(0, 2**31)))
    names = draw(st.permutations(["x", "y", "z", "intensity", "ring"]))
    columns = {}
    for name in names:
        kind = np.dtype(draw(KINDS))
        count = draw(st.integers(1, 3)) if name in ("intensity", "ring") else 1
        values = seed.integers(0, 127, (shape[0] * shape[1], count)).astype(kind)
        columns[name] = values[:, 0] if count == 1 else values
    made = message(columns, shape, draw(st.booleans()), draw(st.integers(0, 5)), draw(st.integers(0, 9)))
    return columns, shape, made


@given(clouds())
def test_every_column_of_every_packing(given_cloud):
    columns, shape, made = given_cloud
    cloud = Cloud.of(made)
    assert (cloud.height, cloud.width, len(cloud)) == (*shape, shape[0] * shape[1])
    assert (cloud.stamp_ns, cloud.frame_id) == (7_000_000_005, "lidar")
    for name, values in columns.items():
        np.testing.assert_array_equal(cloud.column(name), values)
    xyz = cloud.xyz()
    assert xyz.dtype in (np.float32, np.float64)
    np.testing.assert_array_equal(xyz, np.stack([columns[name] for name in "xyz"], -1))


@given(clouds(), KINDS)
def test_more_fields_keep_every_byte(given_cloud, kind):
    columns, shape, made = given_cloud
    cloud, number = Cloud.of(made), shape[0] * shape[1]
    label, pair = np.arange(number).astype(kind), np.arange(2 * number, dtype=np.float32).reshape(number, 2)
    more = cloud.appended({"label": label, "pair": pair})
    assert more.fields[: len(cloud.fields)] == cloud.fields and len(more.fields) == len(cloud.fields) + 2
    for name, values in {**columns, "label": label, "pair": pair}.items():
        np.testing.assert_array_equal(more.column(name), values)
    rows = [cloud.data[k * cloud.row_step :][: shape[1] * cloud.point_step] for k in range(shape[0])]
    old = np.concatenate(rows).reshape(number, cloud.point_step)
    np.testing.assert_array_equal(more.data.reshape(number, more.point_step)[:, : cloud.point_step], old)
    assert more.row_step == more.point_step * shape[1] and more.point_step % 4 == 0
    assert (more.is_bigendian, more.is_dense, more.stamp_ns) == (cloud.is_bigendian, cloud.is_dense, cloud.stamp_ns)
    again = Cloud.of(more.fill(made, HEADER, TYPES["sensor_msgs/msg/PointField"]))
    assert again.fields == more.fields
    np.testing.assert_array_equal(again.data, more.data)


def test_coordinates_keep_their_precision():
    for kind, wanted in (("f4", "f4"), ("i2", "f4"), ("u1", "f4"), ("i4", "f8"), ("u4", "f8"), ("f8", "f8")):
        columns = {name: np.full(3, 101).astype(kind) for name in "xyz"}
        assert Cloud.of(message(columns, (1, 3))).xyz().dtype == wanted
    columns = {"x": np.full(1, 2**24 + 1, np.int32), "y": np.ones(1, np.float32), "z": np.ones(1, np.float32)}
    assert Cloud.of(message(columns, (1, 1))).xyz()[0, 0] == 2**24 + 1


def test_nan_stays():
    columns = {name: np.array([1, np.nan, 3], np.float32) for name in "xyz"}
    cloud = Cloud.of(message(columns, (1, 3), big=True))
    np.testing.assert_array_equal(cloud.xyz()[:, 1], columns["y"])
    assert not cloud.is_dense and cloud.xyz().dtype.isnative


@pytest.mark.parametrize("shape", [(1, 0), (0, 5), (0, 0)])
def test_a_cloud_without_points(shape):
    columns = {name: np.empty(0, np.float32) for name in "xyz"}
    cloud = Cloud.of(message(columns, shape))
    assert len(cloud) == 0 and cloud.xyz().shape == (0, 3)
    more = cloud.appended({"label": np.empty(0, np.uint8)})
    assert more.column("label").shape == (0,) and more.fields[-1].name == "label"


def test_steps_of_a_single_row_do_not_matter():
    made = message({name: np.arange(4.0) for name in "xyz"}, (1, 4))
    made.row_step = 0
    cloud = Cloud.of(made)
    np.testing.assert_array_equal(cloud.xyz()[:, 0], range(4))
    np.testing.assert_array_equal(cloud.appended({"label": np.ones(4, np.uint8)}).xyz()[:, 2], range(4))


def test_a_count_of_zero_is_one():
    made = message({name: np.arange(4.0) for name in "xyz"}, (1, 4))
    for field in made.fields:
        field.count = 0
    np.testing.assert_array_equal(Cloud.of(made).xyz()[:, 0], range(4))


def test_a_field_that_nobody_reads_may_be_of_any_type():
    columns = {name: np.arange(4.0) for name in ("x", "y", "z", "flag")}
    made = message(columns, (1, 4))
    made.fields[3].datatype = 11
    cloud = Cloud.of(made)
    more = cloud.appended({"label": np.arange(4, dtype=np.uint8)})
    assert more.fields[3] == cloud.fields[3] and more.xyz().shape == (4, 3)
    with pytest.raises(SpaceError, match="field 'flag' has the datatype 11; 1 to 8 are known"):
        cloud.column("flag")


def test_of_columns():
    columns = {"x": np.ones((2, 3), np.float32), "flag": np.ones((2, 3), np.uint8), "time": np.ones((2, 3))}
    cloud = Cloud.of_columns(columns, (2, 3), "base", 9, is_dense=False)
    assert cloud.fields == (Field("x", 0, 7), Field("flag", 4, 2), Field("time", 8, 8))
    assert (cloud.point_step, cloud.row_step, cloud.data.size) == (16, 48, 96)
    assert (cloud.frame_id, cloud.stamp_ns, cloud.is_dense) == ("base", 9, False)
    assert cloud.is_bigendian == (sys.byteorder == "big")
    for wrong in (np.ones(6, bool), np.ones(6, np.int64), np.ones(5, np.float32)):
        with pytest.raises(SpaceError, match="is no column 'x' of a cloud of 6 points"):
            Cloud.of_columns({"x": wrong}, (2, 3), "", 0)


GOOD = {name: np.arange(6.0, dtype=np.float32) for name in "xyz"}


def renamed(**fields):
    """A cloud whose first field is changed."""
    made = message(GOOD, (2, 3))
    for name, value in fields.items():
        setattr(made.fields[0], name, value)
    return made


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (replace(message(GOOD, (2, 3)), row_step=35), "row_step 35 is too small: 3 points of 12 bytes take 36"),
        (replace(message(GOOD, (2, 3)), data=np.zeros(71, np.uint8)), "data has 71 bytes: 2 rows of 3 points of 12"),
        (replace(message(GOOD, (1, 6)), data=np.zeros(71, np.uint8)), "data has 71 bytes: 1 rows of 6 points"),
        (replace(message(GOOD, (2, 3)), point_step=0), "has points and a point_step of 0"),
        (replace(message(GOOD, (2, 3)), point_step=11, row_step=33), "field 'z' ends at byte 12 of a point of 11"),
        (replace(message(GOOD, (1, 6)), height=2**32 - 1, width=2**32 - 1), "row_step 72 is too small"),
        (renamed(offset=2**32 - 1), "field 'x' ends at byte 4294967299 of a point of 12"),
        (renamed(count=2**32 - 1), "field 'x' ends at byte 17179869180"),
    ],
)
def test_messages_that_are_no_cloud(made, says):
    with pytest.raises(SpaceError, match=says) as caught:
        Cloud.of(made)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (renamed(name="a\nb"), r"no field x; its fields: a\\nb, y, z"),
        (message({"range": np.ones(2)}, (1, 2)), "no field x and no field y and no field z; its fields: range"),
        (replace(message(GOOD, (1, 6)), fields=[]), "its fields: none"),
        (message({"x": np.ones((6, 3)), "y": np.ones(6), "z": np.ones(6)}, (1, 6)), "several values of x, y or z"),
        (renamed(datatype=0), "field 'x' has the datatype 0"),
    ],
)
def test_clouds_without_coordinates(made, says):
    with pytest.raises(SpaceError, match=says) as caught:
        Cloud.of(made).xyz()
    assert "\n" not in str(caught.value)


def test_a_field_cannot_be_there_twice():
    with pytest.raises(SpaceError, match="has a field x already: rename it"):
        Cloud.of(message(GOOD, (2, 3))).appended({"x": np.ones(6)})


@given(
    st.fixed_dictionaries(
        {
            "height": st.integers(0, 5),
            "width": st.integers(0, 5),
            "point_step": st.integers(0, 20),
            "row_step": st.integers(0, 90),
            "is_bigendian": st.booleans(),
        }
    ),
    st.lists(
        st.tuples(st.sampled_from("xyzxyzab"), st.integers(0, 24), st.integers(0, 12), st.integers(0, 4)), max_size=5
    ),
    st.binary(max_size=200),
)
def test_any_message_is_a_cloud_or_one_line(numbers, fields, data):
    made = SimpleNamespace(
        header=HEADER,
        fields=[SimpleNamespace(name=n, offset=o, datatype=t, count=c) for n, o, t, c in fields],
        data=data,
        is_dense=True,
        **numbers,
    )
    try:
        cloud = Cloud.of(made)
        assert cloud.xyz().shape == (len(cloud), 3)
        cloud.appended({"label": np.zeros(len(cloud), np.uint16)})
    except SpaceError as error:
        assert "\n" not in str(error)


def test_messages_of_rclpy():
    messages = pytest.importorskip("sensor_msgs.msg", reason="sensor_msgs is absent")
    header = pytest.importorskip("std_msgs.msg").Header(frame_id="lidar")
    cloud = Cloud.of(message(GOOD, (2, 3))).appended({"label": np.arange(6, dtype=np.uint8)})
    filled = cloud.fill(messages.PointCloud2(), header, messages.PointField)
    assert filled.header.frame_id == "lidar" and (filled.height, filled.width) == (2, 3)
    assert (filled.point_step, filled.row_step, len(filled.data)) == (16, 48, 96)
    back = Cloud.of(filled)
    assert back.fields == cloud.fields
    np.testing.assert_array_equal(back.data, cloud.data)


@given(clouds())
def test_as_sensor_msgs_py_reads_it(given_cloud):
    reader = pytest.importorskip("sensor_msgs_py.point_cloud2", reason="sensor_msgs_py is absent")
    messages = pytest.importorskip("sensor_msgs.msg", reason="sensor_msgs is absent")
    header = pytest.importorskip("std_msgs.msg").Header()
    _, shape, made = given_cloud
    cloud = Cloud.of(made).appended({"label": np.arange(shape[0] * shape[1], dtype=np.uint16)})
    filled = cloud.fill(messages.PointCloud2(), header, messages.PointField)
    read = reader.read_points(filled)
    for field in cloud.fields:
        values = cloud.column(field.name)
        names = [field.name] if values.ndim == 1 else [f"{field.name}_{k}" for k in range(values.shape[1])]
        for name, column in zip(names, values.reshape(len(values), -1).T, strict=True):
            np.testing.assert_array_equal(read[name], column)
