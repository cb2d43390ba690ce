"""Mapping between the keys of a checkpoint's tensors and the names of the weights in the network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from m2f_ros.errors import CheckpointError, some

T = TypeVar("T")
Rules = Sequence[tuple[str, str]]  # pattern and replacement of re.sub; applied in order


@dataclass(frozen=True)
class KeyMap:
    """The keys of the weights in a family's files; by default the names in the network.

    Attributes:
        to_disk: rules that turn a name in the network into a key on disk.
        fused: part of a key -> parts of the keys on disk of the tensors to concatenate, in order.
        to_file: rules that turn keys of another library's state_dict into those of its files.
        ignored: pattern of the keys of tensors that the network does not have.
        landmark: key of a tensor in every file; text before it in a file is the prefix that wrappers put on all keys.
    """

    to_disk: Rules = ()
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    to_file: Rules = ()
    ignored: re.Pattern = re.compile("(?!)")
    landmark: str = ""

    def disk_keys(self, name: str) -> list[str]:
        """Return the keys on disk of the parts of a tensor of the network."""
        key = _apply(self.to_disk, name)
        for fused, parts in self.fused.items():
            if fused in key:
                return [key.replace(fused, part) for part in parts]
        return [key]

    def as_in_files(self, state: dict[str, T], where: object) -> dict[str, T]:
        """Return the tensors of one network, by their keys in the family's files.

        Prefixes of wrappers (`module.`, Lightning's `model.`, `_orig_mod.`) are stripped; the wrappers' own tensors are
        dropped.

        Args:
            state: tensors of a file, or of a state_dict in it.
            where: prefix of messages.
        Raises:
            CheckpointError: the file holds several networks.
        """
        prefixes = [key.removesuffix(self.landmark) for key in state if self.landmark and key.endswith(self.landmark)]
        if len(prefixes) > 1 and "" not in prefixes:
            raise CheckpointError(
                f"{where} holds {len(prefixes)} networks, their keys begin with {some(prefixes, most=4)}; "
                "save one of them alone"
            )
        prefix = prefixes[0] if len(prefixes) == 1 else ""
        return {
            _apply(self.to_file, key.removeprefix(prefix)): value
            for key, value in state.items()
            if key.startswith(prefix)
        }


def _apply(rules: Rules, key: str) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key
