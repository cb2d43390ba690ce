"""last.pt, from which a run goes on: written whole or not at all, and refused where it is of another run."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from m2f_ros.errors import TrainingError
from m2f_ros.files import whole
from m2f_ros.training.config import AugmentConfig, NetworkConfig, ScheduleConfig, TrainConfig
from m2f_ros.training.losses import LossConfig


def write_state(path: Path, config: TrainConfig, state: dict[str, Any]) -> None:
    """Write a state of tensors, numbers, texts, lists and dicts; the one before stays until it is on the disk.

    Raises:
        TrainingError: it could not be written.
    """
    with writing(path), whole(path) as partial, open(partial, "wb") as file:
        torch.save({**state, "config": _essentials(config)}, file)
        file.flush()
        os.fsync(file.fileno())


def read_state(path: Path, config: TrainConfig, device: torch.device) -> dict[str, Any]:
    """The state that `write_state` wrote, its tensors on `device`.

    Raises:
        TrainingError: the file is damaged, or made with a config that would have led elsewhere.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        was = _so_far(state["config"], state["step"])
    except Exception as error:  # a damaged file raises anything from EOFError to UnpicklingError
        raise TrainingError(f"{path}: not a training state ({_reason(error)}); remove it to start anew") from None
    now = _so_far(_essentials(config), state["step"])
    changed = sorted(key for key in now if now[key] != was.get(key))
    if changed:
        raise TrainingError(
            f"{path}: made with another {', '.join(changed)}; resume with the config it was started "
            "with, or name another --out"
        )
    return state


def _essentials(config: TrainConfig) -> dict:
    """What a resumed run must share with the one it continues, as plain values."""
    essentials = json.loads(json.dumps(dataclasses.asdict(config)))
    for key in ("kept_as", "threads", "log_every", "save_every", "evaluate_every", "tensorboard"):
        del essentials[key]
    del essentials["model"]["weights"]  # of no use once the run has begun
    data = essentials.pop("data")
    # Where the files are does not matter.
    for part in (data, *data["train"]):
        part["taxonomy"] = part["taxonomy"] and Path(part["taxonomy"]).name
    places = ("root", "images", "labels")
    essentials["data.taxonomy"], essentials["data.panoptic"] = data["taxonomy"], data["panoptic"]
    essentials["data.train"] = [{k: v for k, v in part.items() if k not in places} for part in data["train"]]
    return essentials


def _so_far(essentials: dict, step: int) -> dict:
    """Without where and how the run ends, as long as that has not changed a step."""
    # What an older state does not have is as it is by default.
    model, augment, loss, schedule = (
        kind(**essentials[name])
        for name, kind in (
            ("model", NetworkConfig),
            ("augment", AugmentConfig),
            ("loss", LossConfig),
            ("schedule", ScheduleConfig),
        )
    )
    # No step depends on the size of the images that are scored.
    model = dataclasses.replace(model, min_pixels=None, max_pixels=None)
    if step <= schedule.end - schedule.cool_down:
        schedule = dataclasses.replace(schedule, stop=0, cool_down=0)
        augment = dataclasses.replace(augment, cool_down=None)
    parts = {"model": model, "augment": augment, "loss": loss, "schedule": schedule}
    return essentials | json.loads(json.dumps({name: dataclasses.asdict(part) for name, part in parts.items()}))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what a full disk or a missing right raises into a TrainingError that names `path`."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch.save turns a full disk into a RuntimeError
        if isinstance(error, TrainingError):
            raise
        raise TrainingError(
            f"{path}: not written ({_reason(error)}); what was there before is intact: make room and add --resume"
        ) from None


def _reason(error: Exception) -> str:
    """In one line, also of an error without words."""
    return getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
