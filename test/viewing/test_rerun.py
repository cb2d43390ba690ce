"""A rosbag2 as a recording of Rerun, read back by Rerun's own reader."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image as Pillow

sys.path.insert(0, str(Path(__file__).parents[1] / "replay"))
from drives import IMAGE, START, image_message

from m2f_ros import taxonomy
from m2f_ros.bags.messages import COMPRESSED_IMAGE, LEGEND, STATS, Messages
from m2f_ros.bags.writer import BagWriter, register_type
from m2f_ros.cli import m2f
from m2f_ros.errors import ConfigError, OutputError, SourceError
from m2f_ros.viewing import rerun

CITYSCAPES = taxonomy.get("cityscapes").with_train_ids()
LABEL = np.array([[0, 1, 2], [13, 18, 255]], np.uint8)
IDS = np.array([[0, 1, 2], [3, 3, 700]], np.uint16)
PICTURE = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
GREY = np.array([[0, 50, 100], [150, 200, 255]], np.uint8)


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Pillow.fromarray(array).save(file, "PNG")
    return file.getvalue()


def write_bag(path: Path, damaged: bool = False) -> Path:
    with BagWriter(path) as bag:
        messages = Messages(bag.types)
        register_type(bag.types, STATS)
        bag.add_topic("/seg/legend", LEGEND, latched=True)
        bag.write("/seg/legend", LEGEND, messages.legend(CITYSCAPES, "street"), START)
        for i in range(2):
            log_ns, header = START + (i + 1) * 10**8, messages.header(10**18 + i, "cam")
            images = {
                "/camera/image": (PICTURE + i, "rgb8"),
                "/camera/ground_truth": (LABEL, "mono8"),
                "/seg/label": (LABEL, "mono8"),
                "/seg/overlay": (PICTURE[..., ::-1], "bgr8"),
                "/seg/confidence": (GREY, "mono8"),
                "/seg/panoptic": (IDS, "mono16"),
            }
            for topic, (data, encoding) in images.items():
                message = image_message(data, divmod(10**18 + i, 10**9), encoding=encoding)
                if damaged and i and topic == "/seg/label":
                    message.data = message.data[:2]
                bag.write(topic, IMAGE, message, log_ns)
            for topic, array in (("/seg/label", LABEL), ("/other", PICTURE)):
                message = messages.compressed_file(png(array), "png", header)
                bag.write(f"{topic}/compressed", COMPRESSED_IMAGE, message, log_ns)
            fields = dict.fromkeys(bag.types.types[STATS].__dataclass_fields__, 0)
            none = np.zeros(0)
            fields |= {"header": header, "drop_reasons": [], "drops": none.astype(np.uint64), "stages": []}
            fields |= {"stage_ms": none.astype(np.float32), "class_shares": none.astype(np.float32), "age_ms": 40 + i}
            bag.write("/seg/stats", STATS, bag.types.types[STATS](**fields), log_ns)
    return path


class Recording:
    """The rows of a recording: entity path -> component -> values, in the order of the stamps."""

    def __init__(self, path: Path) -> None:
        reader = pytest.importorskip("rerun.chunk", reason="rerun-sdk is absent").RrdReader(path)
        self.static: dict[str, dict[str, list]] = {}
        self.rows: dict[str, dict[str, list]] = {}
        found: dict[str, list] = {}
        for chunk in reader.stream():
            table = chunk.to_record_batch()
            names = [name for name in table.schema.names if name != "rerun.controls.RowId"]
            target = self.static if chunk.is_static else found
            if chunk.is_static:
                target.setdefault(chunk.entity_path, {}).update({name: table[name].to_pylist() for name in names})
            else:
                values = {name: table[name] if ":" in name else table[name].cast("int64") for name in names}
                columns = [column.to_pylist() for column in values.values()]
                rows = zip(*columns, strict=True)
                found.setdefault(chunk.entity_path, []).extend(dict(zip(names, row, strict=True)) for row in rows)
        for path, rows in found.items():
            rows.sort(key=lambda row: row["stamp"])
            self.rows[path] = {name: [row.get(name) for row in rows] for name in rows[0]}
        self.blueprints = reader.blueprints()

    def image(self, path: str, number: int = 0) -> tuple[np.ndarray, dict]:
        """(height, width * channels) values of an image, and its format."""
        (kind,) = {name.partition(":")[0] for name in self.rows[path] if ":" in name}
        (form,) = self.rows[path][f"{kind}:format"][number]
        (data,) = self.rows[path][f"{kind}:buffer"][number]
        dtype = {6: np.uint8, 8: np.uint16}[form["channel_datatype"]]
        return np.array(data, np.uint8).view(dtype).reshape(form["height"], -1), form | {"kind": kind}


@pytest.fixture(scope="module")
def rr():
    return pytest.importorskip("rerun", reason="rerun-sdk is absent")


def test_everything_comes_back(rr, tmp_path):
    out = tmp_path / "drive.rrd"
    counts: list[int] = []
    made = rerun.convert(write_bag(tmp_path / "bag"), out, progress=counts.append)
    assert not made.reasons and set(made.images.values()) == {2} and counts == list(range(1, 19))
    recording = Recording(out)
    images = [path for path in recording.rows if path != "/seg/stats/age_ms"]
    assert sorted(images) == sorted(made.images) and len(images) == 8
    assert len(recording.blueprints) == 1

    for path in ("/seg/label", "/seg/label/compressed", "/camera/ground_truth"):
        values, form = recording.image(path)
        assert form["kind"] == "SegmentationImage" and np.array_equal(values, LABEL)
    values, form = recording.image("/seg/panoptic", 1)
    assert form["kind"] == "SegmentationImage" and np.array_equal(values, IDS)
    assert np.array_equal(recording.image("/camera/image", 1)[0], (PICTURE + 1)[..., ::-1].reshape(2, 9))  # BGR
    assert np.array_equal(recording.image("/seg/overlay")[0], PICTURE[..., ::-1].reshape(2, 9))
    assert np.array_equal(recording.image("/seg/confidence")[0], GREY)
    (blob,) = recording.rows["/other/compressed"]["EncodedImage:blob"][0]
    assert bytes(blob) == png(PICTURE)
    assert recording.rows["/other/compressed"]["EncodedImage:media_type"][0] == ["image/png"]
    assert recording.rows["/seg/stats/age_ms"]["Scalars:scalars"] == [[40.0], [41.0]]
    assert recording.rows["/seg/label"]["stamp"] == [10**18, 10**18 + 1]
    assert recording.rows["/seg/label"]["recorded"] == [START + 10**8, START + 2 * 10**8]


def test_classes_have_their_names_and_colours(rr, tmp_path):
    out = tmp_path / "drive.rrd"
    rerun.convert(write_bag(tmp_path / "bag"), out, ["/seg/label", "/seg/label/compressed", "/camera/ground_truth"])
    recording = Recording(out)
    for path in ("/seg/label", "/seg/label/compressed"):
        ((context,),) = recording.static[path]["AnnotationContext:context"]
        found = {row["class_id"]: row["class_description"]["info"] for row in context}
        assert {i: info["label"] for i, info in found.items()} == {
            **{c.id: c.name for c in CITYSCAPES.classes},
            255: "unlabelled",
        }
        colours = {i: tuple(info["color"].to_bytes(4, "big")) for i, info in found.items()}
        assert colours == {**{c.id: (*c.colour, 255) for c in CITYSCAPES.classes}, 255: (0, 0, 0, 0)}
    assert "/camera/ground_truth" not in recording.static  # without a legend nothing is known of its ids


def test_a_damaged_image_is_named_and_the_exit_status_is_2(rr, tmp_path):
    from click.testing import CliRunner

    bag, out = write_bag(tmp_path / "bag", damaged=True), tmp_path / "drive.rrd"
    done = CliRunner().invoke(m2f, ["rerun", str(bag), "--out", str(out)])
    assert done.exit_code == 2
    assert "/seg/label (1)" in done.output and "left out: /seg/label: " in done.output
    assert np.array_equal(Recording(out).image("/seg/label")[0], LABEL)


def test_images_after_a_damaged_first_one_are_shown(rr, tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        for i in range(4):
            message = image_message(PICTURE, divmod(10**18 + i, 10**9), encoding="rgb8")
            if i in (0, 2):
                message.data = message.data[:2]
            bag.write("/image", IMAGE, message, START + i)
    made = rerun.convert(tmp_path / "bag", tmp_path / "a.rrd")
    assert made.images == {"/image": 2}
    (reason,) = made.reasons
    assert reason.startswith("/image: 2 messages, the first: ")


def test_a_topic_that_cannot_be_shown_is_left_out_and_nothing_at_all_is_an_error(rr, tmp_path):
    with BagWriter(tmp_path / "depth") as bag:
        for topic, encoding in (("/depth", "32SC1"), ("/image", "rgb8")):
            data = PICTURE if encoding == "rgb8" else np.zeros((2, 3), np.int32)
            bag.write(topic, IMAGE, image_message(data, encoding=encoding), START)
    made = rerun.convert(tmp_path / "depth", tmp_path / "a.rrd")
    assert made.images == {"/image": 1}
    (reason,) = made.reasons
    assert reason.startswith("/depth: ") and "32SC1" in reason
    with pytest.raises(SourceError, match="no image can be shown: /depth: "):
        rerun.convert(tmp_path / "depth", tmp_path / "b.rrd", ["/depth"])
    with pytest.raises(SourceError, match="no image topic /nothing; there is /depth"):
        rerun.convert(tmp_path / "depth", tmp_path / "b.rrd", ["/nothing"])
    assert not list(tmp_path.glob("b.rrd*"))


def test_files_of_others_stay(monkeypatch, tmp_path):
    monkeypatch.setattr(rerun, "_rerun", lambda: SimpleNamespace())
    (tmp_path / "there.rrd").write_text("mine")
    with pytest.raises(OutputError, match="is there already"):
        rerun.convert(tmp_path / "bag", tmp_path / "there.rrd")
    with pytest.raises(OutputError, match=r"ends with \.rrd, as in .*name\.rrd"):
        rerun.convert(tmp_path / "bag", tmp_path / "name.mcap")


def test_without_the_library_a_line_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ConfigError, match=r"pip install 'm2f_ros\[rerun\]'"):
        rerun.convert(tmp_path / "bag", tmp_path / "drive.rrd")
