"""The model that ships, through the pipeline: its size and what it is good for at least.

`make test TEST='-s test/pipeline/test_shipped_model.py'` prints the IoU of each class.
"""

import itertools
from pathlib import Path

import numpy as np
import pytest

from m2f_ros import taxonomy
from m2f_ros.metrics import Confusion
from m2f_ros.model import load
from m2f_ros.model.checkpoint import SHIPPED
from m2f_ros.pipeline import Frame, Pipeline
from m2f_ros.pipeline.device import quickest_precision
from m2f_ros.sources.open import open_source
from m2f_ros.street import Street

CAMVID = Path(__file__).parents[3] / "shared" / "data" / "camvid"


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(load("street"), taxonomy.get("cityscapes"), device="cpu")


def show(confusion, names):
    print(f"\nmIoU {confusion.miou():.3f}: ", end="")
    print(", ".join(f"{name} {iou:.3f}" for name, iou in zip(names, confusion.iou(), strict=True)))


def test_it_is_small():
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) < 15_000_000


@pytest.mark.heavy
@pytest.mark.parametrize("frames", [(40,), pytest.param((0, 40, 80), marks=pytest.mark.more)], ids=len)
def test_unseen_streets(pipeline, frames):
    confusion = Confusion(19)
    for seed in range(2000, 2010):  # trained on 0 to 199, chosen on 1000 to 1009
        street = Street(seed=seed)
        for i in frames:
            frame = street.frame(i)
            result = pipeline.segment(Frame(frame.image, "rgb8"), {"label"})
            confusion.update(frame.label, result.label)
    show(confusion, pipeline.taxonomy.names)
    assert not np.isnan(confusion.iou()).any()  # every class occurs
    assert confusion.miou() >= 0.80


@pytest.mark.heavy
def test_labels_of_the_nodes_precision(pipeline):
    precision = quickest_precision(pipeline.device)
    if precision == pipeline.precision:
        pytest.skip(f"the node takes {precision}, too, on this processor")
    rounded = Pipeline(load("street"), pipeline.taxonomy, device="cpu", precision=precision)
    frames = [Frame(Street(seed=seed).frame(40).image, "rgb8") for seed in (2000, 2001, 2002, 2003)]
    labels = [np.stack([p.segment(frame, {"label"}).label for frame in frames]) for p in (pipeline, rounded)]
    assert 0.998 <= (labels[0] == labels[1]).mean() < 1


@pytest.mark.heavy
@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.more)])
@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"CamVid is not at {CAMVID}")
def test_camvid_drive(pipeline, every):
    drive = open_source(CAMVID / "val", labels=CAMVID / "valannot")
    merge = taxonomy.merge_table(pipeline.taxonomy, drive.taxonomy)
    confusion = Confusion(len(drive.taxonomy.classes))
    for sample in itertools.islice(drive, 0, None, every):
        result = pipeline.segment(Frame(sample.image, sample.encoding), {"label"})
        confusion.update(sample.label, merge[result.label], drive.taxonomy.unlabelled)
    show(confusion, drive.taxonomy.names)
    assert confusion.miou() >= 0.77
