"""evaluation_node as a process over real DDS: recording and report, frames that never came, and bad input."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from m2f_ros import taxonomy
from m2f_ros.bags.reader import Bag
from m2f_ros.frame.raw import image_view
from m2f_ros.metrics import Calibration, Confusion
from m2f_ros.results import MARK, Results
from m2f_ros.sources.sample import START_NS

pytest.importorskip("rclpy", reason="rclpy is absent")
pytest.importorskip("jinja2", reason="the extra 'eval' is not installed")
pytest.importorskip("matplotlib", reason="the extra 'eval' is not installed")
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.subscription import SubscriptionEventCallbacks
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import Header

msg = pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")

TIMEOUT = 240.0  # seconds until what was sent is taken for lost
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
CITYSCAPES = taxonomy.get("cityscapes")


def stamp_of(message) -> int:
    return Time.from_msg(message.header.stamp).nanoseconds


def labels(seed: int, height: int = 6, width: int = 8) -> np.ndarray:
    """Random train ids of Cityscapes, and pixels without one."""
    ids = np.random.default_rng(seed).integers(0, 20, (height, width), np.uint8)
    return np.where(ids == 19, 255, ids).astype(np.uint8)


class Drive:
    """The peer as drive and segmentation node in one; frame `n` has the stamp n ms."""

    def __init__(self, peer, evaluator, prediction=CITYSCAPES, truth="/camera/ground_truth") -> None:
        from m2f_ros.node.legend import legend_of

        self.peer, self.evaluator = peer, evaluator
        create = peer.node.create_publisher
        self.publishers = {
            "label": create(Image, "/seg/label", 50),
            "confidence": create(Image, "/seg/confidence", 50),
            "stats": create(msg.Stats, "/seg/stats", 50),
            "truth": create(Image, truth, 50),
        }
        legends = create(msg.Legend, "/seg/legend", LATCHED), create(msg.Legend, "/camera/ground_truth/legend", LATCHED)
        for name, classes, publisher in zip(("stub", ""), (prediction, CITYSCAPES), legends, strict=True):
            publisher.publish(legend_of(name, classes))
        peer.until(lambda: evaluator.says('"ready"'), "the evaluator has the legend")
        heard = [self.publishers[name] for name in ("label", "stats", "truth")]
        # One that refuses the legends ends at once.
        ended = evaluator.process.poll
        peer.until(
            lambda: ended() is not None or all(p.get_subscription_count() for p in heard), "the evaluator listens"
        )

    def say(self, topic: str, frame: int, ids: np.ndarray) -> None:
        from m2f_ros.node.messages import encode

        self.publishers[topic].publish(encode(ids, "mono8", self.header(frame)))

    def stats(self, frame: int, **fields) -> None:
        self.publishers["stats"].publish(msg.Stats(header=self.header(frame), **fields))

    def end(self) -> int:
        """Take the ground truth away; the evaluator's exit code."""
        for publisher in self.publishers.values():
            if hasattr(publisher, "wait_for_all_acked"):  # not on Humble
                publisher.wait_for_all_acked(Duration(seconds=TIMEOUT))
        self.peer.node.destroy_publisher(self.publishers["truth"])
        process = self.evaluator.process
        self.peer.until(lambda: process.poll() is not None, f"the evaluator ends: {self.evaluator.log.read_text()}")
        return process.returncode

    @staticmethod
    def header(frame: int) -> Header:
        return Header(stamp=Time(nanoseconds=frame * 10**6).to_msg())


@pytest.fixture
def evaluate(start, tmp_path):
    """evaluate(**parameters) -> the process of an evaluator of /seg/label and /camera/ground_truth."""
    from m2f_ros.processes.children import ros_arguments

    def evaluate(remaps: dict[str, str] | None = None, **parameters):
        chosen = {"out": str(tmp_path / "report"), "patience": 0.5, **parameters}
        default = {"~/label": "/seg/label", "~/ground_truth": "/camera/ground_truth", "~/image": "/camera/image"}
        return start("evaluation_node", *ros_arguments(chosen, default | (remaps or {})))

    return evaluate


@pytest.fixture
def drive(peer, evaluate):
    """drive(**parameters) -> Drive, with label, stats and ground truth connected."""
    return lambda **parameters: Drive(peer, evaluate(**parameters))


def result_of(tmp_path) -> dict:
    return json.loads((tmp_path / "report" / "result.json").read_text())


def scored_again(tmp_path) -> dict:
    """The result of `m2f eval` of the recording."""
    bag, out = tmp_path / "report" / "recording", tmp_path / "again"
    command = [sys.executable, "-m", "m2f_ros.cli", "eval", str(bag), "--truth", str(bag), "--out", str(out)]
    subprocess.run([*command, "--allow-missing", "100%"], check=True, capture_output=True)
    return json.loads((out / "result.json").read_text())


def scores(result: dict) -> dict:
    return {key: value for key, value in result.items() if key not in ("predictions", "truth", "settings")}


def recorded(tmp_path) -> dict[str, list[int]]:
    """Header stamps in ms, by topic, in the order of reception."""
    stamps: dict[str, list[int]] = {}
    with Bag(tmp_path / "report" / "recording") as bag:
        assert not bag.problem
        for message in bag.messages():
            stamps.setdefault(message.topic, []).append(message.stamp_ns // 10**6)
    return stamps


@pytest.mark.process
def test_the_report_says_what_was_heard_and_what_never_came(drive, tmp_path):
    playing = drive()
    confusion, calibration = Confusion(19), Calibration(19)
    for n in range(1, 13):
        if n != 5:  # a label without ground truth
            playing.say("truth", n, labels(n))
        if n not in (3, 7, 12):  # frames that never came; of the last nothing says so but the end
            playing.say("label", n, labels(100 + n))
            playing.say("confidence", n, labels(200 + n))
            playing.stats(n, age_ms=float(n), drop_reasons=["newer"], drops=[n // 4])
        if n not in (3, 5, 7, 12):
            confusion.update(labels(n), labels(100 + n))
            calibration.update(labels(n), labels(100 + n), labels(200 + n))
    assert playing.end() == 0, playing.evaluator.log.read_text()
    result = result_of(tmp_path)
    assert result["frames"] == {"truth": 11, "scored": 8, "missing": 3, "without_truth": 1}
    assert result["confusion"] == confusion.matrix.tolist()
    assert result["metrics"]["miou"] == confusion.miou()
    assert result["metrics"]["ece"] == calibration.ece()
    assert (result["latency_ms"]["max"], result["drops"]) == (11.0, {"newer": 2})
    assert (result["predictions"], result["truth"], result["model"]) == ("/seg/label", "/camera/ground_truth", "stub")
    assert (tmp_path / "report" / "report.html").is_file()
    last = playing.evaluator.log.read_text().splitlines()[-1]
    # Frames that never came are no fault of the evaluation.
    assert result["settings"]["problems"] == []
    assert "8 of 11 frames scored, 3 never came" in last and str(tmp_path / "report" / "report.html") in last
    assert scores(result) == scores(scored_again(tmp_path))
    stamps = recorded(tmp_path)
    assert stamps["/seg/label"] == [n for n in range(1, 13) if n not in (3, 7, 12)]
    assert stamps["/camera/ground_truth"] == [n for n in range(1, 13) if n != 5]


@pytest.mark.process
def test_labels_out_of_order_and_late_ones_are_scored(drive, tmp_path):
    playing = drive(measures=[""], pictures=False, patience=TIMEOUT)
    for n in range(1, 7):
        playing.say("truth", n, labels(n))
    for n in (2, 1, 4, 3, 5):
        playing.say("label", n, labels(n))
    playing.peer.until(lambda: playing.evaluator.says('"label", "n": 5'), "the labels were heard")
    playing.peer.until(lambda: playing.evaluator.says('"truth", "n": 6'), "the ground truth was heard")
    playing.peer.node.destroy_publisher(playing.publishers["truth"])
    # The last label is waited for after the drive has ended.
    playing.say("label", 6, labels(6))
    process = playing.evaluator.process
    playing.peer.until(lambda: process.poll() is not None, "the evaluator ends")
    assert process.returncode == 0, playing.evaluator.log.read_text()
    result = result_of(tmp_path)
    assert result["frames"] == {"truth": 6, "scored": 6, "missing": 0, "without_truth": 0}
    assert result["metrics"]["miou"] == 1.0
    assert recorded(tmp_path)["/seg/label"] == [2, 1, 4, 3, 5, 6]


@pytest.mark.process
def test_labels_that_were_lost_on_the_way_are_said(drive, tmp_path):
    playing = drive(measures=[""], pictures=False)
    for n in range(1, 7):
        playing.say("truth", n, labels(n))
        if n not in (3, 5):
            playing.say("label", n, labels(n))
        if n != 5:  # the node had no label for this frame
            playing.stats(n, segmented=n if n < 5 else n - 1)
    assert playing.end() == 2
    line = "1 labels were published and lost on the way to the recording: they count as missing"
    result = result_of(tmp_path)
    assert result["frames"]["missing"] == 2
    # There are no stats of frame 5, since it has no label.
    assert result["settings"]["problems"] == [line]


@pytest.mark.process
def test_frames_that_never_arrived_at_the_node_are_counted(drive, tmp_path):
    playing = drive(measures=[""], pictures=False)
    # The node received frames 1, 2, 4, 6 and 7, before them 40 others, and dropped 4; 8 and 9 have no result.
    for n in range(1, 10):
        playing.say("truth", n, labels(n))
    for n, number in ((1, 41), (2, 42), (6, 44), (7, 45)):
        playing.say("label", n, labels(n))
        playing.peer.until(lambda n=n: playing.evaluator.says('"label"'), "a label was heard")
        playing.stats(n, number=number, received=46, drop_reasons=["newer"], drops=[1])
    assert playing.end() == 0
    result = result_of(tmp_path)
    assert result["frames"] == {"truth": 9, "scored": 4, "missing": 5, "without_truth": 0}
    assert result["never_arrived"] == 2
    (note,) = [note for note in result["notes"] if "never arrived" in note]
    assert note.startswith("2 frames never arrived at the node: /camera/image is sent by nobody; read by nobody; ")
    assert "Fast DDS" in note and f"note: {note}" in playing.evaluator.log.read_text()


@pytest.mark.process
@pytest.mark.parametrize("task", ["/seg: camera", "/seg: other"])
def test_a_single_result_is_enough_where_the_node_had_counted_before(drive, peer, tmp_path, task):
    received = 40

    def count(stamp: int) -> DiagnosticArray:
        values = [KeyValue(key="received", value=str(received))]
        return DiagnosticArray(status=[DiagnosticStatus(name=task, values=values)])

    # Begun before the evaluator, which matches it while it waits for the legends.
    counts = peer.stream(DiagnosticArray, "/diagnostics", count)
    playing = drive(measures=[""], pictures=False)
    sent = counts.sent
    playing.peer.until(lambda: counts.sent > sent + 4, "counts before the drive")
    for n in range(1, 10):
        playing.say("truth", n, labels(n))
    playing.peer.until(lambda: playing.evaluator.says('"truth", "n": 9'), "the ground truth was heard")
    playing.say("label", 3, labels(3))
    playing.peer.until(lambda: playing.evaluator.says('"label"'), "the label was heard")
    playing.stats(3, number=42, received=42)
    playing.peer.until(lambda: playing.evaluator.says('"stats"'), "the stats were heard")
    received, sent = 43, counts.sent
    playing.peer.until(lambda: counts.sent > sent + 4, "counts after the drive")
    assert playing.end() == 0
    assert result_of(tmp_path)["never_arrived"] == (6 if task == "/seg: camera" else None)


@pytest.mark.process
def test_a_frame_may_be_counted_before_its_ground_truth_is_heard(drive, peer, tmp_path):
    received, newest = 40, "none"

    def count(stamp: int) -> DiagnosticArray:
        values = [KeyValue(key="received", value=str(received)), KeyValue(key="newest stamp (ns)", value=newest)]
        return DiagnosticArray(status=[DiagnosticStatus(name="/seg: camera", values=values)])

    counts = peer.stream(DiagnosticArray, "/diagnostics", count)
    playing = drive(measures=[""], pictures=False)
    sent = counts.sent
    playing.peer.until(lambda: counts.sent > sent + 4, "counts before the drive")
    received, newest, sent = 41, str(10**6), counts.sent
    playing.peer.until(lambda: counts.sent > sent + 4, "the first frame is counted")
    for n in range(1, 4):
        playing.say("truth", n, labels(n))
    playing.peer.until(lambda: playing.evaluator.says('"truth", "n": 3'), "the ground truth was heard")
    playing.say("label", 3, labels(3))
    playing.peer.until(lambda: playing.evaluator.says('"label"'), "the label was heard")
    playing.stats(3, number=42, received=42)
    playing.peer.until(lambda: playing.evaluator.says('"stats"'), "the stats were heard")
    received, newest, sent = 42, str(3 * 10**6), counts.sent
    playing.peer.until(lambda: counts.sent > sent + 4, "counts after the drive")
    assert playing.end() == 0
    assert result_of(tmp_path)["never_arrived"] == 1


@pytest.mark.process
@pytest.mark.parametrize("numbers", [(0, 0), (9, 2)])
def test_nothing_is_said_of_arrivals_that_are_unknown(drive, tmp_path, numbers):
    playing = drive(measures=[""], pictures=False)
    for n, number in zip((1, 4), numbers, strict=True):
        playing.say("truth", n, labels(n))
        playing.say("label", n, labels(n))
        playing.peer.until(lambda n=n: playing.evaluator.says('"label"'), "a label was heard")
        playing.stats(n, number=number, segmented=n)
    playing.end()
    assert result_of(tmp_path)["never_arrived"] is None


@pytest.mark.process
def test_images_are_recorded_only_where_they_are_shown(drive, tmp_path):
    playing = drive(measures=[""], pictures=False, keep=False)
    assert playing.peer.node.count_subscribers("/camera/image") == 0
    playing.say("truth", 1, labels(1))
    playing.say("label", 1, labels(1))
    playing.stats(1)
    assert playing.end() == 0
    assert {path.name for path in (tmp_path / "report").iterdir()} == {MARK, "report.html", "report.md", "result.json"}


@pytest.mark.process
def test_ground_truth_without_legend_has_the_classes_of_the_parameter(peer, evaluate, tmp_path):
    evaluator = evaluate({"~/ground_truth": "/other/truth"}, truth_taxonomy="cityscapes", measures=[""])
    playing = Drive(peer, evaluator, truth="/other/truth")
    playing.say("truth", 1, labels(1))
    playing.say("label", 1, labels(1))
    playing.stats(1)
    assert playing.end() == 0, evaluator.log.read_text()
    assert result_of(tmp_path)["metrics"]["miou"] == 1.0


@pytest.mark.process
def test_classes_that_no_predicted_class_goes_into_and_mistyped_parameters_are_said(peer, evaluate, tmp_path):
    (tmp_path / "map.yaml").write_text("classes: {ground: road, rest: [building, sky]}")
    evaluator = evaluate(classes=str(tmp_path / "map.yaml"), patienc=1.0)
    playing = Drive(peer, evaluator, taxonomy.from_names("roads", ["road"]))
    playing.say("truth", 1, np.array([[0, 2]], np.uint8))
    playing.say("label", 1, np.array([[0, 255]], np.uint8))
    assert playing.end() == 0
    said = evaluator.log.read_text()
    assert "no predicted class is mapped to rest, which can only score 0; set classes:=FILE.yaml" in said
    assert "parameters that the node does not have, without effect: 'patienc' (meant: 'patience'?)" in said
    assert result_of(tmp_path)["settings"]["not_comparable"] == ["rest"]


@pytest.mark.process
def test_a_bag_that_loops_is_scored_once(drive, tmp_path):
    playing = drive(measures=[""])
    for n in (1001, 2001, 3001, 1001, 2001):
        playing.say("truth", n, labels(n))
        playing.say("label", n, labels(n))
    # Nobody takes the ground truth away.
    process = playing.evaluator.process
    playing.peer.until(lambda: process.poll() is not None, "the evaluator ends")
    assert process.returncode == 0
    assert result_of(tmp_path)["frames"] == {"truth": 3, "scored": 3, "missing": 0, "without_truth": 0}
    assert recorded(tmp_path)["/camera/ground_truth"] == [1001, 2001, 3001]


@pytest.mark.process
def test_interrupted_it_reports_what_there_was(drive, tmp_path):
    playing = drive(measures=[""], pictures=False)
    for n in range(1, 5):
        playing.say("truth", n, labels(n))
    playing.say("label", 2, labels(2))
    playing.stats(2)
    for heard in ('"truth", "n": 4', '"label", "n": 1', '"stats", "n": 1'):
        playing.peer.until(lambda heard=heard: playing.evaluator.says(heard), f"{heard} was heard")
    assert playing.evaluator.end(signal.SIGINT) == 2, playing.evaluator.log.read_text()
    # A label for 3 or 4 could still have come.
    result = result_of(tmp_path)
    assert result["frames"] == {"truth": 2, "scored": 1, "missing": 1, "without_truth": 0}
    assert result["settings"]["problems"] == ["interrupted before the drive had ended"]
    assert "warning: interrupted before the drive had ended" in playing.evaluator.log.read_text()


@pytest.mark.process
@pytest.mark.parametrize(("truths", "awaited"), [(0, "ground truth"), (1, "label")])
def test_interrupted_before_there_is_anything_to_score(drive, tmp_path, truths, awaited):
    playing = drive(measures=[""], pictures=False)
    for n in range(1, truths + 1):
        playing.say("truth", n, labels(n))
        playing.peer.until(lambda n=n: playing.evaluator.says(f'"truth", "n": {n}'), "ground truth was heard")
    assert playing.evaluator.end(signal.SIGINT) == 2
    _is_one_line(playing.evaluator, [f"interrupted before the first {awaited}: there is no report"])


@pytest.mark.process
def test_classes_that_do_not_exist_are_one_line(drive):
    playing = drive(measures=[""], pictures=False, classes="nope")
    assert playing.evaluator.ends() == 2
    _is_one_line(playing.evaluator, ["unknown taxonomy 'nope'"])


@pytest.mark.process
def test_a_second_signal_ends_the_scoring(drive, tmp_path):
    playing = drive(measures=["boundary"], pictures=False, keep=False)
    for n in range(1, 31):
        playing.say("truth", n, labels(n, 800, 800))
        playing.say("label", n, labels(n, 800, 800))
    playing.stats(1)
    playing.peer.until(lambda: playing.evaluator.says('"label", "n": 30'), "the labels were heard")
    playing.peer.until(lambda: playing.evaluator.says('"truth", "n": 1'), "ground truth was heard")
    playing.evaluator.process.send_signal(signal.SIGINT)
    playing.peer.until(lambda: playing.evaluator.says('"scoring"'), "the evaluator scores")
    assert playing.evaluator.end(signal.SIGINT) == 2
    _is_one_line(playing.evaluator, ["interrupted: there is no report", str(tmp_path / "report" / "recording")])
    assert len(recorded(tmp_path)["/seg/label"]) == 30
    assert not (tmp_path / "report" / "result.json").exists()


@pytest.fixture
def evaluator(ros_env, tmp_path):
    """An evaluator of /label and /truth in this process, which a test spins; it has both legends."""
    import rclpy

    from m2f_ros.node.evaluation_node import EvaluationNode
    from m2f_ros.node.executor import Executor
    from m2f_ros.node.legend import legend_of
    from m2f_ros.node.process import Ending
    from m2f_ros.processes.children import ros_arguments

    remaps = {"~/label": "/label", "~/ground_truth": "/truth"}
    parameters = {"out": str(tmp_path / "report"), "measures": [""], "pictures": False, "patience": TIMEOUT}
    rclpy.init(args=ros_arguments(parameters, remaps), signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    ending, recordings = Ending(), []
    node = EvaluationNode(ending, recordings.append)
    executor = Executor(node)
    takes = {subscription.topic_name: subscription.callback for subscription in node.subscriptions}
    for topic in ("/legend", "/truth/legend"):
        takes[topic](serialize_message(legend_of("stub", CITYSCAPES)))

    def until(happened, what: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not happened():
            assert time.monotonic() < deadline, f"did not happen: {what}"
            executor.spin_once(0.05)

    yield SimpleNamespace(node=node, ending=ending, recordings=recordings, takes=takes, until=until)
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()


@pytest.mark.parametrize("full_from", [3, 1])
def test_a_full_disk_ends_the_recording(monkeypatch, request, tmp_path, capsys, full_from):
    from m2f_ros.bags.writer import BagWriter, DiskFullError
    from m2f_ros.evaluation.live import score
    from m2f_ros.node.messages import encode

    class FullDisk(BagWriter):
        def write(self, topic, msgtype, message, stamp_ns):
            if topic == "/label" and stamp_of(deserialize_message(message, Image)) == full_from * 10**6:
                raise DiskFullError(errno.ENOSPC, "No space left on device")
            super().write(topic, msgtype, message, stamp_ns)

    monkeypatch.setattr("m2f_ros.node.recorder.BagWriter", FullDisk)
    evaluator = request.getfixturevalue("evaluator")
    for n in range(1, 6):
        message = serialize_message(encode(labels(n), "mono8", Drive.header(n)))
        evaluator.takes["/truth"](message)
        evaluator.takes["/label"](message)
    assert evaluator.ending.wait(0)
    evaluator.node.close(1.0)
    if full_from == 1:
        said = capsys.readouterr().err
        assert "the recording ended before there was anything to score: No space left on device" in said
        assert (evaluator.ending.code, evaluator.recordings) == (2, [])
        return
    assert score(*evaluator.recordings[0], say=print) is False
    result = result_of(tmp_path)
    assert result["frames"] == {"truth": 2, "scored": 2, "missing": 0, "without_truth": 0}
    assert result["settings"]["problems"] == ["the recording ended early: No space left on device"]


@pytest.mark.skipif(not hasattr(SubscriptionEventCallbacks(), "matched"), reason="matched events exist from Jazzy on")
def test_a_drive_that_comes_and_goes_between_two_looks_has_ended(evaluator, peer):
    node = evaluator.node
    truth = peer.node.create_publisher(Image, "/truth", 1)
    peer.until(lambda: truth.get_subscription_count() and node.count_publishers("/truth"), "they see each other")
    peer.node.destroy_publisher(truth)
    peer.until(lambda: not node.count_publishers("/truth"), "the evaluator's side sees the end")
    evaluator.until(lambda: evaluator.ending.wait(0), "the evaluator ends")
    node.close(1.0)
    assert evaluator.ending.code == 2 and not evaluator.recordings


def test_messages_that_came_while_the_process_stood_still_are_recorded(evaluator, peer):
    from m2f_ros.node.messages import encode

    node = evaluator.node
    drive = [peer.node.create_publisher(Image, topic, 5) for topic in ("/truth", "/label")]
    peer.until(lambda: all(p.get_subscription_count() and node.count_publishers(p.topic) for p in drive), "connected")

    def play(n: int) -> None:
        for publisher in drive:
            publisher.publish(encode(labels(n), "mono8", Drive.header(n)))
            if hasattr(publisher, "wait_for_all_acked"):  # not on Humble
                publisher.wait_for_all_acked(Duration(seconds=TIMEOUT))

    play(1)
    evaluator.until(lambda: len(node.stamps["label"]) == len(node.stamps["truth"]) == 1, "the first frame")
    play(2)
    play(3)
    peer.node.destroy_publisher(drive[0])
    (look,) = node.timers
    peer.until(lambda: not node.count_publishers("/truth") and look.is_ready(), "the end of the drive is known")
    node.heard -= TIMEOUT  # the process stood still for long
    evaluator.until(lambda: evaluator.ending.wait(0), "the evaluator ends")
    node.close(1.0)
    assert node.complete and list(node.stamps["truth"]) == list(node.stamps["label"]) == [10**6, 2 * 10**6, 3 * 10**6]


@pytest.mark.process
def test_a_measure_of_a_part_of_the_frames_and_few_classes_are_said(drive, tmp_path):
    playing = drive(measures=["calibration"], pictures=False)
    for n in range(1, 12):
        playing.say("truth", n, np.array([[0, 1]], np.uint8))
        playing.say("label", n, np.array([[0, 1]], np.uint8))
        playing.stats(n)
        if n < 3:
            playing.say("confidence", n, np.array([[255, 255]], np.uint8))
    assert playing.end() == 2
    line = "calibration error (ECE) is over 2 of 11 frames: the others have no confidence"
    assert result_of(tmp_path)["settings"]["problems"] == [line]
    said = playing.evaluator.log.read_text()
    assert f"warning: {line}" in said and "note: mean IoU over 2 of 19 classes: road, sidewalk" in said


@pytest.mark.process
@pytest.mark.parametrize(
    ("truths", "predictions", "words", "left"),
    [
        ([(1, labels(1))], [(1, labels(1, 12, 16))], ["8x6", "16x12", "frame 1000000"], {"recording"}),
        ([(1, labels(1))], [(2, labels(1))], ["none of 1 labels", "2000000 and 1000000 ns"], {"recording"}),
        ([(1, labels(1))], [], ["no label came on /seg/label"], set()),
        ([], [(1, labels(1))], ["no ground truth came on /camera/ground_truth", "/seg/label"], set()),
        (
            [(1, np.full((6, 8), 77, np.uint8))],
            [(1, labels(1))],
            ["77", "cityscapes", "/camera/ground_truth"],
            {"recording"},
        ),
    ],
)
def test_what_cannot_be_scored_is_one_line(drive, tmp_path, truths, predictions, words, left):
    playing = drive(measures=[""])
    for n, ids in truths:
        playing.say("truth", n, ids)
    for n, ids in predictions:
        playing.say("label", n, ids)
    assert playing.end() == 2
    _is_one_line(playing.evaluator, words)
    # A recording that could be scored otherwise stays.
    assert {path.name for path in (tmp_path / "report").iterdir()} == {MARK} | left


@pytest.mark.process
@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"timeout": 0.5}, ["no legend came beside /seg/label"]),
        ({"truth_taxonomy": "citiscapes"}, ["citiscapes", "cityscapes, ade20k"]),
        ({"measures": ["boundries"]}, ["'measures'", "boundary, calibration"]),
        ({"patience": -1.0}, ["'patience'", "0.0 to 3600.0"]),
    ],
)
def test_what_cannot_begin_is_one_line(evaluate, parameters, words):
    evaluator = evaluate(**parameters)
    assert evaluator.ends() == 2
    _is_one_line(evaluator, words)


@pytest.mark.process
def test_a_bag_is_refused_for_the_report_at_once(evaluate, tmp_path):
    (tmp_path / "drive").mkdir()
    (tmp_path / "drive" / "metadata.yaml").touch()
    evaluator = evaluate(out=str(tmp_path / "drive"))
    assert evaluator.ends() == 2
    _is_one_line(evaluator, ["is a bag", "another folder"])


@pytest.fixture
def earlier(tmp_path):
    """Names of the files of an earlier report and its recording in the report's folder, beside a file of the user."""
    names = ("result.json", "report.md", "report.html", "recording/metadata.yaml", "recording/recording.mcap")
    with Results(tmp_path / "report", "m2f eval") as results:
        for name in names:
            results.new(name).write_text("earlier")
    (tmp_path / "report" / "notes.txt").write_text("of the user")
    return set(names)


def files(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MARK, "notes.txt"}


@pytest.mark.process
def test_an_earlier_report_is_set_aside_and_outlives_starts_that_fail(evaluate, tmp_path, earlier):
    """It is not taken for the report of the new run: it has another name."""
    for _ in range(2):
        evaluator = evaluate(truth_taxonomy="citiscapes")
        assert evaluator.ends() == 2
        assert files(tmp_path / "report") == {f"previous/{name}" for name in earlier}
    said = evaluate(out=str(tmp_path / "report"), timeout=0.5)
    assert said.ends() == 2
    assert files(tmp_path / "report") == {f"previous/{name}" for name in earlier}
    assert (tmp_path / "report" / "notes.txt").is_file()


@pytest.mark.process
def test_an_earlier_report_goes_when_there_is_a_new_one_and_its_recording_when_the_drive_begins(
    drive, tmp_path, earlier
):
    playing = drive(measures=[""], pictures=False, keep=False)
    aside = {f"previous/{name}" for name in earlier if not name.startswith("recording")}
    there = files(tmp_path / "report")
    assert aside <= there and not any(name.startswith("previous/recording") for name in there)
    assert f"the last report is in {tmp_path / 'report' / 'previous'} until" in playing.evaluator.log.read_text()
    playing.say("truth", 1, labels(1))
    playing.say("label", 1, labels(1))
    assert playing.end() == 0
    assert files(tmp_path / "report") == {"result.json", "report.md", "report.html"}
    assert result_of(tmp_path)["frames"]["scored"] == 1


def _is_one_line(evaluator, words) -> None:
    lines = [line for line in evaluator.log.read_text().splitlines() if not line.startswith('{"event"')]
    assert len(lines) == 1 and all(word in lines[0] for word in words), lines


@pytest.mark.process
def test_the_live_chain_in_simulated_time(start, segment, evaluate, peer, tmp_path):
    """camera_player, segmentation_node and evaluation_node: the report's numbers are those of the labels heard here."""
    from m2f_ros.processes.children import ros_arguments

    truth, got = peer.listen(Image, "/camera/ground_truth"), peer.listen(Image, "/segmentation_node/label")
    stats, clock = peer.listen(msg.Stats, "/segmentation_node/stats"), peer.listen(Clock, "/clock", depth=1000)
    # The player waits for the subscribers of the images, and learns of this one last.
    peer.listen(Image, "/camera/image")
    # Where it finds out the reliability, it subscribes anew when the drive has begun.
    segment(use_sim_time=True, output_depth=10, reliability="reliable", depth=10)
    evaluator = evaluate(
        {"~/label": "/segmentation_node/label"}, use_sim_time=True, measures=["boundary"], patience=TIMEOUT
    )
    peer.until(lambda: evaluator.says('"ready"'), "the segmentation node is active")
    frames = 6
    player = start(
        "camera_player",
        *ros_arguments({"source": "street", "frames": frames, "clock": 50.0, "subscribers": 3}, {"__ns": "/camera"}),
    )
    for process in (player, evaluator):
        peer.until(lambda ends=process.process: ends.poll() is not None, f"{process.log.name} ends")
        assert process.process.returncode == 0, process.log.read_text()
        assert not process.says("incompatible QoS")

    truths, predictions = ({stamp_of(m): image_view(m) for m in messages} for messages in (truth, got))
    assert list(truths) == [START_NS + n * 10**8 for n in range(frames)]
    assert predictions.keys() <= truths.keys()
    confusion = Confusion(19)
    for stamp, label in predictions.items():
        confusion.update(truths[stamp], label)
    result = result_of(tmp_path)
    count = len(predictions)
    assert result["frames"] == {"truth": frames, "scored": count, "missing": frames - count, "without_truth": 0}
    assert result["never_arrived"] == 0
    assert result["confusion"] == confusion.matrix.tolist()

    times = [Time.from_msg(m.clock).nanoseconds for m in clock]
    assert times == sorted(times) and min(times) >= START_NS and times[-1] == START_NS + (frames - 1) * 10**8
    # By the clock on the wall the frames are years old.
    assert all(abs(m.age_ms) <= 1e3 * frames for m in stats)
    assert result["latency_ms"]["max"] == pytest.approx(max(m.age_ms for m in stats), rel=1e-2)
