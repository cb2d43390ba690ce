"""Group norm where torch's module refuses."""

import torch

from m2f_ros.model.norms import GroupNorm


def test_a_group_of_one_number_becomes_the_bias():
    norm = GroupNorm(3, 3)
    torch.nn.init.normal_(norm.bias)
    torch.testing.assert_close(norm(torch.randn(1, 3, 1, 1)).flatten(), norm.bias, rtol=0, atol=1e-3)


def test_otherwise_it_is_torchs():
    x = torch.randn(2, 6, 1, 2)
    assert GroupNorm(3, 6)(x).equal(torch.nn.GroupNorm(3, 6)(x))
