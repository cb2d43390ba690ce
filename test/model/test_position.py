"""The sine embedding and its tables."""

import torch
from torch.nn import functional as F

from m2f_ros.model.mask2former.position import sine_position, sine_tables


def test_the_embedding_of_a_pixel():
    position = sine_position(3, 5, torch.zeros(8, dtype=torch.float64)).view(3, 5, 2, 2, 2)
    for axis, (index, length) in enumerate([(2, 3), (4, 5)]):
        angle = torch.tensor(index / (length + 1e-6) * 2 * torch.pi, dtype=torch.float64) / torch.tensor([1, 100])
        torch.testing.assert_close(position[1, 3, axis], torch.stack([angle.sin(), angle.cos()], 1))


def test_a_linear_map_of_it_is_the_sum_of_two_tables():
    like, weight, bias = torch.zeros(8, dtype=torch.float16), torch.randn(6, 8), torch.randn(6)
    rows, columns = sine_tables(3, 5, like)
    assert rows.dtype == columns.dtype == torch.float32
    sums = F.linear(rows, weight, bias)[:, None] + F.linear(columns, weight)
    torch.testing.assert_close(sums.flatten(0, 1), F.linear(sine_position(3, 5, like.float()), weight, bias))
