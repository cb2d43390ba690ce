"""segmentation_node with networks of transformers: the labels are the library's own."""

from __future__ import annotations

import sys
from array import array
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("rclpy", reason="rclpy is absent")
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
import adapted

pytestmark = pytest.mark.process
pytest.importorskip("transformers", reason="transformers is not installed")
msg = pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")


def message(image: np.ndarray, stamp: int) -> Image:
    header = Header(stamp=Time(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id="front")
    height, width, _ = image.shape
    data = array("B", image.tobytes())
    return Image(header=header, height=height, width=width, encoding="rgb8", step=3 * width, data=data)


def library(name: str, network, process, image: np.ndarray) -> np.ndarray:
    """The labels by transformers alone: processor, network, post-processing."""
    task = {"task_inputs": ["semantic"]} if name == "oneformer" else {}
    pixels = torch.as_tensor(np.asarray(process(images=image, return_tensors="pt", **task)["pixel_values"]))
    outputs = adapted.run(network, pixels.float())
    size = image.shape[:2]
    if name == "oneformer":  # which sums the scores before it resizes; this package resizes masks, as upstream
        outputs.masks_queries_logits = F.interpolate(outputs.masks_queries_logits, size, mode="bilinear")
    more = {"size": {"shortest_edge": 64, "longest_edge": 64}} if name == "eomt" else {}
    return process.post_process_semantic_segmentation(outputs, target_sizes=[size], **more)[0].numpy()


@pytest.mark.parametrize(
    "name",
    ["segformer", pytest.param("eomt", marks=pytest.mark.more), pytest.param("oneformer", marks=pytest.mark.more)],
)
def test_the_labels_are_those_of_the_library(name, segment, peer, tmp_path):
    network, process = adapted.write(name, tmp_path)
    side = 64 if name == "eomt" else 96  # the network's own size: the library's resizing rounds otherwise
    image = adapted.picture(64, side)
    node = segment(model=str(tmp_path))
    labels = peer.listen(Image, "/segmentation_node/label")
    legend = peer.listen(msg.Legend, "/segmentation_node/legend", latched=True)
    peer.stream(Image, "/camera/image", lambda stamp: message(image, stamp))
    peer.until(lambda: labels, "a label image")
    label = np.frombuffer(labels[0].data, np.uint8).reshape(64, side)
    wanted = library(name, network, process, image)
    assert len(np.unique(wanted)) > 1
    assert (label != wanted).mean() < 1e-3
    assert labels[0].header.frame_id == "front"
    assert tuple(c.name for c in legend[0].classes) == adapted.LABELS
    assert node.end() == 0


def test_segments_of_pixel_logits_are_refused_when_the_node_configures(segment, tmp_path):
    adapted.write("segformer", tmp_path)
    node = segment(model=str(tmp_path), outputs=["label", "panoptic"])
    assert node.ends() != 0
    assert node.says("parameter 'outputs' names panoptic, and the model finds no segments")
