"""The log of a run: log.jsonl, and TensorBoard where the config asks for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from m2f_ros.errors import TrainingError, to_install
from m2f_ros.files import write_whole
from m2f_ros.training.state import writing


class Log:
    """log.jsonl, a line for each entry, and the same figures and pictures in the folder tensorboard/.

    Entries of steps after `step` are dropped: a resumed run does those again.
    """

    def __init__(self, out: Path, step: int, tensorboard: bool):
        """Raises TrainingError where TensorBoard is wanted and not installed, or `out` cannot be written."""
        self.path, self.board_path, self.board = out / "log.jsonl", out / "tensorboard", None
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            with writing(self.path):
                write_whole(self.path, "".join(line for line in lines if _of_before(_entry(line), step)))
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise TrainingError(f"tensorboard: true needs a package: {to_install('tensorboard')}") from None
            with writing(self.board_path):
                self.board = SummaryWriter(self.board_path, purge_step=step + 1)

    def losses(self, entry: dict[str, Any]) -> None:
        """Write the figures of the step entry["step"]; null for one that is not finite."""
        entry = {key: value if np.isfinite(value) else None for key, value in entry.items()}
        self._line(entry)
        self._scalars("training", {k: v for k, v in entry.items() if k != "step"}, entry["step"])

    def changes(self, step: int, changes: dict[str, list]) -> None:
        """Changes of the config from here on: {key: [value before, value now]}."""
        self._line({"step": step, "changes": changes})

    def scores(self, step: int, scores: dict[str, dict], pictures: dict[str, list[np.ndarray]]) -> None:
        """Scores of each evaluation set, as `evaluate` gives them, and its pictures, each (h, w, 3) uint8 RGB."""
        self._line({"step": step, "scores": scores})
        for name, score in scores.items():
            iou = {f"iou/{label}": value for label, value in score["iou"].items()}
            self._scalars(name, {k: v for k, v in score.items() if not isinstance(v, dict)} | iou, step)
        if self.board:
            with writing(self.board_path):
                for name, images in pictures.items():
                    for i, image in enumerate(images):
                        self.board.add_image(f"{name}/{i}", image, step, dataformats="HWC")
                self.board.flush()

    def close(self) -> None:
        if self.board:
            self.board.close()

    def _scalars(self, group: str, figures: dict[str, float | None], step: int) -> None:
        if self.board:
            with writing(self.board_path):
                for name, value in figures.items():
                    if value is not None:
                        self.board.add_scalar(f"{group}/{name}", value, step)

    def _line(self, entry: dict) -> None:
        with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def read_scores(out: Path, step: int) -> dict[int, dict[str, dict]]:
    """{step: scores of each evaluation set} that the log in `out` has up to `step`."""
    path = out / "log.jsonl"
    entries = map(_entry, path.read_text(encoding="utf-8").splitlines()) if path.exists() else ()
    return {entry["step"]: entry["scores"] for entry in entries if "scores" in entry and _of_before(entry, step)}


def _of_before(entry: dict, step: int) -> bool:
    """True where an entry lies before `step`, from which a run goes on; the run notes changes of its config itself."""
    return entry["step"] < step or (entry["step"] == step and "changes" not in entry)


def _entry(line: str) -> dict:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):  # a disk that was full, or a machine that stopped, in the middle of a line
        entry = None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else {"step": float("inf")}
