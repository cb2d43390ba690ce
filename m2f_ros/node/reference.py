"""Writes what follows from the tables of parameters and of outputs: `python -m m2f_ros.node.reference`.

Those are config/m2f.yaml and docs/parameters.md, and the outputs' topics in docs/node.md and config/sros2_policy.xml.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from pathlib import Path

from m2f_ros.frame.outputs import OUTPUTS, SPATIAL
from m2f_ros.node.evaluation_parameters import PARAMETERS as EVALUATION
from m2f_ros.node.parameters import CAMERA, NODE, Parameter
from m2f_ros.tables import cell, markdown

COMMAND = "python -m m2f_ros.node.reference"
WHEN = {"start": "no", "configure": "while unconfigured", "running": "yes"}
WIDTH = 110


def yaml_text() -> str:
    """Return a file for `--params-file` with every parameter at its default."""
    lines = [
        "# Every parameter of segmentation_node with its default. Copy it, do not edit it: it is made by",
        f"# {COMMAND}",
        "# `/**` is a node of any name and namespace.",
        "/**:",
        "  ros__parameters:",
        *(line for row in NODE for line in _yaml_row(row)),
        "",
        "    # Of each camera: for a camera of `cameras` under camera.NAME, with these as defaults.",
        *(line for row in CAMERA for line in _yaml_row(row)),
        "",
        "    # cameras: [front, left]",
        "    # camera:",
        "    #   front:",
        "    #     transport: compressed",
    ]
    return "\n".join(lines) + "\n"


def markdown_text() -> str:
    """Return the page of parameters."""
    return f"""# Parameters

Made by `{COMMAND}` from the tables that the nodes declare,
[segmentation_node's](../m2f_ros/node/parameters.py) and
[evaluation_node's](../m2f_ros/node/evaluation_parameters.py). `ros2 param describe` says the same of a node that
runs, and [config/m2f.yaml](../config/m2f.yaml) has those of segmentation_node as a file of parameters.

A value that is refused changes nothing, and the answer says why. A value that is set while the node runs holds from the
next frame on, for all values that were set together at once. The transition `configure` reads parameters that can be
changed while unconfigured; the start of the process reads the rest.

## segmentation_node

{_table(NODE)}

## segmentation_node, of each camera

Without names in `cameras`, the one camera has these under their plain names. Otherwise the camera `front` has them as
`camera.front.transport` and so on; the plain name is then the default for all cameras, read at the start.

{_table(CAMERA)}

## evaluation_node

{_table(EVALUATION)}
"""


def node_text(page: str) -> str:
    """Return docs/node.md with the topics of the outputs."""
    rows = [
        f"| `~/{name}` * | `sensor_msgs/Image` | {f'`{encoding}`' if encoding else '`mono8` or `mono16`'}: {what} |\n"
        for name, _, encoding, _, what in OUTPUTS
    ]
    page = _between(page, "| `/tf` and `/tf_static` in", "| `~/segments` *", rows)
    rows = [
        f"| `~/{output.name}`{' *' if output.each else ''} | `{output.message.replace('/msg/', '/')}` | "
        f"{output.description} |\n"
        for output in SPATIAL
    ]
    return _between(page, "| `~/stats` *", "| `~/legend`", rows)


def policy_text(policy: str) -> str:
    """Return config/sros2_policy.xml with the topics of the outputs."""
    topics = [f"~/{output.name}{end}" for output in OUTPUTS for end in ("", "/compressed")]
    policy = _between(policy, '<topics publish="ALLOW">', "<topic>~/segments</topic>", _topics(topics))
    rows = _topics([f"~/{output.name}" for output in SPATIAL])
    return _between(policy, "<!-- In space.", "<topic>~/legend</topic>", rows)


def write(root: Path) -> None:
    """Write the files under the root of the repository."""
    (root / "config" / "m2f.yaml").write_text(yaml_text(), encoding="utf-8")
    (root / "docs" / "parameters.md").write_text(markdown_text(), encoding="utf-8")
    for path, text in ((root / "docs" / "node.md", node_text), (root / "config" / "sros2_policy.xml", policy_text)):
        path.write_text(text(path.read_text(encoding="utf-8")), encoding="utf-8")


def _topics(names: Iterable[str]) -> list[str]:
    return [f"            <topic>{name}</topic>\n" for name in names]


def _between(text: str, first: str, last: str, rows: list[str]) -> str:
    """Replace the lines between the line with `first` and the line with `last`, which stay."""
    lines = text.splitlines(keepends=True)
    start = next(i for i, line in enumerate(lines) if first in line) + 1
    end = next(i for i, line in enumerate(lines) if i >= start and last in line)
    return "".join([*lines[:start], *rows, *lines[end:]])


def _yaml_row(row: Parameter) -> Iterable[str]:
    text = row.description
    if row.choices or row.range or row.numbers:
        text += f" {row.wanted[0].upper()}{row.wanted[1:]}."
    text += f" Changeable: {WHEN[row.change]}."
    yield ""
    yield from textwrap.wrap(text, WIDTH, initial_indent="    # ", subsequent_indent="    # ", break_on_hyphens=False)
    yield f"    {row.name}: {json.dumps(row.default)}"


def _table(rows: Iterable[Parameter]) -> str:
    # Defaults in YAML, of which JSON is a part.
    cells = [
        (f"`{row.name}`", f"`{json.dumps(row.default)}`", _values(row), WHEN[row.change], cell(row.description))
        for row in rows
    ]
    return markdown(("parameter", "default", "values", "changeable", "what"), cells)


def _values(row: Parameter) -> str:
    if row.choices:
        choices = ", ".join(f"`{choice}`" for choice in row.choices)
        return f"list of {choices}" if isinstance(row.default, tuple) else choices
    if row.range:
        return f"{row.kind}, {row.range[0]} to {row.range[1]}"
    return row.kind


if __name__ == "__main__":
    write(Path(__file__).resolve().parents[2])
