"""IoU and iIoU, against Cityscapes' own evaluation of the same files."""

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from m2f_ros import taxonomy
from m2f_ros.frame.segment import Segment
from m2f_ros.metrics import CITYSCAPES_SIZES, Confusion, InstanceIou

CITYSCAPES = taxonomy.get("cityscapes")
THINGS = [c.id for c in CITYSCAPES.classes if c.thing]
SIZES = {c.id: CITYSCAPES_SIZES[c.name] for c in CITYSCAPES.classes if c.thing}
DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture
def official(monkeypatch):
    """Cityscapes' evaluation of lists of files -> its dictionary of results."""
    module = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    # NumPy 2.4 has dropped the name that it uses.
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    monkeypatch.setattr(module.args, "JSONOutput", False)
    monkeypatch.setattr(module.args, "quiet", True)
    return lambda predictions, truths: module.evaluateImgLists(predictions, truths, module.args)


def check(official, folder, pairs):
    """pairs: label ids of truth, instance ids of truth, label ids predicted; as the files hold them."""
    predictions, truths = [], []
    confusion, instances = Confusion(19), InstanceIou(19, THINGS)
    table = CITYSCAPES.file_table()
    for n, (label_ids, instance_ids, predicted_ids) in enumerate(pairs):
        stem = str(folder / f"street_000000_{n:06d}")
        for name, pixels in (
            ("gtFine_labelIds", label_ids.astype(np.uint8)),
            ("gtFine_instanceIds", instance_ids.astype(np.uint16)),
            ("pred", predicted_ids.astype(np.uint8)),
        ):
            assert cv2.imwrite(f"{stem}_{name}.png", pixels)
        truths.append(f"{stem}_gtFine_labelIds.png")
        predictions.append(f"{stem}_pred.png")
        prediction = table[predicted_ids]
        confusion.update(table[label_ids], prediction)
        segments = [Segment(int(i), int(table[i // 1000])) for i in np.unique(instance_ids) if i >= 1000]
        instances.update(prediction, instance_ids, segments)
    result = official(predictions, truths)
    names = CITYSCAPES.names
    np.testing.assert_allclose(confusion.iou(), [result["classScores"][n] for n in names], rtol=0, atol=1e-9)
    assert confusion.miou() == pytest.approx(result["averageScoreClasses"], abs=1e-9)
    np.testing.assert_allclose(
        instances.iiou(confusion, SIZES), [result["classInstScores"][n] for n in names], rtol=0, atol=1e-9
    )
    assert instances.mean_iiou(confusion, SIZES) == pytest.approx(result["averageScoreInstClasses"], abs=1e-9)
    return confusion, instances


def file_ids(labels):
    """Train ids -> label ids; unlabelled and what is no train id -> 0, which the evaluation ignores."""
    table = np.zeros(256, np.int64)
    table[list(CITYSCAPES.file_ids.values())] = list(CITYSCAPES.file_ids)
    return table[labels]


def test_the_street(official, street, tmp_path):
    pairs = []
    for shot in street:
        truth, prediction = file_ids(shot.truth), file_ids(shot.prediction)
        truth[10:14] = 4  # "static", which the evaluation ignores as well
        prediction[30:33] = 5  # "dynamic" is no class that counts, and wrong
        _, number = np.unique(shot.instance, return_inverse=True)
        instance = np.where(
            np.isin(truth, file_ids(np.array(THINGS))), truth * 1000 + number.reshape(truth.shape), truth
        )
        # The bicycles of the right half are a group: their instances were not told apart.
        half = instance[:, 160:]
        half[half // 1000 == 33] = 33
        pairs.append((truth, instance, prediction))
    confusion, instances = check(official, tmp_path, pairs)
    assert 0.2 < confusion.miou() < 0.9
    assert instances.instances[THINGS].all()


def test_camvid(official, tmp_path):
    """Ground truth of a real drive, each frame scored as the prediction of the one after."""
    folder = DATA / "camvid" / "valannot"
    if not folder.exists():
        pytest.skip(f"{folder} is not here")
    to_cityscapes = np.full(256, 255, np.uint8)
    to_cityscapes[:11] = [10, 2, 5, 0, 1, 8, 7, 4, 13, 11, 18]
    frames = [to_cityscapes[cv2.imread(str(p), cv2.IMREAD_UNCHANGED)] for p in sorted(folder.glob("*.png"))[:12]]
    pairs = []
    for before, now in itertools.pairwise(frames):
        truth = file_ids(now)
        instance = truth.copy()
        for c in THINGS:
            _, number = cv2.connectedComponents((now == c).astype(np.uint8))
            instance = np.where(number > 0, truth * 1000 + number, instance)
        pairs.append((truth, instance, file_ids(before)))
    confusion, instances = check(official, tmp_path, pairs)
    assert 0.5 < confusion.miou() < 1
    assert instances.instances.sum() > 50
