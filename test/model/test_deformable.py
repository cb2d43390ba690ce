"""Deformable attention's sum of samples, with grid_sample as the oracle."""

import pytest
import torch
from torch.nn import functional as F

from m2f_ros.model.mask2former.deformable import POINTS, DeformableAttention, geometry, sample, weighted_sum
from m2f_ros.model.mask2former.position import sine_position, sine_tables


def by_grid_sample(value, shapes, points, weights):
    """As transformers and Deformable DETR's pytorch twin do it: a grid_sample a level."""
    batch, _, heads, dim = value.shape
    queries = points.shape[1]
    total = value.new_zeros(batch * heads, dim, queries)
    for level, (part, (height, width)) in enumerate(
        zip(value.split([h * w for h, w in shapes], 1), shapes, strict=True)
    ):
        image = part.permute(0, 2, 3, 1).reshape(batch * heads, dim, height, width)
        size = torch.tensor((width, height), dtype=points.dtype)
        grid = (2 * (points[:, :, :, level] + 0.5) / size - 1).transpose(1, 2).flatten(0, 1)
        samples = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        total = total + (samples * weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)
    return total.view(batch, heads, dim, queries).permute(0, 3, 1, 2).flatten(2)


def ours(value, shapes, points, weights):
    heads = value.shape[2]
    x_then_y = torch.cat([points[..., 0].flatten(2), points[..., 1].flatten(2)], -1)
    return sample(value.flatten(2), geometry(shapes, heads, points), x_then_y, weights.flatten(3))


def inputs(shapes, spread, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    batch, heads, dim, queries, points = 2, 3, 4, 7, 4
    tokens = sum(h * w for h, w in shapes)
    value = torch.randn(batch, tokens, heads, dim, generator=generator, dtype=dtype)
    where = torch.randn(batch, queries, heads, len(shapes), points, 2, generator=generator, dtype=dtype) * spread
    weights = torch.rand(batch, queries, heads, len(shapes), points, generator=generator, dtype=dtype)
    return value, where, weights


@pytest.mark.parametrize("spread", [1, 10, 1000])  # inside, around the border, far outside
@pytest.mark.parametrize("shapes", [[(3, 5), (6, 10), (12, 20)], [(1, 1), (2, 1), (1, 4)]])
def test_sample_equals_grid_sample_with_its_gradients(shapes, spread):
    tensors = [x.requires_grad_() for x in inputs(shapes, spread)]
    value, points, weights = tensors
    mine, theirs = ours(value, shapes, points, weights), by_grid_sample(value, shapes, points, weights)
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    direction = torch.randn_like(mine)
    for one, other in zip(
        torch.autograd.grad(mine, tensors, direction),
        torch.autograd.grad(theirs, tensors, direction),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_points_on_the_border_and_on_pixels():
    shapes = [(2, 3)]
    value = torch.arange(1.0, 7.0).view(1, 6, 1, 1)
    points = torch.tensor([[-1.0, -1], [-0.5, 0], [0, 0], [2, 1], [2.5, 1], [3, 2], [1, 0.5]])
    points = points.view(1, 7, 1, 1, 1, 2).expand(-1, -1, -1, -1, POINTS, -1)
    out = ours(value, shapes, points, torch.full((1, 7, 1, 1, POINTS), 1 / POINTS))
    assert out.flatten().tolist() == [0, 0.5, 1, 6, 3, 0, 3.5]


def test_weighted_sum_and_its_gradient_where_rows_repeat():
    rows = torch.tensor([[0, 0], [2, 0]], dtype=torch.int32)
    table = torch.tensor([[1.0], [10.0], [100.0]], requires_grad=True)
    factors = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    out = weighted_sum(rows, table, factors)
    assert out.tolist() == [[3.0], [304.0]]
    out.backward(torch.tensor([[1.0], [2.0]]))
    assert table.grad.tolist() == [[11.0], [0.0], [6.0]]
    assert factors.grad.tolist() == [[1.0, 1.0], [200.0, 2.0]]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_tables_of_rows_and_columns_equal_the_term_of_all_tokens(dtype, tolerance):
    torch.manual_seed(1)
    shapes, attention = [(3, 5), (6, 10), (1, 20)], DeformableAttention(16, 2, 3).to(dtype)
    embeds = torch.randn(3, 16, dtype=dtype)
    position = torch.cat([sine_position(*shape, embed) + embed for shape, embed in zip(shapes, embeds, strict=True)])
    tables = [sine_tables(*shape, embed) for shape, embed in zip(shapes, embeds, strict=True)]
    rows = torch.cat([part + embed for (part, _), embed in zip(tables, embeds, strict=True)])
    columns = torch.cat([part for _, part in tables])

    x = torch.randn(2, len(position), 16, dtype=dtype)
    whole = attention(x, attention.plan(position), geometry(shapes, 2, x))
    parts = attention(x, attention.plan_tables(rows, columns, shapes), geometry(shapes, 2, x, tables=True))
    torch.testing.assert_close(parts, whole, rtol=tolerance, atol=tolerance)
