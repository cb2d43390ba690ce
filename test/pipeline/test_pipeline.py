"""A frame's way through the pipeline, against the same steps written out."""

import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from m2f_ros.errors import ConfigError, FrameError, SpaceError
from m2f_ros.frame.encodings import ENCODINGS, SIXTEEN
from m2f_ros.frame.frame import Ignored
from m2f_ros.model import ModelConfig, SwinConfig, build, heads, load
from m2f_ros.pipeline import Frame, Pipeline, Tuning
from m2f_ros.pipeline.backends import cpu_has_bf16
from m2f_ros.pipeline.colour import resampled
from m2f_ros.pipeline.overlay import blend
from m2f_ros.pipeline.resize import MODES, Resize
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
    expected = expected_label(model, rgb, Resize().place(height, width).network)
    assert (result.label == expected).mean() > 0.999  # ties in the last bit of a sum may fall either way
    assert len(np.unique(expected)) > 1


@pytest.mark.parametrize(
    "bounds, resize, size",
    [
        ({"max_pixels": 64 * 96}, None, (64, 96)),
        ({"min_pixels": 160 * 240}, None, (160, 256)),
        ({"min_pixels": 160 * 240}, Resize(max_pixels=64 * 96), (64, 96)),
        ({"min_pixels": 160 * 240}, Resize("fixed", height=64, width=96), (64, 96)),
    ],
)
def test_bounds_on_pixels_change_the_network_not_the_output(bounds, resize, size):
    model, rgb = tiny(**bounds), image(128, 192)
    result = pipeline(model, resize=resize).segment(Frame(rgb, "rgb8"))
    assert (result.label == expected_label(model, rgb, size)).mean() > 0.999
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


@pytest.mark.parametrize(
    "view",
    [
        lambda data: data[..., ::-1],
        lambda data: data[::-1],
        lambda data: data[:, ::-1],
        lambda data: data.transpose(1, 0, 2),
        lambda data: data[::2, 1::3],
        lambda data: np.asfortranarray(data),
        lambda data: np.broadcast_to(data[:1], data.shape),
    ],
)
def test_any_strides(view):
    pipe, data = pipeline(), view(image(40, 64))
    found, expected = (pipe.segment(Frame(array, "rgb8")) for array in (data, np.ascontiguousarray(data)))
    np.testing.assert_array_equal(found.label, expected.label)
    np.testing.assert_array_equal(found.overlay, expected.overlay)


@pytest.mark.parametrize(
    ("encoding", "bits", "order"), [("rgb16", 12, "<"), ("bayer_rggb16", 10, ">"), ("mono16", 16, "<")]
)
def test_16_bits(small, encoding, bits, order):
    eight = image(32, 64, ENCODINGS[SIXTEEN[encoding]].channels)
    deep = (eight.astype(np.uint16) << (bits - 8) | 1).astype(f"{order}u2")
    pipe = pipeline(small)
    found, expected = pipe.segment(Frame(deep, encoding, bits)), pipe.segment(Frame(eight, SIXTEEN[encoding]))
    np.testing.assert_array_equal(found.label, expected.label)
    np.testing.assert_array_equal(found.overlay, expected.overlay)


def test_rgb_and_bgr_of_one_picture_give_one_label():
    rgb, pipe = image(48, 64), pipeline()
    first = pipe.segment(Frame(rgb, "rgb8"))
    second = pipe.segment(Frame(np.ascontiguousarray(rgb[..., ::-1]), "bgr8"))
    np.testing.assert_array_equal(first.label, second.label)
    np.testing.assert_array_equal(first.overlay, second.overlay)


def test_a_size_that_the_network_takes_is_neither_resampled_nor_padded():
    model, rgb = tiny(), image(64, 96)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (model.config.mean, model.config.std))
    with torch.inference_mode():
        pixels = (torch.from_numpy(rgb).permute(2, 0, 1)[None].float() - mean) * (1 / std)
        out = model(pixels.to(memory_format=torch.channels_last))
        label, confidence = heads.semantic(out.class_logits, out.mask_logits, (64, 96), (64, 96), confidence=True)
    result = pipeline(model).segment(Frame(rgb, "rgb8"), {"label", "confidence"})
    np.testing.assert_array_equal(result.label, label[0].numpy())
    np.testing.assert_array_equal(result.confidence, confidence[0].numpy())
    for mode in (Resize("pad"), Resize("longest", longest=96), Resize("fixed", height=64, width=96)):
        again = pipeline(model, resize=mode).segment(Frame(rgb, "rgb8"), {"label", "confidence"})
        np.testing.assert_array_equal(again.label, result.label)
        np.testing.assert_array_equal(again.confidence, result.confidence)


def test_padding_is_of_the_mean_colour_and_none_of_it_comes_out():
    model, rgb = tiny(mean=(10.0, 20.0, 30.0)), image(50, 70)
    padded = np.full((64, 96, 3), (10, 20, 30), np.uint8)
    padded[:50, :70] = rgb
    whole = pipeline(model).segment(Frame(padded, "rgb8"), {"label", "confidence"})
    part = pipeline(model, resize=Resize("pad")).segment(Frame(rgb, "rgb8"), {"label", "confidence"})
    np.testing.assert_array_equal(part.label, whole.label[:50, :70])
    np.testing.assert_array_equal(part.confidence, whole.confidence[:50, :70])


def test_segments_are_the_heads_own():
    model, rgb = tiny(), image(64, 96)
    result = pipeline(model).segment(Frame(rgb, "rgb8"), {"panoptic", "label"})
    assert result.ids.shape == (64, 96)
    areas = np.bincount(result.ids.flatten(), minlength=1 + len(result.segments))
    assert [(s.id, s.area) for s in result.segments] == [
        (i, area) for i, area in enumerate(areas.tolist()) if i and area
    ]
    assert result.overlay is None


@pytest.mark.parametrize("scale, size", [(0.5, (32, 48)), (0.3, (19, 29)), (0.1, (6, 10))])
def test_output_scale_is_of_every_output_and_not_of_the_network(scale, size):
    model, rgb = tiny(), image(64, 96)
    pipe = pipeline(model, output_scale=scale)
    result = pipe.segment(Frame(rgb, "rgb8"), {"label", "overlay", "color", "confidence", "panoptic", "shares"})
    assert pipe.output_size(64, 96) == size
    assert result.label.shape == result.confidence.shape == result.ids.shape == size
    assert result.overlay.shape == result.color.shape == (*size, 3)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (model.config.mean, model.config.std))
    with torch.inference_mode():
        pixels = (torch.from_numpy(rgb).permute(2, 0, 1)[None].float() - mean) * (1 / std)
        out = model(pixels.to(memory_format=torch.channels_last))
        label, confidence = heads.semantic(out.class_logits, out.mask_logits, (64, 96), size, confidence=True)
        things = torch.zeros(3, dtype=torch.bool)
        ids, table = heads.panoptic(out.class_logits, out.mask_logits, (64, 96), size, things)
    np.testing.assert_array_equal(result.label, label[0].numpy())
    np.testing.assert_array_equal(result.confidence, confidence[0].numpy())
    np.testing.assert_array_equal(result.ids, ids[0].numpy())
    assert result.segments == heads.segments(table[0])
    picture = resampled(torch.from_numpy(rgb).permute(2, 0, 1)[None], size)[0].permute(1, 2, 0).numpy()
    colours = pipe.taxonomy.palette()[result.label].astype(int)
    mixed = (picture.astype(int) * 128 + colours * 128 + 128) // 256
    np.testing.assert_array_equal(result.overlay, mixed[..., ::-1])


@pytest.mark.parametrize("scale", [0.0, 0.09, 1.1, float("nan")])
def test_output_scale_out_of_range(small, scale):
    with pytest.raises(ConfigError, match=f"output_scale is {scale}; it must be 0.1 to 1"):
        pipeline(small, output_scale=scale)


def test_no_output_is_without_pixels(small):
    result = pipeline(small, output_scale=0.1).segment(Frame(image(1, 4), "rgb8"))
    assert result.overlay.shape == (1, 1, 3)


def test_a_closed_pipeline_lets_the_model_go_and_takes_nothing():
    model = tiny()
    gone = weakref.ref(model)
    pipe = pipeline(model, smoothing=0.5)
    pipe.segment(Frame(image(32, 64), "rgb8"))
    for _ in range(2):
        pipe.close()
    del model
    gc.collect()
    assert gone() is None
    with pytest.raises(RuntimeError, match="the pipeline is closed"):
        pipe.submit(Frame(image(32, 64), "rgb8"))
    assert pipe.backend == ""
    pipe.reset()


@pytest.fixture(scope="module")
def small():
    return tiny()


@pytest.mark.heavy
@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 70), width=st.integers(1, 35).map(lambda n: 2 * n), encoding=st.sampled_from(list(ENCODINGS)),
    mode=st.sampled_from(MODES), most=st.none() | st.integers(1024, 9000), seed=st.integers(0, 9),
)  # fmt: skip
def test_any_frame_gives_outputs_of_its_size(small, height, width, encoding, mode, most, seed):
    height = max(height, 2) if encoding.startswith("bayer") else height
    resize = Resize(mode, shortest=48, longest=80, height=32, width=64, max_pixels=most)
    wanted = {"label", "overlay", "confidence"}
    frame = Frame(image(height, width, ENCODINGS[encoding].channels, seed), encoding)
    with pipeline(small, resize=resize).submit(frame, wanted) as result:
        assert result.label.shape == result.confidence.shape == (height, width)
        assert result.overlay.shape == (height, width, 3)
        assert result.label.max() < 3


@pytest.mark.parametrize(("height", "width"), [(1, 4000), (16384, 2), (7, 5)])
@pytest.mark.parametrize("mode", ["stretch", "pad", "shortest"])
def test_extreme_shapes(small, height, width, mode):
    resize = Resize(mode, shortest=64, longest=512, max_pixels=1 << 15)
    result = pipeline(small, resize=resize).segment(Frame(image(height, width), "rgb8"))
    assert result.label.shape == (height, width)


@pytest.mark.parametrize("size", [(1, 1), (8, 300), (20, 20), (700, 40)])
def test_frames_whose_coarsest_map_has_a_side_of_one_pixel(small_model, size):
    # The groups of this model's norms are of one channel.
    assert pipeline(load(small_model)).segment(Frame(image(*size), "bgr8")).label.shape == size


def test_only_what_is_wanted_is_made():
    pipe = pipeline()
    with pipe.submit(Frame(image(32, 32), "rgb8"), {"label"}) as result:
        assert result.overlay is result.confidence is result.ids is None
        assert list(result.stages) == ["upload", "preprocess", "network", "head", "download"]
    with pipe.submit(Frame(image(32, 32), "rgb8")) as result:
        assert result.overlay.shape == (32, 32, 3)
        assert "overlay" in result.stages
    with pipe.submit(Frame(image(32, 32), "rgb8"), {"overlay"}) as result:
        assert result.label is None


def test_more_than_255_classes_are_16_bit():
    result = pipeline(tiny(classes=300)).segment(Frame(image(32, 64), "rgb8"), {"label"})
    assert result.label.dtype == np.uint16
    assert result.label.max() < 300


def test_unlabelled_among_more_than_255_classes():
    pipe = pipeline(tiny(classes=300), tuning=Tuning(min_confidence=1.0))
    result = pipe.segment(Frame(image(32, 64), "rgb8"), {"label", "confidence", "color", "overlay", "shares"})
    unsure = result.confidence < 255
    assert unsure.any()
    np.testing.assert_array_equal(result.label == 65535, unsure)
    assert result.shares.shape == (301,)
    assert result.shares[300] == unsure.mean(dtype=np.float32)
    assert not result.color[unsure].any()
    np.testing.assert_array_equal(result.overlay[unsure], image(32, 64)[..., ::-1][unsure])


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_ignored_pixels_have_no_label_and_count_nowhere(scale, smoothing):
    want = {"label", "confidence", "overlay", "color", "panoptic", "shares"}
    rgb, mask = image(64, 96), np.zeros((32, 48), bool)
    mask[20:, :30] = True
    pipe = pipeline(output_scale=scale, smoothing=smoothing)
    frame, covered = Frame(rgb, "rgb8"), Frame(rgb, "rgb8", ignored=Ignored(mask))
    # A batch of equal size: sums of another order may round to another confidence.
    with pipe.submit_batch([frame, frame], want, ["plain", "masked"]) as results:
        whole = results[0].copy()
    pipe.reset()
    with pipe.submit_batch([frame, covered], want, ["plain", "masked"]) as results:
        plain, masked = (result.copy() for result in results)
    out = np.kron(mask, np.ones((2, 2), bool)) if scale == 1.0 else mask
    for name, image_of in plain.images.items():
        np.testing.assert_array_equal(image_of, whole.images[name])
        np.testing.assert_array_equal(masked.images[name][~out], image_of[~out])
    assert set(masked.label[out]) == {255}
    assert not masked.confidence[out].any() and not masked.ids[out].any() and not masked.color[out].any()
    counts = np.bincount(masked.label[~out], minlength=3)[:3]
    np.testing.assert_allclose(masked.shares, [*counts / counts.sum(), 0], rtol=1e-6)
    for segment in masked.segments:
        ys, xs = np.nonzero(masked.ids == segment.id)
        box = (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)
        assert (segment.area, segment.box) == (len(ys), box)
    assert {s.id for s in masked.segments} == set(np.unique(masked.ids)) - {0}


def test_a_mask_of_all_pixels_leaves_shares_of_nothing():
    frame = Frame(image(32, 64), "rgb8", ignored=Ignored(np.ones((16, 32), bool)))
    result = pipeline().segment(frame, {"shares", "panoptic"})
    assert not result.shares.any() and not result.ids.any() and not result.segments


def test_a_mask_of_another_shape_fails_its_frames_alone():
    pipe = pipeline(slots=1)
    with pytest.raises(SpaceError, match="the ignore mask is of 32x32, the labels are 64x32, which is another shape"):
        pipe.segment(Frame(image(32, 64), "rgb8", ignored=Ignored(np.ones((32, 32), bool))), {"label"})
    assert pipe.segment(Frame(image(32, 64), "rgb8"), {"label"}).label.shape == (32, 64)


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
        (0, 0): [[30, 20, 10], [30, 20, 10]],
        (256, 256): [[100, 0, 255], [0, 255, 0]],
        (128, 128): [[65, 10, 133], [15, 138, 5]],
        (256, 0): [[100, 0, 255], [30, 20, 10]],
        (0, 128): [[30, 20, 10], [15, 138, 5]],
    }.items():
        weight = torch.tensor(weight, dtype=torch.int32)
        assert blend(rgb, label, palette, weight).tolist() == [expected]
        assert blend(rgb.flip(-1), label, palette, weight, bgr=True).tolist() == [expected]


def test_memory_that_does_not_suffice_is_one_line_and_the_next_frame_works(small, monkeypatch):
    pipe = pipeline(small)
    with monkeypatch.context() as patch:
        patch.setattr(small, "forward", lambda *_: torch.empty(1 << 60))
        with pytest.raises(
            FrameError,
            match=r"cpu has too little memory for a frame of 64x32 .*: lower max_pixels or send smaller images$",
        ):
            pipe.submit(Frame(image(32, 64), "rgb8"))
    pipe.segment(Frame(image(32, 64), "rgb8"))


@pytest.mark.skipif(not cpu_has_bf16(), reason="the processor has no bf16")
def test_bf16_on_a_cpu_agrees(small):
    frame = Frame(image(64, 96).repeat(8, 0).repeat(8, 1)[:128, :192].copy(), "rgb8")
    exact = pipeline(tiny()).segment(frame).label
    rounded = pipeline(tiny(), precision="bf16").segment(frame).label
    assert (exact == rounded).mean() > 0.9
    assert len(np.unique(exact)) > 1


@pytest.mark.parametrize("slots", [0, 9])
def test_slots_out_of_range(small, slots):
    with pytest.raises(ConfigError, match=f"slots is {slots}; take 1 to 8"):
        pipeline(small, slots=slots)


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
        (np.zeros((4, 4), np.uint8), "mono16", "no mono16 image; it must be uint16"),
        (torch.zeros((4, 4, 3), dtype=torch.uint8), "rgb8", "must be a NumPy array, not Tensor"),
    ],
)
def test_impossible_frames(data, encoding, message):
    with pytest.raises(FrameError, match=message):
        Frame(data, encoding)
