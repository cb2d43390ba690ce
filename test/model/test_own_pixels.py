"""Attention U-Net and SETR: what their papers say beyond the promises of every family."""

import pytest
import torch
from torch.nn import functional as F

from m2f_ros.errors import CheckpointError
from m2f_ros.model import build, read_config
from m2f_ros.model.attention_unet import Gate
from m2f_ros.model.setr import SetrConfig

LABELS = ("road", "car", "sky")


def test_a_gate_weighs_each_place_by_both_maps():
    torch.manual_seed(0)
    gate = Gate(4, 6)
    fine, coarse = torch.randn(1, 4, 8, 12), torch.randn(1, 6, 4, 6)
    found = gate(fine, coarse)
    ratio = found / fine
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4, atol=1e-5)  # the same in all channels
    added = F.conv2d(fine, gate.fine.weight, stride=2) + F.conv2d(coarse, gate.coarse.weight, gate.coarse.bias)
    small = torch.sigmoid(F.conv2d(added.clamp(min=0), gate.weight.weight, gate.weight.bias))
    wanted = F.interpolate(small, (8, 12), mode="bilinear")
    torch.testing.assert_close(ratio[:, :1], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("progressive", [True, False])
def test_the_size_of_the_logits_of_setr(progressive):
    pytest.importorskip("transformers", reason="transformers is not installed")
    model = build(SetrConfig(LABELS, shape=(16, 2, 2, 32, 48, 8), progressive=progressive)).eval()
    with torch.inference_mode():
        logits = model(torch.randn(1, 3, 32, 64)).logits
    assert logits.shape == ((1, 3, 32, 64) if progressive else (1, 3, 2, 4))


def test_a_width_that_the_heads_do_not_divide(tmp_path):
    text = '{"model_type": "setr", "id2label": {"0": "road"}, "hidden_size": 100, "num_attention_heads": 3}'
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="hidden_size is 100; it must be a multiple of num_attention_heads, 3"):
        read_config(tmp_path)
