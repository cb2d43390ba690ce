"""Ground truth from folders of label PNGs: which file belongs to which frame, and what its ids mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import SourceError
from m2f_ros.taxonomy import ClassInfo, Taxonomy

# What data sets put behind the name of the image. Train ids first: Cityscapes folders hold both.
SUFFIXES = ("", "_gtFine_labelTrainIds", "_gtFine_labelIds", "_labelTrainIds", "_labelIds", "_L", "_label")
# How many files are looked at to find out what the ids mean.
PEEK = 8


class Labels:
    """Label files of a sequence of frames.

    taxonomy: of the train ids that `read` returns. matched: how many of the frames have a label.
    """

    def __init__(self, folder: str | Path, names: Sequence[str], taxonomy: str | None) -> None:
        """folder: of PNGs. names: of the frames, in order. taxonomy: name, YAML file, or None to guess.

        Raises SourceError where the folder does not fit the frames, or it is not plain what the ids mean.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise SourceError(f"LABELS {folder}: no such folder")
        files = natural_sort(p for p in folder.iterdir() if p.suffix.lower() == ".png")
        if not files:
            raise SourceError(f"LABELS {folder}: no label PNGs in this folder")
        self._files = match_files(files, names)
        found = [path for path in self._files if path is not None]
        if not found:
            frame = names[0] if names else "none"
            raise SourceError(
                f"LABELS {folder}: none of its {len(files)} files (first: {files[0].name}) is named after "
                f"one of the {len(names)} frames (first: {frame}), and the numbers differ"
            )
        self.matched = len(found)
        peeked = found[:: max(1, len(found) // PEEK)][:PEEK]
        values = set(np.unique(np.concatenate([np.unique(read_ids(path)) for path in peeked])).tolist())
        hint = str(folder.resolve() / found[0].name)
        self.taxonomy = choose_taxonomy(taxonomy, values, hint, f"LABELS {folder}")
        self._table = self.taxonomy.file_table()

    def file(self, position: int) -> Path | None:
        """The label file of the frame at this position, None where it has none."""
        return self._files[position] if position < len(self._files) else None

    def read(self, position: int, image: np.ndarray, image_name: str) -> np.ndarray | None:
        """Train ids (H, W) for the frame at this position, None where it has no label.

        Raises SourceError where the file cannot be read, or its size is not that of the image.
        """
        path = self.file(position)
        if path is None:
            return None
        ids = read_ids(path)
        if ids.shape != image.shape[:2]:
            raise SourceError(
                f"{path}: the label is {ids.shape[1]}x{ids.shape[0]} "
                f"but its image {image_name} is {image.shape[1]}x{image.shape[0]}"
            )
        return self._table[ids]


def natural_sort(paths: Iterable[Path]) -> list[Path]:
    """Sorted by name, with numbers by value: frame2 before frame10."""

    def key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
        parts = re.split(r"(\d+)", path.name.lower())
        return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p], path.name

    return sorted(paths, key=key)


def match_files(files: Sequence[Path], names: Sequence[str]) -> list[Path | None]:
    """The label file of each frame or None: by name, or in order where no name fits but the numbers agree."""
    by_stem = {path.stem: path for path in files}
    stems = [name.removesuffix("_leftImg8bit") for name in names]
    best: list[Path | None] = [None] * len(names)
    for suffix in SUFFIXES:
        matched = [by_stem.get(stem + suffix) for stem in stems]
        if matched.count(None) < best.count(None):
            best = matched
    if all(path is None for path in best) and len(files) == len(names):
        return list(files)
    return best


def read_ids(path: Path) -> np.ndarray:
    """The ids in a label PNG, (H, W) uint8 or uint16; of one with a palette the indices, not the colours.

    Raises SourceError where it is not a PNG, damaged, or holds colours.
    """
    with open(path, "rb") as file:
        header = file.read(26)
    if len(header) < 26 or header[:8] != b"\x89PNG\r\n\x1a\n":
        raise SourceError(f"{path}: not a PNG file, or cut off")
    bits, colour_type = header[24], header[25]
    if colour_type == 3:
        return _read_palette_indices(path)
    if colour_type != 0:
        raise SourceError(f"{path}: holds colours, not class ids; labels are PNGs with one channel or a palette")
    try:
        ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        ids = None
    if ids is None:
        raise SourceError(f"{path}: damaged label file")
    # OpenCV stretches grey of 1, 2 and 4 bits to 0..255.
    return ids // (255 // (2**bits - 1)) if bits < 8 else ids


def _read_palette_indices(path: Path) -> np.ndarray:
    """OpenCV turns a palette into colours; FFmpeg keeps the indices."""
    try:
        with av.open(str(path)) as container:
            indices, _ = next(container.decode(video=0)).to_ndarray()
    except (av.error.FFmpegError, StopIteration, ValueError):
        raise SourceError(f"{path}: damaged label file") from None
    return indices


def choose_taxonomy(spec: str | None, values: set[int], hint: str, what: str) -> Taxonomy:
    """The taxonomy of labels in which these ids were seen, as asked for or guessed.

    hint: path or topic. what: begins the error messages. Plain "cityscapes" may mean label ids or train ids.
    Raises SourceError where it is not plain or none of the ids is one of the taxonomy's, TaxonomyError where
    there is no such taxonomy.
    """
    if spec is None:
        taxonomy = taxonomies.guess_label_taxonomy(values, hint)
        if taxonomy is None:
            raise SourceError(
                f"{what}: which classes its ids {_listed(values)} mean is not plain; give TAXONOMY= one of "
                f"{', '.join(taxonomies.BUILTIN)}, cityscapes_trainids, or a .yaml file"
            )
    elif spec == "cityscapes":
        taxonomy = taxonomies.guess_label_taxonomy(values, f"cityscapes {hint}")
        if taxonomy is None:
            raise SourceError(
                f"{what}: its ids {_listed(values)} could be Cityscapes' label ids or train ids; give "
                "TAXONOMY=cityscapes_labelids or TAXONOMY=cityscapes_trainids"
            )
    else:
        taxonomy = taxonomies.get(spec)
    if not values & set(taxonomy.file_ids):
        raise SourceError(
            f"{what}: none of its ids {_listed(values)} is a class of {taxonomy.name}; is TAXONOMY right?"
        )
    return taxonomy


def taxonomy_of_legend(legend: Any) -> Taxonomy:
    """The taxonomy of a Legend message, for train ids; the built-in one of the same classes if there is one.

    The latter can be merged with others.
    """
    known = taxonomies.match([c.name for c in legend.classes])
    if known is not None:
        return known.with_train_ids()
    classes = [ClassInfo(int(c.id), c.name, tuple(map(int, c.color)), bool(c.thing)) for c in legend.classes]
    return Taxonomy(legend.taxonomy, tuple(classes)).with_train_ids()


def _listed(values: set[int]) -> str:
    shown = sorted(values)
    return ", ".join(map(str, shown)) if len(shown) <= 12 else f"{shown[0]} to {shown[-1]} ({len(shown)} of them)"
