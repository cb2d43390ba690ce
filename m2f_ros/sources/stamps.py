"""Reads stamps of recorded images from a text file with a line for each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path

import numpy as np

from m2f_ros.errors import SourceError

_NUMBER = re.compile(r"\d+(\.\d*)?")
_DATE = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(\.\d+)?Z?")
# Larger numbers are nanoseconds, others seconds: 1e12 s are 30 000 years.
_LARGEST_SECONDS = 10**12


def read_stamps(path: str | Path, names: Sequence[str]) -> list[int]:
    """Read the stamp of each image, nanoseconds since the Unix epoch, ascending.

    path: text file with a line an image, in order: seconds (1317384506.4), nanoseconds (more than 1e12), or UTC date
        and time as in KITTI (2011-09-26 13:02:25.964389445). If the image's file name follows, as in TUM's rgb.txt,
        images are matched by name. Empty lines and comments after # are ignored.
    names: file stems of the images, in order.
    Raises SourceError, with file and line, for an invalid file.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"stamps {path}: cannot be read ({getattr(error, 'strerror', 'no text')})") from None
    in_order, by_name = [], {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        stamp_ns, rest = _parse(text)
        if stamp_ns is None:
            raise SourceError(f"stamps {path}, line {number}: {text[:60]!r} does not begin with a stamp")
        in_order.append(stamp_ns)
        if rest:
            by_name[Path(rest).stem] = stamp_ns
    if by_name:
        missing = [name for name in names if name not in by_name]
        if missing:
            raise SourceError(f"stamps {path}: none for {missing[0]} ({len(missing)} of {len(names)} images)")
        in_order = [by_name[name] for name in names]
    elif len(in_order) != len(names):
        raise SourceError(f"stamps {path}: {len(in_order)} stamps for {len(names)} images; name the images in it")
    for name, before, stamp_ns in zip(names[1:], in_order, in_order[1:], strict=False):
        if stamp_ns <= before:
            raise SourceError(f"stamps {path}: that of {name} ({stamp_ns} ns) is not after the one before it")
    return in_order


def rate_of(stamps_ns: Sequence[int]) -> float | None:
    """Return Hz by the median interval; None if there is none."""
    intervals = np.diff(stamps_ns)
    interval = np.median(intervals) if len(intervals) else 0
    return float(1e9 / interval) if interval > 0 else None


def _parse(text: str) -> tuple[int | None, str]:
    """Return nanoseconds, or None without a stamp, and the rest of the line."""
    if found := _DATE.match(text):
        day, time, fraction = found.groups()
        try:
            moment = datetime.fromisoformat(f"{day}T{time}").replace(tzinfo=timezone.utc)
        except ValueError:
            return None, ""
        stamp_ns = int(moment.timestamp()) * 10**9 + int(Decimal(fraction or 0) * 10**9)
    elif found := _NUMBER.match(text):
        value = Decimal(found[0])
        stamp_ns = int(value if value > _LARGEST_SECONDS else value * 10**9)
    else:
        return None, ""
    rest = text[found.end() :]
    if rest[:1] not in ("", " ", "\t", ","):
        return None, ""
    return (stamp_ns if 0 < stamp_ns < 2**31 * 10**9 else None), rest.strip(" \t,")
