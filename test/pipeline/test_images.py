"""Single images: every form of input, and the form of transformers' results."""

from __future__ import annotations

import base64
import http.server
import io
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import m2f_ros
from m2f_ros.errors import ConfigError, SourceError
from m2f_ros.pipeline import Frame
from m2f_ros.pipeline.images import ImageSegmenter, frame_of

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
import adapted
from stub import LABELS, frame, on_cpu

PICTURE = frame(1).data


@pytest.fixture
def segmenter():
    return ImageSegmenter(on_cpu())


@pytest.fixture(scope="module")
def content() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, "PNG")
    return file.getvalue()


def masks(found):
    return {one["label"]: np.asarray(one["mask"]) for one in found}


def test_semantic(segmenter):
    found = segmenter(PICTURE, subtask="semantic")
    label = on_cpu().segment(frame(1), {"label"}).label
    assert [one["label"] for one in found] == list(LABELS)
    for number, one in enumerate(found):
        assert one["score"] is None
        assert (one["mask"].mode, one["mask"].size) == ("L", (64, 32))
        np.testing.assert_array_equal(np.asarray(one["mask"]), np.where(label == number, 255, 0))


def test_panoptic_has_scores_and_the_thresholds_hold(segmenter):
    found = segmenter(PICTURE)
    assert [one["label"] for one in found] == list(LABELS)
    assert all(0.99 < one["score"] < 1 for one in found)
    assert segmenter(PICTURE, threshold=0.9999) == []
    whole, half, few = (
        sum(
            (mask > 0).sum()
            for mask in masks(segmenter(PICTURE, mask_threshold=least, overlap_mask_area_threshold=0.0)).values()
        )
        for least in (0.0, 0.5, 0.8)
    )
    assert 32 * 64 == whole > half > few > 0


def test_instance_is_the_things_among_the_segments(small_model):
    segmenter = m2f_ros.pipeline("image-segmentation", model=str(small_model), device="cpu", backend="eager")
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    things = {one.name for one in segmenter.pipeline.taxonomy.classes if one.thing}
    every = segmenter(image, threshold=0.0, overlap_mask_area_threshold=0.0)
    some = segmenter(image, subtask="instance", threshold=0.0, overlap_mask_area_threshold=0.0)
    assert {one["label"] for one in every} - things and some
    assert [one["label"] for one in some] == [one["label"] for one in every if one["label"] in things]


@pytest.mark.parametrize(
    "form",
    [
        "pil",
        "path",
        "text",
        "bytes",
        "file",
        "bytearray",
        "memoryview",
        "base64",
        "data URL",
        "row",
        "row with path",
        "list",
    ],
)
def test_forms_of_an_image(form, segmenter, content, tmp_path):
    (tmp_path / "a picture.png").write_bytes(content)
    forms = {
        "pil": Image.fromarray(PICTURE).convert("RGBA"),
        "path": tmp_path / "a picture.png",
        "text": str(tmp_path / "a picture.png"),
        "bytes": content,
        "file": io.BytesIO(content),
        "bytearray": bytearray(content),
        "memoryview": memoryview(content),
        "base64": base64.b64encode(content).decode(),
        "data URL": f"data:image/png;base64,{base64.b64encode(content).decode()}",
        "row": {"bytes": content, "path": None},
        "row with path": {"bytes": None, "path": str(tmp_path / "a picture.png")},
        "list": [PICTURE, tmp_path / "a picture.png"],
    }
    expected = masks(segmenter(PICTURE))
    found = segmenter(forms[form])
    for one in found if form == "list" else [found]:
        assert masks(one).keys() == expected.keys()
        for label, mask in masks(one).items():
            np.testing.assert_array_equal(mask, expected[label])
    assert not isinstance(found, dict) and len(found) == (2 if form == "list" else 3)


def test_a_picture_that_exif_turns():
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x112] = 6  # a quarter turn
    Image.fromarray(PICTURE).save(file, "PNG", exif=exif)
    turned = np.rot90(PICTURE, -1)
    np.testing.assert_array_equal(frame_of(file.getvalue()).data[..., ::-1], turned)
    np.testing.assert_array_equal(frame_of(Image.open(io.BytesIO(file.getvalue()))).data, turned)


def test_a_pillow_image_of_16_bits_is_that_of_its_file():
    file = io.BytesIO()
    values = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    Image.fromarray(values).save(file, "PNG")
    of_file, of_pillow = frame_of(file.getvalue()), frame_of(Image.open(io.BytesIO(file.getvalue())))
    for found in (of_file, of_pillow, frame_of(Image.fromarray(values.astype(np.int32)))):
        assert (found.encoding, found.bits) == ("mono16", of_file.bits)
        np.testing.assert_array_equal(found.data, values)
    with pytest.raises(SourceError, match="mode I has values beyond 16 bits"):
        frame_of(Image.fromarray(values.astype(np.int32) - 1))
    assert frame_of(Image.fromarray(np.full((2, 3), 200, np.int32))).encoding == "rgb8"


def test_a_pillow_image_that_is_cut_off(content):
    with pytest.raises(SourceError, match=r"^an image of Pillow cannot be read: "):
        frame_of(Image.open(io.BytesIO(content[: len(content) // 2])))


def test_a_url(segmenter, content):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/picture.png" else 404)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert masks(segmenter(f"{url}/picture.png", timeout=60)).keys() == set(LABELS)
        with pytest.raises(SourceError, match=f"^{url}/absent.png: it cannot be fetched: .*404"):
            segmenter(f"{url}/absent.png")
        server.shutdown()


def test_more_images_than_slots_come_in_order():
    pictures = [frame(seed, 32, 64 + 32 * (seed % 2)).data for seed in range(5)]
    for slots in (1, 2):
        segmenter = ImageSegmenter(on_cpu(slots=slots))
        for picture, found in zip(pictures, segmenter(iter(pictures), subtask="semantic"), strict=True):
            label = on_cpu().segment(Frame(picture, "rgb8"), {"label"}).label
            np.testing.assert_array_equal(masks(found)["b"] > 0, label == 1)


def test_a_bad_image_among_good_ones_leaves_the_segmenter_usable(segmenter):
    for _ in range(3):
        with pytest.raises(SourceError, match=r"^an array"):
            segmenter([PICTURE, PICTURE, PICTURE[..., 0]])
    assert len(segmenter(PICTURE)) == 3


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"hello", "^an image in memory: it is none of png"),
        (Path("/no/such.png"), r"^/no/such.png: it cannot be read: No such file"),
        ("no_such.png", r"^no_such.png: it cannot be read: No such file"),
        ("data:image/png;base64,§", "^the image is no base64"),
        ({"bytes": None, "path": None}, "neither bytes nor path"),
        (PICTURE.astype(float), "of float64 is no image; give uint8"),
        (7, "not iterable"),
        ([7], "^int is no image"),
    ],
)
def test_no_image(image, message, segmenter):
    with pytest.raises((SourceError, TypeError), match=message):
        segmenter(image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subtask": "depth"}, "there is no subtask 'depth'; take panoptic, instance, semantic"),
        ({"threshold": 1.5}, "threshold is 1.5; it must be a number from 0 to 1"),
        ({"mask_threshold": float("nan")}, "mask_threshold is nan"),
        ({"overlap_mask_area_threshold": "a"}, "overlap_mask_area_threshold is 'a'"),
    ],
)
def test_parameters_out_of_range(options, message, segmenter):
    with pytest.raises(ConfigError, match=message):
        segmenter(PICTURE, **options)


def test_names_of_task_and_settings():
    with pytest.raises(ConfigError, match="there is no task 'depth-estimation'; the only one is 'image-segmentation'"):
        m2f_ros.pipeline("depth-estimation")
    with pytest.raises(ConfigError, match="there is no setting 'devise'; take some of model, taxonomy, device"):
        m2f_ros.pipeline("image-segmentation", model="street", devise="cpu")


@pytest.mark.parametrize("name", ["segformer", "upernet, convnext"])
def test_masks_equal_transformers(name, tmp_path):
    """The processor does not resize the image."""
    transformers = pytest.importorskip("transformers")
    adapted.write(name, tmp_path)
    image = Image.fromarray(adapted.picture(64, 96))
    theirs = transformers.pipeline("image-segmentation", model=str(tmp_path), device="cpu")(image)
    ours = m2f_ros.pipeline("image-segmentation", model=str(tmp_path), device="cpu", backend="eager")(image)
    assert [one.keys() for one in ours] == [one.keys() for one in theirs]
    assert [(one["label"], one["score"]) for one in ours] == [(one["label"], one["score"]) for one in theirs]
    assert len(ours) > 1
    for own, other in zip(ours, theirs, strict=True):
        assert own["mask"].mode == other["mask"].mode
        different = np.asarray(own["mask"]) != np.asarray(other["mask"])
        assert different.mean() < 1e-3  # two classes may score the same but for rounding


def test_detections_of_supervision(segmenter, monkeypatch):
    """A stand-in with the signature of supervision.Detections 0.26, which the tests do not install."""

    class Detections:
        def __init__(self, xyxy, mask=None, confidence=None, class_id=None, data=None):
            self.xyxy, self.mask, self.confidence, self.class_id, self.data = xyxy, mask, confidence, class_id, data

        @classmethod
        def empty(cls):
            return cls(np.empty((0, 4)))

    def mask_to_xyxy(all_of_them):
        places = [np.nonzero(mask) for mask in all_of_them]
        return np.array([[x.min(), y.min(), x.max(), y.max()] for y, x in places])

    module = types.SimpleNamespace(Detections=Detections, mask_to_xyxy=mask_to_xyxy)
    monkeypatch.setitem(sys.modules, "supervision", module)
    found = segmenter.detections(PICTURE)
    assert found.mask.dtype == bool and found.mask.shape == (3, 32, 64)
    assert found.class_id.tolist() == [0, 1, 2] and found.data["class_name"].tolist() == list(LABELS)
    assert len(segmenter.detections(PICTURE, threshold=1.0).xyxy) == 0
    assert segmenter.detections(PICTURE, subtask="semantic").confidence is None


def test_a_model_of_instances(tmp_path):
    adapted.write("rf_detr", tmp_path)
    segmenter = m2f_ros.pipeline("image-segmentation", model=str(tmp_path), device="cpu", backend="eager")
    image = adapted.picture(64, 64)
    assert segmenter.subtasks == ("instance", "semantic")
    found = segmenter(image, threshold=0.0)
    assert found and [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)
    assert segmenter(image, threshold=1.0) == [] and all(
        one["score"] is None for one in segmenter(image, subtask="semantic")
    )
    with pytest.raises(ConfigError, match="the model finds instances alone: take subtask instance or semantic"):
        segmenter(image, subtask="panoptic")
    with pytest.raises(ConfigError, match=r"^mask_threshold is 0.4; this model's masks end at 0.5"):
        segmenter(image, mask_threshold=0.4)


def test_a_generator_may_use_the_segmenter_itself(segmenter):
    def pictures():
        for _ in range(2):
            assert len(segmenter(PICTURE)) == 3
            yield PICTURE

    assert [len(found) for found in segmenter(pictures())] == [3, 3]
    left = segmenter.segment([frame_of(PICTURE)] * 2)
    next(left)
    assert len(segmenter(PICTURE)) == 3
