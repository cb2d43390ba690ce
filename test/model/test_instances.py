"""Labels and segments of instances, by loops written out."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from m2f_ros.model import BoxedInstances, Instances, heads

SIZE, ODD = (48, 64), (37, 75)


def instances(batch=2, candidates=9, classes=3, seed=0):
    random = torch.Generator().manual_seed(seed)
    scores = torch.rand(batch, candidates, classes, generator=random)
    scores[:, 3] = 0  # no candidate
    blobs = F.interpolate(torch.randn(batch, candidates, 3, 4, generator=random), (12, 16), mode="bicubic")
    return Instances(scores, blobs)


def boxed(batch=2, candidates=9, seed=0):
    random = torch.Generator().manual_seed(seed)
    scores = torch.rand(batch, candidates, 3, generator=random)
    first = torch.rand(batch, candidates, 2, generator=random) * torch.tensor([50.0, 40.0])
    boxes = torch.cat([first, first + 3 + 30 * torch.rand(batch, candidates, 2, generator=random)], -1)
    boxes = boxes.minimum(torch.tensor([64.0, 48.0, 64.0, 48.0]))
    return BoxedInstances(scores, torch.rand(batch, candidates, 28, 28, generator=random), boxes)


def masks(of, image, frame):
    return F.interpolate(of.mask_logits[image : image + 1], frame, mode="bilinear")[0] > 0


def looped(of, image, frame, threshold, overlap, unlabelled=255):
    """Labels, confidence, ids, and (class, score) of each segment, one instance after the other."""
    best, which = of.scores[image].max(-1)
    found = masks(of, image, frame)
    label, level = torch.full(frame, unlabelled), torch.zeros(frame)
    ids, kept = torch.zeros(frame, dtype=torch.long), []
    for i in best.argsort(descending=True).tolist():
        if best[i] <= threshold:
            continue
        free = found[i] & (label == unlabelled)
        label[free], level[free] = which[i], (best[i] * 255).round()
        free = found[i] & (ids == 0)
        if free.any() and free.sum() / found[i].sum() >= overlap:
            kept.append((int(which[i]), float(best[i])))
            ids[free] = len(kept)
    return label, level, ids, kept


@pytest.fixture(params=[True, False], ids=["host", "device"])
def host(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr("m2f_ros.model.heads.instances.on_host", lambda tensor: False)
    return request.param


@pytest.mark.parametrize("frame", [SIZE, ODD], ids=str)
@pytest.mark.parametrize("overlap", [0.0, 0.6])
@pytest.mark.parametrize("threshold", [0.0, 0.7, 2.0])
def test_the_best_score_wins(host, frame, overlap, threshold):
    of = instances()
    label, level = heads.labels(of, SIZE, frame, True, score_threshold=threshold)
    ids, table = heads.instance_segments(of, SIZE, frame, score_threshold=threshold, overlap_threshold=overlap)
    assert (label.dtype, level.dtype, ids.dtype) == (torch.uint8,) * 3
    for image in range(2):
        wanted = looped(of, image, frame, threshold, overlap)
        assert torch.equal(label[image].long(), wanted[0])
        assert torch.equal(level[image].float(), wanted[1])
        assert torch.equal(ids[image].long(), wanted[2])
        segments = heads.segments(table[image])
        assert [(s.train_id, s.score) for s in segments] == wanted[3]
        for segment in segments:
            rows, columns = (ids[image] == segment.id).nonzero(as_tuple=True)
            box = columns.min(), rows.min(), columns.max() - columns.min() + 1, rows.max() - rows.min() + 1
            assert (segment.area, segment.box) == (len(rows), tuple(map(int, box)))


def test_padding_is_cut_off():
    of = instances()
    content, frame = (40, 50), (20, 25)
    label, _ = heads.instance_labels(of, SIZE, frame, content=content, unlabelled=255)
    maps = F.interpolate(of.mask_logits, SIZE, mode="bilinear")[..., :40, :50]
    whole = Instances(of.scores, maps)
    assert torch.equal(label, heads.instance_labels(whole, content, frame, unlabelled=255)[0])


def test_ignored_pixels_belong_to_no_segment(host):
    of = instances()
    ignored = torch.zeros(2, *SIZE, dtype=torch.bool)
    ignored[0, :30], ignored[1] = True, True
    plain = heads.instance_segments(of, SIZE, SIZE, overlap_threshold=0.0)
    found = heads.instance_segments(of, SIZE, SIZE, overlap_threshold=0.0, ignored=ignored)
    assert not found.ids[ignored].any()
    assert torch.equal(found.ids[0, 30:] > 0, plain.ids[0, 30:] > 0)
    assert heads.segments(found.table[1]) == []
    areas = [(found.ids[0] == s.id).sum() for s in heads.segments(found.table[0])]
    assert areas == [s.area for s in heads.segments(found.table[0])] and areas


def test_labels_above_255_classes():
    of = instances(classes=300)
    label, _ = heads.instance_labels(of, SIZE, SIZE, unlabelled=65535, score_threshold=0.99)
    assert label.dtype == torch.int32
    assert {65535} < set(label.unique().tolist())


def test_large_frames_come_in_strips(monkeypatch):
    for of in (instances(), boxed()):
        whole = heads.instance_labels(of, SIZE, ODD, True, unlabelled=255)
        with monkeypatch.context() as patch:
            patch.setattr("m2f_ros.model.heads.upsampling.STRIP", 75 * 8)
            parts = heads.instance_labels(of, SIZE, ODD, True, unlabelled=255)
        assert all((a != b).float().mean() < 1e-3 for a, b in zip(whole, parts, strict=True))  # but for rounding


def pasted(of, image, frame, content=SIZE):
    """torchvision's paste_masks_in_image, by its formula for each pixel (models/detection/roi_heads.py)."""
    found = []
    for probabilities, box in zip(F.pad(of.masks[image], (1,) * 4), of.boxes[image], strict=True):
        box = box * torch.tensor([frame[1] / content[1], frame[0] / content[0]] * 2)
        middle, half = (box[2:] + box[:2]) / 2, (box[2:] - box[:2]) / 2 * 30 / 28
        first, last = (middle - half).long(), (middle + half).long()
        mask = torch.zeros(frame, dtype=torch.bool)
        for axis_y in range(max(int(first[1]), 0), min(int(last[1]) + 1, frame[0])):
            for axis_x in range(max(int(first[0]), 0), min(int(last[0]) + 1, frame[1])):
                x, y = (
                    ((p - int(a) + 0.5) * 30 / (int(b) - int(a) + 1) - 0.5)
                    for p, a, b in zip((axis_x, axis_y), first, last, strict=True)
                )
                x, y = max(x, 0.0), max(y, 0.0)
                low_x, low_y = min(int(x), 29), min(int(y), 29)
                high_x, high_y = min(low_x + 1, 29), min(low_y + 1, 29)
                x, y = x - low_x, y - low_y
                upper = probabilities[low_y, low_x] * (1 - x) + probabilities[low_y, high_x] * x
                lower = probabilities[high_y, low_x] * (1 - x) + probabilities[high_y, high_x] * x
                mask[axis_y, axis_x] = upper * (1 - y) + lower * y >= 0.5
        found.append(mask)
    return torch.stack(found)


@pytest.mark.parametrize("frame", [SIZE, ODD], ids=str)
def test_maps_are_pasted_into_their_boxes(frame, monkeypatch):
    of = boxed()
    monkeypatch.setitem(globals(), "masks", pasted)
    label, level = heads.labels(of, SIZE, frame, True, score_threshold=0.6)
    ids, table = heads.instance_segments(of, SIZE, frame, score_threshold=0.6, overlap_threshold=0.3)
    for image in range(2):
        wanted = looped(of, image, frame, 0.6, 0.3)
        # A sum in another order may round a probability of 0.5 the other way.
        assert (label[image].long() != wanted[0]).float().mean() < 1e-3
        assert (level[image].float() != wanted[1]).float().mean() < 1e-3
        assert (ids[image].long() != wanted[2]).float().mean() < 1e-3
        assert [(s.train_id, s.score) for s in heads.segments(table[image])] == wanted[3]


def test_boxes_in_padding_leave_the_frame():
    of = boxed()
    content = (40, 50)
    ids, _ = heads.instance_segments(of, SIZE, content, content=content, overlap_threshold=0.0, score_threshold=0.6)
    whole, _ = heads.instance_segments(of, SIZE, SIZE, overlap_threshold=0.0, score_threshold=0.6)
    assert torch.equal(ids > 0, whole[:, :40, :50] > 0)


def test_instances_have_no_scores_to_smooth():
    with pytest.raises(ValueError, match="Instances has no class scores"):
        heads.smooth(torch.zeros(2, 3, *SIZE), 0.5, instances())
