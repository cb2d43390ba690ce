"""The kernels of masked attention against their torch twins."""

import pytest
import torch
from torch.nn import functional as F

from m2f_ros.model.mask2former import decoder

EXACT = {torch.float32: 2e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}


def check(
    device: torch.device,
    batch: int,
    queries: int,
    size: tuple[int, int],
    heads: int,
    dim: int,
    dtype: torch.dtype = torch.float32,
    offset: float = 0,
    scale: float = 1,
) -> None:
    """offset: of the masks, whose logits are about normal; scale: of the queries."""
    from m2f_ros.kernels import masked

    generator = torch.Generator().manual_seed(sum(size))

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    (height, width), channels = size, heads * dim
    query, embedding, features = (
        scale * normal(batch, queries, channels),
        normal(batch, queries, channels) / channels**0.5,
        normal(batch, height * width, channels),
    )
    offsets = offset + normal(batch, queries)
    if queries > 2:
        offsets[:, 1], offsets[:, 2] = -1e4, 1e4  # an empty mask and a full one
    both = normal(batch, height * width, 4 * channels)
    keys, values = both[..., channels : 2 * channels], both[..., 3 * channels :]
    rows, columns = (normal(length, 2 * channels)[:, channels:] for length in size)

    exact = [x.double() for x in (query, embedding, offsets, features, keys, values, rows, columns)]
    masks = exact[1] @ exact[3].transpose(1, 2) + exact[2][..., None]
    masks[masks.abs() < 1e-6] = 0
    terms = (exact[6][:, None] + exact[7]).flatten(0, 1)
    parts = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (exact[0], exact[4] + terms, exact[5]))
    visible = decoder.attention_mask(masks.unflatten(2, size))
    wanted = F.scaled_dot_product_attention(*parts, attn_mask=visible).transpose(1, 2).flatten(2)

    arguments = (x.to(device) for x in (query, embedding, offsets, features))
    both, wide = both.to(device), [x._base.to(device) for x in (rows, columns)]
    result = masked.attend(
        *arguments,
        *(both[..., channels : 2 * channels], both[..., 3 * channels :]),
        *(x[:, channels:] for x in wide),
        heads,
    )
    assert result.dtype == dtype and result.shape == wanted.shape
    torch.testing.assert_close(result.double().cpu(), wanted, rtol=EXACT[dtype], atol=EXACT[dtype])


@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_equals_the_twin(device, dtype) -> None:
    check(device, 1, 12, (10, 26), 2, 16, dtype)


@pytest.mark.parametrize(
    "batch, queries, size, heads, dim",
    [
        pytest.param(2, 100, (8, 16), 8, 32, marks=pytest.mark.more),
        (1, 200, (3, 7), 4, 32),
        (3, 20, (1, 1), 1, 64),
        (1, 1, (1, 129), 3, 24),
    ],
)
def test_batches_and_any_number_of_queries_keys_heads_and_channels(device, batch, queries, size, heads, dim) -> None:
    check(device, batch, queries, size, heads, dim)


@pytest.mark.parametrize("offset", [-2.5, -4, -1e3, 1e3])
def test_blocks_without_visible_keys(device, offset) -> None:
    check(device, 2, 17, (8, 50), 2, 16, offset=offset)


def test_many_blocks(device) -> None:
    check(device, 1, 3, (72, 120), 1, 16, offset=-3)


def test_large_logits_do_not_overflow(device) -> None:
    check(device, 1, 9, (9, 20), 2, 16, torch.float16, scale=100)


def test_what_does_not_fit_is_an_error(device) -> None:
    from m2f_ros.kernels import masked

    query, keys = torch.zeros(1, 3, 32, device=device), torch.zeros(1, 6, 32, device=device)
    rows, columns = torch.zeros(2, 32, device=device), torch.zeros(3, 32, device=device)
    with pytest.raises(ValueError, match="do not fit together"):
        masked.attend(query, query, query[..., 0], keys, keys, keys, rows, columns[:2], 2)
    with pytest.raises(ValueError, match="do not fit together"):
        masked.attend(query, query, query[..., 0], keys, keys, keys, rows, columns, 5)
    with pytest.raises(ValueError, match="strides"):
        masked.attend(query, query, query[..., 0], keys, keys, keys.repeat(1, 1, 2)[..., :32], rows, columns, 2)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("batch, channels, size", [(1, 32, (16, 24)), (2, 24, (8, 8))])
def test_middles(device, batch, channels, size, dtype) -> None:
    from m2f_ros.kernels import masked

    maps = torch.randn(batch, *size, channels).to(dtype)
    for result, factor in zip(masked.middles(maps.to(device)), decoder.FACTORS, strict=True):
        wanted = decoder.middles(maps.float().permute(0, 3, 1, 2), factor).to(dtype).flatten(2).mT
        torch.testing.assert_close(result.cpu(), wanted, rtol=EXACT[dtype], atol=EXACT[dtype])


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("batch, queries, channels, size", [(1, 12, 48, (8, 20)), (2, 130, 128, (3, 43))])
def test_predict(device, batch, queries, channels, size, dtype) -> None:
    from m2f_ros.kernels import masked

    embedding = torch.randn(batch, queries, channels).to(dtype) / 8
    offset, maps = torch.randn(batch, queries, 1).to(dtype), torch.randn(batch, *size, channels).to(dtype)
    wanted = torch.baddbmm(offset.double(), embedding.double(), maps.double().flatten(1, 2).mT).unflatten(2, size)
    result = masked.predict(*(x.to(device) for x in (embedding, offset, maps)))
    assert result.dtype == dtype and result.shape == wanted.shape
    torch.testing.assert_close(result.double().cpu(), wanted, rtol=EXACT[dtype], atol=EXACT[dtype])


def test_middles_of_a_size_that_does_not_fit(device) -> None:
    from m2f_ros.kernels import masked

    with pytest.raises(ValueError, match="12x8"):
        masked.middles(torch.zeros(1, 12, 8, 16, device=device))
