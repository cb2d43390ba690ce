"""The network against transformers' Mask2Former: same file on disk, same image, every stage."""

import json

import pytest
import torch
from torch.nn import functional as F

from m2f_ros.model import SWIN, Mask2Former, ModelConfig, load, save

transformers = pytest.importorskip("transformers", reason="transformers, the oracle, is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

# window, queries, classes, height, width. Sides are of the image; feature maps are 1/4 to 1/32 of it, so that some
# divide the window and some do not, and some are smaller than it.
CASES = {
    "window 7, divides": (7, 100, 19, 224, 448),
    "window 7, does not divide": (7, 200, 19, 160, 256),
    "window 12, divides": (12, 100, 150, 384, 384),
    "window 12, does not divide": (12, 200, 150, 192, 416),
    "window 12, larger than the maps": (12, 100, 19, 64, 96),
}


def perturb(model):
    """Give every parameter a value of its own, also those that start at zero, one or in a pattern."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "relative_position_bias_table" in name or "sampling_offsets.bias" in name:
                parameter.add_(noise)
            elif parameter.dim() == 1:
                parameter.add_(noise * 0.2)
            elif "queries" in name or "class_predictor" in name:
                parameter.copy_(noise)
            elif "transformer_module.decoder.layers" in name:
                # Small enough that the queries stay apart and several classes win somewhere.
                parameter.copy_(noise * 0.3 / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)


def oracle(window, queries, classes, folder):
    backbone = transformers.SwinConfig(
        embed_dim=16,
        depths=[2, 2, 3, 2],
        num_heads=[1, 2, 4, 8],
        window_size=window,
        drop_path_rate=0.0,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=64,
        mask_feature_size=64,
        hidden_dim=64,
        encoder_feedforward_dim=48,
        encoder_layers=3,
        decoder_layers=5,
        dim_feedforward=80,
        num_attention_heads=4,
        num_queries=queries,
        id2label={i: f"class {i}" for i in range(classes)},
    )
    torch.manual_seed(0)
    model = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    perturb(model)
    model.save_pretrained(folder)
    return model


def picture(height, width):
    """(2, 3, height, width): patches of colour and some noise, so that places differ."""
    generator = torch.Generator().manual_seed(2)
    patches = torch.randn(2, 3, height // 32, width // 32, generator=generator) * 2
    noise = torch.randn(2, 3, height, width, generator=generator) * 0.2
    return F.interpolate(patches, (height, width), mode="nearest") + noise


def scores(class_logits, mask_logits, size):
    """Upstream's semantic_inference, written out: the labels are its argmax over the classes."""
    masks = F.interpolate(mask_logits, size, mode="bilinear", align_corners=False).sigmoid()
    return torch.einsum("bqc,bqhw->bchw", class_logits.softmax(-1)[..., :-1], masks)


def stages(theirs, ours, pixels):
    """Name of each stage -> (ours, theirs), and the class scores of both."""
    with torch.inference_mode():
        expected = theirs(pixel_values=pixels, output_hidden_states=True)
        plan = ours.plan(*pixels.shape[-2:])
        features = ours.backbone(pixels, plan.backbone)
        mask_features, levels = ours.pixel_decoder(features, plan.pixel_decoder)
        actual = ours(pixels, plan)
    maps = [x.mT.unflatten(2, shape) for x, shape in zip(levels, plan.pixel_decoder.geometry.shapes, strict=True)]
    pairs = {
        **{f"backbone {i}": pair for i, pair in enumerate(zip(features, expected.encoder_hidden_states, strict=True))},
        **{f"map {i}": pair for i, pair in enumerate(zip(maps, expected.pixel_decoder_hidden_states, strict=True))},
        "mask features": (ours.decoder.mask_projection(mask_features), expected.pixel_decoder_last_hidden_state),
        "class logits": (actual.class_logits, expected.class_queries_logits),
        "mask logits": (actual.mask_logits, expected.masks_queries_logits),
    }
    size = pixels.shape[-2:]
    return (
        pairs,
        scores(*pairs["class logits"][:1], *pairs["mask logits"][:1], size),
        scores(expected.class_queries_logits, expected.masks_queries_logits, size),
    )


@pytest.mark.heavy
@pytest.mark.parametrize(("window", "queries", "classes", "height", "width"), CASES.values(), ids=CASES)
def test_every_stage(window, queries, classes, height, width, tmp_path):
    theirs = oracle(window, queries, classes, tmp_path)

    pairs, mine, other = stages(theirs.double(), load(tmp_path, dtype=torch.float64), picture(height, width).double())
    for stage, (a, b) in pairs.items():
        assert a.shape == b.shape, stage
        assert (a - b).abs().max() < 1e-9, stage
    assert torch.equal(mine.argmax(1), other.argmax(1))
    assert len(mine.argmax(1).unique()) > 1  # a picture, not one class everywhere

    # Masked attention asks whether a mask logit is below 0. In fp32 one in a million is so near to 0 that the answer
    # depends on the order of a sum. It moves its query, and with that some pixels on the edges of its mask. One in a
    # hundred queries may be such, and where none is, the labels are equal but where two classes' scores are.
    pairs, mine, other = stages(theirs.float(), load(tmp_path), picture(height, width))
    moved = 0
    for stage, (a, b) in pairs.items():
        error = (a - b).abs()
        if stage in ("class logits", "mask logits"):
            error = error.flatten(2).amax(-1).flatten()
            moved = max(moved, int((error >= 1e-4).sum()))
            assert moved <= 1 + len(error) // 100, stage
            assert error.max() < 0.1, stage
        else:
            assert error.max() < 1e-4, stage
    label = mine.argmax(1, keepdim=True)
    missing = other.amax(1, keepdim=True) - other.gather(1, label)
    assert (missing > 1e-5).float().mean() <= (1e-3 if moved else 0)


def test_training_outputs_of_every_layer(tmp_path):
    theirs = oracle(7, 20, 5, tmp_path)
    ours = load(tmp_path)
    ours.decoder.train()
    pixels = picture(96, 128)
    with torch.no_grad():
        expected = theirs(pixel_values=pixels, output_auxiliary_logits=True)
        actual = ours(pixels)
    assert len(actual.aux) == len(expected.auxiliary_logits) == 4
    for (class_logits, mask_logits), other in zip(actual.aux, expected.auxiliary_logits, strict=True):
        torch.testing.assert_close(class_logits, other["class_queries_logits"], atol=1e-4, rtol=0)
        torch.testing.assert_close(mask_logits, other["masks_queries_logits"], atol=1e-4, rtol=0)


def test_transformers_reads_what_save_writes(tmp_path):
    theirs = oracle(7, 20, 5, tmp_path / "theirs")
    save(load(tmp_path / "theirs"), tmp_path / "ours")
    again = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path / "ours").eval()
    unused = "layernorm."  # Swin's last norm, which no feature passes
    for (name, a), (other, b) in zip(theirs.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other
        assert unused in name or torch.equal(a, b), name


def test_config_of_the_defaults(tmp_path):
    """transformers may leave out what equals its defaults; the shapes must come out the same."""
    theirs = transformers.Mask2FormerForUniversalSegmentation(transformers.Mask2FormerConfig(num_labels=3))
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    keys = ("num_queries", "decoder_layers", "encoder_layers", "dim_feedforward", "hidden_dim", "backbone_config")
    for key in keys:
        config.pop(key)
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = load(tmp_path)
    assert model.config.backbone.depths == (2, 2, 18, 2)
    assert model.config.num_queries == 100
    assert len(model.decoder.layers) == 9


@pytest.mark.parametrize("name", SWIN)
def test_published_sizes_have_as_many_weights(name):
    """Swin-T, S, B and L with the published checkpoints' decoder, on the meta device: shapes without memory."""
    from transformers.initialization import no_init_weights

    swin = SWIN[name]
    backbone = transformers.SwinConfig(
        embed_dim=swin.embed_dim,
        depths=list(swin.depths),
        num_heads=list(swin.num_heads),
        window_size=swin.window_size,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = transformers.Mask2FormerConfig(backbone_config=backbone, id2label={i: str(i) for i in range(19)})
    with torch.device("meta"), no_init_weights():
        theirs = transformers.Mask2FormerForUniversalSegmentation(config)
        ours = Mask2Former(ModelConfig(swin, tuple(str(i) for i in range(19))))
    unused = 2 * 8 * swin.embed_dim  # Swin's last norm, which no feature passes
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) - unused
