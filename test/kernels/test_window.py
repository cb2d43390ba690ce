"""The kernel of window attention against its torch twin."""

import pytest
import torch

from m2f_ros import kernels
from m2f_ros.model.mask2former import swin

EXACT = {torch.float32: 2e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}


def check(
    device: torch.device,
    batch: int,
    size: tuple[int, int],
    heads: int,
    dim: int,
    window: int,
    shift: int,
    dtype: torch.dtype = torch.float32,
    bias_scale: float = 1,
    tolerance: float | None = None,
) -> None:
    from m2f_ros.kernels import window as kernel

    generator = torch.Generator().manual_seed(sum(size))
    tokens, channels = window**2, heads * dim
    qkv = torch.randn(batch, *size, 3 * channels, generator=generator).to(dtype)
    pad = torch.randn(3 * channels, generator=generator).to(dtype)
    bias = bias_scale * torch.randn(heads, tokens, tokens, generator=generator).to(dtype)

    exact = qkv.double()
    windows = swin.windows_of(*size, window, shift, exact)
    plan = swin.BlockPlan(bias.double() + windows.mask[:, None], windows)
    wanted = swin.attend(exact, pad.double(), plan, heads, window, shift)

    arranged = kernel.arrange(plan.bias.to(device, dtype), dim)
    result = kernel.attend(qkv.to(device), pad.to(device), arranged, heads, window, shift)
    assert result.dtype == dtype and result.shape == wanted.shape
    tolerance = tolerance or EXACT[dtype]
    torch.testing.assert_close(result.double().cpu(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("window, shift", [(7, 3), (12, 6)])
def test_equals_the_twin(device, dtype, window, shift) -> None:
    check(device, 1, (window + 3, 2 * window), 1, 32, window, shift, dtype)


@pytest.mark.parametrize("window, size", [(7, (14, 21)), (12, (12, 25))])
def test_without_shift(device, window, size) -> None:
    check(device, 1, size, 1, 32, window, 0)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (11, 5)])
@pytest.mark.parametrize("shift", [0, 3])
def test_sizes_below_a_window(device, size, shift) -> None:
    check(device, 1, size, 1, 16, 7, shift)


@pytest.mark.parametrize(
    "batch, heads, dim, window, shift",
    [(3, 2, 16, 4, 2), (1, 3, 24, 3, 1), (2, 3, 20, 4, 2), (2, 1, 48, 2, 1), (1, 1, 16, 10, 5)],
)
def test_batches_and_any_number_of_heads_channels_and_places(device, batch, heads, dim, window, shift) -> None:
    check(device, batch, (window + 1, window), heads, dim, window, shift)


def test_large_logits_do_not_overflow(device) -> None:
    check(device, 1, (7, 9), 1, 16, 7, 3, bias_scale=1e3, tolerance=1e-3)


def test_what_does_not_fit_is_an_error(device) -> None:
    from m2f_ros.kernels import window as kernel

    qkv, bias = torch.zeros(1, 7, 7, 96), kernel.arrange(torch.zeros(1, 2, 49, 49), 16)
    for heads, shift in ((2, 3), (1, 0), (3, 0)):
        with pytest.raises(ValueError, match="do not fit"):
            kernel.attend(qkv, torch.zeros(96), bias, heads, 7, shift)
    with pytest.raises(ValueError, match="2\\^31 numbers"):
        kernel.attend(torch.empty(1, 8192, 8192, 96, device="meta"), torch.zeros(96), bias, 2, 7, 0)


@pytest.mark.parametrize("dtype, most", [(torch.float16, 16), (torch.float32, 12)], ids=str)
@pytest.mark.parametrize("size", [12, 13, 16, 17])
def test_large_windows_go_without(monkeypatch, size, dtype, most) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(kernels, "use", lambda name, tensor, dim: (name, dim) == ("window_attention", 32))
    attention = swin.WindowAttention(64, 2, size, 0).to(dtype)
    windows = swin.windows_of(8, 8, size, 0, attention.bias_table)
    assert bool(attention.plan(windows).arranged) == (size <= most)
