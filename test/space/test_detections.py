"""Detections: boxes of the things alone, and where they are in space."""

from dataclasses import replace

import numpy as np
import pytest

from m2f_ros import taxonomy
from m2f_ros.errors import SpaceError
from m2f_ros.frame.calibration import Calibration
from m2f_ros.frame.segment import Segment
from m2f_ros.space.camera_model import CameraModel
from m2f_ros.space.detections import detections
from m2f_ros.space.labelled import Labelled

CLASSES = taxonomy.get("cityscapes")
CAR, ROAD, PERSON = (CLASSES.names.index(name) for name in ("car", "road", "person"))


def frame():
    """10x8 pixels: a car at 4 m in the middle, a person without depth, the road, and a car of nobody's pixels."""
    ids = np.ones((8, 10), np.uint16)
    ids[2:6, 3:7], ids[0:2, 0:1] = 2, 3
    label = np.choose(ids, [255, ROAD, CAR, PERSON]).astype(np.uint8)
    depth = np.full((8, 10), 9, np.float32)
    depth[2:6, 3:7] = 4
    depth[2, 3] = 50  # a hole in the car
    depth[ids == 3] = np.nan
    segments = [
        Segment(1, ROAD, 0.9, 62, (0, 0, 10, 8)),
        Segment(2, CAR, 0.8, 16, (3, 2, 4, 4)),
        Segment(3, PERSON, 0.7, 2, (0, 0, 1, 2)),
        Segment(4, CAR, 0.6, 0, (0, 0, 0, 0)),
    ]
    calibration = Calibration.pinhole(10, 8, 5, 5, 4.5, 3.5)
    return Labelled("", 0, "camera", calibration, label, 255, ids=ids, segments=segments, depth=depth)


def test_things_with_their_place():
    labelled = frame()
    car, person, hidden = detections(labelled, CLASSES, CameraModel.of(labelled.calibration, (10, 8)))
    assert (car.train_id, car.score, car.id, car.box) == (CAR, 0.8, 2, (3, 2, 4, 4))
    # The middle of its pixels is the centre of the image.
    np.testing.assert_allclose(car.centre, [0, 0, 4], atol=0.41)
    assert car.centre[2] == 4 and car.centre.dtype == np.float64
    assert (person.id, person.centre) == (3, None) and (hidden.id, hidden.centre) == (4, None)


def test_without_places():
    labelled = frame()
    model = CameraModel.of(labelled.calibration, (10, 8))
    for found in (detections(labelled, CLASSES), detections(replace(labelled, depth=None), CLASSES, model)):
        assert [d.id for d in found] == [2, 3, 4] and all(d.centre is None for d in found)
    assert detections(replace(labelled, segments=()), CLASSES, model) == []


def test_depth_of_another_shape():
    labelled = replace(frame(), depth=np.ones((8, 8), np.float32))
    with pytest.raises(SpaceError, match="another shape"):
        detections(labelled, CLASSES, CameraModel.of(labelled.calibration, (10, 8)))


def test_things_of_the_street_are_where_it_put_them(street_frame):
    labelled, street = street_frame(0, 30)
    view = street.view(30)
    found = detections(labelled, CLASSES, CameraModel.of(labelled.calibration, (640, 480)))
    assert {d.id for d in found} == {s.id for s in labelled.segments if CLASSES.classes[s.train_id].thing}
    truth = np.unique(street.frame(30).instance)
    placed = {
        o.instance + part: o
        for o in street._scene.objects(view.position[2], 3.0)
        if o.instance
        for part in np.unique(o.mesh.part)
    }
    assert len(found) >= 4
    for detection in found:
        near = placed[int(truth[detection.id])]
        x, y, z = detection.centre @ view.rotation + view.position
        x0, x1, z0, z1 = near.footprint()
        # The footprint of people is a part of them.
        assert x0 - 0.5 <= x <= x1 + 0.5 and z0 - 0.5 <= z <= z1 + 0.5 and -0.05 <= y <= near.mesh.high[1]
