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


@pytest.mark.parametrize("queries, classes", [(20, 133), (17, 150), (16, 255), (3, 300), (200, 1), (20, 40), (9, 100)])
def test_any_number_of_queries_and_classes(device, queries, classes) -> None:
    check(device, 1, queries, classes, (1, 2), (4, 8), (4, 8))


@pytest.mark.parametrize("frame", [(5, 12), (8, 7), (3, 5), (11, 30), (1, 1), (2, 129)])
def test_frames_of_another_size_than_the_network(device, frame) -> None:
    check(device, 1, 10, 5, (2, 3), (8, 12), frame)


@pytest.mark.parametrize("content, frame", [((6, 11), (6, 11)), ((6, 12), (9, 10)), ((5, 9), (5, 18))])
def test_padding_of_the_network_is_cropped(device, content, frame) -> None:
    check(device, 1, 10, 5, (2, 3), (8, 12), frame, content)


@pytest.mark.parametrize("maps", [(8, 12), (3, 5), (1, 1)])
@pytest.mark.parametrize("frame", [(8, 12), (5, 12), (8, 7), (11, 30)])
def test_maps_that_are_no_quarter(device, maps, frame) -> None:
    check(device, 2, 10, 5, maps, (8, 12), frame)


def test_scores_that_take_too_much_memory(device, monkeypatch) -> None:
    from m2f_ros.kernels import semantic as kernel

    monkeypatch.setattr(kernel, "SCORES", 6 * 11 * 8 * 4 - 1)
    monkeypatch.setattr(kernel, "_labels_of_scores", None)
    check(device, 1, 10, 5, (2, 3), (8, 12), (9, 10), (6, 11))


def test_frames_wider_than_a_program(device) -> None:
    check(device, 1, 5, 19, (1, 33), (2, 131), (2, 131))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("frame", [(12, 160), (11, 157), (10, 6), (1, 3), (2, 2)])
def test_frames_of_cells(device, frame, dtype) -> None:
    """Masks at a quarter of the network's size and frames that are not resized, with cells that are not whole."""
    check(device, 2, 17, 19, (3, 40), (12, 160), frame, frame, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", [19, 40, 100])
def test_resized_frames_of_cells(device, classes, dtype) -> None:
    check(device, 2, 17, classes, (2, 9), (8, 36), (13, 70), (7, 35), dtype)


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


@pytest.mark.filterwarnings("ignore:invalid value")  # of the interpreter
@pytest.mark.parametrize("classes, frame", [(5, (8, 8)), (5, (7, 9)), (150, (8, 8))])
def test_nan_becomes_the_first_class(device, classes, frame) -> None:
    """A label is a row of the palette for torch, whose check of another one would end the CUDA context."""
    from m2f_ros.kernels import semantic as kernel

    class_logits, maps = torch.zeros(1, 4, classes + 1, device=device), torch.zeros(1, 4, 2, 2, device=device)
    given = [(class_logits * torch.nan, maps)]
    if device.type == "cuda":  # the interpreter refuses a maximum of NaN alone
        given.append((class_logits, maps * torch.nan))
    for logits in given:
        label, _ = kernel.labels(*logits, (8, 8), frame, True)
        assert not label.any()
