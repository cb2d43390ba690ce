"""Tables and pages: what the reports of the benchmarks share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from m2f_ros import tables
from m2f_ros.benchmark.result import Run, write_text
from m2f_ros.errors import ConfigError, to_install
from m2f_ros.files import refuse_foreign, whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table = Sequence[Sequence[str]]  # rows, the first is the header


def markdown(table: Table) -> str:
    """A table of texts that may hold a |."""
    header, *rows = table
    return tables.markdown(header, [[tables.cell(text) for text in row] for row in rows])


def or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def percent(part: float) -> str:
    """0.99999 must not look like all."""
    return "100 %" if part == 1 else f"{min(100 * part, 99.9999):.4f} %"


def commit_of(commit: str | None, dirty: bool | None) -> str:
    return f"commit {(commit or 'unknown')[:12]}{' and changes' if dirty else ''}"


def machine_of(run: Run) -> str:
    machine = run.machine
    return f"({machine.system}, {machine.cores} of {machine.cores_in_all} cores, {machine.memory_gib:.0f} GiB)"


def origin_of(run: Run) -> str:
    """Date, commit and versions."""
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    return f"{run.date[:10]}, {commit_of(run.commit, run.dirty)}.\nVersions: {versions}."


def write_page(out: Path, text: str, mark: str, pictures: Mapping[str, Callable[[Path], None]]) -> None:
    """Write a page and its pictures, in images/ beside it.

    Args:
        mark: in the text of every page of the same command.
        pictures: name of the file -> function that draws it.
    Raises:
        ConfigError: the page cannot be written; matplotlib is not installed.
        OutputError: another page or picture is there.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        refuse_foreign(out, lambda old: mark in old, [f"images/{name}" for name in pictures])
        for name, draw in pictures.items():
            (out.parent / "images").mkdir(exist_ok=True)
            with whole(out.parent / "images" / name) as partial:
                draw(partial)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}") from None
    write_text(text, out, lambda old: mark in old)


def new_figure(width: float, height: float) -> Figure:
    """ConfigError without matplotlib."""
    if not importlib.util.find_spec("matplotlib"):
        raise ConfigError(f"the plots need matplotlib; {to_install('matplotlib')}")
    from matplotlib.figure import Figure  # without pyplot: no display, no state

    return Figure(figsize=(width, height), dpi=80, layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png", metadata={"Software": None})
