"""Ids that labels may hold: those of a class, and those that say there is none. Any other is a mistake."""

from __future__ import annotations

import cv2
import numpy as np

from m2f_ros.errors import EvaluationError
from m2f_ros.evaluation.classes import look_up
from m2f_ros.taxonomy import Taxonomy


class KnownIds:
    """Looks up train ids by the ids of a taxonomy's label files, and refuses what none of them means."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        """Ids up to one above the last of the taxonomy, 255 and 65535 are known: where of no class, of unlabelled."""
        self._name = taxonomy.name
        self._table = taxonomy.file_table()
        self._unknown = np.ones(65536, bool)
        self._unknown[: max(taxonomy.file_ids, default=-1) + 2] = False
        self._unknown[[255, 65535]] = False

    def train_ids(self, ids: np.ndarray, where: str, hint: str) -> np.ndarray:
        """(H, W) train ids of the taxonomy from (H, W) uint8 or uint16 ids.

        where: the frame; hint: what to do. Both are in the EvaluationError for an unknown id.
        """
        if ids.dtype == np.uint8:
            there = np.flatnonzero(cv2.calcHist([ids], [0], None, [256], [0, 256]))
        else:
            there = np.flatnonzero(np.bincount(ids.reshape(-1), minlength=1))
        unknown = there[self._unknown[there]]
        if len(unknown):
            shown = ", ".join(map(str, unknown[:5])) + (", …" if len(unknown) > 5 else "")
            raise EvaluationError(f"{where}: holds the id {shown}, which {self._name} has not; {hint}")
        return look_up(self._table, ids)
