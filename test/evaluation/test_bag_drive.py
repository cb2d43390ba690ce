"""Drives in bags: exact ground truth of the simulated street, and all that can be wrong with a bag."""

import pickle
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from m2f_ros import taxonomy
from m2f_ros.bags.messages import COMPRESSED_IMAGE, IMAGE, LEGEND, SEGMENTS, STATS, Messages
from m2f_ros.bags.writer import BagWriter, register_type
from m2f_ros.cli import m2f
from m2f_ros.errors import EvaluationError, LabelError, SourceError
from m2f_ros.evaluation.drives import find_drives
from m2f_ros.evaluation.measures import METRICS
from m2f_ros.evaluation.options import Options
from m2f_ros.evaluation.result import Result
from m2f_ros.evaluation.run import evaluate
from m2f_ros.replay.folder import RECORD, Folder, Progress
from m2f_ros.sources.ground_truth import panoptic_truth
from m2f_ros.street import Street

CITYSCAPES = taxonomy.get("cityscapes")
STEP = 100_000_000
FRAMES = 4
LABEL, TRUTH = "/segmentation_node/label", "/camera/ground_truth"


@dataclass
class Out:
    """A bag that is being written."""

    writer: BagWriter
    messages: Messages

    def legend(self, topic, of=CITYSCAPES, model=""):
        self.writer.write(topic, LEGEND, self.messages.legend(of, model), STEP)

    def image(self, topic, stamp, array, encoding="mono8"):
        message = self.messages.image(np.ascontiguousarray(array), encoding, self.messages.header(stamp, "camera"))
        self.writer.write(topic, IMAGE, message, stamp)

    def segments(self, topic, stamp, segments):
        self.writer.write(
            topic, SEGMENTS, self.messages.segments(segments, self.messages.header(stamp, "camera")), stamp
        )

    def stats(self, topic, stamp, age_ms, **drops):
        types = self.writer.types.types
        counts = np.array(list(drops.values()), np.uint64)
        header = self.messages.header(stamp, "camera")
        nothing = np.zeros(0, np.float32)
        total = int(counts.sum())
        message = types[STATS](header, 0, 0, 0, total, 0, list(drops), counts, age_ms, 0.0, [], nothing, nothing)
        self.writer.write(topic, STATS, message, stamp)


@pytest.fixture
def bag(tmp_path):
    """bag(name): an Out; closed at the end, or by `.writer.close()`."""
    made = []

    def write(name):
        writer = BagWriter(tmp_path / name)
        made.append(writer)
        register_type(writer.types, STATS)
        return Out(writer, Messages(writer.types))

    yield write
    for writer in made:
        writer.close()


@pytest.fixture(scope="module")
def street():
    return [Street(seed=3, width=96, height=64).frame(i) for i in range(FRAMES)]


def stamp(i):
    return (i + 1) * STEP


def write_truth(bag, street, name="DRIVE", topic=TRUTH):
    out = bag(name)
    out.legend(f"{topic}/legend")
    for i, shot in enumerate(street):
        out.image("/camera/image", stamp(i), shot.image, "rgb8")
        out.image(topic, stamp(i), shot.label)
        ids, segments = panoptic_truth(shot.label, shot.instance, CITYSCAPES)
        out.image(f"{topic}/panoptic", stamp(i), ids, "mono16")
        out.segments(f"{topic}/segments", stamp(i), segments)
    out.writer.close()
    return out.writer.path


def write_labels(bag, labels, name="RESULT", of=CITYSCAPES, topic=LABEL):
    """labels: by frame; None: none came."""
    out = bag(name)
    out.legend(topic.replace("/label", "/legend"), of, model="street")
    for i, label in enumerate(labels):
        if label is not None:
            out.image(topic, stamp(i), label)
    out.writer.close()
    return out.writer.path


def score(result, drive, **options):
    return evaluate(Options((str(result),), (str(drive),), **options))[0]


def test_a_perfect_prediction_scores_one(bag, street):
    out = bag("RESULT")
    out.legend("/segmentation_node/legend", model="street")
    for i, shot in enumerate(street):
        out.image(LABEL, stamp(i), shot.label)
        out.image("/segmentation_node/confidence", stamp(i), np.full_like(shot.label, 255))
        ids, segments = panoptic_truth(shot.label, shot.instance, CITYSCAPES)
        out.image("/segmentation_node/panoptic", stamp(i), ids, "mono16")
        out.segments("/segmentation_node/segments", stamp(i), segments)
        out.stats("/segmentation_node/stats", stamp(i), 10.0 + i, newer=i)
    out.writer.close()
    result = score(out.writer.path, write_truth(bag, street))
    flips = result.metrics.pop("flips")
    measured = {key: score for key, score in result.metrics.items() if not METRICS[key].seldom}
    assert measured == {key: int(METRICS[key].higher_is_better) for key in measured}
    assert 0 <= flips < 0.2
    assert result.frames == {"truth": FRAMES, "scored": FRAMES, "missing": 0, "without_truth": 0}
    assert (result.model, result.drops) == ("street", {"newer": 3})
    assert result.latency_ms == {"p50": 11, "p90": 13, "p99": 13, "max": 13}
    assert [b["latency_ms"] for b in result.blocks] == [10, 11, 12, 13]


def test_a_shifted_prediction_scores_what_counting_gives(bag, street):
    shifted = [np.roll(shot.label, 3, axis=1) for shot in street]
    result = score(write_labels(bag, shifted), write_truth(bag, street))
    truth, predicted = np.array([shot.label for shot in street]), np.array(shifted)
    ious = {}
    for c in np.unique(truth).tolist():
        ious[c] = np.sum((truth == c) & (predicted == c)) / np.sum((truth == c) | (predicted == c))
    assert {c["id"]: c["iou"] for c in result.classes if c["iou"] is not None} == ious
    assert result.metrics["miou"] == pytest.approx(sum(ious.values()) / len(ious), abs=1e-12)
    assert result.metrics["pixel_accuracy"] == np.mean(truth == predicted)
    assert np.sum(result.confusion) == truth.size
    assert result.drives[0]["miou"] == pytest.approx(result.metrics["miou"], abs=1e-12)
    frame = np.argmin([w["miou"] for w in result.worst])
    assert result.worst[frame]["name"] == str(result.worst[frame]["stamp_ns"])


def test_two_labels_of_one_stamp_are_said(bag, street):
    out = bag("RESULT")
    out.legend("/segmentation_node/legend")
    for i in [0, 1, 1, 2, 3]:
        out.image(LABEL, stamp(i), street[i].label)
    out.writer.close()
    result = score(out.writer.path, write_truth(bag, street))
    assert result.frames["scored"] == FRAMES
    assert result.settings["problems"] == [
        f"{out.writer.path}: 1 images of {LABEL} have the stamp of another and are not scored: "
        "the first of each stamp counts"
    ]


def test_ids_that_are_not_plain_are_said_with_the_option_that_names_them(bag, street):
    out = bag("RESULT")
    out.image(LABEL, stamp(0), np.full((8, 8), 3, np.uint8))
    out.writer.close()
    with pytest.raises(LabelError, match=r"its ids 3 mean is not plain; .* \(--prediction-taxonomy\)$"):
        score(out.writer.path, write_truth(bag, street))


def test_what_never_came_is_missing_and_scores_nothing(bag, street):
    labels = [shot.label for shot in street]
    result = score(write_labels(bag, [labels[0], None, *labels[2:], labels[0]]), write_truth(bag, street))
    assert result.frames == {"truth": FRAMES, "scored": FRAMES - 1, "missing": 1, "without_truth": 1}
    assert result.metrics["miou"] == 1
    assert [b["missing"] for b in result.blocks] == [0, 1, 0, 0]


def test_predictions_merge_into_the_classes_of_the_truth(bag, street):
    camvid = taxonomy.get("camvid")
    to_camvid = taxonomy.merge_table(CITYSCAPES, camvid)
    out = bag("DRIVE")
    out.legend(f"{TRUTH}/legend", camvid)
    for i, shot in enumerate(street):
        out.image(TRUTH, stamp(i), to_camvid[shot.label])
    out.writer.close()
    result = score(write_labels(bag, [shot.label for shot in street]), out.writer.path)
    assert (result.taxonomy["name"], result.metrics["miou"]) == ("camvid", 1)


def test_several_cameras_are_drives_each(bag, street):
    out, truth = bag("RESULT"), bag("DRIVE")
    for camera, label in (("left", street[0].label), ("right", street[1].label)):
        truth.legend(f"/{camera}/ground_truth/legend")
        truth.image(f"/{camera}/ground_truth", STEP, street[0].label)
        out.legend(f"/segmentation_node/{camera}/legend")
        out.image(f"/segmentation_node/{camera}/label", STEP, label)
    out.writer.close(), truth.writer.close()
    result = score(out.writer.path, truth.writer.path)
    assert [d["name"] for d in result.drives] == ["DRIVE/left", "DRIVE/right"]
    assert result.drives[0]["miou"] == 1 > result.drives[1]["miou"]
    one = score(
        out.writer.path, truth.writer.path, topic="/segmentation_node/left/label", truth_topic="/left/ground_truth"
    )
    assert one.metrics["miou"] == 1


def test_a_recorded_node_with_several_cameras_has_one_legend(bag, street):
    out, truth = bag("RESULT"), bag("DRIVE")
    out.legend("/segmentation_node/legend", model="street")
    for camera in ("left", "right"):
        truth.legend(f"/{camera}/ground_truth/legend")
        truth.image(f"/{camera}/ground_truth", STEP, street[0].label)
        out.image(f"/segmentation_node/{camera}/label", STEP, street[0].label)
    out.writer.close(), truth.writer.close()
    result = score(out.writer.path, truth.writer.path)
    assert (result.model, [d["miou"] for d in result.drives]) == ("street", [1, 1])


def test_two_bags_with_topics_of_one_name(bag, street):
    """The labels of one model against those of another."""
    labels = [shot.label for shot in street]
    one, other = write_labels(bag, labels, "ONE"), write_labels(bag, labels[::-1], "OTHER")
    result = score(one, other, truth_topic=LABEL)
    assert result.frames["scored"] == FRAMES
    assert result.metrics["pixel_accuracy"] == np.mean(np.array(labels) == np.array(labels[::-1])) < 1


def test_a_topic_beside_the_labels_that_is_something_else(bag, street):
    out = bag("RESULT")
    out.legend("/segmentation_node/legend")
    for i, shot in enumerate(street):
        out.image(LABEL, stamp(i), shot.label)
        for name in ("stats", "segments"):
            out.image(f"/segmentation_node/{name}", stamp(i), shot.label)
    out.writer.close()
    result = score(out.writer.path, write_truth(bag, street))
    assert (result.metrics["miou"], result.metrics["pq"], result.latency_ms) == (1, None, None)


def test_no_such_topic_lists_those_that_are_there(bag, street):
    drive, result = write_truth(bag, street), write_labels(bag, [street[0].label])
    truths = ", ".join(f"/camera/{name} (4)" for name in ("ground_truth", "ground_truth/panoptic", "image"))
    for options, fault in (
        ({"truth_topic": "/truth"}, f"no image topic /truth; image topics with messages are {truths}; name one with"),
        (
            {"topic": "/label"},
            f"no image topic /label; image topics with messages are {LABEL} (1); name one with --topic",
        ),
    ):
        with pytest.raises(EvaluationError) as caught:
            score(result, drive, **options)
        assert fault in str(caught.value)
    with pytest.raises(EvaluationError, match="DRIVE: no topic of labels"):
        score(drive, drive)


def test_truth_of_another_size(bag, street):
    result = write_labels(bag, [cv2.resize(street[0].label, None, fx=0.5, fy=0.5)])
    with pytest.raises(EvaluationError, match=r"frame 100000000: the ground truth is 96x64 but .* is 48x32"):
        score(result, write_truth(bag, street))


def test_unknown_ids(bag, street):
    label = street[0].label.copy()
    label[0, 0] = 33
    with pytest.raises(LabelError, match="label at stamp 100000000: holds the id 33, which cityscapes has not"):
        score(write_labels(bag, [label]), write_truth(bag, street))


def test_255_is_of_no_class_by_a_legend_and_unknown_without(bag, street, tmp_path):
    label = street[0].label.copy()
    label[0] = 255
    result = write_labels(bag, [label])
    assert score(result, write_truth(bag, street)).confusion[2][19] > 0  # building, as nothing
    (tmp_path / "own.yaml").write_text("classes: [" + ", ".join(f"{{id: {i}, name: c{i}}}" for i in range(19)) + "]")
    out = bag("MASKS")
    for i in range(FRAMES):
        out.image("/mask", stamp(i), label)
    out.writer.close()
    options = {"truth_topic": "/mask", "taxonomy": str(tmp_path / "own.yaml"), "classes": str(tmp_path / "own.yaml")}
    with pytest.raises(LabelError, match=r"^/mask at stamp 100000000: holds the id 255, which own has not; .*ignore:"):
        score(result, out.writer.path, prediction_taxonomy=str(tmp_path / "own.yaml"), **options)


def test_segments_of_an_unknown_class(bag, street):
    out = bag("RESULT")
    out.legend("/segmentation_node/legend")
    for i, shot in enumerate(street):
        out.image(LABEL, stamp(i), shot.label)
        ids, segments = panoptic_truth(shot.label, shot.instance, CITYSCAPES)
        out.image("/segmentation_node/panoptic", stamp(i), ids, "mono16")
        out.segments("/segmentation_node/segments", stamp(i), [s._replace(train_id=19) for s in segments])
    out.writer.close()
    with pytest.raises(LabelError, match="/segments at stamp 100000000: holds the id 19, which cityscapes has not"):
        score(out.writer.path, write_truth(bag, street))


def test_no_matching_stamps(bag, street):
    out = bag("RESULT")
    out.legend("/segmentation_node/legend")
    out.image(LABEL, 7, street[0].label)
    out.writer.close()
    with pytest.raises(EvaluationError) as caught:
        score(out.writer.path, write_truth(bag, street))
    assert "no stamp of /segmentation_node/label" in str(caught.value)
    assert "(1 from 7 to 7 ns)" in str(caught.value) and "(4 from 100000000 to 400000000 ns)" in str(caught.value)


def test_mixed_encodings(bag, street):
    out = bag("RESULT")
    out.legend("/segmentation_node/legend")
    out.image(LABEL, stamp(0), street[0].label)
    out.image(LABEL, stamp(1), street[1].label.astype(np.uint16), "mono16")
    out.writer.close()
    with pytest.raises(EvaluationError, match="mixed encodings, mono8 at first and mono16 at stamp 200000000"):
        score(out.writer.path, write_truth(bag, street))


@pytest.mark.parametrize(
    "first, fault",
    [
        ("rgb8", "mixed encodings: rgb8 at first, but bgr8"),
        ("32FC1", "encoding '32FC1' is not that"),
        ("16UC1", "encoding '16UC1' is not that"),
    ],
)
def test_images_that_cannot_be_read_cost_pictures_and_flips_alone(bag, street, first, fault):
    out = bag("DRIVE")
    out.legend(f"{TRUTH}/legend")
    for i, shot in enumerate(street):
        image = out.messages.image(shot.image, "rgb8", out.messages.header(stamp(i), "camera"))
        image.encoding = "bgr8" if i == 3 else first
        out.writer.write("/camera/image", IMAGE, image, stamp(i))
        out.image(TRUTH, stamp(i), shot.label)
    out.writer.close()
    result = score(write_labels(bag, [shot.label for shot in street]), out.writer.path)
    assert (result.frames["scored"], result.metrics["miou"], result.metrics["flips"]) == (FRAMES, 1, None)
    assert {b["flips"] for b in result.blocks} == {None}
    (line,) = result.settings["without_pictures_and_flips"]
    assert line.startswith(f"{out.writer.path}: /camera/image: {fault}") and result.settings["problems"] == []


def test_a_topic_of_pictures_is_no_topic_of_labels(bag, street):
    drive = write_truth(bag, street)
    with pytest.raises((EvaluationError, SourceError), match="/camera/image"):
        score(write_labels(bag, [street[0].label]), drive, truth_topic="/camera/image", taxonomy="cityscapes")


def test_an_unfinished_bag_is_scored_as_far_as_it_goes(bag, street):
    drive = write_truth(bag, street)
    result = write_labels(bag, [shot.label for shot in street])
    (file,) = result.glob("*.mcap")
    content = file.read_bytes()
    file.write_bytes(content[: content.index(street[2].label.tobytes()[:512])])
    (result / "metadata.yaml").unlink()
    found = score(result, drive)
    assert found.frames == {"truth": FRAMES, "scored": 2, "missing": FRAMES - 2, "without_truth": 0}
    assert found.metrics["miou"] == 1
    cut, missing = found.settings["problems"]
    assert str(result) in cut and missing == "no prediction came for 2 of 4 frames with ground truth"


@pytest.mark.parametrize(
    "finished, images, more, problems",
    [
        (False, FRAMES, {}, ["m2f replay stopped after 2 of 4 images; the same command goes on"]),
        (False, 2, {}, []),  # all but its video is there
        (True, FRAMES, {}, []),
        (True, 2, {"problem": "a.mcap: cut off"}, ["of m2f replay: a.mcap: cut off"]),
        (
            True,
            2,
            {"problem": "a.png: damaged", "bad": {"/camera": 1}},
            ["of m2f replay: 1 of 2 images cannot be read, the first: a.png: damaged"],
        ),
    ],
)
def test_what_a_replay_that_stopped_never_came_to_is_missing(bag, street, finished, images, more, problems):
    drive, result = write_truth(bag, street), write_labels(bag, [shot.label for shot in street[:2]])
    with Folder(result.with_name("FOLDER"), {"images": images}) as folder:
        folder.save(Progress(next=2, finished=finished, **more))
    (result.with_name("FOLDER") / RECORD).rename(result / RECORD)
    found = score(result, drive)
    assert found.frames == {"truth": FRAMES, "scored": 2, "missing": FRAMES - 2, "without_truth": 0}
    missing = "no prediction came for 2 of 4 frames with ground truth"
    assert found.settings["problems"] == [*(f"{result}: {problem}" for problem in problems), missing]


def test_damaged_ground_truth_is_missed(bag, street):
    out = bag("DRIVE")
    out.legend(f"{TRUTH}/legend")
    for i, shot in enumerate(street):
        message = out.messages.image(shot.label, "mono8", out.messages.header(stamp(i), "camera"))
        data = bytes(out.writer.types.serialize_cdr(message, IMAGE))
        out.writer.write(TRUTH, IMAGE, data[: 60 if i == 1 else None], stamp(i))
    out.writer.close()
    found = score(write_labels(bag, [shot.label for shot in street]), out.writer.path)
    assert found.frames == {"truth": FRAMES - 1, "scored": FRAMES - 1, "missing": 0, "without_truth": 1}
    damaged = f"{out.writer.path}: 1 images of {TRUTH} are damaged and not scored"
    assert found.settings["problems"] == [damaged]


def test_frames_without_a_pixel_of_truth_are_said(bag, street):
    blank = np.full_like(street[0].label, 255)
    drive = write_labels(bag, [street[0].label, *[blank] * 3], "DRIVE", topic="/camera/label")
    found = score(write_labels(bag, [shot.label for shot in street]), drive, truth_topic="/camera/label")
    assert (found.frames["scored"], found.settings["problems"]) == (FRAMES, [])
    assert "3 of 4 frames scored have no pixel of a class in the ground truth" in found.notes


def test_measures_of_a_part_of_the_frames_are_said(bag, street):
    out = bag("RESULT")
    out.legend("/segmentation_node/legend")
    for i, shot in enumerate(street):
        out.image(LABEL, stamp(i), shot.label)
        if i < 3:
            out.image("/segmentation_node/confidence", stamp(i), np.full_like(shot.label, 255))
        if i < 2:
            ids, segments = panoptic_truth(shot.label, shot.instance, CITYSCAPES)
            out.image("/segmentation_node/panoptic", stamp(i), ids, "mono16")
            out.segments("/segmentation_node/segments", stamp(i), segments)
        if i < 1:
            out.stats("/segmentation_node/stats", stamp(i), 10.0)
    out.writer.close()
    found = score(out.writer.path, write_truth(bag, street))
    assert found.measured == {"ece": 3, "iiou": 4, "latency_p50": 1, "miou": 4, "pq": 2}
    assert found.settings["problems"] == [
        "calibration error (ECE) is over 3 of 4 frames: the others have no confidence",
        "panoptic quality (PQ) is over 2 of 4 frames: the others have no segments on both sides",
        "latency, median is over 1 of 4 frames: the others have no stats",
    ]


def test_what_was_cut_off_ends_with_status_2_and_a_whole_report(bag, street, tmp_path):
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    drive, result = write_truth(bag, street), write_labels(bag, [shot.label for shot in street])
    arguments = ["eval", str(result), "--truth", str(drive), "--out", str(tmp_path / "REPORT")]
    assert CliRunner().invoke(m2f, arguments).exit_code == 0
    (result / "metadata.yaml").unlink()
    (file,) = result.glob("*.mcap")
    content = file.read_bytes()
    file.write_bytes(content[: content.index(street[2].label.tobytes()[:512])])
    done = CliRunner().invoke(m2f, arguments)
    assert (done.exit_code, Result.load(tmp_path / "REPORT").frames["missing"]) == (2, FRAMES - 2)
    assert f"m2f: scored as far as it goes: {result}" in done.stderr
    assert "mean IoU" in done.stdout and (tmp_path / "REPORT" / "report.html").is_file()


def test_labels_in_compressed_messages_are_refused(bag, street):
    out = bag("RESULT")
    out.legend("/segmentation_node/legend")
    message = out.messages.compressed(street[0].label, "mono8", out.messages.header(STEP, "camera"), "png")
    out.writer.write(f"{LABEL}/compressed", COMPRESSED_IMAGE, message, STEP)
    out.writer.close()
    with pytest.raises(EvaluationError, match=f"{LABEL}/compressed: not a topic of label images"):
        score(out.writer.path, write_truth(bag, street), topic=f"{LABEL}/compressed")


def test_a_bag_and_a_folder_do_not_go_together(bag, street, tmp_path):
    drive = write_truth(bag, street)
    with pytest.raises(EvaluationError, match=r"DRIVE is a bag but .* is none: .* `m2f bag` makes a bag of a folder"):
        (tmp_path / "labels").mkdir()
        score(tmp_path / "labels", drive)
    with pytest.raises(EvaluationError, match=r"^--images is for folders; .*DRIVE is a bag"):
        score(write_labels(bag, [street[0].label]), drive, images=str(tmp_path))


def test_a_drive_can_be_sent_to_a_worker(bag, street):
    (drive,) = find_drives(Options((str(write_labels(bag, [street[0].label])),), (str(write_truth(bag, street)),)))
    assert pickle.loads(pickle.dumps(drive)) == drive


def test_each_bag_is_opened_once(bag, street, opened_bags):
    labels, truth = write_labels(bag, [shot.label for shot in street]), write_truth(bag, street)
    assert score(labels, truth).frames["scored"] == FRAMES
    assert opened_bags == [labels, truth]
