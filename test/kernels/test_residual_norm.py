"""The kernel of a residual connection and its layer norm against its torch twin."""

import pytest
import torch
from torch import nn

from m2f_ros.model import norms

EXACT = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def check(device: torch.device, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
    from m2f_ros.kernels import residual_norm as kernel

    generator = torch.Generator().manual_seed(sum(shape))
    x, y = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    norm = nn.LayerNorm(shape[-1], eps=1e-3, dtype=dtype)
    for parameter in norm.parameters():
        parameter.data = torch.randn(shape[-1:], generator=generator).to(dtype)
    operands = [t.detach().to(device) for t in (x, y, norm.weight, norm.bias)]
    total, normed = kernel.add_norm(*operands, norm.eps)
    assert total.dtype == normed.dtype == dtype
    torch.testing.assert_close(total.cpu(), norms.add_norm(x, y, norm)[0], rtol=0, atol=0)
    wanted = norm.double()(total.double().cpu())  # of the rounded sum
    torch.testing.assert_close(normed.double().cpu(), wanted, rtol=EXACT[dtype], atol=EXACT[dtype])
    assert kernel.norm_of_sum(*operands, norm.eps).equal(normed)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("shape", [(1, 5, 3, 192), (2, 7, 256)], ids=str)
def test_equals_the_twin(device, dtype, shape) -> None:
    check(device, shape, dtype)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 40), (9, 33), (1, 2, 1536), (67, 16)], ids=str)
def test_any_number_of_rows_and_channels(device, shape) -> None:
    check(device, shape)


def test_a_mean_far_from_zero(device) -> None:
    from m2f_ros.kernels import residual_norm as kernel

    x = 1000 + torch.randn(4, 96, generator=torch.Generator().manual_seed(0))
    one, zero = torch.ones(96), torch.zeros(96)
    normed = kernel.norm_of_sum(*(t.to(device) for t in (x, zero.expand(4, 96), one, zero)), 1e-5)
    wanted = nn.functional.layer_norm(x.double(), (96,))
    torch.testing.assert_close(normed.double().cpu(), wanted, rtol=1e-3, atol=1e-3)


def test_operands_that_are_not_contiguous(device) -> None:
    from m2f_ros.kernels import residual_norm as kernel

    x = torch.arange(24.0, device=device).view(6, 4)
    one, zero = torch.ones(6, device=device), torch.zeros(6, device=device)
    total, normed = kernel.add_norm(x.t(), one.expand(4, 6), one, zero, 1e-5)
    assert total.equal(x.t() + 1)
    torch.testing.assert_close(normed, nn.functional.layer_norm(x.t() + 1, (6,)))


def test_operands_of_unlike_shapes_are_an_error(device) -> None:
    from m2f_ros.kernels import residual_norm as kernel

    with pytest.raises(ValueError, match="do not fit"):
        kernel.add_norm(torch.zeros(2, 4), torch.zeros(1, 4), torch.zeros(4), torch.zeros(4), 1e-5)
