"""The kernel of the semantic head against its torch twin."""

import pytest
import torch

from m2f_ros.model import heads

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def check(
    device: torch.device,
    batch: int,
    queries: int,
    classes: int,
    maps: tuple[int, int],
    network: tuple[int, int],
    frame: tuple[int, int],
    content: tuple[int, int] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    from m2f_ros.kernels import semantic as kernel

    generator = torch.Generator().manual_seed(queries * classes)
    class_logits = 3 * torch.randn(batch, queries, classes + 1, generator=generator).to(dtype)
    mask_logits = 4 * torch.randn(batch, queries, *maps, generator=generator).to(dtype)
    label, sure = kernel.labels(class_logits.to(device), mask_logits.to(device), network, frame, True, content)
    assert label.dtype == (torch.uint8 if classes <= 255 else torch.int32)
    label, sure = label.cpu().long(), sure.cpu().int()
    assert label.max() < classes

    height, width = content or network
    scores = heads.semantic_scores(class_logits.double(), mask_logits.double(), network)[..., :height, :width]
    scores = heads.resize(scores, frame)
    best, wanted = scores.max(1)
    assert label.shape == wanted.shape
    # Where labels differ, the two scored the same but for the rounding of the probabilities.
    near = 2e-3 if dtype != torch.float32 else 1e-5
    assert (scores.gather(1, label[:, None])[:, 0] >= best * (1 - near)).all()
    assert (label == wanted).double().mean() >= 0.97
    share = (best / scores.sum(1) * 255).round().int()
    assert ((sure - share).abs() <= 1).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("queries, classes", [(100, 19), (32, 12)])
def test_equals_the_twin(device, dtype, queries, classes) -> None:
    check(device, 1, queries, classes, (2, 3), (8, 12), (8, 12), dtype=dtype)


@pytest.mark.parametrize("queries, classes", [(20, 133), (17, 150), (16, 255), (3, 300), (200, 1)])
def test_any_number_of_queries_and_classes(device, queries, classes) -> None:
    check(device, 1, queries, classes, (1, 2), (4, 8), (4, 8))


@pytest.mark.parametrize("frame", [(5, 12), (8, 7), (3, 5), (11, 30), (1, 1), (2, 129)])
def test_frames_of_another_size_than_the_network(device, frame) -> None:
    check(device, 1, 10, 5, (2, 3), (8, 12), frame)


@pytest.mark.parametrize("content, frame", [((6, 11), (6, 11)), ((6, 12), (9, 10)), ((5, 9), (5, 18))])
def test_padding_of_the_network_is_cropped(device, content, frame) -> None:
    check(device, 1, 10, 5, (2, 3), (8, 12), frame, content)


@pytest.mark.parametrize("maps", [(8, 12), (3, 5), (1, 1)])
def test_maps_that_are_no_quarter(device, maps) -> None:
    check(device, 2, 10, 5, maps, (8, 12), (8, 12))


def test_frames_wider_than_a_program(device) -> None:
    check(device, 1, 5, 19, (1, 33), (2, 131), (2, 131))


def test_the_first_of_equal_classes_without_confidence(device) -> None:
    from m2f_ros.kernels import semantic as kernel

    class_logits = torch.tensor([[[0.0, 2, 1, 2, 5]]], device=device)
    label, sure = kernel.labels(class_logits, torch.ones(1, 1, 1, 1, device=device), (4, 4), (4, 4))
    assert label.tolist() == [[[1] * 4] * 4] and sure is None


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # of the interpreter
def test_where_no_mask_reaches(device) -> None:
    from m2f_ros.kernels import semantic as kernel

    class_logits = torch.zeros(1, 4, 4, device=device)
    maps = torch.full((1, 4, 2, 2), -200.0, device=device)
    label, sure = kernel.labels(class_logits, maps, (8, 8), (8, 8), confidence=True)
    assert not label.any() and not sure.any()
