"""The kernel of float8 quantisation against its torch twin."""

import pytest
import torch

from m2f_ros.model import float8


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize("rows, columns", [(1, 16), (37, 96), (5, 3072), (130, 64), (3, 1000)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_quantise(device, activation, rows, columns, dtype) -> None:
    from m2f_ros.kernels import float8 as kernel

    generator = torch.Generator().manual_seed(rows + columns)
    x = (torch.randn(rows, columns, generator=generator) * torch.logspace(-6, 3, rows)[:, None]).to(dtype)
    x[rows // 2] = 0
    values, scale = kernel.quantise(x.to(device), activation)
    wanted, wanted_scale = float8.quantise(x, activation)
    assert values.dtype == torch.float8_e4m3fn
    assert scale.shape == (rows, 1)
    torch.testing.assert_close(scale.cpu(), wanted_scale, rtol=1e-4, atol=0)
    found, wanted = values.float().cpu(), wanted.float()
    # A last bit of float32 may round to the neighbour, at most 1/8 away.
    assert ((found - wanted).abs() <= wanted.abs() / 8 + 2**-9).all()
    assert (found != wanted).float().mean() <= 0.01
    assert not found[rows // 2].any()
