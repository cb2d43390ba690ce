"""The report: numbers of the result, the same on the page and in the Markdown, and nothing from outside."""

import base64
import errno
import html
import importlib.util
import itertools
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2f_ros import taxonomy
from m2f_ros.errors import ConfigError, EvaluationError, OutputError
from m2f_ros.evaluation.measures import of_classes
from m2f_ros.evaluation.pairs import Pair
from m2f_ros.evaluation.report import Worst, WorstFrame, plots, tables, write_report
from m2f_ros.evaluation.report.markdown import text
from m2f_ros.evaluation.result import Result
from m2f_ros.results import MARK

for needed in ("jinja2", "matplotlib"):
    pytest.importorskip(needed, reason=f"{needed} is not installed")

SECOND = 10**9
FRAME = [[8, 2, 0, 0], [1, 6, 1, 2], [0, 0, 4, 0]]
NAMES = ['<b>road</b> & "co"', "it's|a_pole`*$x$", "sky</title><script>alert(1)</script>"]
LATENCY = {"p50": 61.24, "p90": 80.0, "p99": 140.06, "max": 141.0}


@dataclass
class Page(HTMLParser):
    """The contents of a page: tables as rows of text, links, tags with their attributes, words."""

    source: str
    tables: list = field(default_factory=list)
    captions: list = field(default_factory=list)
    tags: list = field(default_factory=list)
    words: str = ""

    def __post_init__(self):
        super().__init__()
        self._cell = self._caption = False
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._caption = tag == "caption" or (self._caption and tag != "thead")
        if tag == "table":
            self.tables.append([])
        elif tag == "caption":
            self.captions.append("")
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        self._cell = self._cell and tag not in ("th", "td")
        self._caption = self._caption and tag != "caption"

    def handle_data(self, data):
        self.words += data
        if self._cell:
            self.tables[-1][-1][-1] += data
        elif self._caption:
            self.captions[-1] += data

    def table(self, first: str) -> list[list[str]]:
        """The rows of the table whose first column has this heading."""
        return next(rows[1:] for rows in self.tables if rows[0][0] == first)


def markdown_tables(source: str) -> list:
    """Tables as rows of cells, unescaped."""
    found = []
    for several, lines in itertools.groupby(source.splitlines(), lambda line: line.startswith("|")):
        if several:
            rows = [re.split(r"(?<!\\) ?\| ?", line)[1:-1] for line in lines]
            cells = [[html.unescape(re.sub(r"\\(.)", r"\1", cell)) for cell in row] for row in rows]
            found.append([cells[0], *cells[2:]])
    return found


@pytest.fixture
def full(make_result) -> Result:
    """Two drives of three classes with odd names, in which all was measured and a frame is missing."""
    result = make_result([FRAME, None, FRAME], [FRAME, [[9, 1, 0, 0], [0, 9, 0, 1], [0, 0, 4, 0]]], names=NAMES)
    result.drives[0]["name"] = "<i>first</i>"
    for block in result.blocks:
        block.update(latency_ms=60.0, flips=0.02)
        if block["drive"] == "drive 0":
            block["drive"] = "<i>first</i>"
    metrics = {key: 0.5 + i / 1000 if value is None else value for i, (key, value) in enumerate(result.metrics.items())}
    return replace(
        result,
        predictions="out/<replay> & more",
        metrics=metrics,
        calibration=[
            {"confidence": 0.5, "accuracy": 0.4, "count": 20},
            {"confidence": 0.9, "accuracy": 0.95, "count": 80},
        ],
        latency_ms=LATENCY,
        drops={"<newer>": 1},
        worst=[{"drive": "<i>first</i>", "name": "0|7", "stamp_ns": 7 * SECOND + 5, "miou": 0.25}],
    )


@pytest.fixture
def frames() -> list[WorstFrame]:
    picture = cv2.imencode(".jpg", np.zeros((4, 12, 3), np.uint8))[1].tobytes()
    return [WorstFrame("<i>first</i>", '0|7" onload="alert(1)', 7 * SECOND + 5, 0.25, picture)]


def written(result, frames, folder):
    write_report(result, frames, folder)
    return Page((folder / "report.html").read_text()), (folder / "report.md").read_text()


@pytest.mark.process
def test_page_markdown_and_json_have_the_same_numbers(full, frames, tmp_path):
    page, markdown = written(full, frames, tmp_path / "new" / "folder")
    assert Result.load(tmp_path / "new" / "folder") == full
    # The page shows the worst frames as pictures, the Markdown as a table.
    assert page.tables == [rows for rows in markdown_tables(markdown) if "frame" not in rows[0]]
    content = json.loads((tmp_path / "new" / "folder" / "result.json").read_text())
    shown = {row[0]: row[1] for row in page.table("measure")}
    assert shown["mean IoU"] == f"{content['metrics']['miou']:.3f}"
    assert shown["calibration error (ECE)"] == f"{content['metrics']['ece']:.3f}"
    assert shown["frames missing"] == "0.200"
    assert (shown["latency, median"], shown["latency, p99"]) == ("61.2 ms", "140.1 ms")
    for row, of_class in zip(page.table("class"), content["classes"], strict=True):
        expected = [f"{of_class[key]:.3f}" for key in of_classes() if of_class[key] is not None]
        assert {"iou", "accuracy", "precision"} <= {key for key in of_classes() if of_class[key] is not None}
        assert row == [of_class["name"], f"{100 * of_class['share']:.2f} %", *expected]
    # By hand: 3 x 2 + 1, 3 x 1 + 0, … of 7 + 3 + 3 + 7 wrong pixels.
    assert page.table("true class") == [
        [NAMES[0], NAMES[1], "17.5 %", "35.0 %", "7"],
        [NAMES[1], "no class", "17.5 %", "35.0 %", "7"],
        [NAMES[1], NAMES[0], "7.5 %", "15.0 %", "3"],
        [NAMES[1], NAMES[2], "7.5 %", "15.0 %", "3"],
    ]
    drives = [[row["name"], str(row["frames"]), str(row["scored"]), str(row["missing"])] for row in content["drives"]]
    assert [row[:4] for row in page.table("drive")] == drives
    assert page.table("reason") == [["<newer>", "1"]]
    assert ["<i>first</i>", "0|7, stamp 7.000000005", "0.250"] in itertools.chain(*markdown_tables(markdown))


def test_headlines_are_those_of_the_result(full, frames, tmp_path):
    page, _ = written(full, frames, tmp_path)
    tiles = dict(re.findall(r"<dt>(.*?)</dt><dd.*?>(.*?)</dd>", page.source))
    assert tiles["mean IoU"] == f"{full.metrics['miou']:.3f}"
    assert tiles["frames scored"] == "4 of 5"
    assert '<dd class="bad">4 of 5</dd><dd class="note">1 missing</dd>' in page.source


def test_what_was_cut_off_is_said_first(full, frames, tmp_path):
    cut = replace(
        full, settings={"topic": None, "truth_topic": "/a", "problems": ["a.mcap: cut off after <7> messages"]}
    )
    page, markdown = written(cut, frames, tmp_path)
    line = "Scored as far as it goes: a.mcap: cut off after <7> messages"
    assert line in page.words.partition("mean IoU")[0]
    assert line in html.unescape(markdown).partition("mean IoU")[0]
    assert page.table("setting")[4:] == [["truth topic", "/a"]]


def test_names_are_text_and_never_markup(full, frames, tmp_path):
    page, markdown = written(full, frames, tmp_path)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "b", "i", "replay", "newer"}
    assert all(name not in attributes for _, attributes in page.tags for name in ("onload", "onerror"))
    assert page.words.count("Evaluation of out/<replay> & more") == 2  # title and heading
    # In tables, bars, matrix (twice) and the key of the worst frames.
    assert page.words.count(NAMES[1]) == 9
    assert "<" not in markdown.replace("&lt;", "")
    assert text("a|b_c\n# <d> \\") == r"a\|b\_c \# &lt;d&gt; \\"


def test_the_page_asks_for_nothing_from_outside(full, frames, tmp_path):
    page, _ = written(full, frames, tmp_path)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:image/")), (tag, attributes)
    assert "@import" not in page.source
    assert set(re.findall(r"url\((.)", page.source)) <= {"#"}
    assert ("meta", {"http-equiv": "Content-Security-Policy", "content": CSP}) in page.tags


CSP = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_the_page_can_be_read_without_eyes(full, frames, tmp_path):
    page, _ = written(full, frames, tmp_path)
    assert ("html", {"lang": "en"}) in page.tags
    pictures = [attributes for tag, attributes in page.tags if tag == "img" or attributes.get("role") == "img"]
    assert len(pictures) == 5  # bars, matrix, timeline, reliability, one frame
    assert all(len(attributes.get("alt") or attributes["aria-label"]) > 40 for attributes in pictures)
    assert len(page.captions) == len(page.tables) and all(page.captions)
    assert all(attributes["scope"] in ("row", "col") for tag, attributes in page.tags if tag == "th")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"][1:] for tag, attributes in page.tags if tag == "a"]
    assert len(links) == 8 and set(links) <= set(ids)


def test_light_and_dark_share_the_plots(full, frames, tmp_path):
    page, _ = written(full, frames, tmp_path)
    drawings = "".join(re.findall(r"<svg.*?</svg>", page.source, re.DOTALL))
    assert "currentColor" in drawings and plots.INK not in drawings
    assert "#000000" not in drawings
    words = re.findall(r"<text .*?>", drawings)
    assert words and all("fill: " in word for word in words)  # what has no colour of its own would be black
    assert "prefers-color-scheme: dark" in page.source and "@media print" in page.source


def test_the_same_result_gives_the_same_page(full, frames, tmp_path):
    write_report(full, frames, tmp_path / "a")
    write_report(full, frames, tmp_path / "b")
    assert (tmp_path / "a" / "report.html").read_bytes() == (tmp_path / "b" / "report.html").read_bytes()


def test_nothing_was_there(make_result, tmp_path):
    page, markdown = written(make_result([], names=["road"]), [], tmp_path)
    assert "0 of 0 frames with ground truth scored, in the 1 class of test." in page.words
    assert page.table("class") == [["road", "–"]]
    assert {rows[0][0] for rows in page.tables} == {"class", "setting"}
    assert "<svg" not in page.source
    assert page.tables == markdown_tables(markdown)


def test_all_frames_missing(make_result, tmp_path):
    page, _ = written(make_result([None, None], names=["road", "sky"]), [], tmp_path)
    assert page.table("measure") == [["frames missing", "1.000", page.table("measure")[0][2]]]
    assert page.source.count("<svg") == 1  # the timeline, all red


@pytest.mark.heavy
@pytest.mark.parametrize("k", [1, 24, 25, 151])
def test_any_number_of_classes(make_result, tmp_path, k):
    rng = np.random.default_rng(k)
    matrix = rng.integers(0, 50, (k, k + 1)) + 1000 * np.eye(k, k + 1, dtype=np.int64)
    page, _ = written(make_result([matrix] * 3), [], tmp_path)
    assert len(page.table("class")) == k
    drawings = re.findall(r"<svg.*?</svg>", page.source, re.DOTALL)
    assert len(drawings) == 3
    for drawing in drawings:
        ElementTree.fromstring(drawing.replace("<svg", '<svg xmlns:xlink="x"', 1))
    bars, cells, _ = drawings
    assert sum(f">class {i}</text>" in bars for i in range(k)) == k
    assert sum(f">class {i}</text>" in cells for i in range(k)) == min(k, plots.MATRIX)
    assert (">other classes</text>" in cells) == (k > plots.MATRIX)
    assert ">no class</text>" in cells
    assert len(page.table("true class")) == min(tables.CONFUSIONS, k * k)


def test_the_matrix_shows_the_largest_confusions():
    matrix = np.zeros((40, 41), np.int64)
    np.fill_diagonal(matrix, 100)
    matrix[:, 40] = 1000  # no class is not one to show
    for i in range(12):
        matrix[2 * i + 10, 2 * i + 11] = 50
    assert plots.confused(matrix) == (list(range(10, 34)), False)
    matrix[34:, 34:40] = matrix[:10] = matrix[:, :10] = 0
    matrix[34:, 40] = 0
    assert plots.confused(matrix) == (list(range(10, 34)), True)


def test_cells_are_as_strong_as_their_share(make_result):
    drawn, whole = plots.confusion(make_result([[[75, 25, 0], [0, 0, 100]]]))
    assert whole
    (data,) = re.findall(r'<image [^>]*href="data:image/png;base64,\s*([^"]*)"', drawn)
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)
    alpha = np.array([[255 * 0.75**0.5, 255 * 0.25**0.5, 0], [0, 0, 255]])
    assert np.abs(picture[..., 3] - alpha).max() <= 1
    right, wrong = ("#{2:02x}{1:02x}{0:02x}".format(*cell) for cell in picture[0, :2])
    assert (right, wrong) == (plots.RIGHT, plots.WRONG)
    assert all(f">{percent}</text>" in drawn for percent in (75, 25, 100))


def test_mean_iou_of_a_block(make_result):
    result = make_result([FRAME, None])
    # 8/11, 6/12, 4/5: hits over truth and prediction.
    assert plots.block_miou(result.blocks[0]) == pytest.approx((8 / 11 + 6 / 12 + 4 / 5) / 3)
    assert plots.block_miou(result.blocks[1]) is None


def test_missing_frames_are_seen(make_result):
    assert plots.MISSING not in plots.timeline(make_result([FRAME, FRAME]))
    drawn = plots.timeline(make_result([FRAME, None, FRAME]))
    (red,) = re.findall(rf'<path d="([^"]*)"[^>]*fill: {plots.MISSING}', drawn)
    x = [float(number) for number in re.findall(r"[ML] ([\d.]+)", red)]
    axis = [float(number) for number in re.findall(r'<use [^>]*x="([\d.]+)"', drawn)]
    left, right = min(axis), max(axis)
    # The middle one of three frames is filled: what else the outline visits has no height.
    third = (right - left) / 3
    y = [float(number) for number in re.findall(r"[ML] [\d.]+ ([\d.]+)", red)]
    filled = {round((a - left) / third, 2) for a, b in zip(x, y, strict=True) if b > min(y) + 1}
    assert filled == {1.0, 2.0}


def test_worst_frames_are_those_of_the_result(full, frames, tmp_path):
    page, _ = written(full, frames, tmp_path)
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    data = image["src"].removeprefix("data:image/jpeg;base64,")
    assert base64.b64decode(data) == frames[0].picture
    assert '<i>first</i>, 0|7" onload="alert(1), stamp 7.000000005: mean IoU 0.250' in page.words


def test_names_of_frames():
    assert tables.frame_name("7000000005", 7 * SECOND + 5) == "stamp 7.000000005"
    assert tables.frame_name("a.png", 0) == "a.png"


def test_what_cannot_be_written_is_one_line(full, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file: is not a folder; name another one"):
        write_report(full, [], tmp_path / "file")


def test_a_report_with_notes_in_it_stays(full, tmp_path):
    write_report(full, [], tmp_path)
    (tmp_path / "report.md").write_text("my notes")
    with pytest.raises(OutputError, match=r"report.md: is not as m2f eval left it"):
        write_report(full, [], tmp_path)
    assert (tmp_path / "report.md").read_text() == "my notes"


def test_a_full_disk_leaves_no_part_of_a_page(full, frames, tmp_path, monkeypatch):
    write_text = Path.write_text

    def fill(path, text, **options):
        if path.name.startswith("report.html"):
            write_text(path, text[:1000], **options)
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_text(path, text, **options)

    monkeypatch.setattr(Path, "write_text", fill)
    with pytest.raises(EvaluationError, match=r"No space left on device$"):
        write_report(full, frames, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [MARK, "report.md", "result.json"]


def test_a_bag_is_no_folder_for_a_report(full, frames, tmp_path):
    (tmp_path / "metadata.yaml").write_text("")
    with pytest.raises(EvaluationError, match=r": is a bag; choose another folder for the report$"):
        write_report(full, frames, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["metadata.yaml"]


def test_without_jinja_the_rest_is_written(full, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jinja2" else found(name))
    with pytest.raises(ConfigError, match="needs jinja2; pip install"):
        write_report(full, [], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [MARK, "report.md", "result.json"]


# The worst frames


def pair(drive="a", name="0", stamp_ns=0, size=(4, 6), **fields):
    labels = np.zeros(size, np.uint8)
    return Pair(drive, name, stamp_ns, labels, fields.pop("prediction", labels), **fields)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_worst_does_not_depend_on_order_or_merges(data):
    offers = data.draw(
        st.lists(
            st.tuples(st.sampled_from("ab"), st.integers(1, 9), st.integers(0, 5)),
            unique_by=lambda offer: offer[:2],
            max_size=12,
        )
    )
    owner = data.draw(st.lists(st.integers(0, 2), min_size=len(offers), max_size=len(offers)))
    parts = [Worst(taxonomy.get("camvid"), 3) for _ in range(3)]
    for (drive, stamp, score), part in zip(data.draw(st.permutations(offers)), owner, strict=True):
        parts[part].offer(pair(drive, str(stamp), stamp * SECOND // 3), score / 5)
    whole = Worst(taxonomy.get("camvid"), 3)
    for part in data.draw(st.permutations(parts)):
        whole += part
    best_of_second = {}
    for drive, stamp, score in sorted(offers, key=lambda offer: (offer[2], offer[0], offer[1])):
        best_of_second.setdefault((drive, stamp // 3), (score / 5, drive, str(stamp)))
    expected = sorted(best_of_second.values())[:3]
    assert [(frame.miou, frame.drive, frame.name) for frame in whole.frames()] == expected


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_of_equal_frames_the_order_does_not_choose(order):
    worst = Worst(taxonomy.get("camvid"), 2)
    for drive in order:
        worst.offer(pair(drive, "0", SECOND), 0.5)
    assert [frame.drive for frame in worst.frames()] == ["a", "b"]


def test_frames_without_stamps_are_no_neighbours():
    worst = Worst(taxonomy.get("camvid"), 3)
    for i in range(4):
        worst.offer(pair(name=f"{i}.png"), i / 4)
    assert [frame.name for frame in worst.frames()] == ["0.png", "1.png", "2.png"]


def test_a_frame_without_score_is_none_of_the_worst():
    worst = Worst(taxonomy.get("camvid"), 3)
    worst.offer(pair(), None)
    worst.offer(pair(prediction=None), 0.0)
    assert worst.frames() == []
    none = Worst(taxonomy.get("camvid"), 0)
    none.offer(pair(), 0.0)
    assert none.frames() == []


@pytest.mark.parametrize("image", [True, False])
def test_picture_shows_image_truth_and_prediction(image):
    classes = taxonomy.get("camvid")
    truth = np.full((480, 960), 1, np.uint8)
    truth[:, 480:] = 255
    given = np.full((300, 600, 3), (10, 120, 240), np.uint8) if image else None
    worst = Worst(classes, 1)
    shown = Pair("a", "0", 5, truth, np.full_like(truth, 4), image=given)
    worst.offer(shown, 0.1)
    picture = cv2.imdecode(np.frombuffer(worst.frames()[0].picture, np.uint8), cv2.IMREAD_COLOR)
    panels = 2 + image
    assert picture.shape == (240, 480 * panels + 6 * (panels - 1), 3)
    colours = [picture[100, 120 + 486 * i] for i in range(panels)]
    expected = [(10, 120, 240)] * image + [classes.classes[i].colour[::-1] for i in (1, 4)]
    assert np.abs(np.array(colours, int) - expected).max() <= 6
    assert picture[100, 486 * image + 400].max() <= 6  # unlabelled is black
