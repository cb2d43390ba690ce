"""What a run says while it goes on: log.jsonl, and TensorBoard where it is wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from m2f_ros.errors import TrainingError
from m2f_ros.training.state import writing


class Log:
    """log.jsonl, a line for each entry, and the same figures and pictures in the folder tensorboard/.

    Entries of steps after `step` are dropped: a resumed run does those again.
    """

    def __init__(self, out: Path, step: int, tensorboard: bool):
        """Raises TrainingError where TensorBoard is wanted and not installed, or `out` cannot be written."""
        self.path, self.board = out / "log.jsonl", None
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            with writing(self.path):
                kept = self.path.with_name("log.jsonl.partial")
                kept.write_text("".join(line for line in lines if _step(line) <= step), encoding="utf-8")
                kept.replace(self.path)
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise TrainingError("tensorboard: true needs a package: pip install tensorboard") from None
            with writing(out / "tensorboard"):
                self.board = SummaryWriter(out / "tensorboard", purge_step=step + 1)

    def losses(self, entry: dict[str, Any]) -> None:
        """Figures of one step; entry["step"] says which. What is not finite is written as null."""
        entry = {key: value if np.isfinite(value) else None for key, value in entry.items()}
        self._line(entry)
        for name, value in entry.items():
            if self.board and name != "step" and value is not None:
                self.board.add_scalar(f"training/{name}", value, entry["step"])

    def scores(self, step: int, scores: dict[str, dict], pictures: dict[str, list[np.ndarray]]) -> None:
        """Scores of each evaluation set, as `evaluate` gives them, and its pictures, each (h, w, 3) uint8 RGB."""
        self._line({"step": step, "scores": scores})
        if not self.board:
            return
        for name, score in scores.items():
            figures = {name: value for name, value in score.items() if not isinstance(value, dict)}
            figures |= {f"iou/{label}": iou for label, iou in score["iou"].items()}
            for figure, value in figures.items():
                if value is not None:
                    self.board.add_scalar(f"{name}/{figure}", value, step)
        for name, images in pictures.items():
            for i, image in enumerate(images):
                self.board.add_image(f"{name}/{i}", image, step, dataformats="HWC")
        self.board.flush()

    def close(self) -> None:
        if self.board:
            self.board.close()

    def _line(self, entry: dict) -> None:
        with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # a disk that was full, or a machine that stopped, in the middle of a line
        return float("inf")
