"""Untrusted files of torch.save: `load_pickle` bounds their content before torch's unpickler reads it.

torch's unpickler runs no code of a file. A few bytes can still hang or crash it: for a key of nested tuples, each with
the same tuple twice, 60 deep, it hashes 2^60 tuples; tuples a million deep exhaust the C stack.
"""

from __future__ import annotations

import os
import pickletools
import struct
import tarfile
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import torch

from m2f_ros.documents import DEPTH

LONGEST_TABLE = 2 << 20  # bytes of the names and shapes of all tensors; Swin-L's take 0.1 MB
NODES = 1_000_000  # values and instructions of a pickle; Swin-L with its optimiser takes 0.1 million


def load_pickle(path: Path, device: str | torch.device) -> Any:
    """Read tensors and plain values from a file of torch.save. Raises errors of any type for other content.

    A zip archive must be uncompressed, as torch writes it: compressed parts could expand to any size.
    """
    if not path.is_file():
        raise ValueError("no regular file")
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            _check_archive(file)
        else:
            _check_plain(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about content that is refused
        return torch.load(path, map_location=device, weights_only=True)


def _check_archive(file: BinaryIO) -> None:
    """Raise ValueError for a zip archive that torch.save does not write: compressed, or larger than its file.

    zipfile tolerates a misplaced central directory, and torch's reader does not: both must read the same one.
    """
    size = file.seek(0, os.SEEK_END)
    begin = file.seek(max(0, size - (1 << 16)))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 76 or len(tail) < at + 22:
        raise ValueError("the end of the archive is missing")
    length, start = struct.unpack_from("<LL", tail, at + 12)
    end = begin + at
    if tail[at - 20 : at - 16] == b"PK\6\7":
        end -= 76
        (record,) = struct.unpack_from("<Q", tail, at - 12)
        length, start = struct.unpack_from("<QQ", tail, at - 36) if record == end else (0, 0)
    if start + length != end or length > LONGEST_TABLE:
        raise ValueError("the archive's table of contents is too long, or not where it should be")
    archive = zipfile.ZipFile(file)  # leaves the file open
    parts = archive.infolist()
    if any(part.filename.endswith("/constants.pkl") for part in parts):
        raise ValueError("TorchScript")
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts) or sum(p.file_size for p in parts) > size:
        raise ValueError("the archive is compressed, which torch.save does not do, or holds parts twice")
    pickles = [part for part in parts if part.filename.lower().endswith("data.pkl")]  # torch ignores case
    if len(pickles) != 1:
        raise ValueError(f"the archive holds {len(pickles)} pickles")
    with archive.open(pickles[0]) as pickle:
        _check_pickle(pickle)


def _check_plain(file: BinaryIO) -> None:
    """Check a file in torch's legacy format, a sequence of pickles, by `_check_pickle`. Raises ValueError."""
    file.seek(0)
    try:
        tarfile.open(fileobj=file, mode="r:").close()
    except tarfile.TarError:
        pass
    else:
        raise ValueError("a tar archive of a PyTorch before 0.2")
    file.seek(0)
    for _ in range(5):  # magic number, version, system, content, keys of the storages
        if not _check_pickle(file):
            return


@dataclass(slots=True)
class _Value:
    """A value on the unpickler's stack. Each reference to it counts with its whole size.

    Attributes:
        size: number of values and keys in it, itself included.
        depth: depth of nesting.
        name: name of a global.
        repeated: True if the memo has returned it.
    """

    size: int = 1
    depth: int = 0
    name: str = ""
    repeated: bool = False


_ATOMS = {
    *("NONE", "NEWFALSE", "NEWTRUE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINSTRING", "GLOBAL"),
}
_EMPTY = {"EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"}
# Opcode -> number of values that it pops; None for those after the mark.
_MAKE = {"TUPLE": None, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "REDUCE": 2, "NEWOBJ": 2, "BINPERSID": 1}
_FILL = {"APPEND": 1, "APPENDS": None, "SETITEM": 2, "SETITEMS": None, "BUILD": 1}
_HASHING = ("OrderedDict", "Counter", "set")


def _check_pickle(file: IO[bytes]) -> bool:
    """Raise ValueError for a pickle that is large or deep, or has keys other than strings, numbers and names.

    Return False for an opcode that torch's unpickler refuses.
    """
    stack: list[_Value | None] = []  # None: a mark
    memo: dict[int, _Value] = {}
    count = 0

    def take(number: int | None) -> list[_Value]:
        begin = len(stack) - (number or 0)
        if number is None:
            while begin and stack[begin - 1] is not None:
                begin -= 1
        values = [value for value in stack[max(begin, 0) :] if value is not None]
        whole = len(values) == len(stack) - begin
        del stack[begin - (number is None) :]
        if begin < (number is None) or not whole:
            raise ValueError("a value is missing")
        return values

    argument: Any  # an int of BINPUT, BINGET and LONG1, a str of GLOBAL
    for code, argument, _ in pickletools.genops(file):
        name = code.name
        count += 1
        if name in ("BINPUT", "LONG_BINPUT"):
            if not stack or stack[-1] is None:
                raise ValueError("a value is missing")
            memo[argument] = stack[-1]
        elif name == "MARK":
            stack.append(None)
        elif name in ("BINGET", "LONG_BINGET"):
            if argument not in memo:
                raise ValueError("a value is missing")
            memo[argument].repeated = True
            stack.append(memo[argument])
            count += memo[argument].size
        elif name in _ATOMS:
            # Larger numbers and tuples are refused as keys: a file could hold many with the same hash.
            large = name == "LONG1" and not -(1 << 63) <= argument < 1 << 64
            stack.append(_Value(depth=int(large), name=argument.split()[-1] if name == "GLOBAL" else ""))
        elif name in _EMPTY:
            stack.append(_Value(depth=1))
        elif name in _MAKE:
            values = take(_MAKE[name])
            if name in ("REDUCE", "NEWOBJ") and values[0].name in _HASHING and values[1].size > 1:
                raise ValueError(f"a {values[0].name} that is not empty at first")
            if name == "BINPERSID" and values[0].depth > 1:
                raise ValueError("a storage whose name is no text")
            stack.append(_Value(1 + sum(v.size for v in values), 1 + max((v.depth for v in values), default=0)))
        elif name in _FILL:
            values = take(_FILL[name])
            (into,) = take(1)
            if into.repeated:
                raise ValueError("a value that holds itself")
            if name in ("SETITEM", "SETITEMS") and any(key.depth for key in values[::2]):
                raise ValueError("a key that is no text, number or name")
            into.size += sum(v.size for v in values)
            into.depth = max([into.depth, *(1 + v.depth for v in values)])
            stack.append(into)
        elif name not in ("PROTO", "STOP"):
            return False
        if stack and stack[-1] is not None and stack[-1].depth > DEPTH:
            raise ValueError(f"it is deeper than {DEPTH}")
        if count > NODES:
            raise ValueError(f"it comes to more than {NODES} values and instructions")
    return True
