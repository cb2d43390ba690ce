"""The kernel of GELU against torch's."""

import pytest
import torch
from torch.nn import functional as F

EXACT = {torch.float32: (0, 1e-6), torch.float16: (1e-3, 6e-8), torch.bfloat16: (8e-3, 6e-8)}


@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_equals_torch(device, dtype) -> None:
    from m2f_ros.kernels import gelu as kernel

    x = torch.linspace(-13, 13, 2500).to(dtype)
    ours = x.to(device, copy=True)
    assert kernel.gelu_(ours) is ours
    rtol, atol = EXACT[dtype]
    torch.testing.assert_close(ours.double().cpu(), F.gelu(x.double()), rtol=rtol, atol=atol)


@pytest.mark.parametrize("count", [0, 1, 1023, 1025])
def test_any_number(device, count) -> None:
    from m2f_ros.kernels import gelu as kernel

    x = torch.randn(count, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(kernel.gelu_(x.to(device, copy=True)).cpu(), F.gelu(x), rtol=0, atol=1e-6)


def test_extremes(device) -> None:
    from m2f_ros.kernels import gelu as kernel

    x = torch.tensor([float("nan"), 1e30, 0.0, -0.0, -50.0, -1e30], device=device)
    torch.testing.assert_close(kernel.gelu_(x.clone()), F.gelu(x), rtol=0, atol=1e-8, equal_nan=True)


def test_strides(device) -> None:
    from m2f_ros.kernels import gelu as kernel

    x = torch.arange(6.0, device=device).view(2, 3).t()
    torch.testing.assert_close(kernel.gelu_(x), F.gelu(x), rtol=0, atol=1e-6)
