"""A frame's way through the pipeline, against the same steps written out."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from m2f_ros.errors import ConfigError, FrameError
from m2f_ros.model import ModelConfig, SwinConfig, build
from m2f_ros.pipeline import Frame, Pipeline
from m2f_ros.pipeline.overlay import blend
from m2f_ros.pipeline.resize import Resize
from m2f_ros.pipeline.segmenter import resampled
from m2f_ros.taxonomy import from_names

SWIN = SwinConfig(embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=4)


def tiny(classes=3, **options):
    torch.manual_seed(0)
    labels = tuple(f"class {i}" for i in range(classes))
    config = ModelConfig(SWIN, labels, hidden_dim=64, heads=4, encoder_layers=1, encoder_ffn=32, decoder_layers=2,
                         decoder_ffn=32, num_queries=12, **options)  # fmt: skip
    model = build(config).eval()
    with torch.no_grad():  # decided predictions, so that several classes occur
        model.decoder.class_predictor.weight.mul_(20)
        model.decoder.mask_embed[2].weight.mul_(10)
    return model


def pipeline(model=None, **options):
    model = model or tiny()
    return Pipeline(model, from_names("test", model.config.labels), device="cpu", backend="eager", **options)


def image(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def expected_label(model, rgb, size):
    pixels = resampled(torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None], size)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (model.config.mean, model.config.std))
    with torch.inference_mode():
        out = model((pixels - mean) / std)
    masks = F.interpolate(out.mask_logits, size, mode="bilinear", align_corners=False).sigmoid()
    scores = torch.einsum("bqc,bqhw->bchw", out.class_logits.softmax(-1)[..., :-1], masks)
    scores = F.interpolate(scores, rgb.shape[:2], mode="bilinear", align_corners=False)
    return scores.argmax(1)[0].numpy()


@pytest.mark.parametrize(("height", "width"), [(64, 96), (50, 70), (97, 33)])
def test_label_is_upstreams_order_of_operations(height, width):
    model, rgb = tiny(), image(height, width)
    result = pipeline(model).segment(Frame(rgb, "rgb8"))
    assert result.label.dtype == np.uint8
    expected = expected_label(model, rgb, Resize().fit(height, width).network)
    assert (result.label == expected).mean() > 0.999  # ties in the last bit of a sum may fall either way
    assert len(np.unique(expected)) > 1


def test_max_pixels_shrinks_the_network_not_the_output():
    model, rgb = tiny(max_pixels=64 * 96), image(128, 192)
    result = pipeline(model).segment(Frame(rgb, "rgb8"))
    assert (result.label == expected_label(model, rgb, (64, 96))).mean() > 0.999
    assert result.label.shape == (128, 192)


def test_a_padded_view_is_read_as_its_pixels():
    wide = image(40, 64)
    pipe = pipeline()
    padded = pipe.segment(Frame(wide[:, :50], "bgr8"))
    plain = pipe.segment(Frame(np.ascontiguousarray(wide[:, :50]), "bgr8"))
    np.testing.assert_array_equal(padded.label, plain.label)
    np.testing.assert_array_equal(padded.overlay, plain.overlay)


def test_read_only_memory_is_taken_as_it_is():
    data = np.frombuffer(image(32, 32).tobytes(), np.uint8).reshape(32, 32, 3)
    assert pipeline().segment(Frame(data, "rgb8")).label.shape == (32, 32)


def test_rgb_and_bgr_of_one_picture_give_one_label():
    rgb, pipe = image(48, 64), pipeline()
    first = pipe.segment(Frame(rgb, "rgb8"))
    second = pipe.segment(Frame(np.ascontiguousarray(rgb[..., ::-1]), "bgr8"))
    np.testing.assert_array_equal(first.label, second.label)
    np.testing.assert_array_equal(first.overlay, second.overlay)


def test_only_what_is_wanted_is_made():
    pipe = pipeline()
    with pipe.submit(Frame(image(32, 32), "rgb8"), {"label"}) as result:
        assert result.overlay is None
        assert list(result.stages) == ["upload", "preprocess", "network", "head", "download"]
    with pipe.submit(Frame(image(32, 32), "rgb8")) as result:
        assert result.overlay.shape == (32, 32, 3)
        assert "overlay" in result.stages


def test_more_than_255_classes_are_16_bit():
    result = pipeline(tiny(classes=300)).segment(Frame(image(32, 64), "rgb8"), {"label"})
    assert result.label.dtype == np.uint16
    assert result.label.max() < 300


def test_a_slot_is_free_again_after_a_failure_and_after_release():
    pipe = pipeline(slots=1)
    broken = Frame(image(32, 32), "rgb8")
    object.__setattr__(broken, "data", None)  # past the frame's own check
    for _ in range(2):
        with pytest.raises(AttributeError):
            pipe.submit(broken)
        pipe.submit(Frame(image(32, 32), "rgb8")).release()


def test_overlay_mixes_in_the_given_proportion():
    rgb = torch.tensor([[[10, 20, 30], [10, 20, 30]]], dtype=torch.uint8)
    palette = torch.tensor([[255, 0, 100], [0, 255, 0]], dtype=torch.uint8)
    label = torch.tensor([[0, 1]])
    for weight, expected in {
        0: [[30, 20, 10], [30, 20, 10]],
        256: [[100, 0, 255], [0, 255, 0]],
        128: [[65, 10, 133], [15, 138, 5]],
    }.items():
        weight = torch.tensor(weight, dtype=torch.int32)
        assert blend(rgb, label, palette, weight).tolist() == [expected]
        assert blend(rgb.flip(-1), label, palette, weight, bgr=True).tolist() == [expected]


def test_classes_must_be_the_models():
    with pytest.raises(ConfigError, match="2 classes, the model 3"):
        Pipeline(tiny(), from_names("two", ["a", "b"]), device="cpu")


@pytest.mark.parametrize(
    ("data", "encoding", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), "32FC1", "encoding '32FC1' is not supported"),
        (np.zeros((4, 4), np.uint8), "rgb8", "no rgb8 image"),
        (np.zeros((4, 4, 3), np.uint16), "rgb8", "of uint16"),
        (np.zeros((0, 4, 3), np.uint8), "rgb8", "4x0 is impossible"),
        (np.zeros((4, 5, 2), np.uint8), "yuv422", "even width"),
        (np.zeros((1, 4), np.uint8), "bayer_rggb8", "2x2"),
    ],
)
def test_impossible_frames(data, encoding, message):
    with pytest.raises(FrameError, match=message):
        Frame(data, encoding)
