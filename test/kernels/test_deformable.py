"""The kernel of deformable attention against its torch twin."""

import pytest
import torch

from m2f_ros.model.mask2former import deformable as twin

SHAPES = ((7, 10), (4, 5), (3, 1))
SAMPLES = 12  # levels times points
EXACT = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def projected(batch: int, heads: int, dim: int, spread: float, shapes=SHAPES) -> torch.Tensor:
    tokens = sum(h * w for h, w in shapes)
    generator = torch.Generator().manual_seed(heads * dim)
    x = torch.randn(batch, tokens, heads * (3 * SAMPLES + dim), generator=generator)
    x[..., : 2 * heads * SAMPLES] *= spread
    return x


def tables(heads: int, shapes, spread: float = 0.0) -> list[torch.Tensor]:
    """Rows and columns with the tokens' positions and random terms of this size."""
    x = torch.zeros(1, 4)
    attention = twin.DeformableAttention(4, heads, 3)
    lengths = [sum(sizes) for sizes in zip(*shapes, strict=True)]
    with torch.no_grad():
        plan = attention.plan_tables(*(x.expand(length, -1) for length in lengths), shapes)
    generator = torch.Generator().manual_seed(heads)
    return [x + spread * torch.randn(x.shape, generator=generator) for x in (plan.rows, plan.columns)]


def check(x: torch.Tensor, heads: int, shapes, device: torch.device, tolerance: float, spread: float = 0.0) -> None:
    from m2f_ros.kernels import deformable

    both = tables(heads, shapes, spread)
    geometry = twin.geometry(shapes, heads, x.double(), tables=True)
    wanted = twin.attend(x.double(), *(table.double() for table in both), heads, geometry)
    result = deformable.attend(x.to(device), *(table.to(device) for table in both), heads, list(shapes))
    assert result.dtype == x.dtype and result.shape == wanted.shape
    torch.testing.assert_close(result.double().cpu(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.heavy
@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_equals_the_twin(device, dtype) -> None:
    check(projected(1, 2, 32, 3).to(dtype), 2, SHAPES, device, EXACT[dtype], spread=1)


@pytest.mark.heavy
@pytest.mark.parametrize("batch, heads, dim", [(2, 1, 16), (1, 3, 12)])
def test_batches_and_any_number_of_heads_and_channels(device, batch, heads, dim) -> None:
    check(projected(batch, heads, dim, 3), heads, SHAPES, device, 2e-5)


@pytest.mark.parametrize("shapes", [((1, 1), (1, 1), (1, 1)), ((8, 8), (4, 4), (2, 2)), ((1, 17), (1, 8), (9, 1))])
def test_any_shape_of_map(device, shapes) -> None:
    check(projected(1, 1, 16, 2, shapes), 1, shapes, device, 2e-5)


def test_other_tiles(device, monkeypatch) -> None:
    monkeypatch.setattr("m2f_ros.kernels.deformable.TILE", (2, 16))
    check(projected(1, 2, 16, 3), 2, SHAPES, device, 2e-5)


def test_points_at_the_border_and_far_outside(device) -> None:
    x = projected(1, 2, 16, 0)
    offsets = torch.tensor([0, 0.5, -0.5, 1, -1, 10, -10, 1e4, -1e4, 6e4, float("inf"), float("-inf")])
    x[..., : 4 * SAMPLES] = offsets.repeat(4).roll(5)
    check(x, 2, SHAPES, device, 2e-5)


def test_large_logits_do_not_overflow(device) -> None:
    x = projected(1, 2, 16, 1)
    x[..., 4 * SAMPLES : 6 * SAMPLES] *= 1e3
    check(x, 2, SHAPES, device, 2e-5)


def test_half_precision_moves_no_point(device) -> None:
    # An eighth of a pixel beside column 33 is lost in bfloat16: the coordinate must be float32.
    shapes = ((1, 40), (1, 1), (1, 1))
    x = torch.zeros(1, 42, 3 * SAMPLES + 16)
    x[..., :SAMPLES] = 0.125
    x[..., 2 * SAMPLES + 4 : 3 * SAMPLES] = -1e4  # level 0 only
    x[0, 33, 3 * SAMPLES :] = 1
    from m2f_ros.kernels import deformable

    both = (table.to(device) for table in tables(1, shapes))
    result = deformable.attend(x.to(device, torch.bfloat16), *both, 1, list(shapes)).float().cpu()
    assert result[0, 31:35, 0].tolist() == [0, 0.125, 0.875, 0]


def test_what_does_not_fit_is_an_error(device) -> None:
    from m2f_ros.kernels import deformable

    with pytest.raises(ValueError, match="do not fit"):
        deformable.attend(projected(1, 2, 16, 1), *tables(2, SHAPES), 2, [(9, 11), (5, 6)])
