"""Errors that a user can cause and mend, and warnings."""

import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from unicodedata import category

_UNSPEAKABLE = ("Cc", "Cs", "Zl", "Zp")  # categories of characters: control, surrogate, line and paragraph separator

_LONGEST = 2000  # characters of a message


class M2fError(Exception):
    """One line: what is wrong, where, and what to do. The command line prints it without a traceback."""

    def __str__(self) -> str:
        return one_line(super().__str__())


def one_line(text: str) -> str:
    """Bring a text, which may hold parts of a stranger's file, onto one line.

    Escapes line breaks, other control characters and lone surrogates; cuts the middle out of a text that is too long.
    """
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
    if text.isprintable():
        return text
    return "".join(repr(c)[1:-1] if category(c) in _UNSPEAKABLE else c for c in text)


def words_of(error: BaseException, limit: int = 300) -> str:
    """The message of a library's error on one line of at most `limit` characters, or else the name of its type."""
    text = one_line(" ".join(str(error)[: 4 * limit].split()))
    return (text if len(text) <= limit else f"{text[: limit - 1]}…") or type(error).__name__


def some(names: Sequence[str], separator: str = ", ", most: int = 20) -> str:
    """Names for people: the first of them, and how many more there are."""
    more = len(names) - most
    return separator.join(names[:most]) + (f" and {more} more" if more > 0 else "")


def to_install(package: str) -> str:
    """Return what to do for a package that cannot be imported: the extra that has it, ROS, or the package itself."""
    top = package.partition(".")[0]
    if top in ("m2f_ros", "rclpy", "ament_index_python") or top.endswith(("_msgs", "_interfaces")):
        return "run `make build` and `. scripts/env.sh`, or source the setup file of the workspace that has m2f_ros"
    try:
        required = metadata.requires("m2f_ros") or []
    except metadata.PackageNotFoundError:  # in a workspace, where colcon installs it
        required = []
    for line in required:
        found = re.match(r"""([\w.-]+).*\bextra\s*==\s*['"](\w+)""", line)
        if found and found[2] not in ("test", "lint") and re.sub(r"[-_.]+", "_", found[1]).lower() == top.lower():
            return f"pip install 'm2f_ros[{found[2]}]'"
    return f"pip install {top.replace('_', '-')}"


class DocumentError(M2fError, ValueError):
    """A text, YAML or JSON file that cannot be read: the reason alone, without the file's name."""


class SourceError(M2fError, ValueError):
    """A source of images that does not exist, cannot be read, or has no frames."""


class LabelError(SourceError):
    """Label files that are missing, damaged, of another size than their image, or hold ids of no class."""


class CheckpointError(M2fError, ValueError):
    """A checkpoint that is missing, damaged, or of another architecture."""


class FrameError(M2fError, ValueError):
    """An image whose size, step, encoding or amount of data is impossible or not supported."""


class SpaceError(M2fError, ValueError):
    """A calibration, depth image, cloud or transform that places nothing in space."""


class ConfigError(M2fError, ValueError):
    """A setting of the wrong type, out of range, or unknown."""


class TaxonomyError(M2fError, ValueError):
    """A set of classes that is unknown, malformed, or does not fit the data."""


class TrainingError(M2fError, RuntimeError):
    """Training that cannot start or go on."""


class EvaluationError(M2fError, ValueError):
    """Predictions and ground truth that do not fit each other, or a result that cannot be read."""


class OutputError(M2fError, ValueError):
    """A folder or file for results that holds something else or an input, or cannot be written."""


class WorkerError(M2fError, RuntimeError):
    """Worker processes that died again and again."""


@lru_cache(maxsize=1000)
def say_once(message: str) -> None:
    """Log a warning once in this process, of something that was guessed or is ignored."""
    logging.getLogger("m2f_ros").warning("%s", one_line(message))
