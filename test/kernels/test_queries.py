"""The kernels of the decoder's queries against their torch twins: a layer, its masks and what follows."""

import pytest
import torch
from torch import nn

from m2f_ros.model.layers import Linear
from m2f_ros.model.mask2former import decoder

EXACT = {torch.float32: 3e-5, torch.float16: 6e-3, torch.bfloat16: 5e-2}


def random(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Set numbers that dtype has, such that each layer's results are about normal."""
    with torch.no_grad():
        for parameter in module.parameters():
            scale = parameter.shape[1] ** -0.5 if parameter.dim() == 2 else 1
            parameter.copy_((scale * torch.randn(parameter.shape)).to(dtype))
    return module.double()


@torch.inference_mode()
def check(
    device: torch.device, batch: int, count: int, heads: int, dim: int, ffn: int, dtype: torch.dtype = torch.float32
) -> None:
    from m2f_ros.kernels import queries as kernel

    torch.manual_seed(count)
    channels, classes = heads * dim, 19
    layer = random(decoder.DecoderLayer(channels, heads, ffn), dtype)
    others = random(nn.ModuleList([nn.LayerNorm(channels), *(Linear(channels, channels) for _ in range(4))]), dtype)
    norm, first, second, embed, cross = others
    offset, predict = random(Linear(channels, 1), dtype), random(Linear(channels, classes + 1), dtype)
    own, term = (torch.randn(count, n * channels).to(dtype).double() for n in (3, 1))
    query, attended = (torch.randn(batch, count, channels).to(dtype).double() for _ in range(2))

    wanted = layer.answer(query, attended, decoder.LayerPlan(term, own))
    hidden = second(first(norm(wanted)).relu()).relu()
    masks = wanted, embed(hidden), offset(hidden)

    for module in (layer, others, offset, predict):
        module.to(device, dtype)
    own, term, query, attended = (x.to(device, dtype) for x in (own, term, query, attended))
    in_proj = layer.self_attn.in_proj.weight
    x, projected = kernel.project_own(attended, query, layer.cross_attn.out_proj, layer.norm1, in_proj, own)
    x, summands = kernel.feed(projected, x, heads, layer.self_attn.out_proj, layer.norm2, layer.fc1, layer.fc2)
    asked = (x, summands, layer.fc2.bias, layer.norm3, norm, first, second)
    asked = (*asked, (embed.weight, embed.bias, offset.weight, offset.bias))
    *results, next_query = kernel.ask(*asked, cross.weight, term)
    *again, logits = kernel.ask(*asked, predict.weight, predict.bias)

    exact = cross.double().cpu(), predict.double().cpu(), norm.double().cpu()
    term = term.double().cpu()
    pairs = [
        *zip(results, masks, strict=True),
        *zip(again, masks, strict=True),
        (next_query, wanted @ exact[0].weight.t() + term),
        (logits, exact[1](exact[2](wanted))),
    ]
    for result, true in pairs:
        assert result.dtype == dtype and result.shape == true.shape
        torch.testing.assert_close(result.double().cpu(), true, rtol=EXACT[dtype], atol=2 * EXACT[dtype])


@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_equals_the_twin(device, dtype) -> None:
    check(device, 1, 20, 2, 32, 96, dtype)


@pytest.mark.parametrize(
    "batch, count, heads, dim, ffn",
    [
        pytest.param(2, 100, 8, 32, 2048, marks=pytest.mark.more),
        (1, 200, 4, 16, 300),
        (3, 12, 3, 24, 64),
        (2, 1, 1, 16, 16),
        (1, 16, 2, 64, 40),
    ],
)
def test_batches_and_any_number_of_queries_heads_and_channels(device, batch, count, heads, dim, ffn) -> None:
    check(device, batch, count, heads, dim, ffn)


def test_what_does_not_fit_is_an_error(device) -> None:
    from m2f_ros.kernels import queries as kernel

    query, norm = torch.zeros(1, 3, 32, device=device), nn.LayerNorm(32, device=device)
    linear, term = nn.Linear(32, 32, device=device), torch.zeros(3, 96, device=device)
    with pytest.raises(ValueError, match="do not fit together"):
        kernel.project_own(query, query, linear, norm, linear.weight, term)
    with pytest.raises(ValueError, match="5 heads"):
        kernel.feed(term[None], query, 5, linear, norm, linear, linear)
    with pytest.raises(ValueError, match="do not fit together"):
        tensors = (linear.weight, linear.bias, linear.weight[:1], linear.bias[:1])
        kernel.ask(query, query[None], linear.bias, norm, norm, linear, linear, tensors, linear.weight, term)
