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
        edits: file below the root -> (text in the file, text to put in its place), in turns; ("", text) makes a file.
        check: Python that fails where the recipe was not enough. It runs in the copy.
    """

    title: str
    edits: dict[str, tuple[str, ...]]
    check: str


RECIPES = [
    Recipe(
        "An output",
        {
            "m2f_ros/frame/outputs.py": (
                "OUTPUTS = (\n",
                'OUTPUTS = (\n    Output("road", "label", "mono8", False, "255 on train id 0, else 0"),\n'
                '    Output("unsure", "confidence", "mono8", False, "255 where confidence is below 128"),\n',
            ),
            "m2f_ros/pipeline/painters.py": (
                "PAINTERS: dict[str, Callable[[Canvas], Tensor]] = {",
                "def road(of: Canvas) -> Tensor:\n    return (of.label == 0).byte() * 255\n\n\n"
                "def unsure(of: Canvas) -> Tensor:\n    return (of.confidence < 128).byte() * 255\n\n\n"
                'PAINTERS: dict[str, Callable[[Canvas], Tensor]] = {"road": road, "unsure": unsure, ',
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
for name, outputs in ("alone", "unsure"), ("both", "unsure,confidence"):
    m2f(["replay", "street", "--frames", "1", "--size", "96x128", "--outputs", outputs, "--out", name],
        standalone_mode=False)
alone, both = (Bag(Path(name)) for name in ("alone", "both"))
(unsure,) = (message.decode() for message in alone.messages(["/segmentation_node/unsure"]))
(level,) = (message.decode() for message in both.messages(["/segmentation_node/confidence"]))
assert (unsure.data == 255 * (level.data < 128)).all() and set(unsure.data) == {0, 255}
assert not any("confidence" in topic or "label" in topic for topic in alone.topics)
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
    Recipe(
        "A network",
        {
            "m2f_ros/model/toy/__init__.py": (
                "",
                """
from dataclasses import dataclass, field
from torch import nn
from m2f_ros.model.config import Keys, read_shared, shared_contents
from m2f_ros.model.layout import read_json
from m2f_ros.model.network import Network, PixelLogits
from m2f_ros.taxonomy import Taxonomy


@dataclass(frozen=True)
class Config:
    labels: tuple
    channels: int = 6
    mean: tuple = (100.0, 110.0, 120.0)
    std: tuple = (60.0, 50.0, 40.0)
    taxonomy: Taxonomy | None = field(default=None, repr=False)
    min_pixels: int | None = None
    max_pixels: int | None = None
    resize: tuple | None = None
    stride = 8
    summary = "a toy"

    @property
    def num_classes(self):
        return len(self.labels)

    @classmethod
    def read(cls, folder):
        raw = read_json(folder / "config.json")
        channels = Keys(f"{folder}/config.json: ", raw).whole("channels", 6, most=64)
        return cls(**read_shared(folder, raw, cls.stride), channels=channels)

    def contents(self):
        return {"channels": self.channels, **shared_contents(self)}


class Toy(Network):
    gives = PixelLogits

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.features = nn.Conv2d(3, config.channels, config.stride, stride=config.stride)
        self.classes = nn.Conv2d(config.channels, config.num_classes, 1)

    def forward(self, pixels, plan=None):
        self.check_size(*pixels.shape[-2:])
        return PixelLogits(self.classes(self.features(pixels).relu()))
""",
            ),
            "m2f_ros/model/registry.py": (
                "FAMILIES = {\n",
                "from m2f_ros.model import toy  # noqa: E402\n\n"
                'FAMILIES = {\n    "toy": Family(toy.Config, toy.Toy),\n',
            ),
        },
        """
import torch
from m2f_ros import taxonomy
from m2f_ros.cli import m2f
from m2f_ros.bags.reader import Bag
from m2f_ros.model import build, save
from m2f_ros.model.toy import Config
torch.manual_seed(0)
save(build(Config(taxonomy.get("camvid").names, taxonomy=taxonomy.get("camvid"))), Path("model"))
m2f(["replay", "street", "--frames", "1", "--model", "model", "--outputs", "label,confidence", "--out", "result"],
    standalone_mode=False)
(label,) = (message.decode() for message in Bag(Path("result")).messages(["/segmentation_node/label"]))
assert (label.height, label.width) == (480, 640) and len(set(label.data)) > 1 and max(label.data) < 11
""",
    ),
    Recipe(
        "A backend",
        {
            "m2f_ros/pipeline/backends/toy.py": (
                "",
                'from m2f_ros.pipeline.backends.eager import Eager\n\n\nclass Toy(Eager):\n    name = "toy"\n',
            ),
            "m2f_ros/pipeline/backends/__init__.py": (
                'NAMES = ("auto", ',
                'NAMES = ("auto", "toy", ',
                "    # Imported here",
                '    if name == "toy":\n'
                "        from m2f_ros.pipeline.backends.toy import Toy\n\n"
                "        return Toy(model)\n"
                "    # Imported here",
            ),
            "m2f_ros/node/parameters.py": ('("auto", "eager", ', '("auto", "toy", "eager", '),
        },
        """
from m2f_ros.node.parameters import NODE
from m2f_ros.pipeline.build import PipelineSettings, build_pipeline
assert "toy" in next(row for row in NODE if row.name == "backend").choices
assert build_pipeline(PipelineSettings("street", device="cpu", backend="toy")).backend == "toy"
""",
    ),
    Recipe(
        "A metric",
        {
            "m2f_ros/evaluation/measures.py": (
                "METRICS = {\n    metric.key: metric\n    for metric in (\n",
                "def excess(counts):\n"
                "    confusion = counts[Confusion]\n"
                "    return np.abs(confusion.prediction() / confusion.truth() - 1)\n\n\n"
                "METRICS = {\n    metric.key: metric\n    for metric in (\n"
                '        Metric("excess", "area excess", "a toy", Confusion, each=excess, class_label="excess",\n'
                "            higher_is_better=False),\n",
            )
        },
        """
import json
from m2f_ros.cli import m2f
m2f(["bag", "street", "--frames", "2", "--out", "drive"], standalone_mode=False)
m2f(["eval", "drive", "--truth", "drive", "--topic", "/camera/ground_truth", "--truth-topic", "/camera/ground_truth",
     "--out", "report"], standalone_mode=False)
result = json.loads(Path("report/result.json").read_text())
assert result["metrics"]["excess"] == 0 and result["classes"][0]["excess"] == 0
assert "area excess" in Path("report/report.md").read_text() and "area excess" in Path("report/report.html").read_text()
m2f(["compare", "report", "report"], standalone_mode=False)
""",
    ),
    Recipe(
        "A parameter of the node",
        {
            "m2f_ros/node/parameters.py": (
                "class NodeSettings:\n",
                'class NodeSettings:\n    toy: float = while_running(0.5, "A number of no use.", range=(0.0, 1.0))\n',
            )
        },
        """
from m2f_ros.node import reference
from m2f_ros.node.parameters import NODE, NodeSettings
assert NodeSettings().toy == 0.5 and NODE[0].name == "toy" and NODE[0].change == "running"
assert "toy: 0.5" in reference.yaml_text() and "A number of no use." in reference.markdown_text()
""",
    ),
    Recipe(
        "A source",
        {
            "m2f_ros/sources/toy.py": (
                "",
                """
import numpy as np
from m2f_ros.frame.frame import Frame
from m2f_ros.sources.sample import Sample, Source


class ToySource(Source):
    def __init__(self, options):
        super().__init__("toy", options.rate or 10.0, 3, frames=options.frames)

    def _samples(self, first):
        for index in range(3):
            image = np.full((32, 64, 3), 80 * index, np.uint8)
            yield Sample(index=index, name=f"toy_{index}", stamp_ns=index * 10**8, frame=Frame(image, "rgb8"))
""",
            ),
            "m2f_ros/sources/open.py": (
                "    if is_street(spec):\n",
                '    if spec == "toy":\n'
                "        from m2f_ros.sources.toy import ToySource\n\n"
                "        return ToySource(options)\n"
                "    if is_street(spec):\n",
            ),
        },
        """
from m2f_ros.bags.reader import Bag
from m2f_ros.cli import m2f
m2f(["bag", "toy", "--out", "drive"], standalone_mode=False)
images = [message.decode() for message in Bag(Path("drive")).messages(["/camera/image"])]
assert [int(image.data[0]) for image in images] == [0, 80, 160]
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


@pytest.mark.process
@pytest.mark.parametrize("recipe", RECIPES, ids=[recipe.title for recipe in RECIPES])
def test_a_recipe_is_enough(tmp_path, recipe):
    assert files_on_the_page(recipe.title) == set(recipe.edits)
    weights = shutil.ignore_patterns("weights", "__pycache__")
    shutil.copytree(ROOT / "m2f_ros", tmp_path / "m2f_ros", ignore=weights)
    (tmp_path / "m2f_ros/model/weights").symlink_to(ROOT / "m2f_ros/model/weights")
    for name, edits in recipe.edits.items():
        file = tmp_path / name
        text = file.read_text() if file.exists() else ""
        for old, new in zip(edits[::2], edits[1::2], strict=True):
            assert old in text, f"{name} has no {old!r}"
            text = text.replace(old, new, 1)
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    check = (
        f"from pathlib import Path\nimport m2f_ros\nassert Path(m2f_ros.__file__).is_relative_to({str(tmp_path)!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", check + recipe.check],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
