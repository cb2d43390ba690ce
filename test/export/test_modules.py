"""The modules that are exported compute what the pipeline computes."""

import shlex

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2f_ros.export.modules import Plain, Planned, Resample, Whole
from m2f_ros.export.tensorrt import line
from m2f_ros.model import heads, load
from m2f_ros.pipeline import Pipeline, Resize
from m2f_ros.pipeline.classes import taxonomy_of
from m2f_ros.pipeline.colour import resampled

sides = st.integers(2, 90)


@settings(max_examples=60)
@given(sides, sides, sides, st.integers(0, 1000))
def test_resampled_as_uint8_by_torch(height, width, after, seed):
    planes = torch.randint(0, 256, (1, 3, height, width), generator=torch.Generator().manual_seed(seed)).byte()
    for axis in (2, 3):
        size = [height, width]
        size[axis - 2] = after
        wanted = torch.nn.functional.interpolate(planes, size, mode="bilinear", antialias=True)
        if after != planes.shape[axis]:
            found = Resample(axis, planes.shape[axis], after)(planes.float())
            differ = (found - wanted.float()).abs()
            assert differ.max() <= 1 and (differ > 0).float().mean() <= 0.1


def test_resampled_exactly_at_usual_sizes():
    image = torch.randint(0, 256, (1, 3, 120, 160), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for size in ((128, 160), (120, 192), (96, 128), (64, 96), (32, 64), (192, 256)):
        planes = image.float()
        for axis in (3, 2):
            if planes.shape[axis] != size[axis - 2]:
                planes = Resample(axis, planes.shape[axis], size[axis - 2])(planes)
        assert torch.equal(planes, resampled(image, size))


@pytest.mark.parametrize("mask", ["none", "bool", "float"])
def test_plain_attention(mask):
    query, key, value = torch.randn(3, 2, 4, 7, 8, generator=torch.Generator().manual_seed(0))
    given = {"none": None, "bool": torch.eye(7).bool(), "float": torch.randn(7, 7)}[mask]
    attend = torch.nn.functional.scaled_dot_product_attention
    wanted = attend(query, key, value, attn_mask=given)
    with Plain():
        torch.testing.assert_close(attend(query, key, value, attn_mask=given), wanted)


@pytest.mark.parametrize("name", ["swin7", "swin12", "efficientnet"])
def test_planned_is_the_network(models, name):
    model = load(models[name])
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found, wanted = Planned(model, (64, 96))(pixels), model.result(model(pixels))
    torch.testing.assert_close(found, tuple(wanted), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("resize", "encoding"), [(Resize("fixed", height=64, width=96), "rgb8"), (Resize("pad"), "bgr8")]
)
def test_whole_is_the_pipeline(models, frames, resize, encoding):
    model = load(models["efficientnet"])
    pipeline = Pipeline(model, taxonomy_of("m", model.config), device="cpu", backend="eager", resize=resize)
    placement = pipeline.resize.place(*frames[0].size)
    whole = Whole(Planned(model, placement.network), placement, frames[0].size, encoding == "bgr8")
    for frame in frames[:2]:
        wanted = pipeline.segment(frame, {"label", "confidence"})
        image = torch.from_numpy(frame.data)[None]
        with torch.inference_mode():
            label, confidence = whole(image.flip(3) if encoding == "bgr8" else image)
        assert (label[0].numpy() != wanted.label).mean() < 1e-3  # ties, but for rounding
        assert abs(confidence[0].int().numpy() - wanted.confidence).max() <= 2
        assert label.dtype == confidence.dtype == torch.uint8


def test_heads_of_a_whole_export_do_not_depend_on_values():
    """The fast path of `heads.labels` on a CPU would be a constant of the example."""
    logits = torch.randn(1, 4, 3), torch.randn(1, 4, 8, 8)
    label, _ = heads.semantic_of_scores(heads.semantic_scores(*logits, (32, 32)), (30, 20), True, (32, 32))
    assert torch.equal(label, heads.semantic(*logits, (32, 32), (30, 20))[0])


def test_the_line_for_tensorrt_is_one_of_a_shell():
    words = shlex.split(line("my export/network.onnx", "pixels", "3x64x96"))
    assert words[:3] == ["trtexec", "--onnx=my export/network.onnx", "--saveEngine=my export/network.engine"]
