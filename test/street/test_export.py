"""The simulated street as a data set on disk."""

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from m2f_ros.cli import m2f
from m2f_ros.errors import OutputError
from m2f_ros.street import Street
from m2f_ros.street.export import export_street


def test_written_frames_are_the_street(tmp_path):
    result = CliRunner().invoke(
        m2f, ["street", str(tmp_path), "--seeds", "4..5", "--frames", "9", "--every", "8", "--size", "128x96"]
    )
    assert result.exit_code == 0, result.output
    names = ["00004_00000", "00004_00008", "00005_00000", "00005_00008"]
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == [f"{n}.jpg" for n in names]
    assert sorted(p.name for p in (tmp_path / "labels").iterdir()) == [f"{n}.png" for n in names]
    frame = Street(seed=5, width=128, height=96).frame(8)
    label = cv2.imread(str(tmp_path / "labels" / "00005_00008.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(label, frame.label)
    # One number for each thing, and one thing for each number.
    instances = cv2.imread(str(tmp_path / "instances" / "00005_00008.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(instances // 256, label)
    pairs = np.unique(np.stack([instances, frame.instance])[:, frame.instance > 0], axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1] > 1
    image = cv2.imread(str(tmp_path / "images" / "00005_00008.jpg"))[..., ::-1]
    assert np.abs(image.astype(int) - frame.image).mean() < 8  # JPEG
    assert np.abs(image.astype(int) - frame.image[..., ::-1]).mean() > 8  # and the channels in order


def test_frames_that_are_there_are_not_drawn_again(tmp_path):
    list(export_street(tmp_path, [0], [0, 1], 64, 48))
    kept = tmp_path / "images" / "00000_00000.jpg"
    kept.write_bytes(b"kept")
    (tmp_path / "images" / "00000_00001.jpg").unlink()
    list(export_street(tmp_path, [0], [0, 1], 64, 48))
    assert kept.read_bytes() == b"kept"
    assert (tmp_path / "images" / "00000_00001.jpg").stat().st_size > 100


def test_wrong_places_and_numbers(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file: is not a folder"):
        list(export_street(tmp_path / "file", [0], [0], 64, 48))
    for option, value in (("--seeds", "4"), ("--seeds", "5..4"), ("--size", "64"), ("--size", "axb")):
        result = CliRunner().invoke(m2f, ["street", str(tmp_path), option, value])
        assert result.exit_code == 2
        assert repr(value) in result.output
