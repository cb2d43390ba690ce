"""Post-processing against upstream's own loops, written out here. (mask2former/maskformer_model.py upstream)"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from m2f_ros.model import heads


def logits(seed, queries=12, classes=5, size=(6, 8)):
    generator = torch.Generator().manual_seed(seed)
    class_logits = torch.randn(queries, classes + 1, generator=generator) * 4
    mask_logits = torch.randn(queries, *size, generator=generator) * 3 + torch.randn(queries, 1, 1, generator=generator)
    return class_logits, mask_logits


def panoptic_inference(mask_cls, mask_pred, things, score_threshold, overlap_threshold):
    """Upstream's panoptic_inference with mask_pred at output size. Returns ids and [(id, class)]."""
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
        original_area = (cur_masks[k] >= 0.5).sum().item()
        mask = (cur_mask_ids == k) & (cur_masks[k] >= 0.5)
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
            segments.append((current, pred_class))
    return ids, segments


@settings(max_examples=200)
@given(seed=st.integers(0, 10**6), scores=st.sampled_from([0.0, 0.5, 0.8]), overlap=st.sampled_from([0.0, 0.3, 0.8]))
def test_panoptic_equals_upstream(seed, scores, overlap):
    class_logits, mask_logits = logits(seed)
    things = torch.tensor([True, False, True, False, False])
    ids, segments = panoptic_inference(class_logits, mask_logits, things, scores, overlap)
    ours = heads.panoptic(class_logits, mask_logits, (6, 8), things, score_threshold=scores, overlap_threshold=overlap)
    assert torch.equal(ours.ids, ids)
    assert list(enumerate(ours.classes.tolist(), 1)) == segments
    assert ours.areas.tolist() == [int((ids == i).sum()) for i, _ in segments]


def test_panoptic_of_an_image_in_which_no_query_is_sure():
    ours = heads.panoptic(torch.zeros(4, 6), torch.zeros(4, 3, 3), (6, 6), torch.ones(5, dtype=torch.bool))
    assert ours.ids.tolist() == [[0] * 6] * 6
    assert len(ours.classes) == len(ours.scores) == len(ours.areas) == 0


def test_panoptic_upsamples_logits_before_the_sigmoid():
    class_logits = torch.tensor([[9.0, 0, 0], [0, 9.0, 0]])
    mask_logits = torch.tensor([[[8.0, -8]], [[-8.0, 8]]])
    ours = heads.panoptic(class_logits, mask_logits, (2, 8), torch.tensor([True, False]))
    assert ours.ids.tolist() == [[1, 1, 1, 1, 2, 2, 2, 2]] * 2
    assert ours.classes.tolist() == [0, 1]
    assert ours.areas.tolist() == [8, 8]


@given(seed=st.integers(0, 10**6), most=st.integers(1, 100))
def test_instances_equal_upstream(seed, most):
    class_logits, mask_logits = logits(seed)
    things = torch.tensor([True, False, True, True, False])
    scores = F.softmax(class_logits, dim=-1)[:, :-1]
    expected = []
    order = scores.flatten().sort(descending=True).indices[:most]
    for flat in order.tolist():
        query, label = divmod(flat, 5)
        if things[label]:
            mask = mask_logits[query] > 0
            inside = (mask_logits[query].sigmoid() * mask).sum() / (mask.sum() + 1e-6)
            expected.append((float(scores[query, label] * inside), label, int(mask.sum())))
    ours = heads.instances(class_logits, mask_logits, (6, 8), things, most=most)
    assert ours.scores.tolist() == sorted(ours.scores.tolist(), reverse=True)
    actual = zip(ours.scores.tolist(), ours.classes.tolist(), ours.masks.flatten(1).sum(1).tolist(), strict=True)
    for (score, label, area), (other_score, other_label, other_area) in zip(
        sorted(actual), sorted(expected), strict=True
    ):
        assert abs(score - other_score) < 1e-6
        assert (label, area) == (other_label, other_area)


def test_semantic_scores_written_out():
    class_logits, mask_logits = logits(3)
    scores = heads.semantic_scores(class_logits[None], mask_logits[None], (12, 16))[0]
    masks = F.interpolate(mask_logits[None], (12, 16), mode="bilinear", align_corners=False)[0].sigmoid()
    probabilities = class_logits.softmax(-1)
    for label in range(5):
        expected = sum(probabilities[query, label] * masks[query] for query in range(12))
        torch.testing.assert_close(scores[label], expected)
    assert torch.equal(heads.semantic_labels(scores[None], (12, 16))[0], scores.argmax(0))


@pytest.mark.parametrize("classes, dtype", [(5, torch.uint8), (255, torch.uint8), (256, torch.int32)])
def test_semantic_is_scores_then_resize_then_the_best(classes, dtype):
    class_logits, mask_logits = logits(4, classes=classes)
    label, confidence = heads.semantic(class_logits[None], mask_logits[None], (12, 16), (20, 31), confidence=True)
    scores = heads.resize(heads.semantic_scores(class_logits[None], mask_logits[None], (12, 16)), (20, 31))
    assert label.dtype == dtype
    assert torch.equal(label.long(), scores.argmax(1))
    expected = scores.amax(1) / scores.sum(1) * 255
    assert confidence.dtype == torch.uint8
    assert (confidence - expected).abs().max() <= 0.5 + 1e-3
    assert heads.semantic(class_logits[None], mask_logits[None], (12, 16), (20, 31))[1] is None


def test_semantic_crops_the_padding_before_it_resizes():
    class_logits, mask_logits = logits(5)
    label, _ = heads.semantic(class_logits[None], mask_logits[None], (24, 32), (30, 40), content=(18, 24))
    scores = heads.semantic_scores(class_logits[None], mask_logits[None], (24, 32))[..., :18, :24]
    assert torch.equal(label.long(), heads.resize(scores, (30, 40)).argmax(1))


def test_confidence_is_zero_where_no_mask_reaches():
    _, confidence = heads.semantic(torch.zeros(1, 2, 4), torch.full((1, 2, 3, 3), -200.0), (6, 6), (6, 6), True)
    assert confidence.unique().tolist() == [0]
