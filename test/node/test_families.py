"""segmentation_node with networks of others: the labels are the library's own."""

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
import zoo

pytestmark = pytest.mark.process
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
    ["segformer", *(pytest.param(name, marks=pytest.mark.more) for name in ("eomt", "oneformer"))],
)
def test_the_labels_are_those_of_the_library(name, segment, peer, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    network, process = adapted.write(name, tmp_path)
    side = 64 if name in adapted.SQUARE else 96  # the network's own size: the library's resizing rounds otherwise
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


@pytest.mark.zoo
@pytest.mark.parametrize(("kind", "architecture"), [(zoo.SMP, "Unet"), ("torchvision", "lraspp_mobilenet_v3_large")])
def test_the_labels_are_those_of_torchvision_and_smp(kind, architecture, segment, peer, tmp_path):
    zoo.needs_libraries()
    network = zoo.theirs(kind, architecture)
    image = zoo.picture(64, 96)
    node = segment(model=zoo.write(kind, architecture, tmp_path, network))
    labels = peer.listen(Image, "/segmentation_node/label")
    peer.stream(Image, "/camera/image", lambda stamp: message(image, stamp))
    peer.until(lambda: labels, "a label image")
    label = np.frombuffer(labels[0].data, np.uint8).reshape(64, 96)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) / 255 for x in (zoo.IMAGENET_MEAN, zoo.IMAGENET_STD))
    if kind == zoo.SMP:
        import segmentation_models_pytorch as smp

        params = smp.encoders.get_preprocessing_params(zoo.ENCODER)
        mean, std = (torch.tensor(params[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    pixels = (torch.from_numpy(image).permute(2, 0, 1)[None] / 255 - mean) / std
    wanted = zoo.logits(network, pixels).argmax(1)[0].numpy()
    assert len(np.unique(wanted)) > 1
    assert (label != wanted).mean() < 1e-3
    assert labels[0].header.frame_id == "front"
    assert node.end() == 0


def test_the_instances_of_an_rf_detr_are_those_of_the_library(segment, peer, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    network, process = adapted.write("rf_detr", tmp_path)
    image = adapted.picture(64, 64)
    node = segment(model=str(tmp_path), track=False, score_threshold=0.3, overlap_threshold=0.0)
    labels = peer.listen(Image, "/segmentation_node/label")
    panoptic = peer.listen(Image, "/segmentation_node/panoptic")
    segments = peer.listen(msg.Segments, "/segmentation_node/segments")
    peer.stream(Image, "/camera/image", lambda stamp: message(image, stamp))
    peer.until(lambda: labels and panoptic and segments, "labels and segments")
    outputs = adapted.run(network, process(images=image)["pixel_values"])
    (library,) = process.post_process_instance_segmentation(outputs, threshold=0.3, target_sizes=[(64, 64)])
    wanted = library["segmentation"].numpy().clip(0)  # -1 is no instance
    assert (np.frombuffer(panoptic[0].data, np.uint16).reshape(64, 64) != wanted).mean() < 1e-3
    found = [(s.id, s.class_id, round(s.score, 4)) for s in segments[0].segments]
    assert found == [(s["id"], s["label_id"], round(s["score"], 4)) for s in library["segments_info"]]
    classes = np.array([255, *(s["label_id"] for s in library["segments_info"])])
    label = np.frombuffer(labels[0].data, np.uint8).reshape(64, 64)
    assert (label != classes[wanted]).mean() < 1e-3
    assert 255 in label and len(np.unique(label)) > 2
    assert node.end() == 0


def test_an_onnx_file_of_somebody_else(segment, peer, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 3, 3, stride=2, padding=1).eval()
    example = torch.zeros(1, 3, 64, 96)
    torch.onnx.export(network, (example,), tmp_path / "own.onnx", dynamo=True, verbose=False)
    (tmp_path / "m2f.yaml").write_text(
        "{gives: pixel_logits, range: 255, mean: [120, 120, 120], std: [60, 60, 60], classes: [road, car, sky]}"
    )
    image = adapted.picture(64, 96)
    with torch.no_grad():
        logits = network((torch.from_numpy(image).permute(2, 0, 1)[None].float() - 120) / 60)
    wanted = F.interpolate(logits, (64, 96), mode="bilinear").argmax(1)[0].numpy()
    node = segment(model=f"onnx:{tmp_path}/own.onnx", backend="auto")
    labels = peer.listen(Image, "/segmentation_node/label")
    peer.stream(Image, "/camera/image", lambda stamp: message(image, stamp))
    peer.until(lambda: labels, "a label image")
    label = np.frombuffer(labels[0].data, np.uint8).reshape(64, 96)
    assert len(np.unique(wanted)) == 3
    assert (label != wanted).mean() < 1e-3
    assert node.end() == 0


@pytest.mark.more
def test_labels_alone_have_no_confidence(segment, tmp_path):
    class Labels(torch.nn.Module):
        def forward(self, image):
            return image.argmax(1)

    torch.export.save(torch.export.export(Labels(), (torch.zeros(1, 3, 64, 96),)), tmp_path / "own.pt2")
    (tmp_path / "m2f.yaml").write_text(
        "{gives: label_map, range: 255, mean: [0, 0, 0], std: [1, 1, 1], classes: [road, car, sky]}"
    )
    node = segment(model=str(tmp_path), backend="auto", outputs=["label", "confidence"])
    assert node.ends() != 0
    assert node.says("parameter 'outputs' names confidence, and the model gives labels alone")


def test_segments_of_pixel_logits_are_refused_when_the_node_configures(segment, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    adapted.write("segformer", tmp_path)
    node = segment(model=str(tmp_path), outputs=["label", "panoptic"])
    assert node.ends() != 0
    assert node.says("parameter 'outputs' names panoptic, and the model finds no segments")
