"""Label PNGs in colours, each of which stands for a class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from m2f_ros import taxonomy as taxonomies
from m2f_ros.documents import read_yaml
from m2f_ros.errors import DocumentError, FrameError, LabelError, some
from m2f_ros.frame.pictures import PNG, open_picture, read_bytes
from m2f_ros.taxonomy import Taxonomy
from m2f_ros.typed import as_type

FILE = "colours.yaml"  # among the labels; names the colours that are not the taxonomy's
_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]
_Colour = tuple[_Byte, _Byte, _Byte]


class Colours(msgspec.Struct, forbid_unknown_fields=True):
    """A colours.yaml.

    Attributes:
        classes: name of a class of the taxonomy -> its colours, red, green, blue.
        ignore: colours without a class.
    """

    classes: dict[str, list[_Colour]] = {}
    ignore: list[_Colour] = []


class KnownColours:
    """Maps colours to train ids, and rejects undeclared colours."""

    def __init__(self, taxonomy: Taxonomy, folder: Path) -> None:
        """Takes the colours in the folder's colours.yaml; without one, those of the taxonomy's classes.

        Raises LabelError where the file is damaged, names no class, or a colour is declared twice.
        """
        path = folder / FILE
        self._name, self._file = taxonomy.name, path
        given = Colours({c.name: [c.colour] for c in taxonomy.classes})
        where = f"taxonomy {taxonomy.name}"
        if path.exists():
            where = str(path)
            try:
                given = as_type(read_yaml(path), Colours)
            except (OSError, DocumentError) as error:
                raise LabelError(f"{path}: {error}") from None
        find = taxonomies.finder(taxonomy)
        table: dict[int, int] = {}
        names: dict[int, str] = {}
        rows = [*given.classes.items(), ("ignore", given.ignore)]
        for place, (name, colours) in enumerate(rows):
            train_id = taxonomy.unlabelled if place == len(rows) - 1 else find(name)
            if train_id is None:
                raise LabelError(f"{where}: {taxonomy.name} has no class {name!r}")
            for red, green, blue in colours:
                value = red << 16 | green << 8 | blue
                if names.setdefault(value, name) != name:
                    raise LabelError(
                        f"{where}: {name!r} and {names[value]!r} have one colour, {[red, green, blue]}; say in "
                        f"{path} which has it"
                    )
                table[value] = train_id
        self._colours = np.array(sorted(table), np.int32)
        self._train_ids = np.array([table[value] for value in sorted(table)], taxonomy.dtype)

    def read(self, path: Path) -> np.ndarray:
        """Read (H, W) train ids. Raises LabelError for a damaged file, one without colours, or undeclared colours."""
        try:
            data = read_bytes(path)
            picture = open_picture(data).pixels() if data.startswith(PNG) else None
        except (OSError, FrameError) as error:
            raise LabelError(f"{path}: damaged label file: {error}") from None
        if picture is None or picture.ndim != 3 or picture.dtype != np.uint8:
            raise LabelError(f"{path}: no PNG of colours of 8 bits, which other files of its folder are")
        blue, green, red = (picture[..., i].astype(np.int32) for i in range(3))
        values = red << 16 | green << 8 | blue
        places = np.searchsorted(self._colours, values).clip(max=len(self._colours) - 1)
        if (unknown := self._colours[places] != values).any():
            found, counts = np.unique(values[unknown], return_counts=True)
            shown = [str([v >> 16, v >> 8 & 255, v & 255]) for v in found[np.argsort(-counts)].tolist()]
            raise LabelError(
                f"{path}: holds the colour {some(shown, most=4)}, which is of no class of {self._name}; declare it in "
                f"{self._file}, under classes: or ignore:"
            )
        return self._train_ids[places]
