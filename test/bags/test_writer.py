"""Bags that are written: read back, with the types, QoS and compression that were asked for."""

import numpy as np
import pytest
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from m2f_ros.bags.writer import BagWriter, register_type
from m2f_ros.errors import SourceError

IMAGE = "sensor_msgs/msg/Image"


def image_message(types, stamp_ns, value):
    image, header, time = (types.types[name] for name in (IMAGE, "std_msgs/msg/Header", "builtin_interfaces/msg/Time"))
    stamp = time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    data = np.full(12, value, np.uint8)
    return image(header(stamp, "camera"), 2, 2, "rgb8", 0, 6, data)


def legend_message(types):
    class_info, legend = types.types["m2f_ros/msg/ClassInfo"], types.types["m2f_ros/msg/Legend"]
    road = class_info(id=0, name="road", color=np.array([128, 64, 128], np.uint8), thing=False)
    return legend(model="street", taxonomy="cityscapes", unlabelled=255, classes=[road])


@pytest.mark.parametrize(
    ("storage", "compression"),
    [("mcap", "none"), ("mcap", "chunk"), ("mcap", "message"), ("sqlite3", "none"), ("sqlite3", "message")],
)
def test_round_trip(tmp_path, storage, compression):
    path = tmp_path / "bag"
    with BagWriter(path, storage, compression) as bag:
        register_type(bag.types, "m2f_ros/msg/Legend")
        bag.add_topic("/legend", "m2f_ros/msg/Legend", latched=True)
        bag.write("/legend", "m2f_ros/msg/Legend", legend_message(bag.types), 5)
        messages = [image_message(bag.types, 10**9 + i, i) for i in range(4)]
        for i, message in enumerate(messages[:2]):
            bag.write("/image", IMAGE, message, 10 + i)
        for i, message in enumerate(messages[2:]):
            bag.write("/image", IMAGE, bytes(bag.types.serialize_cdr(message, IMAGE)), 12 + i)

    types = get_typestore(Stores.LATEST)
    register_type(types, "m2f_ros/msg/Legend")
    with Reader(path) as reader:
        found = [(c.topic, stamp, types.deserialize_cdr(data, c.msgtype)) for c, stamp, data in reader.messages()]
        assert {c.topic: c.msgcount for c in reader.connections} == {"/legend": 1, "/image": 4}
        assert all(c.msgdef.data for c in reader.connections)
    assert [(topic, stamp) for topic, stamp, _ in found] == [("/legend", 5)] + [("/image", 10 + i) for i in range(4)]
    assert found[0][2].classes[0].name == "road"
    assert [m.data[0] for _, _, m in found[1:]] == [0, 1, 2, 3]
    assert [m.header.stamp.nanosec for _, _, m in found[1:]] == [0, 1, 2, 3]


def test_qos_of_the_publisher_is_offered_again(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.add_topic("/latched", IMAGE, latched=True)
        bag.add_topic("/sensor", IMAGE, best_effort=True)
        for topic in ("/latched", "/sensor", "/plain"):
            bag.write(topic, IMAGE, image_message(bag.types, 1, 0), 1)
    with Reader(tmp_path / "bag") as reader:
        qos = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}
    assert {topic: q.durability for topic, q in qos.items()} == {
        "/latched": QosDurability.TRANSIENT_LOCAL,
        "/sensor": QosDurability.VOLATILE,
        "/plain": QosDurability.VOLATILE,
    }
    assert qos["/latched"].reliability == QosReliability.RELIABLE
    assert qos["/sensor"].reliability == QosReliability.BEST_EFFORT
    assert qos["/latched"].depth == 1


def test_an_interrupted_recording_is_readable(tmp_path):
    with pytest.raises(KeyboardInterrupt), BagWriter(tmp_path / "bag") as bag:
        bag.write("/image", IMAGE, image_message(bag.types, 1, 7), 1)
        raise KeyboardInterrupt
    with Reader(tmp_path / "bag") as reader:
        assert reader.message_count == 1


def test_types_of_other_packages_come_from_the_ros_environment(tmp_path, monkeypatch):
    folder = tmp_path / "share" / "my_pkg" / "msg"
    folder.mkdir(parents=True)
    (folder / "Outer.msg").write_text("Inner inner\nstd_msgs/Header header\n")
    (folder / "Inner.msg").write_text("int32 x\n")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/absent:{tmp_path}")
    types = get_typestore(Stores.LATEST)
    register_type(types, "my_pkg/msg/Outer")
    inner = types.types["my_pkg/msg/Inner"](x=3)
    assert types.deserialize_cdr(types.serialize_cdr(inner, "my_pkg/msg/Inner"), "my_pkg/msg/Inner").x == 3


def test_clear_refusals(tmp_path, monkeypatch):
    monkeypatch.setenv("AMENT_PREFIX_PATH", "")
    with pytest.raises(SourceError, match="exists already"):
        BagWriter(tmp_path)
    with pytest.raises(SourceError, match="bag storage 'csv': must be mcap or sqlite3"):
        BagWriter(tmp_path / "a", "csv")
    with pytest.raises(SourceError, match="bag compression 'chunk': must be none, message"):
        BagWriter(tmp_path / "a", "sqlite3", "chunk")
    with BagWriter(tmp_path / "a") as bag, pytest.raises(SourceError, match="message type nav_msgs/msg/Nope"):
        bag.write("/x", "nav_msgs/msg/Nope", b"", 0)
    with pytest.raises(SourceError, match="closed already"):
        bag.write("/x", IMAGE, b"", 0)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(SourceError, match="cannot be written"):
        BagWriter(blocked / "bag")
