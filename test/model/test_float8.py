"""Linear layers with float8 products."""

import pytest
import torch
from torch import nn

from m2f_ros.errors import CheckpointError
from m2f_ros.model import Network, float8
from m2f_ros.model.float8 import Float8Linear
from m2f_ros.model.layers import Linear


def test_quantised_rows_use_the_whole_range() -> None:
    x = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [1e-4, 3e-4, -7e-4]])
    values, scale = float8.quantise(x)
    assert values.float().abs().amax(1).tolist() == [448, 0, 448]
    # Three bits of fraction: a sixteenth at most.
    assert ((values.float() * scale - x).abs() <= x.abs() / 16).all()


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_close_to_the_one_it_was_made_of(activation, bias) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(256, 48, bias=bias)
    before = {"none": nn.Identity(), "relu": nn.ReLU(), "gelu": nn.GELU()}[activation]
    x = torch.randn(2, 5, 7, 256)
    wanted = linear(before(x))
    found = Float8Linear(linear, activation)(x)
    assert found.shape == wanted.shape and found.dtype == x.dtype
    # Each product is off by 1/16 at most, at random; 256 of them sum up to far less.
    assert (found - wanted).norm() <= 0.04 * wanted.norm()
    assert not torch.equal(found, wanted)


def test_the_product_is_that_of_the_quantised_numbers() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(32, 16), torch.randn(9, 32)
    values, scale = float8.quantise(x)
    weight, weight_scale = float8.quantise(linear.weight.detach())
    wanted = (values.double() * scale.double()) @ (weight.double() * weight_scale.double()).t() + linear.bias.double()
    torch.testing.assert_close(Float8Linear(linear)(x).double(), wanted, rtol=1e-6, atol=1e-6)


class Mlp(nn.Module):
    def __init__(self, inputs: int, wide: int):
        super().__init__()
        self.fc1, self.fc2 = Linear(inputs, wide, activation="gelu"), Linear(wide, inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.fc1(x))


def test_a_pair_of_layers_keeps_its_activation() -> None:
    torch.manual_seed(0)
    mlp, x = Mlp(64, 128), torch.randn(10, 64)
    wanted = mlp(x)
    assert float8.convert([(mlp, "fc1", "fc2")]) == 2
    assert (mlp.fc1.activation, mlp.fc2.activation) == ("none", "gelu")
    assert (mlp(x) - wanted).norm() <= 0.06 * wanted.norm()


@pytest.mark.parametrize("inputs, wide, after", [(24, 64, "fc2"), (64, 72, "fc2"), (64, 128, "")])
def test_layers_that_do_not_fit_stay(inputs, wide, after) -> None:
    mlp = Mlp(inputs, wide)
    first, second = mlp.fc1, mlp.fc2
    assert float8.convert([(mlp, "fc1", after)]) == 0
    assert (mlp.fc1, mlp.fc2) == (first, second)


def test_a_network_without_such_layers_says_so() -> None:
    with pytest.raises(CheckpointError, match="Network has no layers for float8 products; take fp16"):
        Network().use_float8()
