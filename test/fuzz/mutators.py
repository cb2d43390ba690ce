"""Mutations that keep the structure of a file, so that a fuzzer gets past its lengths and checksums."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable

from corpus import PNG, chunk

# (data, most bytes) -> data; that of the fuzzer, which knows nothing of the format.
Mutate = Callable[[bytes, int], bytes]

_KINDS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"iCCP", b"zTXt", b"eXIf", b"cICP")
_LONGEST = 1 << 16


def mutate_picture(data: bytes, size: int, seed: int, mutate: Mutate) -> bytes:
    """A PNG by its chunks, a JPEG by its segments; one time in four, and anything else, by bytes. size: at most."""
    rng = random.Random(seed)
    parts = None
    if rng.random() < 0.75:
        parts = _chunks(data) if data.startswith(PNG) else _segments(data) if data.startswith(b"\xff\xd8") else None
    if not parts:
        return mutate(data, size)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(parts))
        match rng.randrange(6):
            case 0:
                parts.insert(rng.randrange(len(parts) + 1), parts[at])
            case 1 if len(parts) > 1:
                del parts[at]
            case 2:
                other = rng.randrange(len(parts))
                parts[at], parts[other] = parts[other], parts[at]
            case _:
                kind, body = parts[at]
                if kind == b"IDAT" and rng.random() < 0.5:
                    body = zlib.compress(mutate(_inflated(body), _LONGEST), 1)
                elif data.startswith(PNG) and rng.random() < 0.1:
                    kind = rng.choice(_KINDS)
                else:
                    body = mutate(body, _LONGEST - 3)
                parts[at] = kind, body
    if data.startswith(PNG):
        return (PNG + b"".join(chunk(kind, body) for kind, body in parts))[:size]
    return (b"\xff\xd8" + b"".join(_segment(kind, body) for kind, body in parts))[:size]


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], len(PNG)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        found.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def _inflated(body: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(body, _LONGEST)
    except zlib.error:
        return body


def _segments(data: bytes) -> list[tuple[bytes, bytes]]:
    """(marker, body) of each segment; coded data as a part without a marker."""
    found, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((data[at : at + 2], data[at + 4 : at + 2 + length]))
        at += 2 + length
        if found[-1][0] == b"\xff\xda":
            ends = [end for end in (data.find(b"\xff" + bytes([kind]), at) for kind in (0xC4, 0xD9, 0xDA)) if end >= 0]
            end = min(ends, default=len(data))
            found.append((b"", data[at:end]))
            at = end
    return [*found, (b"", data[at:])]


def _segment(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">H", len(body) + 2) + body if kind else body
