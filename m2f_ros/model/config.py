"""config.json: typed values, and the keys that all families share: classes, taxonomy, sizes of images."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import CheckpointError, TaxonomyError, say_once
from m2f_ros.model import preprocessor
from m2f_ros.model.network import NetworkConfig

_MOST_PIXELS = 1 << 26  # 8192 x 8192
_MOST_CLASSES = 65535  # of a uint16 label image


@dataclass(frozen=True)
class SharedConfig:
    """The attributes that `read_shared` reads, for the configs of families; see NetworkConfig."""

    labels: tuple[str, ...]
    mean: tuple[float, ...] = preprocessor.IMAGENET_MEAN
    std: tuple[float, ...] = preprocessor.IMAGENET_STD
    taxonomy: taxonomies.Taxonomy | None = field(default=None, repr=False)
    min_pixels: int | None = None
    max_pixels: int | None = None
    resize: tuple[str, int, int] | None = None

    @property
    def num_classes(self) -> int:
        return len(self.labels)


class Keys:
    """Typed access to the values of a JSON object. Raises CheckpointError, with the key, for an invalid value.

    Args:
        where: prefix of messages.
        aliases: key -> alternative key.
    """

    def __init__(self, where: str, raw: dict, aliases: dict[str, str] | None = None):
        self._where, self._raw = where, raw
        self._names: dict[str, str] = {}
        for key, other in (aliases or {}).items():
            if other in raw and raw.get(key, raw[other]) != raw[other]:
                self.fail(key, f"but {other}, another name of it, is {raw[other]!r}; remove one of them")
            self._names[key] = key if key in raw else other

    def fail(self, key: str, reason: str) -> NoReturn:
        raise CheckpointError(f"{self._where}{key} is {self._get(key, None)!r}; {reason}")

    def refuse(self, fixed: dict[str, Any], unsupported: tuple[str, ...]) -> None:
        """Raise CheckpointError for values other than the fixed ones, and for unsupported keys."""
        for key, wanted in fixed.items():
            # A patch size of [4, 4] is 4.
            value = self._raw.get(key, wanted)
            if value != wanted and not (isinstance(value, list) and value == [wanted] * 2):
                self.fail(key, f"only {wanted!r} is supported")
        for key in unsupported:
            if self._raw.get(key):
                raise CheckpointError(f"{self._where}{key} is not supported; take a checkpoint without it")

    def whole(self, key: str, default: int, *, least: int = 1, most: int) -> int:
        """Return an integer from `least` to `most`."""
        value = self._get(key, default)
        if not is_whole(value) or not least <= value <= most:
            self.fail(key, f"it must be a whole number from {least} to {most}")
        return value

    def number(self, key: str, default: float, *, most: float) -> float:
        """Return a number above 0, at most `most`."""
        value = self._get(key, default)
        if not (is_whole(value) or isinstance(value, float)) or not 0 < value <= most:
            self.fail(key, f"it must be a number above 0, {most} at most")
        return value

    def wholes(self, key: str, default: tuple[int, ...], *, most: int) -> tuple[int, ...]:
        """Return integers from 1 to `most`, the same number of them as in the default."""
        values = self._get(key, default)
        fits = isinstance(values, (list, tuple)) and len(values) == len(default)
        if not fits or not all(is_whole(v) and 1 <= v <= most for v in values):
            self.fail(key, f"it must be {len(default)} whole numbers from 1 to {most}")
        return tuple(values)

    def part(self, key: str) -> Keys:
        """Return the object under a key; an absent one is empty."""
        value = self._get(key, {})
        if not isinstance(value, dict):
            self.fail(key, "it must be an object")
        return Keys(f"{self._where}{key}.", value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._raw.get(key, default)
        if not isinstance(value, bool):
            self.fail(key, "it must be true or false")
        return value

    def _get(self, key: str, default: Any) -> Any:
        return self._raw.get(self._names.get(key, key), default)


def read_shared(
    folder: Path,
    raw: dict,
    stride: int,
    processors: Collection[str] = (),
    processor: str = "",
    side: int | None = None,
) -> dict[str, Any]:
    """Read labels, taxonomy, mean, std, min_pixels, max_pixels and resize of a NetworkConfig.

    With `processor` it also reads processor, bgr, black_padding and averaged of an AdaptedConfig.

    Args:
        raw: contents of config.json.
        stride: stride of the network.
        processors, processor, side: see `preprocessor.read`.
    Raises:
        CheckpointError: a value is invalid, or its preprocessing is unsupported.
    """
    keys = Keys(f"{folder}/config.json: ", raw)
    labels = _read_labels(f"{folder}/config.json: ", raw)
    least, most = (
        None if raw.get(key) is None else keys.whole(key, 1, most=limit)
        for key, limit in (("min_pixels", _MOST_PIXELS // 4), ("max_pixels", _MOST_PIXELS))
    )
    if least and most and least > most:
        keys.fail("min_pixels", f"it must not be above max_pixels, {most}")
    # This package always writes the bounds; preprocessor_config.json of its older versions has no size.
    written = "min_pixels" in raw or "max_pixels" in raw
    found = preprocessor.read(folder, not written, stride, processors, processor, side)
    if side is not None and (least or most):
        keys.fail("min_pixels" if least else "max_pixels", f"the network takes images of {side}x{side} alone")
    own = ("processor", "bgr", "black_padding", "averaged") if processor else ()
    adapted = {name: getattr(found, name) for name in own}
    return adapted | dict(
        labels=labels,
        taxonomy=_read_taxonomy(f"{folder}/config.json", raw.get("taxonomy"), labels),
        mean=found.mean,
        std=found.std,
        min_pixels=least,
        max_pixels=most,
        resize=None if least or most else found.resize,
    )


def shared_contents(config: NetworkConfig) -> dict[str, Any]:
    """Return the keys of config.json that `read_shared` reads."""
    return {
        "id2label": {str(i): name for i, name in enumerate(config.labels)},
        "label2id": {name: i for i, name in enumerate(config.labels)},
        "taxonomy": config.taxonomy and config.taxonomy.to_dict(),
        "min_pixels": config.min_pixels,
        "max_pixels": config.max_pixels,
    }


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _read_labels(where: str, raw: dict) -> tuple[str, ...]:
    id2label, label2id, count = raw.get("id2label"), raw.get("label2id") or {}, raw.get("num_labels")
    if not isinstance(label2id, dict):
        raise CheckpointError(f"{where}label2id must map class names to numbers")
    if id2label is None:
        # transformers leaves id2label out for two unnamed classes, and reads num_labels.
        count = 2 if count is None else count
        if not is_whole(count) or count < 1 or (label2id and len(label2id) != count):
            raise CheckpointError(f"{where}id2label is missing; the classes' names must be there")
        if count > _MOST_CLASSES:
            raise CheckpointError(f"{where}num_labels is {count}; at most {_MOST_CLASSES} fit in a label image")
        say_once(f"{where}names no classes: they are called LABEL_0 to LABEL_{count - 1}; id2label would name them")
        return tuple(f"LABEL_{i}" for i in range(count))
    try:
        labels = {int(key): name for key, name in id2label.items()}
    except (AttributeError, ValueError):
        labels = {}
    if not labels or not all(isinstance(name, str) for name in labels.values()):
        raise CheckpointError(f"{where}id2label must map '0', '1', … to class names")
    if len(labels) > _MOST_CLASSES:
        raise CheckpointError(
            f"{where}id2label has {len(labels)} classes; at most {_MOST_CLASSES} fit in a label image"
        )
    for name in labels.values():
        if fault := taxonomies.name_fault(name):
            raise CheckpointError(f"{where}id2label: {fault}; correct the name")
    if len(labels) != len(id2label) or sorted(labels) != list(range(len(labels))):
        raise CheckpointError(
            f"{where}id2label has the ids {min(labels)} to {max(labels)} for {len(id2label)} classes; the network's "
            f"classes are numbered 0 to {len(id2label) - 1}: say which is which"
        )
    if count is not None and count != len(labels):
        raise CheckpointError(f"{where}num_labels is {count!r}, but id2label has {len(labels)} classes; correct them")
    if any(labels.get(int(i)) != name for name, i in label2id.items() if re.fullmatch("[0-9]{1,9}", str(i))):
        say_once(f"{where}label2id has other classes than id2label, which is taken, as transformers does")
    return tuple(labels[i] for i in range(len(labels)))


def _read_taxonomy(file: str, raw: object, labels: tuple[str, ...]) -> taxonomies.Taxonomy | None:
    """Return the taxonomy in a config.json, given in full or by the name of a built-in one."""
    if raw is None or raw == "":
        return None
    try:
        if isinstance(raw, str):
            if fault := taxonomies.name_fault(raw):
                raise TaxonomyError(f"{file}: taxonomy: {fault}")
            # A name of an unknown taxonomy adds nothing to the labels.
            found = taxonomies.get(raw) if raw in taxonomies.BUILTIN else taxonomies.of_labels(raw, labels)
        else:
            found = taxonomies.Taxonomy.from_dict(raw, f"{file}: taxonomy")
    except TaxonomyError as error:
        raise CheckpointError(str(error)) from None
    if reason := taxonomies.difference(found, labels):
        raise CheckpointError(
            f"{file}: its taxonomy {found.name!r} and its id2label are of different models: {reason}; take the "
            "right one of them, or remove the key taxonomy, and the classes are called as in id2label"
        )
    return found
