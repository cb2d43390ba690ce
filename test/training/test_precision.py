"""Half precision and batches in parts resume as exactly as the rest; overflow in fp16 costs a step, not the run."""

import math

import pytest
import torch
import yaml

from m2f_ros.errors import TrainingError
from m2f_ros.training import loop
from m2f_ros.training.config import load_config
from m2f_ros.training.data import Samples, batches


@pytest.fixture
def start(settings, config_file, tmp_path):
    """A run with settings changed, in a folder of the name given."""

    def start(name: str, resume: bool = False, accumulate: int = 1, **changes) -> loop.Run:
        settings["schedule"] |= {"accumulate": accumulate}
        config_file.write_text(yaml.safe_dump(settings | changes))
        run = loop.Run(load_config(config_file), tmp_path / name, torch.device("cpu"))
        run.start(resume)
        return run

    return start


def advance(run: loop.Run, steps: int) -> list[dict]:
    loader = batches(Samples(run.config), run.step)
    return [run.advance(next(loader)) for _ in range(steps)]


def gentle(settings: dict) -> None:
    """Losses so small that their gradients fit in fp16."""
    settings["loss"] |= {"class_weight": 1e-3, "mask_weight": 1e-3, "dice_weight": 1e-3}


@pytest.mark.heavy
@pytest.mark.parametrize(("precision", "accumulate"), [("fp32", 2), ("bf16", 1), ("fp16", 2)])
def test_resumes_to_the_same_numbers(start, settings, precision, accumulate):
    gentle(settings)
    whole = start("whole", precision=precision, accumulate=accumulate)
    expected = advance(whole, 3)
    broken = start("broken", precision=precision, accumulate=accumulate)
    advance(broken, 2)
    broken.save()
    again = start("broken", resume=True, precision=precision, accumulate=accumulate)
    assert again.step == 2
    assert advance(again, 1) == expected[2:]
    for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert whole.scaler.state_dict() == again.scaler.state_dict()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_full_precision(start, settings, precision):
    gentle(settings)
    exact, rough = (start(p, precision=p) for p in ("fp32", precision))
    (one,), (other,) = advance(exact, 1), advance(rough, 1)
    assert other["loss"] == pytest.approx(one["loss"], rel=0.15)
    assert other["loss"] != one["loss"]
    assert all(p.dtype == torch.float32 for p in rough.model.parameters())


@pytest.mark.heavy
def test_overflow_in_fp16_leaves_the_step_out(start, monkeypatch):
    loss = loop.training_loss

    def large(*arguments):
        total, parts = loss(*arguments)
        return total * 1e6, parts

    monkeypatch.setattr(loop, "training_loss", large)
    run = start("run", precision="fp16")
    before = [p.clone() for p in run.model.parameters()]
    (losses,) = advance(run, 1)
    assert not math.isfinite(losses["gradient"])
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
    assert (run.step, run.scaler.get_scale()) == (1, 32768.0)
    run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": 1.0})
    with pytest.raises(TrainingError, match="the gradient of step 2 is not finite"):
        advance(run, 1)


def test_a_device_without_memory_is_one_line(start, monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 GiB")

    monkeypatch.setattr(loop, "training_loss", full)
    with pytest.raises(TrainingError, match="cpu has too little memory for step 1: raise"):
        advance(start("run"), 1)
