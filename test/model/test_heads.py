"""Post-processing against upstream's own loops, written out here. (mask2former/maskformer_model.py upstream)"""

import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from m2f_ros import kernels
from m2f_ros.model import heads
from m2f_ros.model.heads import boundaries, counting, upsampling
from m2f_ros.taxonomy import of_labels

THINGS = torch.tensor([True, False, True, False, False])
SIZE, NETWORK, FRAME = (6, 8), (12, 16), (9, 14)


def logits(seed, queries=12, classes=5, size=SIZE, batch=2, step=None):
    """Random class and mask logits; with `step` of a few values only, so that queries and pixels tie."""
    generator = torch.Generator().manual_seed(seed)
    class_logits = torch.randn(batch, queries, classes + 1, generator=generator) * 4
    mask_logits = torch.randn(batch, queries, *size, generator=generator) * 3
    mask_logits += torch.randn(batch, queries, 1, 1, generator=generator) * 2
    if step is not None:
        class_logits, mask_logits = (class_logits / 8).round() * 8, (mask_logits / 3).round() * step
    return class_logits, mask_logits


seeds = st.integers(0, 10**6)
# At these steps mask probabilities are 1/2, or so near to 0 and 1 that they are these in fp32.
ties = st.builds(logits, seeds, step=st.sampled_from([1.0, 110.0]))
chunks = st.sampled_from([1, 300, 1 << 20])
# Class and mask logits, network's size, frame's size, content. No tie lives through an interpolation's rounding.
cases = st.one_of(
    st.tuples(st.builds(logits, seeds), st.just(NETWORK), st.just(FRAME), st.sampled_from([None, (7, 16), (12, 5)])),
    st.tuples(ties, st.just(SIZE), st.just(SIZE), st.none()),
)


def upsampled(mask_logits, network, frame, content=None):
    """One image's mask logits at the frame's size, as upstream's forward and sem_seg_postprocess make them."""
    height, width = content or network
    maps = F.interpolate(mask_logits[None], network, mode="bilinear", align_corners=False)[:, :, :height, :width]
    return F.interpolate(maps, frame, mode="bilinear", align_corners=False)[0]


def panoptic_inference(mask_cls, mask_pred, things, score_threshold, overlap_threshold, mask_threshold=0.5):
    """Upstream's panoptic_inference with mask_pred at output size. Returns ids and [(id, class, score)]."""
    scores, labels = F.softmax(mask_cls, dim=-1).max(-1)
    mask_pred = mask_pred.sigmoid()
    keep = labels.ne(mask_cls.shape[-1] - 1) & (scores > score_threshold)
    cur_scores, cur_classes, cur_masks = scores[keep], labels[keep], mask_pred[keep]
    ids = torch.zeros(mask_pred.shape[-2:], dtype=torch.int64)
    segments = []
    if cur_masks.shape[0] == 0:
        return ids, segments
    cur_mask_ids = (cur_scores.view(-1, 1, 1) * cur_masks).argmax(0)
    stuff_memory = {}
    current = 0
    for k in range(cur_classes.shape[0]):
        pred_class = cur_classes[k].item()
        mask_area = (cur_mask_ids == k).sum().item()
        original_area = (cur_masks[k] >= mask_threshold).sum().item()
        mask = (cur_mask_ids == k) & (cur_masks[k] >= mask_threshold)
        if mask_area > 0 and original_area > 0 and mask.sum().item() > 0:
            if mask_area / original_area < overlap_threshold:
                continue
            if not things[pred_class]:
                if pred_class in stuff_memory:
                    ids[mask] = stuff_memory[pred_class]
                    continue
                stuff_memory[pred_class] = current + 1
            current += 1
            ids[mask] = current
            segments.append((current, pred_class, cur_scores[k].item()))
    return ids, segments


def box_of(mask):
    """x, y, width, height of the pixels that are set, by a look at each."""
    pixels = [(x, y) for y, row in enumerate(mask.tolist()) for x, inside in enumerate(row) if inside]
    (left, right), (top, bottom) = ((min(places), max(places)) for places in zip(*pixels, strict=True))
    return left, top, right - left + 1, bottom - top + 1


def assert_is_upstreams(result, maps, network, frame, content, scores, overlap, masked=0.5):
    for (ids, table), class_logits, mask_logits in zip(zip(*result, strict=True), *maps, strict=True):
        masks = upsampled(mask_logits, network, frame, content)
        expected, expected_segments = panoptic_inference(class_logits, masks, THINGS, scores, overlap, masked)
        assert torch.equal(ids.long(), expected)
        areas = [int((expected == segment[0]).sum()) for segment in expected_segments]
        boxes = [box_of(expected == segment[0]) for segment in expected_segments]
        assert heads.segments(table) == [
            heads.Segment(*s, *rest) for s, *rest in zip(expected_segments, areas, boxes, strict=True)
        ]


@settings(max_examples=200)
@given(
    cases,
    st.sampled_from([0.0, 0.3, 0.5, 0.8]),
    st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]),
    st.sampled_from([0.0, 0.25, 0.5, 0.9]),
    chunks,
)
def test_panoptic_equals_upstream(case, scores, overlap, masked, chunk):
    maps, network, frame, content = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsampling, "CHUNK", chunk)
        result = heads.panoptic(
            *maps,
            network,
            frame,
            THINGS,
            score_threshold=scores,
            overlap_threshold=overlap,
            mask_threshold=masked,
            content=content,
        )
    assert result.ids.dtype == torch.uint8
    assert_is_upstreams(result, *case, scores, overlap, masked)


class Panoptic(torch.nn.Module):
    def forward(self, class_logits, mask_logits, thresholds):
        scores, overlap = thresholds
        return tuple(
            heads.panoptic(
                class_logits, mask_logits, SIZE, SIZE, THINGS, score_threshold=scores, overlap_threshold=overlap
            )
        )


@pytest.fixture(scope="module")
def exported():
    """The device's way: torch.export refuses whatever reads a tensor back or gives a shape that depends on one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsampling, "CHUNK", 5 * 2 * SIZE[0] * SIZE[1])
        return torch.export.export(Panoptic(), (*logits(0), torch.rand(2).double())).module()


@settings(max_examples=200)
@given(
    st.one_of(ties, st.builds(logits, seeds)),
    st.sampled_from([0.0, 0.3, 0.5, 0.8]),
    st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]),
)
def test_panoptic_without_a_look_at_the_numbers_equals_upstream(exported, maps, scores, overlap):
    result = exported(*maps, torch.tensor([scores, overlap], dtype=torch.float64))
    assert_is_upstreams(result, maps, SIZE, SIZE, None, scores, overlap)


@pytest.mark.parametrize("queries, dtype", [(6, torch.uint8), (256, torch.int32)])
def test_panoptic_asks_a_device_for_nothing(queries, dtype):
    """Tensors without data can be asked for nothing."""
    class_logits, mask_logits = (m.to("meta") for m in logits(0, queries, size=(9, 9)))
    things = THINGS.to("meta")
    ids, table = heads.panoptic(class_logits, mask_logits, (36, 36), (40, 50), things)
    assert (ids.shape, ids.dtype, table.shape) == ((2, 40, 50), dtype, (2, queries, 8))


def test_panoptic_of_an_image_in_which_no_query_is_sure():
    for threshold in (0.8, 1.0):
        ids, table = heads.panoptic(
            torch.zeros(1, 4, 6), torch.ones(1, 4, 3, 3), (6, 6), (6, 6), THINGS, score_threshold=threshold
        )
        assert ids.tolist() == [[[0] * 6] * 6]
        assert heads.segments(table[0]) == []


def test_panoptic_upsamples_logits_before_the_sigmoid():
    class_logits = torch.tensor([[[9.0, 0, 0], [0, 9.0, 0]]])
    mask_logits = torch.tensor([[[[8.0, -8]], [[-8.0, 8]]]])
    ids, table = heads.panoptic(class_logits, mask_logits, (2, 8), (2, 8), torch.tensor([True, False]))
    assert ids.tolist() == [[[1, 1, 1, 1, 2, 2, 2, 2]] * 2]
    found = [segment[:2] + segment[3:5] for segment in heads.segments(table[0].numpy())]
    assert found == [(1, 0, 8, (0, 0, 4, 2)), (2, 1, 8, (4, 0, 4, 2))]


def test_two_people_of_a_checkpoint_for_instances_are_two_segments():
    classes = of_labels("test", ["person", "car"]).classes
    class_logits = torch.tensor([[[9.0, 0, 0], [9.0, 0, 0]]])
    mask_logits = torch.tensor([[[[8.0, -8]], [[-8.0, 8]]]])
    things = torch.tensor([c.thing for c in classes])
    ids, _ = heads.panoptic(class_logits, mask_logits, (1, 2), (1, 2), things)
    assert ids.tolist() == [[[1, 2]]]


def test_semantic_scores_written_out():
    class_logits, mask_logits = (maps[0] for maps in logits(3))
    scores = heads.semantic_scores(class_logits[None], mask_logits[None], NETWORK)[0]
    masks = F.interpolate(mask_logits[None], NETWORK, mode="bilinear", align_corners=False)[0].sigmoid()
    probabilities = class_logits.softmax(-1)
    for label in range(5):
        expected = sum(probabilities[query, label] * masks[query] for query in range(12))
        torch.testing.assert_close(scores[label], expected)
    assert torch.equal(heads.semantic_of_scores(scores[None], NETWORK)[0][0], scores.argmax(0).to(torch.uint8))


def blobs(seed, queries=8, classes=5, size=(10, 13), batch=2):
    """Logits of smooth, sure masks, as a trained network's are."""
    class_logits, mask_logits = logits(seed, queries, classes, (4, 5), batch)
    return class_logits, F.interpolate(mask_logits * 5, size, mode="bicubic")


@pytest.mark.heavy
@settings(max_examples=150)
@given(
    st.builds(blobs, seeds, st.integers(1, 8), st.integers(1, 6), st.sampled_from([(10, 13), (1, 6), (3, 1)])),
    st.sampled_from([(20, 26), (40, 52), (33, 47), (15, 26), (10, 13)]),
    st.sampled_from([(40, 52), (33, 47), (71, 90), (8, 11), (1, 1)]),
    st.sampled_from([1.0, 0.7]),
    st.booleans(),
    st.sampled_from([1, 500, upsampling.CHUNK]),
)
def test_semantic_is_scores_then_resize_then_the_best(maps, network, frame, shown, confidence, chunk):
    content = tuple(round(side * shown) for side in network)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundaries, "CHUNK", chunk)
        label, share = heads.semantic(*maps, network, frame, confidence, content)
    scores = heads.semantic_scores(*maps, network)[..., : content[0], : content[1]]
    scores = heads.resize(scores, frame)
    best = scores.amax(1)
    # The first of the best classes; or one as good but for rounding.
    mine = scores.gather(1, label[:, None].long())[:, 0]
    assert label.dtype == torch.uint8
    assert ((label == scores.argmax(1)) | (mine >= best * (1 - 1e-5))).all()
    assert (label != scores.argmax(1)).sum() <= 2
    if confidence:
        assert share.dtype == torch.uint8
        assert (share - best / scores.sum(1) * 255).abs().max() <= 0.5 + 1e-2
    else:
        assert share is None


@pytest.mark.parametrize("content", [None, (7, 16)])
def test_scores_of_the_past_weigh_less_with_each_frame(content):
    past, frames = torch.zeros(2, 5, *NETWORK), [logits(seed) for seed in range(3)]
    for maps in frames:
        heads.smooth_scores(past, 0.5, *maps)
    scores = [heads.semantic_scores(*maps, NETWORK) for maps in frames]
    expected = scores[2] + scores[1] / 2 + scores[0] / 4
    torch.testing.assert_close(past, expected)

    label, confidence = heads.semantic_of_scores(past, FRAME, True, content)
    expected = heads.resize(expected[..., : (content or NETWORK)[0], :], FRAME)
    assert torch.equal(label, expected.argmax(1).to(torch.uint8))
    assert (confidence - expected.amax(1) / expected.sum(1) * 255).abs().max() <= 0.5 + 1e-3
    assert heads.semantic_of_scores(past, FRAME)[1] is None


def test_a_sum_of_one_frame_gives_what_the_frame_gives():
    maps, past = logits(0), torch.zeros(2, 5, *NETWORK)
    heads.smooth_scores(past, 0.9, *maps)
    for found, wanted in zip(
        heads.semantic_of_scores(past, FRAME, True), heads.semantic(*maps, NETWORK, FRAME, True), strict=True
    ):
        assert torch.equal(found, wanted)


def test_shares_written_out():
    label = torch.tensor([[[0, 1, 1], [4, 255, 255]], [[2, 2, 2], [2, 2, 2]]], dtype=torch.uint8)
    shares = heads.shares(label, 5)
    assert shares.dtype == torch.float32
    torch.testing.assert_close(shares, torch.tensor([[1, 2, 0, 0, 1, 2], [0, 0, 6, 0, 0, 0]]) / 6)
    assert heads.shares(label.int() + 65280, 300).tolist() == [[0.0] * 300 + [1.0]] * 2  # 65280 to 65535: no class
    assert heads.shares(label[:, :0].new_full((1, 2, 2), 255), 255).tolist() == [[0.0] * 255 + [1.0]]


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 8), seeds)
def test_boxes_are_those_of_a_plain_loop(height, width, number, seed):
    ids = torch.randint(number, (2, height, width), generator=torch.Generator().manual_seed(seed))
    boxes = counting.boxes(ids, number + 1)
    assert boxes.shape == (2, number + 1, 4)
    for image, found in zip(ids, boxes.tolist(), strict=True):
        for i, box in enumerate(found):
            if (image == i).any():
                assert tuple(box) == box_of(image == i)
            else:
                assert box[2] < 1 and box[3] < 1


def test_mask_logits_may_be_channels_last():
    class_logits, mask_logits = logits(4)
    turned = mask_logits.contiguous(memory_format=torch.channels_last)
    assert not turned.is_contiguous()

    def results(mask_logits):
        maps = class_logits, mask_logits, NETWORK, FRAME
        past = torch.zeros(len(class_logits), class_logits.shape[2] - 1, *NETWORK)
        heads.smooth_scores(past, 0.5, class_logits, mask_logits)
        return [*heads.semantic(*maps, True), *heads.panoptic(*maps, THINGS), past]

    for one, other in zip(results(mask_logits), results(turned), strict=True):
        assert torch.equal(one, other)


def test_semantic_of_ties_is_the_first_class():
    for network in (SIZE, NETWORK):
        label, _ = heads.semantic(torch.zeros(1, 3, 5), torch.zeros(1, 3, *SIZE), network, FRAME)
        assert label.unique().tolist() == [0]


def test_most_pixels_are_settled_before_their_scores_are_known():
    class_logits, mask_logits = blobs(0, size=(40, 52), batch=1)
    cells = boundaries._cells(class_logits[0].softmax(-1)[:, :-1], mask_logits[0].permute(1, 2, 0), torch.uint8)
    assert (cells != 255).float().mean() > 0.5


@pytest.mark.parametrize("classes, dtype", [(255, torch.uint8), (256, torch.int32)])
@pytest.mark.parametrize("network", [SIZE, (24, 32)])
def test_many_classes(classes, dtype, network):
    class_logits, mask_logits = logits(0, classes=classes)
    class_logits[:, :, classes - 1] += 20
    label, _ = heads.semantic(class_logits, mask_logits, network, FRAME)
    assert label.dtype == dtype
    assert label.unique().tolist() == [classes - 1]


def test_semantic_can_be_exported():
    class Semantic(torch.nn.Module):
        def forward(self, class_logits, mask_logits):
            return heads.semantic(class_logits, mask_logits, NETWORK, FRAME)[0]

    exported = torch.export.export(Semantic(), logits(0)).module()
    assert torch.equal(exported(*logits(1)), heads.semantic(*logits(1), NETWORK, FRAME)[0])


def test_the_kernel_takes_the_whole_call_where_it_can_be_used(monkeypatch):
    kernel = SimpleNamespace(labels=lambda *arguments: arguments)
    monkeypatch.setitem(sys.modules, "m2f_ros.kernels.semantic", kernel)
    monkeypatch.setattr(kernels, "semantic", kernel, raising=False)
    maps = logits(0)
    monkeypatch.setattr(kernels, "use", lambda name, tensor: name == "semantic_head" and tensor is maps[1])
    call = (*maps, NETWORK, FRAME, True, (7, 16))
    assert heads.semantic(*call) == call
    maps = logits(0, classes=513)  # too many for some GPUs in float32
    assert heads.semantic(*maps, NETWORK, FRAME)[0].shape == (2, *FRAME)


def test_confidence_is_zero_where_no_mask_reaches():
    _, confidence = heads.semantic(torch.zeros(1, 2, 4), torch.full((1, 2, 3, 3), -200.0), (6, 6), (6, 6), True)
    assert confidence.unique().tolist() == [0]


@pytest.mark.parametrize("strip", [1, 200, 47 * 60])
@pytest.mark.parametrize("seed", range(3))
def test_large_frames_in_strips_are_the_same_but_for_rounding(strip, seed, monkeypatch):
    network, frame, content = (40, 52), (60, 47), (33, 52)
    maps, past = blobs(seed), torch.zeros(2, 5, 40, 52)
    heads.smooth_scores(past, 0.0, *maps)

    def results():
        label, confidence = heads.semantic(*maps, network, frame, True, content)
        smooth, sure = heads.semantic_of_scores(past.clone(), frame, True, content)
        options = {"score_threshold": 0.2, "overlap_threshold": 0.3, "content": content}
        ids, table = heads.panoptic(*maps, network, frame, THINGS, **options)
        return [label, smooth, ids, confidence, sure], [heads.shares(label, 5), table[..., :3]], table[..., 3:]

    pictures, numbers, areas = results()
    monkeypatch.setattr(upsampling, "STRIP", strip)
    monkeypatch.setattr(upsampling, "STRIP_NUMBERS", 5 * strip)
    assert len(heads.strips(*frame)) > (strip < 47 * 60)
    in_strips, numbers_in_strips, areas_in_strips = results()
    for one, other in zip(pictures[:3], in_strips[:3], strict=True):
        assert one.dtype == other.dtype and (one != other).float().mean() < 0.002
    for one, other in zip(pictures[3:], in_strips[3:], strict=True):
        assert (one.int() - other.int()).abs().max() <= 1
    for one, other in zip(numbers, numbers_in_strips, strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=0)
    assert (areas - areas_in_strips).abs().max() <= 10
    label = torch.randint(5, (2, *frame))
    assert torch.equal(counting.count(label, 5), torch.stack([torch.bincount(one.flatten()) for one in label]))


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(1, 300))
def test_strips_are_all_rows_once(height, width, maps):
    rows = heads.strips(height, width, maps)
    assert [row for strip in rows for row in range(height)[strip]] == list(range(height))
    assert len(rows) == 1 or max(s.stop - s.start for s in rows) * width <= max(upsampling.STRIP, width)
