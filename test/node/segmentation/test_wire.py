"""Messages from the bytes of the wire: as ROS' own reader has them, and a FrameError for everything else."""

from __future__ import annotations

import struct
from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_typestore

from m2f_ros.errors import FrameError

pytest.importorskip("rclpy", reason="rclpy is absent")
from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from m2f_ros.node.segmentation.wire import (
    read_cloud,
    read_compressed,
    read_image,
    read_info,
    read_transforms,
)

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
counts = st.integers(0, 2**32 - 1)
stamps = st.builds(Time, sec=st.integers(-(2**31), 2**31 - 1), nanosec=counts)
headers = st.builds(Header, stamp=stamps, frame_id=texts)
data = st.binary(max_size=40).map(lambda values: array("B", values))
images = st.builds(
    Image, header=headers, height=counts, width=counts, encoding=texts, is_bigendian=st.integers(0, 255), step=counts,
    data=data,
)  # fmt: skip
pictures = st.builds(CompressedImage, header=headers, format=texts, data=data)
columns = st.builds(PointField, name=texts, offset=counts, datatype=st.integers(0, 255), count=counts)
clouds = st.builds(
    PointCloud2, header=headers, height=counts, width=counts, fields=st.lists(columns, max_size=4),
    is_bigendian=st.booleans(), point_step=counts, row_step=counts, data=data, is_dense=st.booleans(),
)  # fmt: skip
READERS = {
    Image: read_image,
    CompressedImage: read_compressed,
    CameraInfo: read_info,
    PointCloud2: read_cloud,
    "TFMessage": read_transforms,
}
ENCAPSULATIONS = [bytes((0, kind, 0, options)) for kind in range(12) for options in range(4)]


def check_same(ours, theirs) -> None:
    for field in theirs.get_fields_and_field_types():
        one, other = getattr(ours, field), getattr(theirs, field)
        if field == "fields":
            assert len(one) == len(other)
            for mine, its in zip(one, other, strict=True):
                check_same(mine, its)
            continue
        assert bytes(one) == bytes(other) if field == "data" else one == other


@given(st.one_of(images, pictures, clouds))
def test_as_ros_reads_them(message):
    serialised = serialize_message(message)
    read = READERS[type(message)](serialised)
    check_same(read, message)
    check_same(read, deserialize_message(serialised, type(message)))
    assert np.shares_memory(read.data, np.frombuffer(serialised, np.uint8)) or not len(message.data)


@given(images, st.integers(1, 60))
def test_what_is_cut_off_is_none(message, missing):
    serialised = serialize_message(message)
    # Zeros may follow the data, to fill up four bytes.
    whole = serialised.rindex(struct.pack("<I", len(message.data)) + bytes(message.data)) + 4 + len(message.data)
    with pytest.raises(FrameError):
        read_image(serialised[: max(0, whole - missing)])


@given(image=images, little=st.booleans())
def test_as_another_library_writes_them(image, little):
    store = get_typestore(Stores.LATEST)
    types, stamp = store.types, image.header.stamp
    header = types["std_msgs/msg/Header"](
        types["builtin_interfaces/msg/Time"](stamp.sec, stamp.nanosec), image.header.frame_id
    )
    fields = image.height, image.width, image.encoding, image.is_bigendian, image.step
    message = types["sensor_msgs/msg/Image"](header, *fields, np.frombuffer(image.data, np.uint8))
    check_same(read_image(bytes(store.serialize_cdr(message, "sensor_msgs/msg/Image", little_endian=little))), image)


numbers = st.floats(allow_nan=False)
transforms = st.tuples(
    texts,
    texts,
    st.tuples(st.integers(-(2**31), 2**31 - 1), counts),
    st.tuples(*[numbers] * 3),
    st.tuples(*[numbers] * 4),
)


@given(st.lists(transforms, max_size=4), st.booleans())
def test_transforms_as_another_library_writes_them(transforms, little):
    store = get_typestore(Stores.LATEST)
    make = store.types
    messages = [
        make["geometry_msgs/msg/TransformStamped"](
            make["std_msgs/msg/Header"](make["builtin_interfaces/msg/Time"](*stamp), parent),
            child,
            make["geometry_msgs/msg/Transform"](
                make["geometry_msgs/msg/Vector3"](*translation), make["geometry_msgs/msg/Quaternion"](*rotation)
            ),
        )
        for parent, child, stamp, translation, rotation in transforms
    ]
    name = "tf2_msgs/msg/TFMessage"
    read = read_transforms(bytes(store.serialize_cdr(make[name](messages), name, little_endian=little)))
    assert [(one.parent, one.child, one.stamp_ns, one.translation, one.rotation) for one in read] == [
        (parent, child, seconds * 10**9 + nanoseconds, translation, rotation)
        for parent, child, (seconds, nanoseconds), translation, rotation in transforms
    ]


@pytest.mark.parametrize("read", [read_cloud, read_transforms])
def test_a_sequence_that_claims_to_be_long_is_refused(read):
    head = b"\0\1\0\0" + (serialize_message(PointCloud2())[4:24] if read is read_cloud else b"")
    with pytest.raises(FrameError, match="4294967295"):
        read(head + b"\xff" * 100_000)


# Without TFMessage, of which eight bytes may be an empty one.
@pytest.mark.parametrize("kind", [kind for kind in READERS if kind != "TFMessage"], ids=lambda kind: kind.__name__)
def test_no_few_bytes_end_the_process(kind):
    """Fast CDR 2 reads beyond a message of four bytes that declares padding."""
    for begin in (*ENCAPSULATIONS, b"\xff\xff\xff\xff"):
        for size in range(12):
            with pytest.raises(FrameError):
                READERS[kind]((begin + bytes(8))[:size])


@pytest.mark.parametrize("kind", READERS, ids=lambda kind: getattr(kind, "__name__", kind))
@given(begin=st.sampled_from(ENCAPSULATIONS), content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(kind, begin, content):
    try:
        READERS[kind](begin + content)
    except FrameError as error:
        assert "\n" not in str(error) and len(str(error)) < 300


def test_a_text_ends_at_its_first_zero():
    serialised = serialize_message(Image(encoding="bgr8")).replace(b"bgr8", b"bg\0\0")
    assert read_image(serialised).encoding == deserialize_message(serialised, Image).encoding == "bg"


def test_a_text_that_is_none():
    serialised = serialize_message(Image(encoding="bgr8")).replace(b"bgr8", b"\xff\xfe\xfd\xfc")
    with pytest.raises(FrameError, match="encoding is no text in UTF-8"):
        read_image(serialised)
