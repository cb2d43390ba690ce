"""Which model of a run is the best, by the scores so far, and whether a better one is still to be expected."""

from __future__ import annotations

from m2f_ros.training.config import TrainConfig

TITLES = {"miou": "mIoU", "pq": "PQ", "accuracy": "pixel accuracy"}
# Where the scores of each class are of which a score is the mean.
_EACH = {"miou": "iou", "pq": "pq_of"}


class History:
    """scores: by step, of each evaluation set, as m2f_ros.training.evaluate gives them."""

    def __init__(self, config: TrainConfig, scores: dict[int, dict[str, dict]]) -> None:
        self.scores = scores
        self._by = config.best_by or ("pq" if config.data.panoptic else "miou")
        self._sets = {part.name for part in config.data.evaluate}
        self._patience = config.early_stopping

    @property
    def best(self) -> int | None:
        """The step of the best model; None where no score says which that is."""
        marks = self._marks()
        return max(marks, key=lambda step: (marks[step], -step), default=None)

    @property
    def exhausted(self) -> bool:
        """True where the last `early_stopping` evaluations were no better than the best before them."""
        best = self.best
        return best is not None and 0 < self._patience <= sum(step > best for step in self._marks())

    def _marks(self) -> dict[int, float]:
        """By step, the mean over the evaluation sets of the score that decides."""
        found = {
            step: [score[self._by] for score in scores.values() if score.get(self._by) is not None]
            for step, scores in self.scores.items()
            if scores.keys() == self._sets  # with others they do not compare
        }
        return {step: sum(values) / len(values) for step, values in found.items() if values}

    def describe(self, step: int) -> list[str]:
        """The scores of a step, in a line for each kind."""
        lines = []
        for score, title in TITLES.items():
            found = {name: s for name, s in self.scores[step].items() if s.get(score) is not None}
            if found and (score != "accuracy" or score == self._by):
                line = ", ".join(f"{name} {s[score]:.3f}{_share(s, score)}" for name, s in found.items())
                best = f"; the best so far: step {self.best}" if score == self._by else ""
                lines.append(f"step {step}: {title} {line}{best}")
        return lines


def _share(scores: dict, score: str) -> str:
    """Say how many classes the mean is over, where some are missing."""
    each = scores[_EACH[score]].values() if score in _EACH else ()
    counted = sum(value is not None for value in each)
    return "" if counted == len(each) else f" over {counted} of {len(each)} classes"
