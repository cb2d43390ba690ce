"""Taxonomies: the classes of a data set, their colours, and the ids in its label files.

The model predicts train ids, which are also the values of label images: 0..K-1 without gaps, 255 unlabelled (65535 for
more than 255 classes). A taxonomy is a YAML file; the built-in ones are in `m2f_ros/taxonomies/`, and your own have the
same form:

    name: yard
    classes:
      - {id: 0, name: ground, colour: [120, 90, 60], thing: false}    # colour: RGB; thing: countable
      - {id: 1, name: forklift, colour: [250, 170, 30], thing: true}
    file_ids: {1: 0, 2: 1}              # optional: ids in label PNGs -> train ids; default: the same
    ignore: [0, 255]                    # optional: ids in label PNGs without a class; any other id is an error
    merge_into: {cityscapes: {forklift: truck}}   # optional: class names for scoring on another data set

`colour` defaults to a distinct one, `thing` to false. A class may list `aliases`, other spellings of its name.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from m2f_ros.documents import read_yaml
from m2f_ros.errors import DocumentError, TaxonomyError, say_once

if TYPE_CHECKING:
    from m2f_ros.taxonomy_file import File

LONGEST_NAME = 256  # characters of the name of a class or a taxonomy
BUILTIN = ("cityscapes", "ade20k", "coco_panoptic", "mapillary", "camvid")
_FOLDER = Path(__file__).parent / "taxonomies"


@dataclass(frozen=True)
class ClassInfo:
    """One class: train id, name, RGB colour (0..255 each), and True for a thing (countable), False for stuff."""

    id: int
    name: str
    colour: tuple[int, int, int]
    thing: bool
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Taxonomy:
    """The classes of a data set, at position = train id, 0..K-1.

    Attributes:
        file_ids: id in a label PNG of the data set -> train id.
        ignore: unlabelled ids in a label PNG. An id in neither of the two is unknown.
        merge_into: name of another taxonomy -> {class name: class name in the other one}; see `merge_table`.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    file_ids: dict[int, int] = field(default_factory=dict, hash=False)
    ignore: tuple[int, ...] = ()
    merge_into: dict[str, dict[str, str]] = field(default_factory=dict, hash=False)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """dtype of a label image: uint8, or uint16 above 255 classes."""
        return np.uint8 if len(self.classes) <= 255 else np.uint16

    @property
    def unlabelled(self) -> int:
        """Label of pixels without a class: 255, or 65535 above 255 classes."""
        return int(np.iinfo(self.dtype).max)

    def palette(self) -> np.ndarray:
        """(256, 3) or (65536, 3) uint8 RGB by train id; black for ids without a class."""
        palette = np.zeros((self.unlabelled + 1, 3), np.uint8)
        palette[: len(self.classes)] = [c.colour for c in self.classes]
        return palette

    def file_table(self) -> np.ndarray:
        """(65536,) of `dtype`: id in a label file -> train id; `unlabelled` for ignored and unknown ids."""
        table = np.full(65536, self.unlabelled, self.dtype)
        for file_id, train_id in self.file_ids.items():
            table[file_id] = train_id
        return table

    def with_train_ids(self) -> Taxonomy:
        """Return the same classes for label files with train ids and `unlabelled`."""
        return replace(self, file_ids={c.id: c.id for c in self.classes}, ignore=(self.unlabelled,))

    @classmethod
    def from_yaml(cls, path: str | Path) -> Taxonomy:
        """Read a taxonomy file. Raises TaxonomyError, with the file and the wrong field."""
        try:
            data = read_yaml(path)
        except FileNotFoundError:
            raise TaxonomyError(f"{path}: no such taxonomy file") from None
        except OSError as error:
            raise TaxonomyError(f"{path}: cannot be read as a text file ({error.strerror})") from None
        except DocumentError as error:
            raise TaxonomyError(f"{path}: {error}") from None
        return _parse(data, str(path), Path(path).stem)

    def to_yaml(self, path: str | Path) -> None:
        """Write the taxonomy as a file for `from_yaml`."""
        content = self.to_dict()
        lines = [f"name: {_inline(content.pop('name'))}", "classes:"]
        lines += [f"  - {_inline(row)}" for row in content.pop("classes")]
        lines += [f"{key}: {_inline(value)}" for key, value in content.items()]
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")

    @classmethod
    def from_dict(cls, data: object, where: str) -> Taxonomy:
        """Make a taxonomy from the contents of its YAML or JSON file. where: prefix of errors."""
        if isinstance(data, dict) and isinstance(ids := data.get("file_ids"), dict):
            # The keys of JSON are texts.
            is_number = re.compile("[0-9]{1,9}").fullmatch
            data = {**data, "file_ids": {int(key) if is_number(str(key)) else key: ids[key] for key in ids}}
        return _parse(data, where, "")

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of the taxonomy's YAML file."""
        classes = [
            {"id": c.id, "name": c.name, "colour": list(c.colour), "thing": c.thing}
            | ({"aliases": list(c.aliases)} if c.aliases else {})
            for c in self.classes
        ]
        content = {"name": self.name, "classes": classes, "file_ids": self.file_ids}
        if self.ignore:
            content["ignore"] = list(self.ignore)
        if self.merge_into:
            content["merge_into"] = self.merge_into
        return content


def get(name: str | Path) -> Taxonomy:
    """Return a taxonomy by name (see BUILTIN) or by the path of a YAML file.

    `NAME_trainids` is the built-in NAME for label files with train ids instead of the data set's own ids;
    `cityscapes_labelids` is the explicit name of plain `cityscapes`.
    Raises TaxonomyError if the taxonomy does not exist, or its file is invalid.
    """
    spec = str(name)
    if spec in BUILTIN:
        return _builtin(spec)
    if spec == "cityscapes_labelids":
        return _builtin("cityscapes")
    if spec.endswith("_trainids") and spec.removesuffix("_trainids") in BUILTIN:
        return _builtin(spec.removesuffix("_trainids")).with_train_ids()
    if spec.endswith((".yaml", ".yml")) or os.path.isfile(spec):  # False for an invalid name
        return Taxonomy.from_yaml(spec)
    known = ", ".join((*BUILTIN, "cityscapes_trainids", "cityscapes_labelids"))
    raise TaxonomyError(f"unknown taxonomy {spec!r}: give one of {known}, or a .yaml file")


def match(names: Sequence[str]) -> Taxonomy | None:
    """Return the built-in taxonomy with exactly these class names in this order, or None.

    Case, punctuation and text after a comma ("road, route") are ignored, and aliases match, which recognises the
    `id2label` of Hugging Face's Mask2Former checkpoints (dataset huggingface/label-files).
    """
    return next((t for t in map(_builtin, BUILTIN) if not difference(t, names)), None)


def difference(taxonomy: Taxonomy, names: Sequence[str]) -> str:
    """Describe the first difference between the classes of a taxonomy and these names; "" if there is none.

    Names are compared as in `match`, as long as that does not merge classes: "road, wet" is not "road, dry".
    """
    if len(names) != len(taxonomy.classes):
        return f"it has {len(taxonomy.classes)} classes, not {len(names)}"
    find = finder(taxonomy)
    for c, name in zip(taxonomy.classes, names, strict=True):
        if find(name) != c.id:
            return f"its class {c.id} is {c.name!r}, not {name!r}"
    return ""


def finder(taxonomy: Taxonomy) -> Callable[[str], int | None]:
    """Return a function that gives the train id of a class by its name or an alias, compared as in `difference`.

    It returns None for a name that no class has, or several.
    """
    return _finder([(c.name, *c.aliases) for c in taxonomy.classes])


def from_names(name: str, names: Sequence[str]) -> Taxonomy:
    """Make a taxonomy from names alone: distinct colours, all stuff, file ids = train ids and `unlabelled`.

    A duplicate name gets its train id as a suffix. Raises TaxonomyError without names, and for an invalid name.
    """
    if not names:
        raise TaxonomyError(f"taxonomy {name}: no classes")
    if len(names) > 65535:
        raise TaxonomyError(f"taxonomy {name}: {len(names)} classes; at most 65535 fit in a label image")
    classes = []
    taken = set()
    for i, given in enumerate(names):
        if fault := name_fault(given):
            raise TaxonomyError(f"taxonomy {name}: {fault}")
        unique = given if given not in taken else f"{given} ({i})"
        taken.add(unique)
        classes.append(ClassInfo(i, unique, _distinct_colour(i), False))
    return Taxonomy(name, tuple(classes)).with_train_ids()


def of_labels(name: str, labels: Sequence[str]) -> Taxonomy:
    """Return the taxonomy of a model with class names only: the built-in one of exactly these names, else one of
    `from_names`, with the things of the built-in ones.

    If all names are things of one built-in taxonomy, as in a checkpoint for instances, they are things. Otherwise the
    first built-in taxonomy with all names decides, or for each name the first one that has it. Unknown names are stuff,
    which is logged.
    """
    if known := match(labels):
        return known
    names = [_normal(label) for label in labels]
    kinds = [{n: c.thing for c in _builtin(b).classes for n in map(_normal, (c.name, *c.aliases))} for b in BUILTIN]
    whole = [kind for kind in kinds if all(n in kind for n in names)]
    whole.sort(key=lambda kind: not all(kind[n] for n in names))
    found = whole[0] if whole else {n: thing for kind in reversed(kinds) for n, thing in kind.items()}
    if unknown := [label for label, n in zip(labels, names, strict=True) if n not in found]:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        say_once(
            f"{name}: {len(unknown)} of {len(labels)} classes are in no known set and are taken for stuff: "
            f"{', '.join(unknown[:5])}{more}; a taxonomy in its config.json, or the node's, says which are things"
        )
    made = from_names(name, labels)
    classes = (replace(c, thing=found.get(n, False)) for c, n in zip(made.classes, names, strict=True))
    return replace(made, classes=tuple(classes))


def merge_table(source: Taxonomy, target: Taxonomy) -> np.ndarray:
    """Return the lookup table from the train ids of one taxonomy to those of another.

    It has 256 or 65536 entries, by the source's dtype, of the target's dtype; classes without a counterpart become
    `target.unlabelled`. Equal classes give the identity. Otherwise the source's `merge_into` decides, or else equal
    names, compared as in `difference`. Cityscapes into CamVid: vegetation and terrain -> tree, traffic light and sign
    -> sign, wall -> fence, truck, bus and train -> car, rider, motorcycle and bicycle -> bicyclist.
    Raises TaxonomyError if no class has a counterpart.
    """
    table = np.full(source.unlabelled + 1, target.unlabelled, target.dtype)
    if source.names == target.names:
        table[: len(source.classes)] = np.arange(len(source.classes))
        return table
    find = _finder([(name,) for name in target.names])
    merges = source.merge_into.get(target.name)
    if merges is None:
        merges = {n: n for n in source.names if find(n) is not None}
        if not merges:
            raise TaxonomyError(
                f"no class of {source.name} corresponds to one of {target.name}: "
                f"say which do under merge_into: {target.name} in the taxonomy file of {source.name}"
            )
    for c in source.classes:
        if c.name in merges:
            name = merges[c.name]
            there = find(name)
            if there is None:
                where = f"taxonomy {source.name}, merge_into.{target.name}.{c.name}"
                raise TaxonomyError(f"{where}: {target.name} has no class {name!r}")
            table[c.id] = there
    return table


def guess_label_taxonomy(values: set[int], hint: str = "") -> Taxonomy | None:
    """Return the taxonomy of label files if their ids and path are unambiguous, else None.

    values: ids in (some of) the files. hint: folder and file name.
    """
    hint = hint.lower()
    train_ids = values <= {*range(19), 255}
    label_ids = values <= set(range(34))
    if "labeltrainids" in hint and train_ids:
        return get("cityscapes_trainids")
    if "labelids" in hint and label_ids:
        return get("cityscapes_labelids")
    if "cityscapes" in hint or "gtfine" in hint or "gtcoarse" in hint:
        if train_ids and 255 in values:  # label ids never use 255
            return get("cityscapes_trainids")
        if label_ids and max(values, default=0) > 18:
            return get("cityscapes_labelids")
    if "camvid" in hint and values <= set(range(12)) and 11 in values:
        return get("camvid")
    if re.search(r"ade20k|ade_(train|val)_", hint) and values <= set(range(151)):
        return get("ade20k")
    return None


@cache
def _builtin(name: str) -> Taxonomy:
    return Taxonomy.from_yaml(_FOLDER / f"{name}.yaml")


def _normal(name: str) -> str:
    """Return a class name without case, punctuation and synonyms after a comma or semicolon."""
    return _words(re.split("[,;]", name)[0])


def _words(name: str) -> str:
    """Return a class name without case and punctuation."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFC", name).lower().replace("_", " ")))


def _finder(spellings: Sequence[Sequence[str]]) -> Callable[[str], int | None]:
    """Make a function that finds the index of a class by its exact name, else by its words, else up to a comma that
    only one of the two names has. It returns None for no match, or several.

    spellings: names of each class.
    """
    exact: dict[str, set[int]] = {}
    whole: dict[str, set[int]] = {}
    first: dict[str, set[int]] = {}
    for i, names in enumerate(spellings):
        for name in names:
            for table, key in ((exact, name), (whole, _words(name)), (first, _normal(name))):
                found = table.setdefault(key, set())
                if len(found) < 2:  # two suffice to be ambiguous; more would slow `find` down
                    found.add(i)

    def find(name: str) -> int | None:
        words, beginning = _words(name), _normal(name)
        found = exact.get(name) or whole.get(words) or whole.get(beginning, set()) | first.get(words, set())
        return next(iter(found)) if len(found) == 1 else None

    return find


def _distinct_colour(i: int) -> tuple[int, int, int]:
    """Return colour i of PASCAL VOC's colour map after black: distinct for i < 65535."""
    red = green = blue = 0
    bits = i + 1
    for shift in range(7, -1, -1):
        red |= (bits & 1) << shift
        green |= (bits >> 1 & 1) << shift
        blue |= (bits >> 2 & 1) << shift
        bits >>= 3
    return red, green, blue


def _parse(data: object, path: str, default_name: str) -> Taxonomy:
    """Make a taxonomy from the contents of the YAML file at `path`. Raises TaxonomyError."""
    try:
        from m2f_ros import taxonomy_file
    except ModuleNotFoundError as error:
        if error.name != "msgspec":
            raise
        # `m2f gpu-check` runs from a checkout beside a GPU's PyTorch, too, and reads this package's own files there.
        say_once("msgspec is not installed: taxonomies are taken from their files unchecked")
        return _unchecked(data, default_name)
    try:
        return _checked(taxonomy_file.read(data), default_name)
    except DocumentError as error:
        raise TaxonomyError(f"{path}: {error}") from None


def _unchecked(data: Any, default_name: str) -> Taxonomy:
    classes = []
    for row in sorted(data["classes"], key=lambda row: row["id"]):
        row = {"colour": _distinct_colour(row["id"]), "thing": False, "aliases": ()} | row
        classes.append(ClassInfo(**row | {"colour": tuple(row["colour"]), "aliases": tuple(row["aliases"])}))
    rest = {"name": default_name, "file_ids": {c.id: c.id for c in classes}} | data
    return Taxonomy(**rest | {"classes": tuple(classes), "ignore": tuple(data.get("ignore", ()))})


def _checked(file: File, default_name: str) -> Taxonomy:
    """Make a taxonomy, after checks beyond the types. Raises DocumentError."""
    name = default_name if file.name is None else file.name
    _check(name != "", f"name: expected text, found {name!r}")
    _check_name(name, "name")
    classes: dict[int, ClassInfo] = {}
    names: set[str] = set()
    for i, row in enumerate(file.classes):
        where = f"classes[{i}]"
        _check(row.name.strip() != "", f"{where}.name: expected text, found {row.name!r}")
        _check_name(row.name, f"{where}.name")
        for alias in row.aliases:
            _check_name(alias, f"{where}.aliases")
        for ok, fault in ((row.id not in classes, f".id: {row.id}"), (row.name not in names, f".name: {row.name!r}")):
            _check(ok, f"{where}{fault} is used twice")
        colour = _distinct_colour(row.id) if row.colour is None else row.colour
        classes[row.id] = ClassInfo(row.id, row.name, colour, row.thing, row.aliases)
        names.add(row.name)
    for i in range(len(classes)):
        _check(i in classes, f"classes: ids must be 0 to {len(classes) - 1}; {i} is missing")
    file_ids = {i: i for i in classes} if file.file_ids is None else file.file_ids
    for file_id, train_id in file_ids.items():
        _check(train_id in classes, f"file_ids.{file_id}: no class has the id {train_id}")
    for file_id in file.ignore:
        _check(file_id not in file_ids, f"ignore: {file_id} is a class in file_ids, too; leave it out of one")
    for other, merges in file.merge_into.items():
        for here in merges:
            _check(here in names, f"merge_into.{other}: there is no class {here!r}")
    return Taxonomy(name, tuple(classes[i] for i in range(len(classes))), file_ids, tuple(file.ignore), file.merge_into)


def _check(ok: bool, fault: str) -> None:
    if not ok:
        raise DocumentError(fault)


def _check_name(name: str, where: str) -> None:
    fault = name_fault(name)
    _check(not fault, f"{where}: {fault}")


def name_fault(name: str) -> str:
    """Describe the fault of a name of a class or a taxonomy, or return "".

    Names appear in file names, terminals, messages and pictures.
    """
    if len(name) > LONGEST_NAME:
        return f"a name of {len(name)} characters, at most {LONGEST_NAME} are taken"
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name):
        return f"{name!r} has control characters, or half of a character"
    return ""


def is_rgb(value: object) -> bool:
    """Return True for a list of three integers, 0 to 255."""
    return isinstance(value, list) and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value)


def _inline(value: object) -> str:
    """Return the YAML of a value on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9)
    return text.removesuffix("...\n").strip()
