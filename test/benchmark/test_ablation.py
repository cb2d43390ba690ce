"""Each switch of the ablation turns something off, and gives the same labels."""

import numpy as np
import pytest
import torch

from m2f_ros import kernels
from m2f_ros.benchmark.ablation import _ON_CPU, VARIANTS, ablate
from m2f_ros.benchmark.inputs import Case, Checkpoint
from m2f_ros.model import ModelConfig, heads, layers, load
from m2f_ros.pipeline.backends import make_backend

CPU = torch.device("cpu")
PIXELS = torch.randn(2, 3, 96, 160, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def outputs(model):
    return model(PIXELS, model.plan(96, 160))[:2]


def test_products_of_torch(small_model) -> None:
    model = load(small_model)
    wanted = outputs(model)
    with _ON_CPU["oneDNN's products"]():
        assert not layers.usable(PIXELS, PIXELS)
        for a, b in zip(outputs(model), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert layers.usable(PIXELS, PIXELS)


def test_scores_of_every_pixel(small_model, monkeypatch) -> None:
    logits = outputs(load(small_model, dtype=torch.float32))
    wanted, _ = heads.semantic(*logits, (96, 160), (100, 150))
    with _ON_CPU["labels where the class may change only"]():
        found, _ = heads.semantic(*logits, (96, 160), (100, 150))
    assert wanted.unique().numel() > 1
    assert torch.equal(found, wanted)


def test_a_plan_for_each_batch(small_model) -> None:
    backend = make_backend("eager", load(small_model))
    assert backend.build((96, 160)) is backend.build((96, 160))
    with _ON_CPU["plans kept for a size"]():
        assert backend.build((96, 160)) is not backend.build((96, 160))


def test_every_kernel_and_both_kinds_of_device_have_their_rows() -> None:
    assert {f"kernel {name}" for name in kernels.names} < {v.without for v in VARIANTS if v.device == "cuda"}
    assert set(_ON_CPU) == {v.without for v in VARIANTS if v.device == "cpu"}


def test_one_that_fails_leaves_the_others_their_turn(small_model, monkeypatch) -> None:
    def broken():
        raise RuntimeError("no such\nswitch")

    labels = next(v for v in VARIANTS if v.without == "labels where the class may change only")
    monkeypatch.setitem(vars(labels), "switch", broken)
    case = Case(
        Checkpoint(str(small_model), small_model, "", True, ModelConfig.read(small_model)), (64, 96), CPU, "fp32"
    )
    frames = np.random.default_rng(0).integers(0, 256, (2, 60, 90, 3), np.uint8)
    rows = list(ablate(load(small_model), case, frames, rounds=1, seconds=0))
    assert [row.error for row in rows] == [None, None, "RuntimeError: no such switch", None]
    assert 'raise RuntimeError("no such\\nswitch")' in rows[2].traceback
    good = [row for row in rows if row.error is None]
    assert all(row.gain == pytest.approx(row.ms / row.against_ms) and row.agreement > 0.99 for row in good)
