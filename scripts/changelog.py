"""Writes CHANGELOG.rst, in the form that bloom reads (REP-132), from CHANGELOG.md: `python scripts/changelog.py`."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TITLE = "Changelog for package m2f_ros"
NOTE = ".. Made by `python scripts/changelog.py` from CHANGELOG.md: edit that."


def rst(markdown: str) -> str:
    """Return a changelog in reStructuredText.

    markdown: Keep a Changelog: `## [Unreleased]` or `## [1.2.3] - 2026-01-31`, `###` for kinds of changes, lists, and
        paragraphs. Text before the first version is left out.
    """
    line = "^" * len(TITLE)
    out = [line, TITLE, line, "", NOTE, ""]
    start = markdown.find("\n## ")
    for block in re.split(r"\n(?=\n|[ ]*- |#)", markdown[start:] if start >= 0 else ""):
        block = block.strip("\n")
        if found := re.fullmatch(r"## \[?([^\]]+?)\]?(?: - (\d{4}-\d\d-\d\d))?", block):
            name = "Forthcoming" if found[1] == "Unreleased" else f"{found[1]} ({found[2]})"
            out += ["", name, "-" * len(name), ""]
        elif block.startswith("### "):
            out += ["", f"**{block[4:]}**", ""]
        elif found := re.match(r"( *)- ", block):
            # A list in a list stands between empty lines, and its depth is two spaces in both.
            before = next((line for line in reversed(out) if line), "")
            if re.match(r" *\* | +\S", before) and _depth(before) != len(found[1]):
                out.append("")
            # A line without indentation is a paragraph, though Markdown takes it for a part of the item.
            text, *beside = map(_inline, re.split(r"\n(?=\S)", block[found.end() :], maxsplit=1))
            out.append(f"{found[1]}* {text}")
            out += ["", *beside, ""] if beside else []
        elif block:
            out += ["", _inline(block), ""]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(out))
    return text.rstrip("\n") + "\n"


def _depth(item: str) -> int:
    """Return the depth of the list that a text of one item, or of its first line, is in."""
    return len(item) - len(item.lstrip(" "))


def _inline(text: str) -> str:
    """Convert code and links. Text outside code has no characters that reStructuredText would read as markup."""
    parts = re.split(r"(`[^`]+`)", text)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = f"`{part}`"
            if i + 1 < len(parts) and re.match(r"\w", parts[i + 1]):
                parts[i] += "\\ "  # a plural's s, which would join the markup
        else:
            part = re.sub(r"[*|\\]|(?<=\w)_(?!\w)", lambda sign: f"\\{sign[0]}", part)
            parts[i] = re.sub(r"\[([^\]]+)\]\(([^)]+)\)", r"`\1 <\2>`__", part)
    return "".join(parts)


if __name__ == "__main__":
    (ROOT / "CHANGELOG.rst").write_text(rst((ROOT / "CHANGELOG.md").read_text(encoding="utf-8")), encoding="utf-8")
