"""Messages of outputs in space: what is written is read again, field by field."""

import numpy as np
import pytest

from m2f_ros.bags.messages import Messages
from m2f_ros.bags.reader import Bag
from m2f_ros.bags.space_messages import DETECTIONS, GRID, SCAN, SpaceMessages
from m2f_ros.bags.writer import BagWriter
from m2f_ros.space.detections import Detection
from m2f_ros.space.obstacles import Scan

SECOND = 10**9


@pytest.fixture(params=["mcap", "sqlite3"])
def written(tmp_path, request):
    """written(type, make): the message that `make(SpaceMessages, header)` makes, as a bag has it."""

    def write(kind, make):
        with_space = BagWriter(tmp_path / "bag", request.param)
        makes = SpaceMessages(with_space.types)
        header = Messages(with_space.types).header(3 * SECOND + 5, "base_link")
        with_space.write("/one", kind, make(makes, header), SECOND)
        with_space.close()
        with Bag(tmp_path / "bag") as bag:
            assert bag.type_of("/one") == kind
            (message,) = bag.messages(["/one"])
            assert message.stamp_ns == 3 * SECOND + 5
            return message.decode()

    return write


def test_a_grid(written):
    cells = np.arange(-1, 11, dtype=np.int8).reshape(3, 4)
    found = written(GRID, lambda make, header: make.grid(cells, 0.25, (1.0, -2.0, 0.5), header))
    assert (found.info.height, found.info.width, found.info.resolution) == (3, 4, 0.25)
    position, turn = found.info.origin.position, found.info.origin.orientation
    assert (position.x, position.y, position.z) == (1.0, -2.0, 0.5)
    assert (turn.x, turn.y, turn.z, turn.w) == (0, 0, 0, 1)
    assert np.array_equal(found.data.reshape(3, 4), cells) and found.header.frame_id == "base_link"


def test_a_scan(written):
    ranges, classes = np.array([1.5, np.inf, np.nan], np.float32), np.array([11, 255, 255], np.uint8)
    scan = Scan(-0.5, 0.5, 0.5, 0.1, 20.0, ranges, classes, 255)
    found = written(SCAN, lambda make, header: make.scan(scan, header))
    assert (found.angle_min, found.angle_max, found.angle_increment) == (-0.5, 0.5, 0.5)
    assert (found.range_min, found.range_max) == pytest.approx((0.1, 20.0))
    assert np.array_equal(found.ranges, ranges, equal_nan=True) and found.intensities.tolist() == [11, 255, 255]


def test_detections(written):
    things = [
        Detection(13, 0.75, 7, (10, 20, 5, 8), np.array([1.0, 2.0, 3.0])),
        Detection(11, 0.5, 9, (0, 0, 1, 1)),
    ]
    found = written(DETECTIONS, lambda make, header: make.detections(things, header))
    car, person = found.detections
    assert (car.id, car.results[0].hypothesis.class_id, car.results[0].hypothesis.score) == ("7", "13", 0.75)
    assert (car.bbox.center.position.x, car.bbox.center.position.y) == (12.5, 24.0)
    assert (car.bbox.size_x, car.bbox.size_y, car.header.frame_id) == (5.0, 8.0, "base_link")
    places = [one.results[0].pose.pose.position for one in (car, person)]
    assert [(at.x, at.y, at.z) for at in places] == [(1.0, 2.0, 3.0), (0.0, 0.0, 0.0)]
