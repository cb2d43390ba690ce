"""Labels of the shipped model in each precision, with kernels and without, and against the CPU's."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from m2f_ros import kernels, taxonomy
from m2f_ros.model import load
from m2f_ros.model.float8 import MIN_CAPABILITY
from m2f_ros.pipeline import Frame, Pipeline

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ROOT = Path(__file__).resolve().parents[2]
# Beside the checkout or in it.
REAL = [folder / "shared" / "data" / name for folder in (ROOT, ROOT.parent) for name in ("camvid/val", "kitti_drive")]


def real_frames(count: int) -> list[Frame]:
    found = [path for folder in REAL if folder.is_dir() for path in sorted(folder.rglob("*.[jp][pn]g"))]
    if not found:
        pytest.skip(f"no real frames in {', '.join(map(str, REAL))}")
    return [Frame(cv2.imread(str(path)), "bgr8") for path in found[:: max(1, len(found) // count)]]


def labels(frames, device="cuda", **options) -> np.ndarray:
    pipe = Pipeline(load("street"), taxonomy.get("cityscapes"), device=device, slots=1, **options)
    return np.concatenate([pipe.segment(frame, {"label"}).label.ravel() for frame in frames])


def agreement(a, b) -> float:
    return float((a == b).mean())


def test_fp16_on_real_frames() -> None:
    frames = real_frames(16)
    assert agreement(labels(frames, precision="fp16"), labels(frames, precision="fp32")) >= 0.995


def test_fp16_on_the_simulated_street(street) -> None:
    frames = street(8)
    exact = labels(frames, precision="fp32")
    assert len(np.unique(exact)) >= 5
    assert agreement(labels(frames, precision="fp16"), exact) >= 0.995


@pytest.mark.parametrize("precision, least", [("tf32", 0.995), ("bf16", 0.97), ("fp8", 0.99)])
def test_other_precisions(street, precision, least) -> None:
    if precision == "fp8" and torch.cuda.get_device_capability() < MIN_CAPABILITY:
        pytest.skip("the device has no float8 products")
    frames = street(4)
    assert agreement(labels(frames, precision=precision), labels(frames, precision="fp32")) >= least


@pytest.mark.parametrize("name", [None, *kernels.names], ids=str)
@pytest.mark.parametrize("precision, least", [("fp32", 0.9999), ("fp16", 0.998)])
def test_kernels_on_and_off(street, name, precision, least) -> None:
    frames = street(3)
    with kernels.off(*([name] if name else [])):
        without = labels(frames, precision=precision)
    assert agreement(labels(frames, precision=precision), without) >= least


def test_fp32_without_kernels_is_the_cpu_up_to_borders_of_classes(street) -> None:
    frames = street(4)  # at the network's own size: nothing is resampled
    with kernels.off():
        found = labels(frames, precision="fp32", graphs=False).reshape(4, 352, 480)
    wanted = labels(frames, device="cpu", backend="eager").reshape(4, 352, 480)
    differ = found != wanted
    assert differ.mean() <= 1e-3
    # Wherever they differ, the label is one of a neighbour on the CPU.
    padded = F.pad(torch.from_numpy(wanted).float()[:, None], (1, 1, 1, 1), mode="replicate")
    neighbours = F.unfold(padded, 3).view(4, 9, 352, 480)
    near = (neighbours == torch.from_numpy(found).float()[:, None]).any(1).numpy()
    assert near[differ].all()


def test_fp32_with_swin_is_the_cpu(pipeline, small_model, street) -> None:
    cpu = Pipeline(load(small_model), taxonomy.get("cityscapes"), device="cpu", backend="eager")
    exact = pipeline(precision="fp32", graphs=False)
    with kernels.off():
        for frame in street(2):
            assert agreement(exact.segment(frame).label, cpu.segment(frame).label) >= 0.999
