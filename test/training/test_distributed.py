"""Several processes, and a batch in parts: the numbers of one process that takes the batch whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from m2f_ros import taxonomy
from m2f_ros.errors import TrainingError
from m2f_ros.model import ModelConfig, SwinConfig, build, save
from m2f_ros.training import distributed, loop
from m2f_ros.training.config import load_config
from m2f_ros.training.data import Samples, batches
from m2f_ros.training.distributed import Group


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """Weights to start from. A light backbone with random ones would magnify the rounding of sums."""
    swin = SwinConfig(24, (1, 1, 1, 1), (1, 2, 2, 4))
    small = {"hidden_dim": 32, "heads": 4, "encoder_layers": 1, "encoder_ffn": 32, "decoder_layers": 2}
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("start")
    labels = taxonomy.get("cityscapes").names
    save(build(ModelConfig(swin, labels, decoder_ffn=32, num_queries=6, **small)), folder)
    return folder


@pytest.fixture
def configure(config_file, settings, start):
    """Write the run's YAML, with the schedule changed; where it is."""

    def configure(**schedule) -> Path:
        settings["model"] = {"weights": str(start)}
        settings["schedule"] |= {"steps": 4, "batch": 4, "warm_up": 2, **schedule}
        settings["data"]["evaluate"][0].pop("only", None)
        config_file.write_text(yaml.safe_dump(settings))
        return config_file

    return configure


def torchrun(*arguments) -> str:
    """Two processes of m2f on this machine; what they print."""
    root = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*start, "-m", "m2f_ros.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def logged(out: Path) -> list[dict]:
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    for entry in entries:
        entry.pop("ms_per_step", None)
    return entries


def check_same_losses(one: dict, other: dict) -> None:
    """Check two entries of the log. A norm of gradients sums in an order that depends on the batch and on the CPU."""
    norms = [entry.pop("gradient") for entry in (one, other)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert one == pytest.approx(other, rel=1e-6, abs=1e-5)  # the log's last digit


def difference(one: dict, other: dict) -> float:
    """The largest between two states of the optimiser, whose gradients together have a norm of 1."""
    pairs = zip(one["optimiser"]["state"].values(), other["optimiser"]["state"].values(), strict=True)
    return max((a["exp_avg"] - b["exp_avg"]).abs().max().item() for a, b in pairs)


@pytest.mark.more
@pytest.mark.process
def test_two_processes_stopped_and_resumed_are_one(configure, tmp_path):
    path = configure()
    assert "stopped at step 1 of 4" in torchrun("train", path, "--out", tmp_path / "two", "--max-minutes", 0)
    first = torch.load(tmp_path / "two" / "last.pt")
    run = loop.Run(load_config(path), tmp_path / "one", torch.device("cpu"))
    run.start(resume=False)
    losses = run.advance(next(batches(Samples(run.config), 0)))
    run.save()
    check_same_losses(losses, logged(tmp_path / "two")[0])
    assert difference(first, torch.load(tmp_path / "one" / "last.pt")) < 5e-6

    torchrun("train", path, "--out", tmp_path / "two", "--resume")
    # Further steps magnify the rounding of sums, so the sums here are those of the two processes.
    assert loop.train(load_config(configure(accumulate=2)), tmp_path / "parts", progress=False)
    two, parts = (torch.load(tmp_path / name / "last.pt") for name in ("two", "parts"))
    assert difference(two, parts) < 1e-6
    for name in ("model", "average"):
        for key, value in two[name].items():
            torch.testing.assert_close(value, parts[name][key], atol=1e-6, rtol=0)
    assert [e["scores"] for e in logged(tmp_path / "two") if "scores" in e] == [
        e["scores"] for e in logged(tmp_path / "parts") if "scores" in e
    ]


def test_a_batch_in_parts_has_the_gradients_of_the_whole(configure, tmp_path):
    runs = []
    for parts in (1, 2, 4):
        run = loop.Run(load_config(configure(accumulate=parts)), tmp_path / "out", torch.device("cpu"))
        runs.append((run.advance(next(batches(Samples(run.config), 0))), run.model))
    (losses, model), *others = runs
    for other_losses, other in others:
        check_same_losses(dict(other_losses), dict(losses))
        for a, b in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, atol=2e-5, rtol=0)  # together they have a norm of 1


def test_processes_share_a_batch_out(configure):
    samples = Samples(load_config(configure()))
    whole = next(batches(samples, 3))
    shares = [next(batches(samples, 3, rank, 2)) for rank in range(2)]
    assert torch.equal(whole.images, torch.cat([share.images for share in shares]))
    assert whole.files == shares[0].files + shares[1].files


def test_a_batch_that_does_not_share_out(configure, tmp_path):
    config = load_config(configure(accumulate=2))
    with pytest.raises(TrainingError, match="batch 4 does not share out to 3 processes x 2 parts"):
        loop.Run(config, tmp_path / "out", torch.device("cpu"), Group(0, 3))
    config = load_config(configure(accumulate=1, freeze_norms=False))
    with pytest.raises(TrainingError, match="freeze_norms: false needs whole batches"):
        loop.Run(config, tmp_path / "out", torch.device("cpu"), Group(0, 2))


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("tpu", "--device 'tpu' is no device; take cpu, cuda or cuda:N"),
        ("meta", "--device 'meta' cannot train; take cpu, cuda or cuda:N"),
        ("cuda:99", r"--device cuda:99: this machine has \d+ CUDA devices that PyTorch can use; take one"),
    ],
)
def test_devices_that_are_not_there(device, message):
    with pytest.raises(TrainingError, match=message), distributed.join(device):
        pass
