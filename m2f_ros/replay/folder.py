"""The output folder of a replay: a rosbag2 of several files, and the progress.

    metadata.yaml, replay_0.mcap, replay_1.mcap, …   the rosbag2, whole after each file
    replay.json                                      settings, progress and timing
    tracks_N.npz                                     of the panoptic segments, the grid and the network's memory behind
                                                     file N - 1
    .m2f_ros.jsonl                                   the files that the replay made, see m2f_ros.results.Results

A file is written in a temporary folder and moved here when it is complete. If the replay is killed, the next run
resumes after the last complete file.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from m2f_ros.bags.writer import BagWriter, written_files
from m2f_ros.documents import read_json, read_yaml
from m2f_ros.errors import ConfigError, OutputError, SourceError
from m2f_ros.files import write_whole
from m2f_ros.results import Results

RECORD = "replay.json"
METADATA = "metadata.yaml"
LABELS = "labels"
UNFINISHED = "unfinished"
_FORMAT = "m2f-replay"
_INFORMATION = "rosbag2_bagfile_information"
SECONDS = ("wall", "pipeline", "reading", "writing")


@dataclass
class Progress:
    """The progress of a replay.

    Attributes:
        next: number of the first image that is not in the bag.
        segmented: camera -> number of segmented images before `next`.
        bad: camera -> number of bad images before `next`.
        problem: problem of the first bad image, or why the drive ended too early; or "".
        lost: line on the first damaged depth image, cloud or transform before `next`; or "".
        missed: output in space -> number of its messages that could not be made, or not whole, and why the first one.
        seconds: times of all runs, by the names in SECONDS; see `replay`.
        finished: True if the replay is complete.
    """

    next: int = 0
    segmented: dict[str, int] = field(default_factory=dict)
    bad: dict[str, int] = field(default_factory=dict)
    problem: str = ""
    lost: str = ""
    missed: dict[str, list] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SECONDS, 0.0))
    finished: bool = False

    @property
    def lack(self) -> str:
        """One line on why images or outputs in space are missing, or ""."""
        bad = sum(self.bad.values())
        images = f"{bad} of {self.next} images cannot be read, the first: {self.problem}" if bad else self.problem
        missed = [
            f"{count} messages of {name} are missing or not whole, the first: {why}"
            for name, (count, why) in self.missed.items()
        ]
        return "; ".join(filter(None, [images, *missed]))

    def miss(self, output: str, why: str) -> None:
        """Count a message of an output in space that could not be made, or not whole."""
        known = self.missed.setdefault(output, [0, why])
        known[0] += 1

    @property
    def pipeline_share(self) -> float | None:
        """Share of the wall time in the pipeline, 0..1; None before the first image."""
        wall = self.seconds["wall"]
        return min(1.0, self.seconds["pipeline"] / wall) if wall else None


class Folder:
    """The folder of one replay, locked against others until it is closed.

    Args:
        path: path of the folder, created if missing.
        settings: settings in JSON types, which must equal those of the images that are there.
        restart: True to begin anew.
        inputs: paths of inputs, which must not be in the folder.
    Attributes:
        progress: progress in the folder.
        results: files made in the folder.
    Raises:
        ConfigError: the settings differ from those of an earlier run.
        OutputError: the folder holds other files or an input, or another process writes here.
        SourceError: the folder cannot be written.
    """

    def __init__(
        self, path: Path, settings: dict[str, Any], restart: bool = False, inputs: Iterable[str | Path] = ()
    ) -> None:
        self.path, self._settings = path, json.loads(json.dumps(settings))
        self._bag: dict[str, Any] = {}
        self.progress = Progress()
        self.results = Results(path, "m2f replay", inputs)
        self.results.begin()
        try:
            with writing(path):
                if restart:
                    self.results.clear()
                elif RECORD in self.results.names and (path / RECORD).is_file():
                    self._read()
                self.results.check([METADATA])
                self._remove_unfinished()
                self._write()
        except BaseException:
            self.results.close()
            raise

    def _read(self) -> None:
        """Read the progress of an earlier run."""
        try:
            record = read_json(self.path / RECORD)
            before, self._bag = record["settings"], record["bag"]
            self.progress = Progress(**record["progress"])
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(
                f"{self.path / RECORD}: damaged ({' '.join(str(error).split())}); give --restart, or another --out"
            ) from None
        if not self.files and not self.progress.next and not self.progress.finished:
            return  # nothing is there that other settings made, as after a setting that was refused
        for name in {**before, **self._settings}:
            if before.get(name) != self._settings.get(name):
                raise ConfigError(
                    f"{self.path} was begun with {name} {_shown(before.get(name))}, "
                    f"now it is {_shown(self._settings.get(name))}: "
                    "give the same settings to go on, --restart to begin anew, or another --out"
                )

    def begin(self) -> BagWriter:
        """Return a writer for the bag's next file. `commit` adds the file to the bag, `discard` removes it."""
        with writing(self.path):
            self._remove_unfinished()
            name, storage = f"replay_{len(self.files)}", self._settings["storage"]
            # `results` creates the parent of the writer's folder.
            path = self.results.place(f"{UNFINISHED}/{name}")
            self.results.claim(f"{UNFINISHED}/{name}/{file}" for file in written_files(name, storage))
            return BagWriter(path, storage, self._settings["compression"])

    def commit(self, part: BagWriter, progress: Progress, tracks: dict[str, np.ndarray]) -> None:
        """Add a finished file to the bag. progress: progress with this file. tracks: value of `tracks`."""
        with writing(self.path):
            part.close()
            information = read_yaml(part.path / METADATA)[_INFORMATION]
            (name,) = information["relative_file_paths"]
            (part.path / name).replace(self.results.new(name))
            self._bag = merged(self._bag, information)
            arrays: dict[str, Any] = dict(tracks)
            np.savez_compressed(self.results.new(self._tracks_file.name), **arrays)
            self.save(progress)
            self._remove_unfinished()

    def save(self, progress: Progress) -> None:
        """Write the progress without adding a file."""
        with writing(self.path):
            self.progress = progress
            self._write()

    def discard(self) -> None:
        """Remove the unfinished file, which frees its disk space."""
        with contextlib.suppress(OutputError):
            self._remove_unfinished()

    @property
    def files(self) -> list[str]:
        """Files of the bag."""
        return self._bag.get("relative_file_paths", [])

    def tracks(self) -> dict[str, np.ndarray]:
        """Return the tracks of the last `commit`; empty before the first."""
        if not self.files:
            return {}
        with np.load(self._tracks_file) as arrays:
            return dict(arrays)

    def close(self) -> None:
        """Unlock the folder."""
        self.discard()
        with contextlib.suppress(OutputError):
            self.results.seal()
        self.results.close()

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def _tracks_file(self) -> Path:
        return self.path / f"tracks_{len(self.files)}.npz"

    def _write(self) -> None:
        # The record is written last: the next run replaces files that it does not list.
        if self._bag:
            self._write_own(METADATA, yaml.safe_dump({_INFORMATION: self._bag}, sort_keys=False))
        else:  # metadata of a first file that the record does not list
            self.results.discard([METADATA])
        record = {
            "format": _FORMAT,
            "version": 1,
            "settings": self._settings,
            "progress": asdict(self.progress),
            "pipeline_share": self.progress.pipeline_share,
            "bag": self._bag,
        }
        self._write_own(RECORD, json.dumps(record, indent=1) + "\n")

    def _write_own(self, name: str, text: str) -> None:
        self.results.claim([name], keep=True)
        write_whole(self.path / name, text)

    def _remove_unfinished(self) -> None:
        """Remove files that the record does not list."""
        names = {*self.files, self._tracks_file.name}
        self.results.discard(
            name
            for name in self.results.names
            if name.startswith(f"{UNFINISHED}/") or (re.match(r"(replay|tracks)_\d", name) and name not in names)
        )


def how_far(path: Path) -> int:
    """Return the number of images that the replay in this folder has processed; 0 if there is none."""
    try:
        return read_json(path / RECORD)["progress"]["next"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def unfinished(path: Path) -> str:
    """Return one line on the state of an incomplete replay in this folder; "" if it is complete, or there is none."""
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
    """Turn errors of writing below this folder into a SourceError."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:  # sqlite3 has an error of its own for a full disk
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        remedy = "; make room, and the same command goes on" if full else ""
        raise SourceError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error}){remedy}") from error


def merged(bag: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Merge rosbag2's metadata of a bag and one more file; `bag` is {} for a bag without files."""
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
