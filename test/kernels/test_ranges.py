"""Half precision: kernels are no less exact than torch's own operations where numbers are large, small or far apart."""

import pytest
import torch
from torch.nn import functional as F

from m2f_ros import kernels
from m2f_ros.model import heads, norms
from m2f_ros.model.mask2former import deformable, swin

HALF = [torch.float16, torch.bfloat16]


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def error(result: torch.Tensor, true: torch.Tensor) -> float:
    """Root mean square; NaN or infinity if a number is, but should not be."""
    return (result.cpu().double() - true).pow(2).mean().sqrt().item()


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("spread", [2, 5])
def test_window_attention_with_large_biases(device, spread, dtype) -> None:
    from m2f_ros.kernels import window as kernel

    qkv, pad = normal(1, 12, 12, 96).to(dtype), torch.zeros(96, dtype=dtype)
    windows = swin.windows_of(12, 12, 12, 6, qkv)
    plan = swin.BlockPlan((spread * normal(4, 1, 144, 144)).to(dtype) + windows.mask[:, None], windows)
    true = swin.attend(qkv.double(), pad.double(), swin.BlockPlan(plan.bias.double(), windows), 1, 12, 6)
    result = kernel.attend(qkv.to(device), pad.to(device), kernel.arrange(plan.bias.to(device), 32), 1, 12, 6)
    # Twice the error of a result that is rounded once; three times without the centred bias.
    assert error(result, true) <= 2 * error(true.to(dtype), true)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("frame", [(8, 12), (13, 20)], ids=["cells", "scores"])
@pytest.mark.parametrize("maps", [(2, 3), (3, 4)], ids=["a quarter", "other maps"])
def test_labels_far_from_all_masks(device, maps, frame, dtype) -> None:
    from m2f_ros.kernels import semantic as kernel

    class_logits, mask_logits = 3 * normal(1, 20, 6).to(dtype), (-22 + normal(1, 20, *maps)).to(dtype)
    scores = heads.semantic_scores(class_logits.double(), mask_logits.double(), (8, 12))
    scores = heads.resize(scores, frame)
    label, sure = kernel.labels(class_logits.to(device), mask_logits.to(device), (8, 12), frame, confidence=True)
    best = scores.max(1).values
    assert (scores.gather(1, label.cpu().long()[:, None])[:, 0] >= 0.99 * best).all()
    assert ((sure.cpu().int() - 255 * best / scores.sum(1)).abs() <= 3).all()


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_deformable_attention_of_the_largest_values(device, dtype) -> None:
    from m2f_ros.kernels import deformable as kernel

    shapes = ((5, 6), (3, 4), (2, 2))
    x = normal(1, 46, 36 + 16)
    x[..., 36:] = 6.4e4 * normal(1, 46, 16).sign()
    x = x.to(dtype)
    rows, columns = (2 * normal(sum(sizes), 36) for sizes in zip(*shapes, strict=True))
    geometry = deformable.geometry(shapes, 1, x.double(), tables=True)
    true = deformable.attend(x.double(), rows.double(), columns.double(), 1, geometry)
    result = kernel.attend(x.to(device), rows.to(device), columns.to(device), 1, list(shapes))
    assert error(result, true) <= 2.5 * error(true.to(dtype), true)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_norms_far_from_zero(device, dtype, monkeypatch) -> None:
    maps, norm = (2000 + 8 * normal(1, 64, 9, 7)).to(dtype), norms.GroupNorm(32, 64, dtype=dtype).requires_grad_(False)
    true = F.group_norm(maps.double(), 32)
    monkeypatch.setattr(kernels, "use", lambda name, tensor: True)
    result = norms.normalise(maps.to(device), norm.to(device))
    assert error(result, true) <= 1.1 * error(true.to(dtype), true)

    x, layer = 20 * normal(30, 192), torch.nn.LayerNorm(192, dtype=dtype).requires_grad_(False)
    x[:, 3] = 5000  # as in Swin's late stages
    x, zero = x.to(dtype).to(device), torch.zeros(30, 192, dtype=dtype, device=device)
    true = F.layer_norm(x.cpu().double(), (192,))
    assert error(norms.norm_of_sum(x, zero, layer.to(device)), true) <= 1.1 * error(true.to(dtype), true)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_masked_attention_of_large_logits(device, dtype) -> None:
    """Logits up to 150: the maximum of most blocks of keys is so far below that their weights are 0."""
    from m2f_ros.kernels import masked

    query, keys, features = 60 * normal(1, 17, 32).to(dtype), normal(1, 300, 32).to(dtype), torch.zeros(1, 300, 32)
    values, features = 1e4 * keys.flip(1), features.to(dtype)
    offset, term = torch.zeros(1, 17, dtype=dtype), torch.zeros(1, 32, dtype=dtype)
    parts = (x.double().unflatten(-1, (2, 16)).transpose(1, 2) for x in (query, keys, values))
    true = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
    operands = (query, query, offset, features, keys, values, term, term.expand(300, -1).contiguous())
    result = masked.attend(*(x.to(device) for x in operands), 2)
    assert error(result, true) <= 2 * error(true.to(dtype), true)
