"""The kernels of the group norm against their torch twin."""

import pytest
import torch

from m2f_ros import kernels
from m2f_ros.model import norms

EXACT = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def layer(groups: int, channels: int, dtype: torch.dtype = torch.float32) -> norms.GroupNorm:
    norm = norms.GroupNorm(groups, channels, eps=1e-3).requires_grad_(False)
    for parameter in norm.parameters():
        parameter.copy_(torch.randn(channels, generator=torch.Generator().manual_seed(channels)))
    return norm.to(dtype)


def maps(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = 2 + torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    return x.to(dtype).to(memory_format=torch.channels_last)


@pytest.fixture
def both(device, monkeypatch):
    """A function's result with the kernels, and the plain one in double precision."""

    def run(function, norm, *operands):
        exact = function(norm.double(), *(x.double() for x in operands))
        norm.to(operands[0].dtype).to(device)
        monkeypatch.setattr(kernels, "use", lambda name, tensor: name == "group_norm")
        result = function(norm, *(x.to(device) for x in operands))
        assert result.dtype == operands[0].dtype
        return result.double().cpu(), exact

    return run


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("size, coarse", [((11, 37), (5, 19)), ((8, 12), (4, 6))])
def test_equals_the_twin(both, dtype, size, coarse) -> None:
    operands = maps(2, 64, *size, dtype=dtype), maps(2, 64, *coarse, dtype=dtype)
    ours, exact = both(lambda norm, x, y: norms.normalise(x, norm, coarse=y), layer(32, 64, dtype), *operands)
    torch.testing.assert_close(ours, exact, rtol=EXACT[dtype], atol=4 * EXACT[dtype])


@pytest.mark.parametrize("groups, channels", [(1, 3), (4, 4), (8, 24), (32, 32), (32, 256)])
@pytest.mark.parametrize("size", [(1, 1), (7, 1), (3, 50)])
def test_any_size_and_number_of_channels(both, groups, channels, size) -> None:
    ours, exact = both(
        lambda norm, x: norms.normalise(x, norm, relu=True), layer(groups, channels), maps(1, channels, *size)
    )
    torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-4)
    assert ours.min() >= 0


@pytest.mark.parametrize("coarse", [(1, 1), (6, 1), (11, 13), (3, 20), (2, 2)])
def test_any_ratio_of_sizes(both, coarse) -> None:
    function = lambda norm, x, y: norms.normalise(x, norm, coarse=y)  # noqa: E731
    ours, exact = both(function, layer(4, 8), maps(1, 8, 6, 13), maps(1, 8, *coarse))
    torch.testing.assert_close(ours, exact, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_tokens_of_several_maps(both, dtype) -> None:
    operands = [maps(3, 32, *size, dtype=dtype) for size in ((1, 2), (9, 5), (17, 10))]
    function = lambda norm, *maps: norms.normalised_tokens(maps, [norm] * 3)  # noqa: E731
    ours, exact = both(function, layer(4, 32, dtype), *operands)
    torch.testing.assert_close(ours, exact, rtol=EXACT[dtype], atol=EXACT[dtype])


def test_many_chunks_and_a_mean_far_from_zero(both, monkeypatch) -> None:
    from m2f_ros.kernels import group_norm as kernel

    monkeypatch.setattr(kernel, "PROGRAMS", 3)
    x = 300 + torch.arange(70.0).view(1, 1, 70, 1) + maps(1, 256, 70, 30)  # 17 chunks, of different means
    ours, exact = both(lambda norm, x: norms.normalise(x, norm), layer(32, 256), x)
    torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-4)


def test_the_coarse_map_may_be_a_part_of_other_tokens(both) -> None:
    tokens = maps(2, 8, 9, 1).flatten(2).mT.contiguous()
    function = lambda norm, x, y: norms.normalise(x, norm, coarse=y[:, 3:].mT.unflatten(2, (2, 3)))  # noqa: E731
    ours, exact = both(function, layer(4, 8), maps(2, 8, 4, 6), tokens)
    torch.testing.assert_close(ours, exact, rtol=1e-5, atol=2e-5)


def test_nan_stays(both) -> None:
    x = maps(1, 8, 2, 2)
    x[0, 0, 0, 0] = float("nan")
    ours, exact = both(lambda norm, x: norms.normalise(x, norm, relu=True), layer(4, 8), x)
    assert ours.isnan().equal(exact.isnan()) and ours.isnan().any()


def test_what_does_not_fit_is_an_error(device) -> None:
    from m2f_ros.kernels import group_norm as kernel

    x, one = torch.zeros(1, 2, 2, 6), torch.ones(6)
    for groups in (4, 3):
        with pytest.raises(ValueError, match="do not fit together"):
            kernel.group_norm(x, groups, one, one, 1e-5)
    with pytest.raises(ValueError, match="do not fit into"):
        kernel.group_norm(x, 2, one, one, 1e-5, out=torch.zeros(1, 5, 6), start=2)
    with pytest.raises(ValueError, match="do not fit together"):
        kernel.group_norm(x, 2, one, one, 1e-5, coarse=torch.zeros(1, 1, 1, 4))
