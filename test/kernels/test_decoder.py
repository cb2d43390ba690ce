"""The decoder with a plan for its kernels, some of which are off."""

import pytest
import torch

from m2f_ros import kernels, taxonomy
from m2f_ros.model import ModelConfig
from m2f_ros.model.mask2former.decoder import MaskedAttentionDecoder

SIZES = [(2, 3), (4, 6), (8, 12)]
MASKED, QUERIES = "masked_attention", "query_layers"


@pytest.mark.parametrize("on", [(MASKED, QUERIES), (MASKED,), ()], ids=["all", "masked alone", "none"])
@pytest.mark.parametrize("layers, queries", [(4, 20), pytest.param(2, 260, marks=pytest.mark.more)])
@torch.inference_mode()
def test_equals_the_plain_decoder(device, monkeypatch, on, layers, queries) -> None:
    torch.manual_seed(layers)
    names = taxonomy.get("cityscapes").names
    config = ModelConfig(
        "lite0", names, hidden_dim=32, heads=2, decoder_layers=layers, decoder_ffn=64, num_queries=queries
    )
    decoder = MaskedAttentionDecoder(config).eval()
    maps = torch.randn(2, 32, 16, 24)
    levels = [torch.randn(2, height * width, 32) for height, width in SIZES]
    ((classes, masks),) = decoder(maps, levels, decoder.plan(SIZES))  # on the CPU, where no kernel is taken

    decoder.to(device)
    monkeypatch.setattr(kernels, "use", lambda name, tensor, dim=0: name in (MASKED, QUERIES))
    plan = decoder.plan(SIZES)
    assert plan.start and len(plan.memory[0].key_term) == 2
    monkeypatch.setattr(kernels, "use", lambda name, tensor, dim=0: name in on)
    ((our_classes, our_masks),) = decoder(maps.to(device), [x.to(device) for x in levels], plan)
    torch.testing.assert_close(our_classes.cpu(), classes, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(our_masks.cpu(), masks, rtol=1e-3, atol=1e-3 * masks.abs().max().item())
