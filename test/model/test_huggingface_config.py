"""Configs as transformers writes and reads them: the same network, classes and pixels, or one line that refuses."""

import json

import numpy as np
import pytest
import torch

from m2f_ros import taxonomy
from m2f_ros.errors import CheckpointError
from m2f_ros.model import MaskClassification, ModelConfig, SwinConfig, build, load, save
from m2f_ros.pipeline import Frame, Pipeline

transformers = pytest.importorskip("transformers", reason="transformers, the oracle, is not installed")
Image = pytest.importorskip("PIL.Image", reason="Pillow, with which transformers resizes, is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

SWIN = dict(embed_dim=16, depths=[1, 2, 1, 1], num_heads=[1, 1, 2, 2], window_size=4)
SMALL = dict(
    feature_size=64,
    mask_feature_size=64,
    hidden_dim=64,
    encoder_feedforward_dim=32,
    encoder_layers=1,
    decoder_layers=3,
    dim_feedforward=32,
    num_attention_heads=4,
    num_queries=5,
)
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def oracle(folder, swin=None, **config):
    """Write transformers' network with random weights, and give it."""
    backbone = transformers.SwinConfig(**SWIN | (swin or {}), out_features=STAGES)
    torch.manual_seed(0)
    network = transformers.Mask2FormerForUniversalSegmentation(
        transformers.Mask2FormerConfig(backbone_config=backbone, **SMALL | config)
    ).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    network.save_pretrained(folder)
    transformers.Mask2FormerImageProcessorPil(do_resize=False).save_pretrained(folder)
    return network


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    oracle(folder, id2label={0: "road", 1: "car", 2: "sky"})
    return folder


@pytest.fixture
def change(checkpoint, tmp_path):
    """change(file, **values): the checkpoint with other values in one of its files; a value of ... takes the key out.

    Keys with a dot lie in an object in the file.
    """
    for path in checkpoint.iterdir():
        (tmp_path / path.name).symlink_to(path)

    def change(file, **values):
        path = tmp_path / f"{file}.json"
        content = json.loads(path.read_text())
        for key, value in values.items():
            *outer, key = key.split("__")
            target = content[outer[0]] if outer else content
            target.pop(key, None)
            if value is not ...:
                target[key] = value
        path.unlink()
        path.write_text(json.dumps(content))
        return tmp_path

    return change


def assert_same_network(folder, theirs, limit=1e-9):
    pixels = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.inference_mode():
        mine, other = load(folder, dtype=torch.float64)(pixels), theirs.double()(pixel_values=pixels)
    assert (mine.class_logits - other.class_queries_logits).abs().max() < limit
    assert (mine.mask_logits - other.masks_queries_logits).abs().max() < limit


def test_another_epsilon_of_swin_s_norms(tmp_path):
    theirs = oracle(tmp_path, {"layer_norm_eps": 0.05})
    assert_same_network(tmp_path, theirs)
    save(load(tmp_path), tmp_path / "ours")
    assert ModelConfig.read(tmp_path / "ours").backbone.layer_norm_eps == 0.05


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_state_dict_of_transformers_by_itself_and_in_a_trainer_s(prefix, tmp_path):
    theirs = oracle(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    own = {"loss.weight": torch.ones(3)} if prefix else {}
    state = {f"{prefix}{key}": value for key, value in theirs.state_dict().items()} | own
    torch.save({"state_dict": state}, tmp_path / "pytorch_model.bin")
    assert_same_network(tmp_path, theirs)


def test_the_two_classes_that_transformers_leaves_out(tmp_path, caplog):
    theirs = oracle(tmp_path)
    assert "id2label" not in json.loads((tmp_path / "config.json").read_text())
    assert ModelConfig.read(tmp_path).labels == tuple(theirs.config.id2label.values()) == ("LABEL_0", "LABEL_1")
    assert_same_network(tmp_path, theirs)
    assert [record.getMessage() for record in caplog.records if "names no classes" in record.getMessage()] == [
        f"{tmp_path}/config.json: names no classes: they are called LABEL_0 to LABEL_1; id2label would name them"
    ]


def test_a_number_of_classes_without_names(change):
    folder = change("config", id2label=..., label2id=..., num_labels=3)
    assert load(folder).config.labels == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_classes_in_another_order_in_the_file_and_with_stale_ids_by_name(change, caplog):
    names = {"10": "k", **{str(i): "abcdefghij"[i] for i in range(10)}}
    assert ModelConfig.read(change("config", id2label=names, label2id={"a": 1})).labels == tuple("abcdefghijk")
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.endswith("label2id has other classes than id2label, which is taken, as transformers does")


LABELS = {
    "from 1": ({"1": "road", "2": "car", "3": "sky"}, "has the ids 1 to 3 for 3 classes"),
    "gaps": ({"0": "road", "1": "car", "3": "sky"}, "has the ids 0 to 3 for 3 classes; .* are numbered 0 to 2"),
    "one id twice": ({"0": "road", "00": "car", "1": "sky"}, "has the ids 0 to 1 for 3 classes"),
    "below 0": ({"-1": "void", "0": "road", "1": "car"}, "has the ids -1 to 1"),
    "no names": ({"0": 5, "1": "car", "2": "sky"}, "id2label must map '0', '1', … to class names"),
    "a list": (["road", "car", "sky"], "id2label must map"),
}


@pytest.mark.parametrize(("id2label", "message"), LABELS.values(), ids=LABELS)
def test_ids_that_are_not_the_network_s(id2label, message, change):
    with pytest.raises(CheckpointError, match=message):
        load(change("config", id2label=id2label))


# key -> value, message. In `backbone__` those of the backbone.
REFUSED = {
    "num_labels": (5, "num_labels is 5, but id2label has 3 classes"),
    "feature_size": (128, "feature_size is 128; only that of hidden_dim, 64, is supported"),
    "mask_feature_size": (..., "mask_feature_size is None; only that of hidden_dim, 64"),  # 256 where it is not given
    "hidden_dim": (256.0, "hidden_dim is 256.0; it must be a whole number"),
    "hidden_size": (128, "hidden_dim is 64; but hidden_size, another name of it, is 128"),
    "num_attention_heads": (3, "hidden_dim is 64; it must be a multiple of 32 and of num_attention_heads, 3"),
    "feature_strides": ([4, 8, 16, 64], r"feature_strides is \[4, 8, 16, 64\]; only"),
    "common_stride": (8, "common_stride is 8; only 4 is supported"),
    "num_feature_levels": (4, "num_feature_levels is 4; only 3"),
    "pre_norm": (True, "pre_norm is True; only False"),
    "enforce_input_projection": (True, "enforce_input_projection is True"),
    "activation_function": ("gelu", "activation_function is 'gelu'; only 'relu'"),
    "decoder_layers": (1, "decoder_layers is 1; it must be a whole number from 2"),
    "num_queries": ("5", "num_queries is '5'"),
    "quantization_config": ({"bits": 8}, "quantization_config is not supported"),
    "per_layer_config": ({"0": {"dim_feedforward": 8}}, "per_layer_config is not supported"),
    "backbone_config__hidden_act": ("relu", "backbone_config.hidden_act is 'relu'; only 'gelu'"),
    "backbone_config__qkv_bias": (False, "backbone_config.qkv_bias is False"),
    "backbone_config__use_absolute_embeddings": (True, "backbone_config.use_absolute_embeddings is True"),
    "backbone_config__path_norm": (False, "backbone_config.path_norm is False"),
    "backbone_config__patch_size": (2, "backbone_config.patch_size is 2; only 4"),
    "backbone_config__num_channels": (4, "backbone_config.num_channels is 4; only 3"),
    "backbone_config__depths": ([1, 2, 1], "backbone_config.depths is .* it must be 4 whole numbers"),
    "backbone_config__num_heads": ([1, 1, 2, 3], "backbone_config.num_heads is .* divide its stage's channels"),
    "backbone_config__num_attention_heads": ([2, 2, 2, 2], "num_attention_heads, another name of it"),
    "backbone_config__out_features": (STAGES[1:], "backbone_config.out_features is"),
    "backbone_config__out_indices": ([0, 1, 2, 3], "backbone_config.out_indices is"),
    "backbone_config__layer_norm_eps": (0, "backbone_config.layer_norm_eps is 0; it must be a number above 0"),
    "backbone_config__model_type": ("maskformer-swin", "backbone 'maskformer-swin' is not supported"),
}


@pytest.mark.parametrize(("key", "value", "message"), [(k, *v) for k, v in REFUSED.items()], ids=REFUSED)
def test_what_the_network_is_not_built_for(key, value, message, change):
    with pytest.raises(CheckpointError, match=message) as caught:
        ModelConfig.read(change("config", **{key: value}))
    assert "\n" not in str(caught.value)


def test_a_backbone_that_is_only_named(change):
    folder = change("config", backbone_config=None, backbone="microsoft/swin-tiny-patch4-window7-224")
    with pytest.raises(CheckpointError, match=r"backbone is 'microsoft/swin-tiny-.*', a name alone"):
        ModelConfig.read(folder)


def test_other_names_of_the_same(change):
    folder = change("config", hidden_dim=..., hidden_size=64, decoder_layers=..., num_hidden_layers=3)
    assert_same_network(folder, transformers.Mask2FormerForUniversalSegmentation.from_pretrained(folder).eval())


def picture(height, width):
    """(height, width, 3) uint8 RGB, smooth, so that two ways to resize it differ little."""
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    return np.stack([255 * x, 255 * y, 255 * (1 - x) * y], -1).astype(np.uint8)


class Seen:
    """A backend that keeps what the network would have seen."""

    name, dtype = "seen", torch.float32

    def __init__(self, config):
        self.config = config

    def build(self, network, batch):
        pass

    def __call__(self, pixels):
        self.pixels = pixels
        queries, classes = self.config.num_queries, self.config.num_classes
        height, width = (side // 4 for side in pixels.shape[2:])
        return MaskClassification(torch.zeros(1, queries, classes + 1), torch.zeros(1, queries, height, width))


def seen(folder, image):
    """The network's input (1, 3, height, width) for an RGB image, as this package makes it and as transformers does."""
    config = ModelConfig.read(folder)
    backend = Seen(config)
    model = type("Model", (), {"config": config})()
    pipeline = Pipeline(model, taxonomy.of_labels("test", config.labels), device="cpu", backend=backend)
    pipeline.submit(Frame(image, "rgb8")).result()
    pipeline.close()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    return backend.pixels, torch.from_numpy(processor(Image.fromarray(image), return_tensors="np")["pixel_values"])


NORMALISED = {
    "as written": {},
    "not normalised": {"do_normalize": False},
    "not normalised, as null": {"do_normalize": None},
    "not rescaled": {"do_rescale": False},
    "neither": {"do_rescale": False, "do_normalize": False},
    "another factor": {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1.0, 0.5, 2]},
    "one number": {"image_mean": 0.5, "image_std": 0.25},
    "no mean": {"image_mean": ..., "image_std": ...},
    "labels' own": {"ignore_index": 0, "do_reduce_labels": True, "num_labels": 7},
}


@pytest.mark.parametrize("values", NORMALISED.values(), ids=NORMALISED)
def test_pixels_are_normalised_as_the_file_says(values, change):
    mine, theirs = seen(change("preprocessor_config", **values), picture(64, 96))
    assert mine.shape == theirs.shape == (1, 3, 64, 96)
    torch.testing.assert_close(mine, theirs.float(), atol=1e-5, rtol=1e-5)


# size, other values -> (height, width) of the network's input for an image of 120 x 200.
SIZES = {
    "edges": ({"shortest_edge": 96, "longest_edge": 300}, {}, (96, 160)),
    "the longer edge decides": ({"shortest_edge": 96, "longest_edge": 107}, {}, (64, 128)),
    "a number": (96, {"max_size": 128}, (96, 128)),
    "height and width": ({"height": 64, "width": 96}, {}, (64, 96)),
    "a list": ([64, 96], {}, (64, 96)),
    "no multiple": ({"height": 70, "width": 90}, {}, (96, 96)),
    "a box": ({"max_height": 160, "max_width": 160}, {}, (96, 160)),
    "none": (None, {"max_size": 100}, (64, 128)),
    "not resized": ({"height": 64, "width": 64}, {"do_resize": False}, None),
}


@pytest.mark.parametrize(("size", "values", "expected"), SIZES.values(), ids=SIZES)
def test_sizes_as_the_file_says(size, values, expected, change):
    folder = change("preprocessor_config", **{"do_resize": True, "size": size} | values)
    mine, theirs = seen(folder, picture(120, 200))
    if expected is None:
        assert theirs.shape[2:] == (120, 200)
        assert mine.shape[2:] == (128, 192)
        return
    assert mine.shape[2:] == theirs.shape[2:] == expected
    assert (mine - theirs).abs().max() < 0.04  # two levels of 255: Pillow resizes in whole numbers


def test_an_image_processor_in_the_file_of_a_processor(change):
    folder = change("preprocessor_config", image_mean=[0.5, 0.5, 0.5])
    file = folder / "processor_config.json"
    file.write_text(json.dumps({"processor_class": "Mask2FormerProcessor"}))
    assert ModelConfig.read(folder).mean == (127.5,) * 3
    inner = {"image_processor_type": "Mask2FormerImageProcessor", "image_mean": [0.1, 0.2, 0.4], "do_resize": False}
    file.write_text(json.dumps({"image_processor": inner}))
    theirs = transformers.Mask2FormerImageProcessorPil.from_pretrained(folder)
    assert ModelConfig.read(folder).mean == pytest.approx([255 * v for v in theirs.image_mean])
    assert theirs.image_mean == (0.1, 0.2, 0.4)


def test_the_published_size_would_squash_images_and_is_not_followed(change, caplog):
    folder = change("preprocessor_config", do_resize=True, size={"height": 384, "width": 384})
    assert seen(folder, picture(120, 200))[0].shape[2:] == (128, 192)
    (said,) = {record.getMessage() for record in caplog.records if "384" in record.getMessage()}
    assert said == (
        f"{folder}/preprocessor_config.json: size 384x384 is not followed: published checkpoints have it whatever they "
        "were trained with; images keep their size and aspect (resize: fixed would squash them)"
    )


PREPROCESSORS = {
    "mean null": ({"image_mean": None}, "image_mean is None; it must be 3 numbers"),
    "two channels": ({"image_std": [0.5, 0.5]}, r"image_std is \[0.5, 0.5\]"),
    "std 0": ({"image_std": [0, 1, 1]}, "rescale_factor and image_std must be above 0"),
    "factor null": ({"rescale_factor": None}, "rescale_factor is None; it must be a number"),
    "flag as text": ({"do_normalize": "false"}, "do_normalize is 'false'; it must be true or false"),
    "one edge": ({"do_resize": True, "size": {"longest_edge": 64}}, "size is {'longest_edge': 64}; it must have"),
    "another's": ({"image_processor_type": "SegformerImageProcessor"}, "is of a 'SegformerImageProcessor'"),
}


@pytest.mark.parametrize(("values", "message"), PREPROCESSORS.values(), ids=PREPROCESSORS)
def test_what_cannot_be_followed_of_a_preprocessor(values, message, change):
    with pytest.raises(CheckpointError, match=message):
        ModelConfig.read(change("preprocessor_config", **values))


def ours(folder, dtype=None, **config):
    torch.manual_seed(0)
    swin = SwinConfig(16, (1, 2, 1, 1), (1, 1, 2, 2), 4)
    shape = dict(hidden_dim=64, heads=4, encoder_layers=1, encoder_ffn=32, decoder_layers=2, decoder_ffn=32)
    save(build(ModelConfig(swin, ("road", "car", "sky"), num_queries=5, **shape, **config)), folder, dtype)


@pytest.mark.heavy
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_transformers_reads_what_is_written_and_lacks_nothing(dtype, tmp_path):
    ours(tmp_path, dtype)
    theirs, report = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert {key: list(found) for key, found in report.items() if found} == {}
    assert {parameter.dtype for parameter in theirs.parameters()} == {theirs.dtype} == {dtype}
    assert theirs.config.dtype == dtype
    assert theirs.config.id2label == {0: "road", 1: "car", 2: "sky"}
    assert_same_network(tmp_path, theirs.eval())


# Size fields of the file -> (height, width) of both networks' input for an image of 120 x 200.
WRITTEN = {
    "its own size": ({}, (128, 192), (120, 200)),
    "stretched": ({"resize": ("fixed", 64, 96)}, (64, 96), (64, 96)),
    "edges": ({"resize": ("shortest", 96, 300)}, (96, 160), (96, 160)),
    "about as many pixels": ({"min_pixels": 16000, "max_pixels": 16000}, (96, 160), (96, 160)),
}


@pytest.mark.parametrize(("config", "mine", "theirs"), WRITTEN.values(), ids=WRITTEN)
def test_transformers_is_told_the_size(config, mine, theirs, tmp_path):
    ours(tmp_path, **config)
    here, there = seen(tmp_path, picture(120, 200))
    assert (here.shape[2:], there.shape[2:]) == (mine, theirs)
    if mine == theirs:
        assert (here - there).abs().max() < 0.04  # as above
    assert {key: getattr(ModelConfig.read(tmp_path), key) for key in config} == config
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["do_resize"] is bool(config)
