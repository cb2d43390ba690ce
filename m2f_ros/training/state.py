"""last.pt, the state that a run resumes from: written whole or not at all, and refused where it is of another run.

The state before stays beside it as previous.pt until a step from the new one has had a finite loss: a run that diverges
goes back to it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import TrainingError
from m2f_ros.files import whole
from m2f_ros.model.pickles import load_pickle
from m2f_ros.training.config import AugmentConfig, NetworkConfig, ScheduleConfig, TrainConfig
from m2f_ros.training.losses import LossConfig
from m2f_ros.typed import as_type

# Keys of the config that a resumed run may change, see read_state().
MAY_CHANGE = ("schedule", "augment", "precision", "ids")
_NO_MATTER = (
    "kept_as",
    "threads",
    "log_every",
    "save_every",
    "evaluate_every",
    "best_by",
    "early_stopping",
    "tensorboard",
)


def write_state(path: Path, run: dict, state: dict[str, Any]) -> None:
    """Write a state of tensors, numbers, texts, lists and dicts; the one before becomes previous.pt.

    run: its `essentials`.

    Raises:
        TrainingError: it could not be written; what was there is then as it was.
    """
    with writing(path), whole(path) as partial:
        with open(partial, "wb") as file:
            torch.save({**state, "config": run}, file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            path.replace(_previous(path))


def find_state(path: Path) -> bool:
    """True where a state is at `path`; puts back the state of a process that was killed while replacing it."""
    if not path.exists():
        with suppress(FileNotFoundError, NotADirectoryError):  # there is none, or another process has put it there
            _previous(path).replace(path)
    return path.exists()


def is_state(path: Path) -> bool:
    """Return True if a state, or the one before it, is at `path`. Changes nothing."""
    return os.path.isfile(path) or os.path.isfile(_previous(path))


def keep(path: Path) -> None:
    """Remove the state before the one at `path`, which has proved good."""
    _previous(path).unlink(missing_ok=True)


def take_back(path: Path) -> bool:
    """Replace the state at `path`, whose run diverged, by the one before it. Returns False where there is none."""
    there = _previous(path).exists()
    if there:
        _previous(path).replace(path)
    return there


def _previous(path: Path) -> Path:
    return path.with_name("previous.pt")


def read_state(path: Path, run: dict, device: torch.device) -> dict[str, Any]:
    """Read the state that `write_state` wrote, its tensors on `device`. run: the `essentials` of the run that goes on.

    Under "changes": {key of MAY_CHANGE: [value there, value here]}.

    Raises:
        TrainingError: the file is damaged, or of a run that this config does not continue.
    """
    try:
        state = load_pickle(path, device)
        was = _filled(run | state["config"])  # an older state says nothing of its classes and ids
    except Exception as error:  # a damaged file raises anything from EOFError to UnpicklingError
        raise TrainingError(f"{path}: not a training state ({_reason(error)}); remove it to start anew") from None
    if not isinstance(state.get("step"), int) or not isinstance(state.get("scaler"), dict):
        raise TrainingError(f"{path}: not a training state (without its step or scaler); remove it to start anew")
    now = _filled(run)
    others = sorted(key for key in now if key not in MAY_CHANGE and now[key] != was[key])
    if others:
        raise TrainingError(
            f"{path}: made with another {', '.join(others)}; resume with the config it was started "
            f"with, of which {', '.join(MAY_CHANGE)} may change, or name another --out"
        )
    return {**state, "changes": _changes(was, now)}


def essentials(config: TrainConfig) -> dict:
    """The config as plain values, for the state; read once, since the files of taxonomies may change meanwhile.

    Under "ids": of each set with a taxonomy, the ids in its label files and their classes.
    """
    noted = _plain(config)
    for key in _NO_MATTER:
        del noted[key]
    del noted["model"]["weights"]  # of no use once the run has begun
    data = noted.pop("data")
    known = {part.name: taxonomies.get(part.taxonomy) for part in config.data.train if part.taxonomy}
    noted["ids"] = {
        name: ", ".join(f"{i}: {found.names[c]}" for i, c in found.file_ids.items()) for name, found in known.items()
    }
    # Where the files are does not matter.
    for part in (data, *data["train"]):
        part["taxonomy"] = part["taxonomy"] and Path(part["taxonomy"]).name
    places = ("root", "images", "labels")
    noted["data.taxonomy"], noted["data.panoptic"] = data["taxonomy"], data["panoptic"]
    noted["data.taxonomy: classes"] = list(taxonomies.get(config.data.taxonomy).names)
    noted["data.train"] = [{k: v for k, v in part.items() if k not in places} for part in data["train"]]
    return noted


def _filled(noted: dict) -> dict:
    """Fill in defaults for keys that an older state lacks, and drop those that a newer one has more."""
    kinds = {"model": NetworkConfig, "augment": AugmentConfig, "loss": LossConfig, "schedule": ScheduleConfig}
    parts = {name: _plain(as_type(noted[name], kind)) for name, kind in kinds.items()}
    # No step depends on the size of the images that are scored.
    parts["model"] |= {"min_pixels": None, "max_pixels": None}
    return noted | parts


def _plain(config: Any) -> dict:
    """A dataclass as it comes back from JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _changes(was: dict, now: dict) -> dict[str, list]:
    """{name in the config: [before, now]} of the keys of MAY_CHANGE that have changed."""
    flat = [
        {
            key if inner is None else f"{key}.{inner}": value
            for key in MAY_CHANGE
            for inner, value in (part[key].items() if isinstance(part[key], dict) else [(None, part[key])])
        }
        for part in (was, now)
    ]
    return {key: [flat[0][key], value] for key, value in flat[1].items() if flat[0][key] != value}


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
    """One line on any error. torch's own message on a pickle advises to read it without a guard."""
    if "weights_only" in str(error):
        return "it is damaged, or holds more than tensors and plain values"
    return getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
