"""`m2f train` as a user runs it: killed, stopped, resumed, and with things going wrong."""

import dataclasses
import json
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from m2f_ros import taxonomy
from m2f_ros.errors import LabelError, M2fError, OutputError, TrainingError
from m2f_ros.model import load
from m2f_ros.model.checkpoint import load_for_training
from m2f_ros.results import MARK
from m2f_ros.training import loop
from m2f_ros.training.config import ScheduleConfig, load_config
from m2f_ros.training.optimiser import rate_at

# Sends this process and its workers a signal, as a terminal and batch systems do, once step STEP has been saved.
SIGNAL_AFTER_SAVE = """
import os, sys
from m2f_ros.training import loop
save = loop.Run.save
def save_and_signal(self):
    save(self)
    if self.step == {step}:
        os.killpg(os.getpgrp(), {signal})
loop.Run.save = save_and_signal
from m2f_ros.cli import main
main()
"""


# Ends this process while it writes a model.
KILL_IN_MODEL = """
import os
from m2f_ros.model import checkpoint
def save_some(state, path, metadata):
    path.write_bytes(b"the beginning")
    os.kill(os.getpid(), 9)
checkpoint.save_file = save_some
from m2f_ros.cli import main
main()
"""


def m2f(*arguments, script: str | None = None) -> subprocess.CompletedProcess:
    start = ["-c", script] if script else ["-m", "m2f_ros.cli"]
    root = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *start, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=600, start_new_session=True)


def state(out: Path) -> dict:
    return torch.load(out / "last.pt", weights_only=True)


def losses(out: Path) -> list:
    """The log without what depends on the clock."""
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    for entry in entries:
        entry.pop("ms_per_step", None)
    return entries


def assert_same(one, other) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


@pytest.mark.process
def test_killed_and_stopped_runs_resume_to_the_same_numbers(config_with_worker, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = m2f("train", config_with_worker, "--out", whole)
    assert done.returncode == 0, done.stderr

    # SIGKILL after step 4 leaves step 5 in the log but not in the state. SIGTERM after 6: it stops and saves.
    kill = m2f("train", config_with_worker, "--out", broken, script=SIGNAL_AFTER_SAVE.format(step=4, signal=9))
    assert kill.returncode == -9
    assert state(broken)["step"] == 4
    with open(broken / "log.jsonl", "a") as file:
        file.write('{"step": 5, "loss": 0.0}\n')
    resume = ("train", config_with_worker, "--out", broken, "--resume")
    term = m2f(*resume, script=SIGNAL_AFTER_SAVE.format(step=6, signal=15))
    assert term.returncode == 0, term.stderr
    assert "stopped at step 7 of 10; --resume goes on from there" in term.stdout
    assert state(broken)["step"] == 7
    # Killed in its last evaluation it has the models of the one before, and begins with that evaluation.
    kill = m2f(*resume, script=KILL_IN_MODEL)
    assert kill.returncode == -9, kill.stderr
    assert state(broken)["step"] == 10
    for name in ("model", "model_last"):
        assert load(broken / name).config.num_classes == 19
    last = m2f(*resume)
    assert last.returncode == 0, last.stderr

    assert_same(state(whole), state(broken))
    assert losses(whole) == losses(broken)
    assert [e["step"] for e in losses(whole) if "scores" in e] == [5, 10]
    assert load(broken / "model").config.taxonomy == taxonomy.get("cityscapes")

    again = m2f("train", config_with_worker, "--out", whole)
    assert again.returncode == 2
    assert again.stderr.startswith(f"m2f: error: {whole} holds a run already; add --resume to go on")
    assert again.stderr.count("\n") == 1


@pytest.mark.process
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(config_file, tmp_path, monkeypatch):
    loss = loop.training_loss
    steps = iter(range(10))

    def spoilt(*arguments):
        total, parts = loss(*arguments)
        return total * (float("nan") if next(steps) == 3 else 1), parts

    monkeypatch.setattr(loop, "training_loss", spoilt)
    with pytest.raises(TrainingError, match=r"the loss of step 4 is not finite \(batch: 0\d\.png, 0\d\.png\); .*last"):
        loop.train(load_config(config_file), tmp_path / "out", progress=False)
    # Not that of step 3, from which it has come.
    assert state(tmp_path / "out")["step"] == 2


@pytest.mark.process
def test_the_state_of_a_run_that_diverges_is_not_kept_and_a_lower_rate_goes_on(config_file, settings, tmp_path):
    out = tmp_path / "out"
    config_file.write_text(yaml.safe_dump(settings | {"save_every": 1, "precision": "bf16"}))
    good = load_config(config_file)
    assert loop.train(dataclasses.replace(good, schedule=dataclasses.replace(good.schedule, stop=2)), out)
    schedule = dataclasses.replace(good.schedule, rate=1e30, weight_decay=0.5)
    for _ in range(2):
        with pytest.raises(TrainingError, match=r"step 4 is not finite .*last\.pt has the last good state: --res"):
            loop.train(dataclasses.replace(good, schedule=schedule), out, resume=True, progress=False)
        assert state(out)["step"] == 2
    lower = dataclasses.replace(schedule, rate=1e-4, steps=6, decay="cosine", milestones=())
    assert loop.train(dataclasses.replace(good, schedule=lower, precision="fp32"), out, resume=True, progress=False)
    entries = losses(out)
    assert [entry for entry in entries if "changes" in entry] == [
        {
            "step": 2,
            "changes": {
                "schedule.steps": [10, 6],
                "schedule.stop": [2, 0],
                "schedule.rate": [5e-4, 1e-4],
                "schedule.weight_decay": [0.05, 0.5],
                "schedule.decay": ["poly", "cosine"],
                "precision": ["bf16", "fp32"],
            },
        }
    ]
    rates = [entry["rate"] for entry in entries if "rate" in entry and entry["step"] > 2]
    assert rates == [rate_at(step, lower) for step in range(2, 6)]
    assert {group["weight_decay"] for group in state(out)["optimiser"]["param_groups"]} == {0.0, 0.5}
    assert sorted(p.name for p in out.iterdir()) == [MARK, "last.pt", "log.jsonl", "model", "model_last"]


def test_weights_that_are_not_finite_are_not_saved(config_file, tmp_path):
    run = loop.Run(load_config(config_file), tmp_path / "out", torch.device("cpu"))
    run.start(resume=False)
    run.save()
    run.step = 1
    with torch.no_grad():
        next(run.model.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(TrainingError, match=r"weights are not finite after step 1; .*last good state"):
        run.save()
    assert state(tmp_path / "out")["step"] == 0


def test_a_state_that_a_process_was_killed_in_replacing(config_file, tmp_path):
    run = loop.Run(load_config(config_file), tmp_path / "out", torch.device("cpu"))
    run.start(resume=False)
    run.save()
    (tmp_path / "out" / "last.pt").rename(tmp_path / "out" / "previous.pt")
    with pytest.raises(TrainingError, match="holds a run already"):
        run.start(resume=False)
    run.start(resume=True)
    assert [p.name for p in (tmp_path / "out").glob("*.pt")] == ["last.pt"]


def folded(average: dict, out: Path) -> dict:
    """Averaged weights as `load` gives them."""
    model = load_for_training(out / "model_last")
    model.load_state_dict(average)
    model.backbone.fold_norms()
    return model.state_dict()


@pytest.mark.process
@pytest.mark.parametrize(
    "error, message",
    [(LabelError("01.png: gone"), "01.png: gone"), (torch.OutOfMemoryError(), "set model.max_pixels and add --resume")],
)
def test_a_failing_last_evaluation_loses_nothing(error, message, config_file, tmp_path, monkeypatch):
    config, out = dataclasses.replace(load_config(config_file), evaluate_every=100, save_every=100), tmp_path / "out"

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", fail)
        with pytest.raises(M2fError, match=message):
            loop.train(config, out, progress=False)
    assert state(out)["step"] == 10
    for name in ("model", "model_last"):
        assert_same(load(out / name).state_dict(), folded(state(out)["average"], out))
    before = (out / "last.pt").read_bytes()
    assert loop.train(config, out, resume=True, progress=False)
    assert [e["step"] for e in losses(out) if "scores" in e] == [10]
    assert (out / "last.pt").read_bytes() == before


@pytest.mark.process
def test_what_is_advised_for_too_little_memory_goes_on(config_file, tmp_path, monkeypatch):
    config, out = load_config(config_file), tmp_path / "out"
    loss, steps = loop.training_loss, iter(range(10))

    def too_large(*arguments):
        if next(steps) == 3:
            raise torch.OutOfMemoryError
        return loss(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_loss", too_large)
        with pytest.raises(TrainingError, match=r"memory for step 4: raise .*accumulate, or lower augment\.crop or"):
            loop.train(config, out, progress=False)
    assert state(out)["step"] == 3
    smaller = {
        "schedule": dataclasses.replace(config.schedule, batch=1),
        "augment": dataclasses.replace(config.augment, crop=(64, 32)),
    }
    assert loop.train(dataclasses.replace(config, **smaller), out, resume=True, progress=False)
    assert [e["step"] for e in losses(out) if "loss" in e] == list(range(1, 11))


@pytest.mark.process
def test_a_run_of_which_the_best_model_was_not_kept(config_file, tmp_path):
    config, out = dataclasses.replace(load_config(config_file), evaluate_every=4), tmp_path / "out"
    assert loop.train(dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, stop=5)), out)
    shutil.rmtree(out / "model_last")
    with open(out / "log.jsonl", "a") as file:
        file.write('{"step": 4, "scores": {"tiny": {"miou": 0.9, "accuracy": 0.9, "iou": {}}}}\n')
    run = loop.Run(config, out, torch.device("cpu"))
    run.start(resume=True)
    assert run.history.best is None


def test_an_error_in_the_data_keeps_what_was_learnt(config_file, folder, tmp_path):
    config = dataclasses.replace(load_config(config_file), save_every=100)
    (folder / "images" / "04.png").write_bytes(b"")  # of the sixth sample
    with pytest.raises(TrainingError, match=r"04\.png: not readable as an image"):
        loop.train(config, tmp_path / "out", progress=False)
    assert state(tmp_path / "out")["step"] == 2


@pytest.mark.process
def test_the_best_model_is_kept_and_early_stopping_ends_the_run(config_file, tmp_path, monkeypatch, capsys):
    config, out = dataclasses.replace(load_config(config_file), evaluate_every=1, early_stopping=2), tmp_path / "out"
    scores, averages = iter([0.3, 0.5, 0.5, 0.4]), []

    def scored(model, *_):
        averages.append({key: value.clone() for key, value in model.state_dict().items()})
        value = next(scores)
        return {"miou": value, "accuracy": 1 - value, "iou": {"sky": value, "road": None}}

    monkeypatch.setattr(loop, "evaluate", scored)
    assert loop.train(config, out, progress=False)
    assert_same(load(out / "model").state_dict(), folded(averages[1], out))
    assert_same(load(out / "model_last").state_dict(), folded(averages[3], out))
    printed = capsys.readouterr().out
    assert "step 3: mIoU tiny 0.500 over 1 of 2 classes; the best so far: step 2\n" in printed
    assert "step 4: early stopping, for 2 evaluations were no better\n" in printed
    # It has ended, unless more patience is asked for.
    assert loop.train(config, out, resume=True, progress=False)
    with pytest.raises(StopIteration):
        loop.train(dataclasses.replace(config, early_stopping=3), out, resume=True, progress=False)
    assert state(out)["step"] == 5

    by_accuracy = dataclasses.replace(config, best_by="accuracy", early_stopping=0)
    run = loop.Run(by_accuracy, out, torch.device("cpu"))
    run.start(resume=True)
    assert run.history.best == 1


def test_a_full_disk_leaves_the_previous_state(config_file, tmp_path):
    run = loop.Run(load_config(config_file), tmp_path / "out", torch.device("cpu"))
    run.start(resume=False)
    run.save()
    before = (tmp_path / "out" / "last.pt").read_bytes()
    run.step = 1
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(TrainingError, match=r"last\.pt: not written \(.+\); what was there before is"):
            run.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "out" / "last.pt").read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [MARK, "last.pt"]


def test_resuming_refuses_another_config_and_a_damaged_state(config_file, settings, tmp_path):
    run = loop.Run(load_config(config_file), tmp_path / "out", torch.device("cpu"))
    run.start(resume=False)
    run.save()
    settings["loss"]["points"] = 32
    settings["threads"] = 2
    config_file.write_text(yaml.safe_dump(settings))
    other = loop.Run(load_config(config_file), tmp_path / "out", torch.device("cpu"))
    with pytest.raises(
        TrainingError,
        match="another loss; resume with the config it was started with, of which schedule, ",
    ):
        other.start(resume=True)
    (tmp_path / "out" / "last.pt").write_bytes(b"PK\x03\x04 not a state")
    with pytest.raises(TrainingError, match=r"last\.pt: not a training state"):
        run.start(resume=True)
    # torch advises to read such a file with weights_only=False, which runs any code in it.
    (tmp_path / "out" / "last.pt").write_bytes(pickle.dumps(Path("/")))
    with pytest.raises(TrainingError, match=r"last\.pt: .* holds more than tensors and plain values\); remove it"):
        run.start(resume=True)


def test_ids_of_another_meaning_are_said_and_a_taxonomy_that_is_gone_loses_nothing(
    config_file, settings, tmp_path, capsys
):
    own, out = config_file.parent / "own.yaml", tmp_path / "out"
    taxonomy.get("camvid").to_yaml(own)
    settings["data"]["train"][0]["taxonomy"] = "own.yaml"
    config_file.write_text(yaml.safe_dump(settings))
    run = loop.Run(load_config(config_file), out, torch.device("cpu"))
    run.start(resume=False)
    camvid = own.read_text()
    own.unlink()
    run.save()
    own.write_text(camvid.replace("3: 3,", "3: 8,"))
    loop.Run(load_config(config_file), out, torch.device("cpu")).start(resume=True)
    assert re.search(r"from step 0 on with ids\.tiny 0: .* 3: car, .* \(before: .* 3: road, ", capsys.readouterr().out)


def test_an_out_that_is_a_file_is_named(config_file, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match=r"/out: is not a folder; name another one for the results"):
        loop.train(load_config(config_file), tmp_path / "out", progress=False)


@pytest.mark.process
def test_a_run_may_be_ended_otherwise(settings, folder):
    def config(crop=None, **schedule):
        path = folder.parent / "changed.yaml"
        augment = {**settings["augment"], "cool_down": crop and {"crop": crop, "scale": [1.0, 1.0]}}
        schedule = {**settings["schedule"], **schedule}
        path.write_text(yaml.safe_dump({**settings, "augment": augment, "schedule": schedule}))
        return load_config(path)

    ended = {"crop": [96, 64], "stop": 5, "cool_down": 2}
    assert loop.train(config(**ended), folder.parent / "at_once", progress=False)
    broken = folder.parent / "broken"
    assert loop.train(config(stop=3), broken, progress=False)
    assert loop.train(config(**ended), broken, resume=True, progress=False)
    assert state(broken)["step"] == 5
    for part in ("model", "average"):
        expected = state(folder.parent / "at_once")[part]
        assert all(torch.equal(value, expected[name]) for name, value in state(broken)[part].items())


def test_a_state_from_before_a_key_was_there_goes_on(config_file, tmp_path):
    run = loop.Run(load_config(config_file), tmp_path / "out", torch.device("cpu"))
    run.start(resume=False)
    run.step = 1
    run.save()
    before = state(tmp_path / "out")
    for part, key in (("schedule", "cool_down"), ("augment", "cool_down"), ("model", "separable_output")):
        del before["config"][part][key]
    torch.save(before, tmp_path / "out" / "last.pt")
    run.step = 0
    run.start(resume=True)
    assert run.step == 1


def test_another_size_to_score_at_is_no_other_training(config_file, tmp_path):
    config = load_config(config_file)
    run = loop.Run(config, tmp_path / "out", torch.device("cpu"))
    run.start(resume=False)
    run.step = 1
    run.save()
    model = dataclasses.replace(config.model, min_pixels=4096, max_pixels=8192)
    other = loop.Run(dataclasses.replace(config, model=model), tmp_path / "out", torch.device("cpu"))
    other.start(resume=True)
    assert (other.step, other.model.config.min_pixels) == (1, 4096)


@pytest.mark.process
def test_a_run_that_stops_before_its_schedule_is_complete(settings, folder):
    settings["schedule"] |= {"stop": 4}
    path = folder.parent / "short.yaml"
    path.write_text(yaml.safe_dump(settings))
    out = folder.parent / "out"
    assert loop.train(load_config(path), out, progress=False)
    assert state(out)["step"] == 4
    rates = [entry["rate"] for entry in losses(out) if "rate" in entry]
    assert rates == [rate_at(step, ScheduleConfig(steps=10, warm_up=3)) for step in range(4)]
    assert load(out / "model").config.num_classes == 19
