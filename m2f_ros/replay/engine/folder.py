"""The folder that a replay fills: a rosbag2 of several files, and how far it is.

    metadata.yaml, replay_0.mcap, replay_1.mcap, …   the rosbag2, whole after each file
    replay.json                                      settings, progress, and what it amounts to
    tracks_N.npz                                     of the panoptic segments behind file N - 1

A file is written in a folder of its own and moved here when it is whole. Killed at any moment, the replay goes on
behind the last whole file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from m2f_ros.documents import read_json, read_yaml
from m2f_ros.errors import ConfigError, SourceError
from m2f_ros.files import write_whole
from m2f_ros.replay.bag import BagWriter

RECORD = "replay.json"
METADATA = "metadata.yaml"
LABELS = "labels"
_UNFINISHED = "unfinished"
_LOCK = "replay.lock"
_FORMAT = "m2f-replay"
_INFORMATION = "rosbag2_bagfile_information"
SECONDS = ("wall", "pipeline", "reading", "writing")


@dataclass
class Progress:
    """How far a replay is.

    Attributes:
        next: number of the first image that is not in the bag.
        segmented, bad: images before that, by camera.
        problem: the first bad image's, or why the drive ended too early; empty: nothing is wrong.
        seconds: SECONDS, of all runs; see `replay`.
        finished: nothing is left to do.
    """

    next: int = 0
    segmented: dict[str, int] = field(default_factory=dict)
    bad: dict[str, int] = field(default_factory=dict)
    problem: str = ""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SECONDS, 0.0))
    finished: bool = False

    @property
    def lack(self) -> str:
        """Why images are missing, in a line; empty: none is."""
        bad = sum(self.bad.values())
        return f"{bad} of {self.next} images cannot be read, the first: {self.problem}" if bad else self.problem

    @property
    def pipeline_share(self) -> float | None:
        """Part of the wall time that passed in the pipeline, 0..1; None before the first image."""
        wall = self.seconds["wall"]
        return min(1.0, self.seconds["pipeline"] / wall) if wall else None


class Folder:
    """The folder of one replay, locked against others until it is closed.

    Args:
        path: made where it is not there.
        settings: as JSON has them; what was begun with others cannot go on.
        restart: begin anew.
    Attributes:
        progress: what the folder says.
    Raises:
        ConfigError: the settings are others, or another process writes here.
        SourceError: the folder holds something else, or cannot be written.
    """

    def __init__(self, path: Path, settings: dict[str, Any], restart: bool = False) -> None:
        self.path, self._settings = path, json.loads(json.dumps(settings))
        self._bag: dict[str, Any] = {}
        self.progress = Progress()
        with writing(path):
            if path.exists() and not (path / RECORD).is_file() and any(p.name != _LOCK for p in path.iterdir()):
                raise SourceError(f"{path}: there is something else in this folder; give another --out")
            path.mkdir(parents=True, exist_ok=True)
            self._lock = (path / _LOCK).open("w")
            try:
                self._open(restart)
            except BaseException:
                self.close()
                raise

    def _open(self, restart: bool) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{self.path}: another replay writes here; wait for it, or give another --out") from None
        if restart:
            self._clear()
        elif (self.path / RECORD).is_file():
            self._read()
        self._remove_unfinished()
        self._write()

    def _read(self) -> None:
        """Take up what is there."""
        try:
            record = read_json(self.path / RECORD)
            before, self._bag = record["settings"], record["bag"]
            self.progress = Progress(**record["progress"])
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(
                f"{self.path / RECORD}: damaged ({' '.join(str(error).split())}); give --restart, or another --out"
            ) from None
        for name in {**before, **self._settings}:
            if before.get(name) != self._settings.get(name):
                raise ConfigError(
                    f"{self.path} was begun with {name} {_shown(before.get(name))}, "
                    f"now it is {_shown(self._settings.get(name))}: "
                    "give the same settings to go on, --restart to begin anew, or another --out"
                )

    def begin(self) -> BagWriter:
        """A writer of the bag's next file. `commit` takes it into the bag, `discard` forgets it."""
        with writing(self.path):
            self._remove_unfinished()
            return BagWriter(
                self.path / _UNFINISHED / f"replay_{len(self.files)}",
                self._settings["storage"],
                self._settings["compression"],
            )

    def commit(self, part: BagWriter, progress: Progress, tracks: dict[str, np.ndarray]) -> None:
        """Take a file that is written for good. progress: with it. tracks: for `tracks`."""
        with writing(self.path):
            part.close()
            information = read_yaml(part.path / METADATA)[_INFORMATION]
            (name,) = information["relative_file_paths"]
            (part.path / name).replace(self.path / name)
            self._bag = merged(self._bag, information)
            np.savez_compressed(self._tracks_file, **tracks)
            self.save(progress)
            self._remove_unfinished()

    def save(self, progress: Progress) -> None:
        """Take progress without a file."""
        with writing(self.path):
            self.progress = progress
            self._write()

    def discard(self) -> None:
        """Forget the file that was being written: disk space for what is there already."""
        with contextlib.suppress(OSError):
            self._remove_unfinished()

    @property
    def files(self) -> list[str]:
        """Of the bag."""
        return self._bag.get("relative_file_paths", [])

    def tracks(self) -> dict[str, np.ndarray]:
        """What was given to the last `commit`; nothing before the first."""
        if not self.files:
            return {}
        with np.load(self._tracks_file) as arrays:
            return dict(arrays)

    def close(self) -> None:
        """Let others write here."""
        self._lock.close()

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def _tracks_file(self) -> Path:
        return self.path / f"tracks_{len(self.files)}.npz"

    def _write(self) -> None:
        # The record last: what it does not name is done again.
        if self._bag:
            write_whole(self.path / METADATA, yaml.safe_dump({_INFORMATION: self._bag}, sort_keys=False))
        else:  # that of a first file which the record does not name
            (self.path / METADATA).unlink(missing_ok=True)
        record = {
            "format": _FORMAT,
            "version": 1,
            "settings": self._settings,
            "progress": asdict(self.progress),
            "pipeline_share": self.progress.pipeline_share,
            "bag": self._bag,
        }
        write_whole(self.path / RECORD, json.dumps(record, indent=1) + "\n")

    def _remove_unfinished(self) -> None:
        """What is not in the record."""
        shutil.rmtree(self.path / _UNFINISHED, ignore_errors=True)
        for file in (*self.path.glob("replay_*.mcap"), *self.path.glob("replay_*.db3")):
            if file.name not in self.files:
                file.unlink()
        for file in self.path.glob("tracks_*.npz"):
            if file != self._tracks_file:
                file.unlink()

    def _clear(self) -> None:
        """Remove what a replay made, and nothing else."""
        for file in (self.path / RECORD, self.path / METADATA, *self.path.glob("overlay*.*")):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.path / LABELS, ignore_errors=True)
        self._remove_unfinished()


def how_far(path: Path) -> int:
    """Images that the replay in this folder has dealt with; 0 where there is none."""
    try:
        return read_json(path / RECORD)["progress"]["next"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def unfinished(path: Path) -> str:
    """How far the replay in this folder is, or what it lacks, in a line; empty where it is whole, or none is there."""
    try:
        record = read_json(path / RECORD)
        progress, images = Progress(**record["progress"]), record["settings"].get("images")
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    if progress.finished or progress.next == images:
        return progress.lack and f"of m2f replay: {progress.lack}"
    return (
        f"m2f replay stopped after {progress.next}{f' of {images}' if images else ''} images; the same command goes on"
    )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of writing below this folder become one SourceError."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:  # sqlite3 has an error of its own for a full disk
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        remedy = "; make room, and the same command goes on" if full else ""
        raise SourceError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error}){remedy}") from error


def merged(bag: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """rosbag2's information on a bag and one more file; {} for a bag without files."""
    if not bag:
        return part
    topics = {t["topic_metadata"]["name"]: dict(t) for t in bag["topics_with_message_count"]}
    for topic in part["topics_with_message_count"]:
        known = topics.setdefault(topic["topic_metadata"]["name"], {**topic, "message_count": 0})
        known["message_count"] += topic["message_count"]
    both = [b for b in (bag, part) if b["message_count"]] or [bag]
    start = min(b["starting_time"]["nanoseconds_since_epoch"] for b in both)
    end = max(b["starting_time"]["nanoseconds_since_epoch"] + b["duration"]["nanoseconds"] for b in both)
    return {
        **bag,
        "duration": {"nanoseconds": end - start},
        "starting_time": {"nanoseconds_since_epoch": start},
        "message_count": bag["message_count"] + part["message_count"],
        "topics_with_message_count": list(topics.values()),
        "relative_file_paths": bag["relative_file_paths"] + part["relative_file_paths"],
        "files": bag["files"] + part["files"],
    }


def _shown(value: Any) -> str:
    return "the default" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)
