"""Docstrings, comments and pages begin their sentences with a noun or a verb, not with a word that points elsewhere."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(path for room in ("m2f_ros", "launch", "scripts", "test") for path in (ROOT / room).rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# A question may begin so.
RIDDLE = re.compile(r"(?:^|(?<=[.:;!?] )|(?<=\n\n))(What(?:ever)?|Of|Whether|That|Who(?:ever)?) [^?]*?[.:;\n]")


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of each docstring and each block of comments."""
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0].lineno, text
    block, first, last = [], 0, -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        behind_code = bool(token.line[: token.start[1]].strip())
        if token.start[0] != last + 1 or behind_code:
            if block:
                yield first, " ".join(block)
            block, first = [], token.start[0]
        block.append(token.string.lstrip("#: "))
        last = -1 if behind_code else token.start[0]
    if block:
        yield first, " ".join(block)


def riddles(text: str) -> list[str]:
    """Beginnings of the sentences that a reader has to turn round."""
    text = re.sub(r"(?<!\n)\n[ \t]*(?!\n)", " ", text + "\n")
    return [found.group(0)[:60] for found in RIDDLE.finditer(text)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sentences_begin_with_their_subject(path):
    found = [f"{line}: {text}" for line, block in prose(path) for text in riddles(block)]
    assert not found, "begin these with the subject or the verb:\n" + "\n".join(found)


def paragraphs(page: str) -> Iterator[str]:
    """Paragraphs, items of lists and cells of tables of a page in Markdown, without headings and code."""
    page = re.sub(r"^( *)```.*?^ *```$", "", page, flags=re.DOTALL | re.MULTILINE)
    for text in re.split(r"\n *\n|\n(?= *(?:[-*|] |\d+\. |#))", page):
        text = re.sub(r"^\s*(?:[-*] |\d+\. )", "", text)
        if not text.startswith("#"):
            yield from text.split(" | ") if text.lstrip().startswith("|") else [text]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sentences_of_pages_begin_with_their_subject(path):
    found = [text for block in paragraphs(path.read_text()) for text in riddles(block.strip(" |"))]
    assert not found, "begin these with the subject or the verb:\n" + "\n".join(found)


def test_paragraphs_items_and_cells_are_found():
    page = "# What it is\n\n| a | Of b. |\n| Who c. | d |\n\n- Of e\n  f.\n\n```\nOf g.\n```\n"
    assert [text for block in paragraphs(page) for text in riddles(block.strip(" |"))] == ["Of b.", "Who c.", "Of e f."]
