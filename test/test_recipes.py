"""Each recipe of docs/architecture.md, followed on a toy example in a copy of the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"


@dataclass(frozen=True)
class Recipe:
    """A toy example of a recipe.

    Attributes:
        title: heading of the recipe on the page.
        edits: file below the root -> (text in the file, text to put in its place); ("", text) appends, or makes a file.
        check: Python that fails where the recipe was not enough. It runs in the copy.
    """

    title: str
    edits: dict[str, tuple[str, str]]
    check: str


RECIPES = [
    Recipe(
        "An output",
        {
            "m2f_ros/frame/outputs.py": (
                "OUTPUTS = (\n",
                'OUTPUTS = (\n    Output("road", "label", "mono8", False, "255 on train id 0, else 0"),\n',
            ),
            "m2f_ros/pipeline/painters.py": (
                "PAINTERS: dict[str, Callable[[Canvas], Tensor]] = {",
                "def road(of: Canvas) -> Tensor:\n    return (of.label == 0).byte() * 255\n\n\n"
                'PAINTERS: dict[str, Callable[[Canvas], Tensor]] = {"road": road, ',
            ),
        },
        """
from m2f_ros.bags.reader import Bag
from m2f_ros.cli import m2f
from m2f_ros.node.parameters import CAMERA
m2f(["replay", "street", "--frames", "2", "--size", "96x128", "--outputs", "label,road", "--out", "result"],
    standalone_mode=False)
bag = Bag(Path("result"))
images = {topic: [message.decode() for message in bag.messages([topic])] for topic in bag.topics}
labels, roads = images["/segmentation_node/label"], images["/segmentation_node/road"]
assert len(roads) == 2 and all((road.data == 255 * (label.data == 0)).all() for label, road in zip(labels, roads))
assert (roads[0].data == 255).any() and roads[0].header == labels[0].header
assert "road" in next(row for row in CAMERA if row.name == "outputs").choices
""",
    ),
    Recipe(
        "An encoding",
        {"m2f_ros/frame/encodings.py": ('    "bgr8": ', '    "x_bgr8": Encoding("bgr", 3),\n    "bgr8": ')},
        """
from m2f_ros.bags.topics import is_picture
from m2f_ros.frame.bgr import to_bgr
from m2f_ros.pipeline.colour import to_rgb
import numpy as np, torch
from m2f_ros.frame.frame import Frame
image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
assert (to_bgr(Frame(image, "x_bgr8")) == image).all()
assert (to_rgb(torch.from_numpy(image), "x_bgr8").numpy() == image[..., ::-1]).all()
assert is_picture("/camera", "x_bgr8") and is_picture("/camera", "x_bgr16")
""",
    ),
]


def files_on_the_page(title: str) -> set[str]:
    """Files that a recipe of the page says to touch: those at the beginning of its numbered lines."""
    section = re.search(rf"^### {re.escape(title)}\n(.*?)(?=^#|\Z)", PAGE.read_text(), re.M | re.S)
    assert section, f"{PAGE.name} has no recipe '{title}'"
    return set(re.findall(r"^\d\. `([\w./]+)`", section[1], re.M))


def test_the_page_has_no_other_recipe():
    assert re.findall(r"^### (.+)$", PAGE.read_text().partition("## To add")[2], re.M) == [r.title for r in RECIPES]


@pytest.mark.parametrize("recipe", RECIPES, ids=[recipe.title for recipe in RECIPES])
def test_a_recipe_is_enough(tmp_path, recipe):
    assert files_on_the_page(recipe.title) == set(recipe.edits)
    weights = shutil.ignore_patterns("weights", "__pycache__")
    shutil.copytree(ROOT / "m2f_ros", tmp_path / "m2f_ros", ignore=weights)
    (tmp_path / "m2f_ros/model/weights").symlink_to(ROOT / "m2f_ros/model/weights")
    for name, (old, new) in recipe.edits.items():
        file = tmp_path / name
        text = file.read_text() if file.exists() else ""
        assert old in text, f"{name} has no {old!r}"
        file.write_text(text.replace(old, new, 1) if old else text + new)
    check = (
        f"from pathlib import Path\nimport m2f_ros\nassert Path(m2f_ros.__file__).is_relative_to({str(tmp_path)!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", check + recipe.check],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-4000:]
