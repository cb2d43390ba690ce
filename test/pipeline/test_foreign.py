"""Networks that others made, in a file with an m2f.yaml by hand: the labels of PyTorch, and mistakes in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F

from m2f_ros.errors import CheckpointError, ConfigError
from m2f_ros.model import load
from m2f_ros.pipeline import Frame
from m2f_ros.pipeline.backends.foreign import ports
from m2f_ros.pipeline.build import PipelineSettings, build_pipeline
from m2f_ros.pipeline.exported import FILE, Export, is_export
from m2f_ros.pipeline.tuning import Tuning
from m2f_ros.taxonomy import from_names

SIZE = 48, 64
CLASSES = ["road", "car", "sky"]
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]
BY_HAND = {"gives": "pixel_logits", "range": 1, "mean": MEAN, "std": STD, "classes": CLASSES}
LIBRARIES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",), "pt2": ()}
FILES = {"onnx": "network.onnx", "openvino": "network.xml", "pt2": "network.pt2"}


class Pixels(nn.Module):
    """Logits at half of the input's size, of images in one order of axes."""

    def __init__(self, nhwc: bool = False):
        super().__init__()
        self.nhwc = nhwc
        self.layer = nn.Conv2d(3, len(CLASSES), 3, stride=2, padding=1)

    def forward(self, image):
        logits = self.layer(image.permute(0, 3, 1, 2) if self.nhwc else image)
        return logits.permute(0, 2, 3, 1) if self.nhwc else logits


class Labels(Pixels):
    def forward(self, image):
        return super().forward(image).argmax(1, keepdim=True)


class Masks(nn.Module):
    """Masks first, and an output of no use."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 3, stride=4, padding=1)
        self.classes = nn.Linear(5, 5 * (len(CLASSES) + 1))

    def forward(self, image):
        masks = 4 * self.layer(image)
        classes = 4 * self.classes(masks.mean((2, 3))).unflatten(1, (5, -1))
        return {"masks": masks, "classes": classes, "features": masks.relu()}


def write(folder: Path, to: str, network: nn.Module, shape=(1, 3, *SIZE), open_sizes: bool = False, **keys) -> Path:
    """Write a network as a stranger would, and m2f.yaml."""
    for package in LIBRARIES[to]:
        pytest.importorskip(package, reason=f"{package} is not installed")
    network, example, path = network.eval(), torch.zeros(2 if open_sizes else 1, *shape[1:]), folder / FILES[to]
    sides = {0: torch.export.Dim("n"), 2: 16 * torch.export.Dim("h"), 3: 16 * torch.export.Dim("w")}
    shapes = (sides,) if open_sizes else None
    program = torch.export.export(network, (example,), dynamic_shapes=shapes)
    if to == "pt2":
        torch.export.save(program, path)
    elif to == "onnx":
        torch.onnx.export(program, (), path, dynamo=True, verbose=False, input_names=["image"])
    else:
        import openvino

        converted = openvino.convert_model(program)
        converted.reshape(list(shape))
        openvino.save_model(converted, path, compress_to_fp16=False)
    describe(folder, **keys)
    return folder


def describe(folder: Path, **keys) -> None:
    content = {key: value for key, value in (BY_HAND | keys).items() if value is not None}
    (folder / FILE).write_text(yaml.safe_dump(content))


def run(model: object, **options):
    return build_pipeline(PipelineSettings(str(model), device="cpu", **options))


def picture(height: int, width: int, seed: int = 3) -> Frame:
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 9 + 1, width // 9 + 1, 3), np.uint8)
    return Frame(np.ascontiguousarray(blocks.repeat(9, 0).repeat(9, 1)[:height, :width]), "rgb8")


def normalised(frame: Frame, mean=MEAN, std=STD, scale=255):
    image = torch.from_numpy(frame.data).permute(2, 0, 1)[None] / scale
    return (image - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


@torch.no_grad()
def expected(network: nn.Module, pixels: torch.Tensor) -> np.ndarray:
    logits = F.interpolate(network(pixels), pixels.shape[2:], mode="bilinear")
    return logits.argmax(1)[0].numpy()


def network(kind=Pixels, *args):
    torch.manual_seed(0)
    return kind(*args)


MORE = pytest.mark.more


@pytest.mark.parametrize("to", ["onnx", pytest.param("openvino", marks=MORE), pytest.param("pt2", marks=MORE)])
def test_a_folder_with_ten_lines_is_a_model(tmp_path, to):
    pixels = network()
    write(tmp_path, to, pixels)
    pipeline = run(tmp_path)
    frames = [picture(*SIZE, seed) for seed in (3, 4)]
    with pipeline.submit_batch(frames, {"label", "confidence", "overlay"}) as results:  # the file takes one image
        for frame, result in zip(frames, results, strict=True):
            wanted = expected(pixels, normalised(frame))
            assert len(np.unique(wanted)) == 3
            assert (result.label != wanted).mean() < 1e-3
            assert result.confidence.min() >= 84
    assert pipeline.segment(picture(53, 91), {"label"}).label.shape == (53, 91)  # stretched to the file's size
    assert [c.name for c in pipeline.taxonomy.classes] == CLASSES
    if to == "onnx":
        assert (run(f"onnx:{tmp_path}/network.onnx").segment(frames[0]).label == results[0].label).all()


@MORE
def test_every_size_where_the_file_leaves_it_open(tmp_path):
    pixels = network()
    write(tmp_path, "onnx", pixels, open_sizes=True, stride=16)
    pipeline = run(tmp_path)
    for size in (SIZE, (64, 32)):
        frame = picture(*size)
        assert (pipeline.segment(frame).label != expected(pixels, normalised(frame))).mean() < 1e-3
    describe(tmp_path, size=[32, 96])
    assert run(tmp_path).resize.place(50, 50).network == (32, 96)


def test_channels_axes_and_range(tmp_path):
    pixels = network(Pixels, True)
    mean = [100.0, 110.0, 120.0]  # of B, G, R
    keys = {"range": 255, "mean": mean, "std": [60, 50, 40], "channels": "bgr", "axes": "nhwc"}
    write(tmp_path, "pt2", pixels, (1, *SIZE, 3), **keys)
    frame = picture(*SIZE)
    image = normalised(Frame(np.ascontiguousarray(frame.data[..., ::-1]), "rgb8"), mean, [60.0, 50.0, 40.0], 1)
    pixels.nhwc = False
    assert (run(tmp_path).segment(frame).label != expected(pixels, image)).mean() < 1e-3


@pytest.mark.parametrize("to", ["pt2", pytest.param("onnx", marks=MORE)])
def test_labels_alone(tmp_path, to):
    labels = network(Labels)
    colours = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    write(tmp_path, to, labels, gives="label_map", colours=colours)
    pipeline = run(tmp_path)
    frame = picture(*SIZE)
    result = pipeline.segment(frame, {"label", "color", "shares"})
    with torch.no_grad():
        wanted = labels(normalised(frame))[0, 0].numpy().repeat(2, 0).repeat(2, 1)
    assert np.array_equal(result.label, wanted)
    assert np.array_equal(result.images["color"], np.array(colours, np.uint8)[wanted][..., ::-1])
    assert result.shares[:3] == pytest.approx([(wanted == i).mean() for i in range(3)])
    larger = pipeline.segment(picture(96, 128), {"label"}).label
    assert larger.shape == (96, 128) and larger.max() == 2
    with pytest.raises(ConfigError, match="gives labels alone: leave out output 'confidence' and min_confidence"):
        pipeline.segment(frame, {"confidence"})
    with pytest.raises(ConfigError, match=r"min_confidence is 0\.5, and the model gives labels alone"):
        pipeline.tuning = Tuning(min_confidence=0.5)
    with pytest.raises(ConfigError, match=r"smoothing is 0\.5, and the model gives labels alone, without scores"):
        run(tmp_path, smoothing=0.5)
    describe(tmp_path, gives="label_map", classes=["road"])
    with pytest.raises(CheckpointError, match=r"it gives label [12], and m2f.yaml has classes 0 to 0, and 255"):
        run(tmp_path).segment(frame)


class SomeLabels(Labels):
    def forward(self, image):
        label = super().forward(image)
        return torch.where(label == 1, 255, label)


def test_labels_with_unlabelled_pixels_are_painted(tmp_path):
    write(tmp_path, "pt2", network(SomeLabels), gives="label_map", colours=[[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    frame = picture(*SIZE)
    result = run(tmp_path).segment(frame, {"label", "color", "overlay", "shares"})
    none = result.label == 255
    assert none.any() and not result.images["color"][none].any()
    assert np.array_equal(result.images["overlay"][none], frame.data[none][..., ::-1])
    assert result.shares[3] == pytest.approx(none.mean())


@pytest.mark.parametrize("to", ["pt2", pytest.param("onnx", marks=MORE)])
def test_masks_and_classes(tmp_path, to):
    masks = network(Masks)
    names = ["masks", "classes"]
    write(tmp_path, to, masks)
    if to == "onnx":  # whose exporter makes names up
        names = [*ports(Export.read(tmp_path))[1]][:2]
    describe(tmp_path, gives="mask_classification", outputs=names)
    frame = picture(*SIZE)
    result = run(tmp_path).segment(frame, {"label", "panoptic"})
    with torch.no_grad():
        found = masks(normalised(frame))
        sides = F.interpolate(found["masks"], SIZE, mode="bilinear").sigmoid()
        scores = torch.einsum("bqc,bqhw->bchw", found["classes"].softmax(-1)[..., :-1], sides)
    assert (result.label != scores.argmax(1)[0].numpy()).mean() < 1e-3
    describe(tmp_path, gives="mask_classification")
    with pytest.raises(CheckpointError, match=r"it has 3 outputs .* and mask_classification are 2: name the right"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"std": None}, "key 'std' is missing; correct it"),
        ({"classes": ["road", "car"]}, r"output \w+ is float32 \(1, 3, 24, 32\), of 3 classes, and m2f.yaml has 2"),
        ({"classes": None}, "classes, taxonomy: they are missing, and one is needed"),
        ({"taxonomy": "camvid"}, "classes, taxonomy: they are both there, and one is enough"),
        ({"colours": [[1, 2, 3]]}, "colours: expected one for each of 3 classes, found 1"),
        ({"gives": "labels"}, "gives: expected pixel_logits, label_map or mask_classification, found 'labels'"),
        ({"gives": "label_map"}, "and a label_map is of whole numbers: that may be gives: pixel_logits"),
        ({"gives": "mask_classification"}, "it has 1 outputs .* and mask_classification are 2"),
        ({"axes": "nhwc"}, r"its input image is float32 \(1, 3, 48, 64\), which is nchw, .* write axes: nchw"),
        ({"size": [64, 64]}, r"and m2f.yaml says size: \[64, 64\]; correct it, or leave it out"),
        ({"range": 255}, "range: it is 255, but the means are 0.5 at most, of pixels of 0 to 1: take 1"),
        ({"mean": [123, 116, 103]}, "range: it is 1, but a mean is 123, which is of pixels of 0 to 255: take 255"),
        ({"meen": [0, 0, 0]}, r"unknown key 'meen'; known are gives, .* \(meant: mean\?\)"),
        ({"outputs": ["logits"]}, "it has no output 'logits', which m2f.yaml names; there are"),
        ({"file": "other.onnx"}, r"file: there is no other\.onnx in this folder"),
        ({"file": "../network.onnx"}, r"'\.\./network\.onnx' is no name of a file in this folder"),
        ({"file": "network.pb"}, r"'network\.pb' is no known file; known are \.onnx, \.xml, \.pt2"),
    ],
    ids=lambda x: "-".join(f"{k}={v}" for k, v in x.items()) if isinstance(x, dict) else "",
)
def test_mistakes_are_one_line(stranger, keys, reason):
    describe(stranger, **keys)
    with pytest.raises((CheckpointError, ConfigError), match=reason) as error:
        run(stranger)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return write(tmp_path_factory.mktemp("stranger"), "onnx", network())


@pytest.mark.parametrize(
    ("kind", "shape", "reason"),
    [
        (lambda: nn.Conv2d(4, 3, 1), (1, 4, *SIZE), r"of 4 channels; images have 3, R, G and B"),
        (lambda: network(Pixels, True), (1, *SIZE, 3), "which is nhwc, and m2f.yaml says nchw: write axes: nhwc"),
        (lambda: network(), (4, 3, *SIZE), "of 4 images at a time; export it for 1, or an open number"),
        (lambda: network(Labels), (1, 3, *SIZE), "pixel_logits are float numbers: that may be gives: label_map"),
        (
            lambda: nn.Flatten(),
            (1, 3, *SIZE),
            r"output output0 is float32 \(1, 9216\), and pixel_logits have four axes",
        ),
    ],
    ids=["four channels", "nhwc", "batch of four", "labels", "no map"],
)
def test_other_networks_are_refused(tmp_path, kind, shape, reason):
    example = torch.zeros(shape)
    torch.export.save(torch.export.export(kind().eval(), (example,)), tmp_path / "network.pt2")
    describe(tmp_path)
    with pytest.raises(CheckpointError, match=reason):
        run(tmp_path)


def test_names_of_files(stranger, tmp_path):
    assert is_export(f"onnx:{stranger}/network.onnx") and not is_export("owner/name")
    describe(stranger)
    with pytest.raises(CheckpointError, match=r"there is no file .*absent\.onnx"):
        run(f"onnx:{stranger}/absent.onnx")
    with pytest.raises(CheckpointError, match=r"'network\.onnx' is no pt2 file"):
        run(f"pt2:{stranger}/network.onnx")
    (tmp_path / "network.onnx").write_bytes(b"no network")
    with pytest.raises(
        CheckpointError, match=r"m2f\.yaml cannot be read: No such file.*; write one \(docs/export\.md\)"
    ):
        run(f"onnx:{tmp_path}/network.onnx")
    describe(tmp_path)
    with pytest.raises(CheckpointError, match=r"network\.onnx is refused by onnxruntime"):
        run(tmp_path)
    with pytest.raises(CheckpointError, match="a network in a file, which the pipeline runs"):
        load(f"onnx:{stranger}/network.onnx")


def test_settings_that_do_not_fit(stranger):
    describe(stranger)
    with pytest.raises(ConfigError, match=r"taxonomy 'cityscapes' is not that of model"):
        run(stranger, taxonomy="cityscapes")
    with pytest.raises(ConfigError, match=r"backend 'eager': .* take 'auto'"):
        run(stranger, backend="eager")


def test_a_taxonomy_beside_it(stranger):
    from_names("yard", CLASSES).to_yaml(stranger / "yard.yaml")
    describe(stranger, classes=None, taxonomy="yard.yaml")
    assert Export.read(stranger).config.labels == tuple(CLASSES)
    describe(stranger, classes=None, taxonomy={"name": "yard", "classes": [{"id": 0, "name": "ground"}]})
    assert Export.read(stranger).config.labels == ("ground",)
