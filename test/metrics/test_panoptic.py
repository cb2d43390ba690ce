"""Panoptic quality, against its definition pixel by pixel, torchmetrics, and Cityscapes' own evaluation."""

import json
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from m2f_ros import taxonomy
from m2f_ros.errors import FrameError
from m2f_ros.frame.segment import Segment
from m2f_ros.metrics import PanopticQuality

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
THINGS = list(range(11, 19))
FLOAT32 = 5e-7  # torchmetrics divides in float32


def street_segments(labels, instance):
    """Ids of things and, from 60000 on, of stuff; and the segments. Things without an id are none."""
    stuff = (labels < 11) & (instance == 0)
    ids = np.where(stuff, 60000 + labels.astype(np.int32), np.where(labels < 19, instance, 0)).astype(np.uint16)
    # Where an object's prediction changes its class, it is two segments.
    ids = np.where((labels == 14) & (ids > 0), ids + 1, ids).astype(np.uint16)
    segments = [Segment(int(i), int(np.bincount(labels[ids == i]).argmax())) for i in np.unique(ids) if i]
    return ids, segments


def with_classes(ids, segments, void):
    """(H, W, 2) class and instance, as torchmetrics takes them; pixels of no segment are of class `void`."""
    classes = np.full(ids.shape, void)
    for s in segments:
        classes[ids == s.id] = s.train_id
    return np.stack([classes, np.where(classes == void, 0, ids)], -1)


def check_against_torchmetrics(pairs, k, things):
    """PQ, SQ and RQ of each class, and their means, of a batch of images of one size."""
    torch = pytest.importorskip("torch")
    detection = pytest.importorskip("torchmetrics.functional.detection")
    ours = PanopticQuality(k, things)
    for pair in pairs:
        ours.update(*pair)
    # torchmetrics leaves out pixels that nothing was predicted for. Told that they are stuff of one more class, which
    # the truth lacks, it counts them as COCO does.
    truth = torch.from_numpy(np.stack([with_classes(ids, segments, k + 1) for ids, segments, _, _ in pairs]))
    found = torch.from_numpy(np.stack([with_classes(ids, segments, k) for _, _, ids, segments in pairs]))
    stuff = sorted({*range(k + 1)} - {*things})
    quality = detection.panoptic_quality(
        found, truth, set(things), set(stuff), allow_unknown_preds_category=False, return_sq_and_rq=True,
        return_per_class=True,
    )  # fmt: skip
    # Things come first there, then stuff.
    quality = dict(zip([*sorted(things), *stuff], quality.reshape(-1, 3).tolist(), strict=True))
    for c in range(k):
        np.testing.assert_allclose(np.nan_to_num([ours.pq()[c], ours.sq()[c], ours.rq()[c]]), quality[c], atol=FLOAT32)
    present = ~np.isnan(ours.pq())
    means = np.mean([quality[c] for c in np.flatnonzero(present)], axis=0)
    assert (ours.mean_pq(), ours.mean_sq(), ours.mean_rq()) == pytest.approx(means.tolist(), abs=FLOAT32)
    return ours


def test_as_torchmetrics_on_the_street(street):
    pairs = [(*street_segments(s.truth, s.instance), *street_segments(s.prediction, s.found)) for s in street[::3]]
    quality = check_against_torchmetrics(pairs, 19, THINGS)
    assert quality.true_positives.sum() > 10
    assert quality.false_positives.sum() > 10 and quality.false_negatives.sum() > 10


def test_means_as_torchmetrics_where_every_pixel_is_predicted(street):
    torch = pytest.importorskip("torch")
    detection = pytest.importorskip("torchmetrics.detection")
    theirs = detection.PanopticQuality(things=set(THINGS), stuffs=set(range(11)), return_sq_and_rq=True)
    ours = PanopticQuality(19, THINGS)
    for shot in street[::3]:
        pair = *street_segments(shot.truth, shot.instance), *street_segments(np.roll(shot.truth, 9, 0), shot.found * 0)
        ids, segments = pair[2:]
        ids[ids == 0], segments = 60000, [*segments, Segment(60000, 0)]
        ours.update(*pair[:2], ids, segments)
        theirs.update(*(torch.from_numpy(with_classes(*half, 19))[None] for half in ((ids, segments), pair[:2])))
    assert (ours.mean_pq(), ours.mean_sq(), ours.mean_rq()) == pytest.approx(theirs.compute().tolist(), abs=FLOAT32)


def coco_images():
    """(ids, segments) of each image of the COCO sample: ids to 2 ** 24, crowds among the segments."""
    folder = DATA / "coco_panoptic_sample"
    if not folder.exists():
        pytest.skip(f"{folder} is not here")
    table = taxonomy.get("coco_panoptic").file_ids
    for annotation in json.loads((folder / "panoptic_examples.json").read_text())["annotations"]:
        bgr = cv2.imread(str(folder / "panoptic_examples" / annotation["file_name"])).astype(np.int32)
        ids = bgr[..., 2] + 256 * bgr[..., 1] + 65536 * bgr[..., 0]
        yield (
            ids,
            [Segment(s["id"], table[s["category_id"]], crowd=bool(s["iscrowd"])) for s in annotation["segments_info"]],
        )


def moved(ids):
    return np.roll(ids, (3, 6), (0, 1))


@pytest.mark.heavy
def test_as_torchmetrics_on_coco():
    coco = taxonomy.get("coco_panoptic")
    things = [c.id for c in coco.classes if c.thing]
    for ids, segments in coco_images():
        segments = [Segment(s.id, s.train_id) for s in segments]
        quality = check_against_torchmetrics([(ids, segments, moved(ids), segments)], len(coco.classes), things)
        assert 0.5 < quality.mean_pq() < 0.99


def test_as_cityscapes_evaluation_on_coco_with_crowds(tmp_path):
    """cityscapesscripts has COCO's evaluation word for word; crowds are in it and not in torchmetrics."""
    theirs = pytest.importorskip("cityscapesscripts.evaluation.evalPanopticSemanticLabeling")
    coco = taxonomy.get("coco_panoptic")
    ours, pairs = PanopticQuality(len(coco.classes), [c.id for c in coco.classes if c.thing]), []
    for n, (ids, segments) in enumerate(coco_images()):
        assert any(s.crowd for s in segments)
        found = moved(ids)
        found[: len(found) // 3, :90] = 0
        left = [Segment(s.id, s.train_id) for s in segments if (found == s.id).any()]
        ours.update(ids, segments, found, left)
        infos = []
        for name, image, of_image in ((f"{n}_truth", ids, segments), (f"{n}_found", found, left)):
            planes = [(image >> shift & 255).astype(np.uint8) for shift in (16, 8, 0)]
            cv2.imwrite(str(tmp_path / f"{name}.png"), cv2.merge(planes))
            rows = [
                {"id": s.id, "category_id": s.train_id, "iscrowd": int(s.crowd), "area": int((image == s.id).sum())}
                for s in of_image
            ]
            infos.append({"image_id": n, "file_name": f"{name}.png", "segments_info": rows})
        pairs.append(infos)
    categories = {c.id: {"isthing": int(c.thing)} for c in coco.classes}
    stat = theirs.pq_compute_single_core(0, pairs, tmp_path, tmp_path, categories)
    means, per_class = stat.pq_average(categories, None)
    assert (ours.mean_pq(), ours.mean_sq(), ours.mean_rq()) == pytest.approx(
        (means["pq"], means["sq"], means["rq"]), abs=1e-12
    )
    for c, scores in per_class.items():
        assert np.nan_to_num([ours.pq()[c], ours.sq()[c], ours.rq()[c]]).tolist() == pytest.approx(
            [scores["pq"], scores["sq"], scores["rq"]], abs=1e-12
        )
        counts = ours.true_positives[c], ours.false_positives[c], ours.false_negatives[c]
        assert counts == (stat[c].tp, stat[c].fp, stat[c].fn)


@st.composite
def annotated(draw, shape, crowds):
    ids = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 4)))
    classes = draw(st.lists(st.sampled_from([0, 1, 2, 255]), min_size=3, max_size=3))
    # Id 4 has pixels and is of no segment; class 255 is none.
    return ids, [Segment(i, c, crowd=crowds and c == 0 and draw(st.booleans())) for i, c in enumerate(classes, 1)]


def by_hand(truth_ids, truth_segments, ids, segments, k, things):
    """tp, fp, fn and the sum of IoU of each class, from sets of pixels."""

    def masks(image, of_image):
        out = {}
        for s in of_image:
            if s.train_id < k:
                key = (s.train_id, s.crowd, s.id if s.train_id in things else 0)
                out.setdefault(key, set()).update(zip(*np.nonzero(image == s.id), strict=True))
        return {key: pixels for key, pixels in out.items() if pixels}

    true, found = masks(truth_ids, truth_segments), masks(ids, segments)
    everywhere = set(zip(*np.nonzero(ids >= 0), strict=True))
    void = everywhere.difference(*true.values())
    counts = [[0, 0, 0, Fraction()] for _ in range(k)]
    met = set()
    for t, true_pixels in true.items():
        if t[1]:
            continue
        for f, pixels in found.items():
            iou = Fraction(len(true_pixels & pixels), len(true_pixels | (pixels - void)))
            if t[0] == f[0] and iou > Fraction(1, 2):
                counts[t[0]][0] += 1
                counts[t[0]][3] += iou
                met.update({("t", t), ("f", f)})
    for t in true:
        counts[t[0]][2] += not t[1] and ("t", t) not in met
    for f, pixels in found.items():
        forgiven = void.union(*(p for t, p in true.items() if t[1] and t[0] == f[0]))
        counts[f[0]][1] += ("f", f) not in met and 2 * len(pixels & forgiven) <= len(pixels)
    return counts


@given(st.data(), hnp.array_shapes(min_dims=2, max_dims=2, max_side=5))
@settings(deadline=None)
def test_counts_are_those_of_the_definition(data, shape):
    pair = *data.draw(annotated(shape, True)), *data.draw(annotated(shape, False))
    quality = PanopticQuality(3, [0, 2])
    quality.update(*pair)
    for c, (tp, fp, fn, iou) in enumerate(by_hand(*pair, 3, {0, 2})):
        assert (quality.true_positives[c], quality.false_positives[c], quality.false_negatives[c]) == (tp, fp, fn)
        expected = float(2 * iou / (2 * tp + fp + fn)) if tp + fp + fn else np.nan
        np.testing.assert_allclose(quality.pq()[c], expected, atol=1e-14)


def test_refusals():
    assert PanopticQuality(3, [0]).mean_pq() is None
    ids = np.zeros((2, 3), np.uint16)
    with pytest.raises(FrameError, match="ground truth is 3x2 but the prediction is 2x3"):
        PanopticQuality(3, [0]).update(ids, [], ids.T, [])
    with pytest.raises(FrameError, match="prediction must hold integer labels"):
        PanopticQuality(3, [0]).update(ids, [], ids.astype(float), [])
    with pytest.raises(ValueError, match=r"things \[3\] are not all among classes 0..2"):
        PanopticQuality(3, [3])
