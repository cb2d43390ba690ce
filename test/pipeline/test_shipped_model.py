"""The model that ships, through the pipeline: its size and what it is good for at least.

`make test TEST='-s test/pipeline/test_shipped_model.py'` prints the IoU of each class.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from m2f_ros import taxonomy
from m2f_ros.metrics import Confusion
from m2f_ros.model import has_eight_bits, load
from m2f_ros.model.checkpoint import SHIPPED
from m2f_ros.model.quantised_files import FILE, FOLDER, sums
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
    sizes = {file.relative_to(SHIPPED): file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()}
    in_eight_bits = {path for path in sizes if FOLDER in path.parts}
    assert sum(sizes[path] for path in sizes.keys() - in_eight_bits) < 15_000_000
    assert sum(sizes[path] for path in in_eight_bits) <= 8_000_000


EIGHT_BITS = pytest.mark.skipif(not has_eight_bits("street"), reason="street has no form in eight bits: make quantize")


@EIGHT_BITS
def test_its_form_in_eight_bits():
    """`make quantize` makes it from the shipped weights."""
    report = json.loads((SHIPPED / "street" / FOLDER / FILE).read_text())
    assert report["weights"] == sums(SHIPPED / "street")
    losses = {found["drive"].rpartition("/")[2]: found["loss"] for found in report["scores"]}
    assert losses.keys() == {"10 simulated streets", "val"} and max(losses.values()) <= 0.005
    assert all(found["labelled"] and found["frames"] >= 100 for found in report["scores"])
    small, large = report["bytes"]["int8"], report["bytes"]["fp32"]
    assert small == (SHIPPED / "street" / FOLDER / "model.safetensors").stat().st_size <= 1.1 * large / 4
    assert large == 4 * sum(value.numel() for value in load("street").state_dict().values())


@EIGHT_BITS
@pytest.mark.heavy
def test_labels_in_eight_bits(pipeline):
    pytest.importorskip("openvino", reason="openvino is not installed")
    rounded = Pipeline(load("street", eight_bits=True), pipeline.taxonomy, device="cpu", precision="int8")
    frame = Frame(Street(seed=2000).frame(40).image, "rgb8")
    labels = [p.segment(frame, {"label"}).label for p in (pipeline, rounded)]
    assert 0.98 <= (labels[0] == labels[1]).mean() < 1


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
