"""Tables of text, for a terminal and in Markdown, and templates of Markdown pages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template


def columns(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """Rows of equal length with their cells below each other, the columns `left` flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """A Markdown table, the columns `right` flush right. See `cell` for text that may hold a |."""
    rules = ["---:" if i in right else "---" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rules, *rows))


def cell(text: str) -> str:
    """Text that may hold a |, for a cell of a Markdown table."""
    return text.replace("|", "\\|")


def template(path: Path, **filters: Callable[..., str]) -> Template:
    """A Jinja template of a Markdown page. A line of the template that holds a block's tag alone leaves no line."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(path.parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(filters)
    return environment.get_template(path.name)
