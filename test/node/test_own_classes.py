"""segmentation_node with a checkpoint of classes that no built-in taxonomy has."""

import shutil
from dataclasses import replace

import pytest

from m2f_ros.taxonomy import ClassInfo, Taxonomy

pytest.importorskip("rclpy", reason="rclpy is absent")
msg = pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")


@pytest.mark.process
def test_the_legend_has_the_classes_that_the_checkpoint_carries(start, peer, small_model, tmp_path):
    from m2f_ros.model import read_config, write_config

    names = ("stack of boxes", *(f"bay {i}" for i in range(18)))
    classes = tuple(ClassInfo(i, name, (i, 2 * i, 90), i == 3) for i, name in enumerate(names))
    own = Taxonomy("cityscapes", classes)  # called as one that is built in
    folder = shutil.copytree(small_model, tmp_path / "own")
    write_config(replace(read_config(folder), labels=names, taxonomy=own), folder)
    start("segmentation_node", "--ros-args", "-p", f"model:={folder}", "-p", "device:=cpu", "-p", "backend:=eager")
    legend = peer.listen(msg.Legend, "/segmentation_node/legend", latched=True)
    peer.until(lambda: legend, "the legend")
    assert [(c.id, c.name, tuple(c.color), c.thing) for c in legend[0].classes] == [
        (c.id, c.name, c.colour, c.thing) for c in classes
    ]
