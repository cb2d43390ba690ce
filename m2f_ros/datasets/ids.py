"""Reads the ids in label PNGs, and maps them by a taxonomy."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import FrameError, LabelError
from m2f_ros.frame.pictures import PNG, open_picture, read_bytes
from m2f_ros.taxonomy import Taxonomy

log = logging.getLogger("m2f_ros.datasets")

# Suffixes that data sets append to the name of the image. Train ids first: Cityscapes folders hold both.
SUFFIXES = ("_gtFine_labelTrainIds", "_gtFine_labelIds", "_labelTrainIds", "_labelIds", "_L", "_label")
# Number of files to read to guess the taxonomy.
_PEEK = 8


def suffixes_for(spec: str | None) -> list[str]:
    """Return SUFFIXES, those of an explicit taxonomy's ids first; plain "cityscapes" may mean both kinds."""
    if spec in (None, "cityscapes"):
        return list(SUFFIXES)
    train_ids = all(file_id == train_id for file_id, train_id in taxonomies.get(spec).file_ids.items())
    return sorted(SUFFIXES, key=lambda suffix: suffix.endswith("TrainIds") != train_ids)


def natural_sort(paths: Iterable[Path]) -> list[Path]:
    """Sort by name, with numbers by value: frame2 before frame10."""

    def key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
        parts = re.split(r"(\d+)", path.name.lower())
        return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p], path.name

    return sorted(paths, key=key)


def read_ids(path: Path) -> np.ndarray:
    """Read the ids in a label PNG, (H, W) uint8 or uint16; for one with a palette the indices, not the colours.

    Raises LabelError if the file is not a PNG, is damaged, or holds colours.
    """
    try:
        data = read_bytes(path)
        ids = open_picture(data).ids() if data.startswith(PNG) else None
    except (OSError, FrameError) as error:
        raise LabelError(f"{path}: damaged label file: {error}") from None
    if ids is None:
        reason = "holds colours, not class ids" if data.startswith(PNG) else "not a PNG file, or cut off"
        raise LabelError(f"{path}: {reason}; labels are PNGs with one channel or a palette")
    return ids


def holds_ids(path: Path) -> bool:
    """Return True if the header is that of a PNG with one channel or a palette, not of a colour picture."""
    with open(path, "rb") as file:
        return file.read(26)[25:] in (b"\0", b"\3")


def holds_colours(path: Path) -> bool:
    """Return True if the header is that of a PNG with red, green and blue."""
    with open(path, "rb") as file:
        return file.read(26)[25:] in (b"\2", b"\6")


def peek(paths: Sequence[Path]) -> set[int]:
    """Return the ids in some evenly spaced label PNGs. For errors see `read_ids`.

    Logs a warning if an id has different colours in their palettes, since it may then mean different classes.
    """
    colours: dict[int, tuple[list[int] | None, Path]] = {}
    differ = ""
    for path in paths[:: max(1, len(paths) // _PEEK)][:_PEEK]:
        ids, palette = np.unique(read_ids(path)).tolist(), open_picture(read_bytes(path)).palette()
        for i in ids:
            colour = palette[i].tolist() if palette is not None and i < len(palette) else None
            other, where = colours.setdefault(i, (colour, path))
            if other != colour and None not in (other, colour) and not differ:
                differ = f"the id {i} is {colour} in the palette of {path.name} and {other} in that of {where.name}"
    if differ:
        log.warning("labels %s: %s; is it one class? ids are taken, not colours", paths[0].parent, differ)
    return set(colours)


class KnownIds:
    """Maps the ids of a taxonomy's label files to train ids, and rejects undeclared ids."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        """taxonomy: taxonomy that declares ids in file_ids and ignore."""
        self._name = taxonomy.name
        self._table = taxonomy.file_table()
        self._unknown = np.ones(65536, bool)
        self._unknown[[*taxonomy.file_ids, *taxonomy.ignore]] = False

    def train_ids(self, ids: np.ndarray, where: str, hint: str) -> np.ndarray:
        """Map (H, W) uint8 or uint16 ids to train ids.

        where: name of the frame; hint: advice. Both are for the LabelError for an undeclared id.
        """
        if ids.dtype == np.uint8:
            there = np.flatnonzero(cv2.calcHist([ids], [0], None, [256], [0, 256]))
        else:
            there = np.flatnonzero(np.bincount(ids.reshape(-1), minlength=1))
        self.check(there, where, hint)
        if ids.dtype == np.uint8 and self._table.dtype == np.uint8:
            return cv2.LUT(ids, self._table[:256])  # a tenth of NumPy's time
        return self._table[ids]

    def check(self, ids: np.ndarray, where: str, hint: str) -> None:
        """Raise LabelError for undeclared ids, (N,) integers, 0 to 65535. For the arguments see `train_ids`."""
        unknown = ids[self._unknown[ids]].tolist()
        if unknown:
            shown = ", ".join(map(str, unknown[:5])) + (", …" if len(unknown) > 5 else "")
            raise LabelError(
                f"{where}: holds the id {shown}, which {self._name} has not; {hint}, or, where it is of no class, "
                "declare it under ignore: in the YAML of the taxonomy"
            )


def choose_taxonomy(spec: str | None, values: set[int], path: str, what: str) -> Taxonomy:
    """Return the requested or guessed taxonomy of labels with these ids.

    path: path of the files, or topic. what: beginning of messages. Plain "cityscapes" may mean label ids or train ids.
    A guess is logged as a warning. Raises LabelError if the guess is ambiguous or the taxonomy has none of the ids,
    TaxonomyError if the taxonomy does not exist.
    """
    if spec is None:
        taxonomy = taxonomies.guess_label_taxonomy(values, path)
        if taxonomy is None:
            raise LabelError(
                f"{what}: which classes its ids {_listed(values)} mean is not plain; name their taxonomy, one of "
                f"{', '.join(taxonomies.BUILTIN)}, cityscapes_trainids, cityscapes_labelids, or a .yaml file"
            )
    elif spec == "cityscapes":
        taxonomy = taxonomies.guess_label_taxonomy(values, f"cityscapes {path}")
        if taxonomy is None:
            raise LabelError(
                f"{what}: its ids {_listed(values)} could be Cityscapes' label ids or train ids; name their taxonomy, "
                "cityscapes_labelids or cityscapes_trainids"
            )
    else:
        taxonomy = taxonomies.get(spec)
    if spec in (None, "cityscapes"):
        log.warning("%s: by its name and the ids %s, taken for %s", what, _listed(values), called(taxonomy))
    if not values & set(taxonomy.file_ids) and not values <= set(taxonomy.ignore):
        raise LabelError(
            f"{what}: none of its ids {_listed(values)} is a class of {taxonomy.name}; is that their taxonomy?"
        )
    return taxonomy


def called(taxonomy: Taxonomy) -> str:
    """The built-in taxonomy by the name that also says which of Cityscapes' two kinds of ids it has."""
    if taxonomy.name != "cityscapes":
        return taxonomy.name
    return "cityscapes_labelids" if taxonomy == taxonomies.get("cityscapes") else "cityscapes_trainids"


def _listed(values: set[int]) -> str:
    shown = sorted(values)
    return ", ".join(map(str, shown)) if len(shown) <= 12 else f"{shown[0]} to {shown[-1]} ({len(shown)} of them)"
