"""oneDNN's operators against torch's, which are taken where oneDNN's are switched off."""

import pytest
import torch
from torch import nn

from m2f_ros.model import layers

pytestmark = pytest.mark.skipif(not layers._AVAILABLE, reason="this torch is built without oneDNN")


@pytest.fixture
def both(monkeypatch):
    """A function's result with oneDNN's operators, and the one without."""

    @torch.inference_mode()
    def run(function):
        monkeypatch.setattr(layers, "_LEAST_WORK", 0)
        fused = function()
        monkeypatch.setattr(layers, "_AVAILABLE", False)
        return fused, function()

    return run


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(both, activation, bias):
    layer = layers.Linear(24, 40, bias, activation)
    x = random(2, 24, 5).transpose(1, 2)  # not contiguous
    torch.testing.assert_close(*both(lambda: layer(x)))


@pytest.mark.parametrize("batch", [1, 3])
def test_linear_with_a_term(both, batch):
    x, weight, term = random(batch, 7, 16), random(24, 16), random(7, 24)
    fused, plain = both(lambda: layers.linear_plus(x, weight, term))
    torch.testing.assert_close(fused, plain)
    torch.testing.assert_close(plain, x @ weight.t() + term)


@pytest.mark.parametrize("activation, added", [("none", False), ("relu6", False), ("none", True)])
@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_convolution(both, activation, added, groups, memory):
    conv = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=groups)
    x, plus = (random(2, 8, 10, 12) * 9).to(memory_format=memory), random(2, 16, 5, 6) if added else None
    fused, plain = both(lambda: layers.convolve(conv, x, activation, plus))
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)
    assert activation != "relu6" or (plain.min(), plain.max()) == (0, 6)


@pytest.mark.parametrize("side, bias", [(1, False), (4, True)])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_a_product_of_patches(side, bias, memory):
    conv = nn.Conv2d(3, 16, side, stride=side, bias=bias).to(memory_format=memory)
    x = random(2, 3, 8, 12).to(memory_format=memory)
    out = layers._product_of_patches(conv, x)
    torch.testing.assert_close(out, conv(x))
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_relu_in_the_product():
    layer = layers.Linear(24, 40, activation="relu").requires_grad_(False)
    for shape in ((5, 24), (2, 3, 7, 24)):
        x = random(*shape)
        torch.testing.assert_close(layers._linear_relu(x, layer.weight, layer.bias), layer(x))


def test_gradients_take_torchs_own_operators():
    layer = layers.Linear(4, 4)
    layer(random(2, 4)).sum().backward()
    assert torch.equal(layer.bias.grad, torch.full((4,), 2.0))
