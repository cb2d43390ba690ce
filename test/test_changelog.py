"""CHANGELOG.rst, which bloom reads, has the content of CHANGELOG.md."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("changelog", ROOT / "scripts" / "changelog.py")
changelog = importlib.util.module_from_spec(spec)
spec.loader.exec_module(changelog)

MARKDOWN = """# Changelog

Text about the format.

## [Unreleased]

### Added

- A word, `some code`s and a [link](https://example.org/a_b):
  - inner *item*
    with two lines;
  - another.
- Last with snake_case and end_.
Bags:

- After a paragraph.

## [0.1.0] - 2026-01-31

- First.
"""
RST = """^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
Changelog for package m2f_ros
^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

.. Made by `python scripts/changelog.py` from CHANGELOG.md: edit that.

Forthcoming
-----------

**Added**

* A word, ``some code``\\ s and a `link <https://example.org/a_b>`__:

  * inner \\*item\\*
    with two lines;
  * another.

* Last with snake_case and end\\_.

Bags:

* After a paragraph.

0.1.0 (2026-01-31)
------------------

* First.
"""


def test_markdown_becomes_restructuredtext() -> None:
    assert changelog.rst(MARKDOWN) == RST


def test_it_is_current() -> None:
    wanted = changelog.rst((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert (ROOT / "CHANGELOG.rst").read_text(encoding="utf-8") == wanted, "run `python scripts/changelog.py`"


def test_bloom_reads_it(tmp_path: Path) -> None:
    reader = pytest.importorskip("catkin_pkg.changelog", reason="catkin_pkg is absent")
    pytest.importorskip("docutils", reason="docutils is absent")
    (tmp_path / "CHANGELOG.rst").write_text(RST)
    small = reader.get_changelog_from_path(str(tmp_path))
    assert [(version, str(date)[:10]) for version, date, _ in small.foreach_version()] == [("0.1.0", "2026-01-31")]
    assert [str(item) for item in small.get_content_of_version("0.1.0")] == ["* First."]
    label = pytest.importorskip("catkin_pkg.cli.tag_changelog").get_forthcoming_label
    assert label((ROOT / "CHANGELOG.rst").read_text(encoding="utf-8")) == "Forthcoming"


def test_docutils_has_nothing_to_say() -> None:
    core = pytest.importorskip("docutils.core", reason="docutils is absent")
    for text in (RST, (ROOT / "CHANGELOG.rst").read_text(encoding="utf-8")):
        core.publish_doctree(text, settings_overrides={"halt_level": 2, "report_level": 2})
