"""The report as Markdown: the tables of the page, without its pictures."""

from __future__ import annotations

import html
import re

from m2f_ros.evaluation.report import tables
from m2f_ros.evaluation.report.tables import Table
from m2f_ros.evaluation.result import Result
from m2f_ros.tables import markdown

# Characters of Markdown's own syntax; < and & are HTML there too.
_SPECIAL = "\\`*_[]|~#"


def page(result: Result, interval: tuple[float, float] | None) -> str:
    """Return the whole text. interval: 95 % interval of the mean IoU."""
    parts = [f"# Evaluation of {text(result.predictions)}", text(tables.summary(result))]
    parts += [f"Scored as far as it goes: {text(problem)}" for problem in tables.problems(result)]
    parts += [f"Note: {text(note)}." for note in result.notes]
    sections = {
        "Scores": [tables.measures(result, interval)],
        "Classes": [tables.classes(result)],
        "By distance": tables.ranges(result),
        "Confusions": [tables.confusions(result)],
        "Drives": [tables.drives(result)] if len(result.drives) > 1 else [],
        "Latency": [tables.latency(result)],
        "Drops": [tables.drops(result)],
        "Worst frames": [tables.worst(result)],
        "Settings": [tables.settings(result)],
    }
    for title, group in sections.items():
        filled = [table for table in group if table.rows]
        if filled:
            parts.append(f"## {title}")
        for table in filled:
            parts += [text(table.caption), grid(table)]
    return "\n\n".join(parts) + "\n"


def text(words: str) -> str:
    """Escape words, so that Markdown shows them as they are, on one line."""
    escaped = "".join(f"\\{c}" if c in _SPECIAL else c for c in html.escape(words, quote=False))
    return " ".join(escaped.split())


def code(words: str) -> str:
    """Format words as code within a line, also in a table."""
    words = " ".join(words.split()).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", words)), default=0))
    pad = " " if words.startswith("`") or words.endswith("`") else ""
    return f"{fence}{pad}{words}{pad}{fence}"


def block(words: str) -> str:
    """Format lines of bash as a block of code."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", words)), default=0))
    return f"{fence}bash\n{words}\n{fence}"


def grid(table: Table) -> str:
    """A table without its caption."""
    return markdown(table.header, [[text(cell.text) for cell in row] for row in table.rows], table.numbers)
