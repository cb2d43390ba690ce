"""Costs of classes on the ground, from a YAML file.

    ground:             # lies flat: each of its pixels shows the ground there
      road: 0           # 0 is free, 100 is lethal
      sidewalk: 60
    standing:           # stands on the ground: its foot alone touches it
      pole: 100
    moving:             # stands, too, and may drive or walk away
      person: 100
    unknown: [sky]      # says nothing about the ground: -1

A class is found by its name or an alias in the taxonomy. One file serves several taxonomies: an entry without a class
in this one is skipped.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import msgspec
import numpy as np

from m2f_ros import taxonomy as taxonomies
from m2f_ros.documents import read_yaml
from m2f_ros.errors import ConfigError, DocumentError, say_once, some
from m2f_ros.taxonomy import Taxonomy
from m2f_ros.typed import as_type

UNKNOWN = -1  # cost of unlabelled pixels and of classes without an entry
LETHAL = 100
_BUILTIN = Path(__file__).parent / "costs.yaml"
_Cost = Annotated[int, msgspec.Meta(ge=0, le=LETHAL)]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """A file of costs."""

    ground: dict[str, _Cost] = {}
    standing: dict[str, _Cost] = {}
    moving: dict[str, _Cost] = {}
    unknown: list[str] = []

    def entries(self) -> Iterator[tuple[str, str, int]]:
        """(key of the file, name of a class, its cost) of each entry."""
        for key in ("ground", "standing", "moving"):
            for name, cost in getattr(self, key).items():
                yield key, name, cost
        for name in self.unknown:
            yield "unknown", name, UNKNOWN


@dataclass(frozen=True, eq=False)
class Costs:
    """The costs of a taxonomy's classes.

    Attributes:
        table: (256,) or (65536,) int8, cost by train id: 0 free to 100 lethal, -1 unknown.
        flat: the same shape, bool: True for classes that lie on the ground.
        moves: the same, True for classes that may move.
        missing: names of classes without an entry, which are unknown.
    """

    table: np.ndarray
    flat: np.ndarray
    moves: np.ndarray
    missing: tuple[str, ...] = ()

    @property
    def unlabelled(self) -> int:
        """Label of pixels without a class: 255, or 65535 above 255 classes."""
        return len(self.table) - 1


def read_costs(path: str | Path, taxonomy: Taxonomy) -> Costs:
    """Read a file of costs for a taxonomy; the built-in file for "".

    Classes without an entry are unknown, which is logged in one line for all of them; so are entries that are no class
    of a known taxonomy.
    Raises ConfigError, with the file and the entry: no such file, no YAML, a class with two costs, a cost that is none,
    no class of the taxonomy at all.
    """
    where = str(path) or "the built-in costs"
    try:
        file = as_type(read_yaml(path or _BUILTIN) or {}, _File)
    except OSError as error:
        raise ConfigError(
            f"{where}: cannot be read ({error.strerror}); name a file such as config/costs.yaml"
        ) from None
    except DocumentError as error:
        raise ConfigError(f"{where}: {error}") from None
    table = np.full(taxonomy.unlabelled + 1, UNKNOWN, np.int8)
    flat, moves = np.zeros((2, *table.shape), bool)
    find = taxonomies.finder(taxonomy)
    given: dict[int, str] = {}
    strangers = []
    for key, name, cost in file.entries():
        train_id = find(name)
        if train_id is None:
            strangers.append(name)
            continue
        kind = cost, key == "ground", key == "moving"
        if train_id in given and (table[train_id], flat[train_id], moves[train_id]) != kind:
            raise ConfigError(
                f"{where}: {key}: {name!r} is the class {taxonomy.names[train_id]!r}, which {given[train_id]!r} is, "
                f"too, and they differ: leave one of them out"
            )
        given[train_id] = name
        table[train_id], flat[train_id], moves[train_id] = kind
    if not given:
        raise ConfigError(
            f"{where}: none of its {len(strangers)} entries is a class of {taxonomy.name}: "
            f"give the names of its classes ({some(taxonomy.names, most=5)})"
        )
    _say_strangers(where, strangers, taxonomy)
    missing = tuple(c.name for c in taxonomy.classes if c.id not in given)
    if missing:
        say_once(
            f"{where}: no cost for {len(missing)} of {len(taxonomy.classes)} classes of {taxonomy.name}, which stay "
            f"unknown on the grid: {some(missing, most=5)}"
        )
    return Costs(table, flat, moves, missing)


def looked_up(table: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return the entries of labels in a table of `Costs`, of the labels' shape."""
    if label.dtype == np.uint8 and label.size and table.dtype != bool:
        return cv2.LUT(label, table).reshape(label.shape)
    return table[label]


def _say_strangers(where: str, names: list[str], taxonomy: Taxonomy) -> None:
    """Log the names that no known taxonomy has, such as misspelt ones."""
    finders = [taxonomies.finder(taxonomies.get(name)) for name in taxonomies.BUILTIN] if names else []
    unknown = [name for name in names if all(find(name) is None for find in finders)]
    if unknown:
        near = difflib.get_close_matches(unknown[0], taxonomy.names, n=1)
        meant = f" ({unknown[0]!r} is near to {near[0]!r})" if near else ""
        say_once(f"{where}: skipped, no class of {taxonomy.name} or a known taxonomy: {some(unknown, most=5)}{meant}")
