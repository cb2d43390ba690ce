"""The kernel of the overlay against its torch twin."""

import pytest
import torch

from m2f_ros.pipeline import overlay as twin


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (13, 53), (37, 41)])
@pytest.mark.parametrize("bgr", [False, True])
def test_equals_the_twin(device, size, bgr) -> None:
    from m2f_ros.kernels import overlay

    generator = torch.Generator().manual_seed(sum(size))
    picture = torch.randint(256, (*size, 3), generator=generator, dtype=torch.uint8)
    label = torch.randint(19, size, generator=generator, dtype=torch.uint8)
    palette = torch.randint(256, (19, 3), generator=generator, dtype=torch.uint8)
    weights = torch.randint(257, (19,), generator=generator, dtype=torch.int32)
    for weight in (weights, *(torch.full((19,), value, dtype=torch.int32) for value in (0, 1, 128, 255, 256))):
        result = overlay.blend(*(x.to(device) for x in (picture, label, palette, weight)), bgr)
        assert result.cpu().equal(twin.blend(picture, label, palette, weight, bgr))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_batches_and_wide_labels(device, dtype) -> None:
    from m2f_ros.kernels import overlay

    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, (3, 5, 7, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(300, (3, 5, 7), generator=generator).to(dtype)
    palette = torch.randint(256, (300, 3), generator=generator, dtype=torch.uint8)
    weight = torch.randint(257, (300,), generator=generator, dtype=torch.int32)
    result = overlay.blend(*(x.to(device) for x in (pictures, labels, palette, weight))).cpu()
    for one, picture, label in zip(result, pictures, labels, strict=True):
        assert one.equal(twin.blend(picture, label, palette, weight))


def test_a_view_of_a_picture(device) -> None:
    from m2f_ros.kernels import overlay

    picture = torch.arange(4 * 6 * 3, dtype=torch.uint8, device=device).view(4, 6, 3)[1:, ::2]
    label = torch.zeros(3, 3, dtype=torch.uint8, device=device)
    palette = torch.zeros(1, 3, dtype=torch.uint8, device=device)
    result = overlay.blend(picture, label, palette, torch.zeros(1, dtype=torch.int32, device=device))
    assert result.cpu().equal(picture.flip(-1).cpu())
