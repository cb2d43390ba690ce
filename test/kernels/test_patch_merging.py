"""The kernel of Swin's patch merging against its torch twin."""

import pytest
import torch
from torch import nn

from m2f_ros.model.mask2former import swin

EXACT = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("shape", [(1, 4, 6, 24), (2, 5, 3, 16), (1, 1, 1, 3), (1, 2, 7, 192)], ids=str)
def test_equals_the_twin(device, dtype, shape) -> None:
    from m2f_ros.kernels import patch_merging as kernel

    generator = torch.Generator().manual_seed(sum(shape))
    x = (3 + torch.randn(shape, generator=generator)).to(dtype)
    norm = nn.LayerNorm(4 * shape[-1], eps=1e-3, dtype=dtype).requires_grad_(False)
    for parameter in norm.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    result = kernel.merge(x.to(device), norm.weight.to(device), norm.bias.to(device), norm.eps)
    assert result.dtype == dtype
    wanted = swin.merge(x.double(), norm.double())
    torch.testing.assert_close(result.double().cpu(), wanted, rtol=EXACT[dtype], atol=EXACT[dtype])


def test_what_does_not_fit_is_an_error(device) -> None:
    from m2f_ros.kernels import patch_merging as kernel

    with pytest.raises(ValueError, match="do not fit"):
        kernel.merge(torch.zeros(1, 2, 2, 4), torch.zeros(4), torch.zeros(4), 1e-5)
