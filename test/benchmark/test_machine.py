"""Operations and bytes, against what can be counted by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from m2f_ros.benchmark.machine import copy_rate, count, gemm_rate
from m2f_ros.model import layers


def test_a_linear_layer():
    layer, x = nn.Linear(7, 5), torch.randn(3, 11, 7)
    flops, numbers = count(lambda: layer(x))
    assert flops == 2 * 3 * 11 * 7 * 5
    assert numbers == 3 * 11 * 7 + 7 * 5 + 5 + 3 * 11 * 5


def test_a_convolution():
    conv, x = nn.Conv2d(4, 6, 3, padding=1, bias=False), torch.randn(2, 4, 8, 10)
    assert count(lambda: conv(x)) == (2 * 2 * 6 * 8 * 10 * 4 * 9, 2 * 4 * 80 + 6 * 4 * 9 + 2 * 6 * 80)


def test_attention():
    query, key, value = torch.randn(2, 4, 9, 16), torch.randn(2, 4, 12, 16), torch.randn(2, 4, 12, 16)
    flops, _ = count(lambda: F.scaled_dot_product_attention(query, key, value))
    assert flops == 2 * (2 * 2 * 4 * 9 * 12 * 16)


def test_sums_that_torchs_counter_leaves_out():
    table, rows, factors = torch.randn(20, 8), torch.randint(20, (5, 4)), torch.randn(5, 4)
    assert count(lambda: F.embedding_bag(rows, table, mode="sum", per_sample_weights=factors)) == (
        2 * 5 * 4 * 8,
        20 * 8 + 5 * 8,
    )
    maps, grid = torch.randn(2, 3, 8, 8), torch.rand(2, 5, 6, 2)
    assert count(lambda: F.grid_sample(maps, grid, align_corners=False))[0] == 8 * 2 * 3 * 5 * 6


def test_onednns_layers_count_as_torchs():
    x, linear = torch.randn(64, 512), nn.Linear(512, 256)
    assert count(lambda: layers.linear(x, linear.weight, linear.bias, "relu"))[0] == 2 * 64 * 512 * 256
    assert count(lambda: layers._linear_relu(x, linear.weight, linear.bias))[0] == 2 * 64 * 512 * 256
    maps, conv = torch.randn(1, 8, 16, 16), nn.Conv2d(8, 8, 3, padding=1)
    plain = count(lambda: conv(maps))[0]
    assert count(lambda: layers.convolve(conv, maps, "relu6"))[0] == plain
    assert count(lambda: layers.convolve(conv, maps, plus=maps))[0] == plain


def test_what_is_expanded_is_read_once():
    a, b = torch.randn(1, 4, 5).expand(10, 4, 5), torch.randn(10, 5, 6)
    assert count(lambda: torch.bmm(a, b))[1] == 4 * 5 + 10 * 5 * 6 + 10 * 4 * 6


@pytest.mark.heavy
def test_rates_are_of_this_machine():
    assert gemm_rate(torch.device("cpu"), torch.float32) > 1e8
    assert copy_rate(torch.device("cpu")) > 1e7
