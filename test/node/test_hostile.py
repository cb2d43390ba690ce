"""A stranger calls services and sends messages of any kind: the node answers in few words, and goes on."""

from __future__ import annotations

import itertools
import math
import struct
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="rclpy is absent")
pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState, GetAvailableStates, GetAvailableTransitions
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    GetParameterTypes,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from m2f_ros.node.answers import REASONS, keep_answering

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
sys.path.insert(0, str(Path(__file__).parent))
from in_process import NAME, message, running
from stub import on_cpu

SHORT = 301  # characters
LONG = "x" * 100_000


@pytest.fixture
def peer(lasting_peer):
    return lasting_peer


@pytest.fixture(scope="module")
def active(ros_env, lasting_peer):
    """The node, active, with a camera whose labels come."""
    peer = lasting_peer
    with running(peer, on_cpu, "autostart:=false", "model:=good", "diagnostics_period:=0.1") as node:
        assert node.change("configure") and node.change("activate")
        peer.stream(Image, f"{NAME}/image", message)
        node.labels = peer.listen(Image, f"{NAME}/label")
        node.diagnostics = peer.listen(DiagnosticArray, "/diagnostics")
        yield node


@pytest.fixture
def node(active):
    """The same, without failures; it is to be active after the test, too."""
    flows(active)
    active.executor.failures, active.executor.last_failure = 0, ""
    yield active
    flows(active)
    assert active.state() == "active" and not active.ending.wait(0)


def flows(node) -> None:
    count = len(node.labels)
    node.peer.until(lambda: len(node.labels) > count + 1, f"labels: {node.executor.last_failure}")


def value(kind: int, **fields) -> ParameterValue:
    return ParameterValue(type=kind, **fields)


VALUES = [
    *(value(kind) for kind in (0, 10, 11, 127, 255)),
    value(3, double_value=math.nan),
    value(3, double_value=math.inf),
    value(2, integer_value=-(1 << 63)),
    value(4, string_value=LONG),
    value(4, string_value="a\n\x1b[31m" * 1000),
    value(5, byte_array_value=[b"\xff"] * 5_000),
    value(6, bool_array_value=[True] * 5_000),
    value(7, integer_array_value=list(range(5_000))),
    value(8, double_array_value=[math.nan] * 5_000),
    value(9, string_array_value=["x"] * 5_000),
    value(9, string_array_value=[LONG]),
]
NAMES = ["alpha", "hidden", "model", "use_sim_time", "slots", "no such", "", LONG, "ÿ\n", "qos_overrides./x.depth"]


def test_every_value_is_set_or_refused_in_few_words(node, peer):
    parameters = [Parameter(name=name, value=v) for name, v in itertools.product(NAMES, VALUES)]
    parameters = [p for p in parameters if len(p.name) < 1000 or p.value.type in (0, 255)]
    good = Parameter(name="alpha", value=value(3))
    request = SetParameters.Request(parameters=[*parameters, good])
    *wrong, right = peer.call(SetParameters, f"{NAME}/set_parameters", request).results
    assert right.successful and len(wrong) == len(parameters)
    for parameter, result in zip(parameters, wrong, strict=True):
        assert not result.successful and len(result.reason) < SHORT, (parameter.name[:20], parameter.value.type)
    assert all(result.reason for result in wrong[:REASONS])
    for parameter in parameters[:: len(VALUES) // 2 + 1]:
        request = SetParametersAtomically.Request(parameters=[good, parameter])
        result = peer.call(SetParametersAtomically, f"{NAME}/set_parameters_atomically", request).result
        assert not result.successful and 0 < len(result.reason) < SHORT
    assert not node.executor.failures, node.executor.last_failure


@pytest.mark.parametrize("count", [900, 3_000])
def test_many_unknown_parameters_have_short_answers(node, peer, count):
    parameters = [Parameter(name=f"no_such_{n}", value=value(255 if n % 2 else 2)) for n in range(count)]
    request = SetParameters.Request(parameters=parameters)
    results = peer.call(SetParameters, f"{NAME}/set_parameters", request).results
    assert len(results) == count and results[0].reason and not any(r.successful for r in results)
    assert sum(len(r.reason) for r in results) < 100 * SHORT
    request = SetParametersAtomically.Request(parameters=parameters)
    result = peer.call(SetParametersAtomically, f"{NAME}/set_parameters_atomically", request).result
    assert not result.successful and 0 < len(result.reason) < SHORT

    names = ["resize"] * count
    for kind, service in (
        (DescribeParameters, "describe_parameters"),
        (GetParameters, "get_parameters"),
        (GetParameterTypes, "get_parameter_types"),
    ):
        answers = [
            peer.call(kind, f"{NAME}/{service}", kind.Request(names=asked))
            for asked in (["resize"], names, ["no such"], [LONG, "resize"])
        ]
        sizes = [len(serialize_message(answer)) for answer in answers]
        assert sizes[0] > sizes[2] == sizes[3] and sizes[1] < 1 << 20, (service, sizes)
    for request in (
        ListParameters.Request(prefixes=["a"] * count, depth=1 << 63),
        ListParameters.Request(prefixes=[LONG]),
        ListParameters.Request(depth=(1 << 64) - 1),
    ):
        assert len(peer.call(ListParameters, f"{NAME}/list_parameters", request).result.names) < 200
    assert not node.executor.failures, node.executor.last_failure


def test_transitions_that_there_are_not_are_refused_in_every_state(node, peer, capfd):
    def ask(label="", number=0, wait=True):
        request = ChangeState.Request()
        request.transition.label, request.transition.id = label, number
        return peer.call(ChangeState, f"{NAME}/change_state", request, wait)

    wrong = [("", 0), ("", 255), ("", 77), (LONG, 0), ("\x1b", 1), ("transition_success", 0), ("create", 0)]
    for step in ("deactivate", "cleanup", "configure", "activate"):
        before = node.state()
        assert not any(ask(*which).success for which in wrong)
        assert node.state() == before
        assert ask(step).success
    many = [ask("configure", wait=False) for _ in range(8)]
    peer.until(lambda: all(future.done() for future in many), "all are answered")
    assert not any(future.result().success for future in many)
    for kind, service in (
        (GetAvailableStates, "get_available_states"),
        (GetAvailableTransitions, "get_available_transitions"),
        (GetAvailableTransitions, "get_transition_graph"),
    ):
        assert len(serialize_message(peer.call(kind, f"{NAME}/{service}", kind.Request()))) < 10_000
    assert not node.executor.failures, node.executor.last_failure
    lines = [line for line in capfd.readouterr().err.splitlines() if "transition" in line]
    assert 0 < len(lines) < 8 and all(len(line) < 1000 for line in lines), lines


def test_types_that_there_are_not(node, peer):
    kind = pytest.importorskip("type_description_interfaces.srv").GetTypeDescription
    for name, digest in ((LONG, ""), ("sensor_msgs/msg/Image", "RIHS01_00"), ("", LONG), ("ÿ", "\n")):
        request = kind.Request(type_name=name, type_hash=digest)
        answer = peer.call(kind, f"{NAME}/get_type_description", request)
        assert not answer.successful and len(answer.failure_reason) < SHORT
    assert not node.executor.failures, node.executor.last_failure


def deep(n=0):
    return deep(n + 1)


# Made for each time: an error that is kept keeps, by its traceback, the node.
ERRORS = [
    lambda: ValueError("a\n" + LONG),
    MemoryError,
    lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
    deep,
]


def test_a_callback_that_fails_is_said_counted_and_no_end(node, peer, capfd):
    raised = itertools.cycle(ERRORS)
    failed: set[str] = set()

    def failing(kind: str):
        def fail(*_):
            failed.add(kind)
            raise next(raised)()

        return fail

    def create():
        n = node.node
        n.create_subscription(Image, "/fails", failing("subscription"), 10)
        n.create_service(ChangeState, "~/fails", failing("service"))
        return n.create_timer(0.01, failing("timer")), n.create_guard_condition(failing("guard"))

    timer, guard = node.executor.call(create)
    fails = peer.stream(Image, "/fails", message)
    guard.trigger()
    with pytest.raises(ZeroDivisionError):
        node.executor.call(lambda: 1 // 0)
    node.executor.create_task(failing("task"))
    for _ in ERRORS:
        peer.call(ChangeState, f"{NAME}/fails", ChangeState.Request(), wait=False)
    flows(node)
    kinds = {"timer", "subscription", "service", "guard", "task"}
    peer.until(lambda: node.executor.failures > 50 and failed == kinds, f"failures: {failed}")
    failures = node.executor.failures
    count = len(node.diagnostics)
    peer.until(lambda: len(node.diagnostics) > count + 1, "diagnostics")
    (device,) = [s for s in node.diagnostics[-1].status if s.name.endswith(": device")]
    values = {pair.key: pair.value for pair in device.values}
    assert int(values["failed callbacks"]) >= failures and "failed: " in values["last failure"]
    assert device.level == device.WARN and len(device.message) <= 500
    node.executor.call(lambda: node.node.destroy_timer(timer))
    fails.end()
    lines = [line for line in capfd.readouterr().err.splitlines() if "the node goes on" in line]
    assert all(any(what in line for line in lines) for what in ("timer ", "/fails", "guardcondition", "task"))
    assert len(lines) < 20 and all(len(line) < 1000 for line in lines), lines


def test_a_service_whose_callback_fails_answers(node, peer):
    def fail(request, response):
        raise MemoryError

    failed = []

    def create():
        node.node.create_service(ChangeState, "~/fails_too", fail)
        keep_answering(node.node, lambda service, error: failed.append((service.srv_name, error)))

    node.executor.call(create)
    assert not peer.call(ChangeState, f"{NAME}/fails_too", ChangeState.Request()).success
    assert [type(error) for _, error in failed] == [MemoryError]


def test_messages_that_cannot_be_taken_leave_the_topic_heard(node, peer):
    """An entity whose handle raises stands for what a middleware may raise."""
    (images,) = [s for s in node.node.subscriptions if s.topic_name == f"{NAME}/image"]
    good = node.executor._take_subscription
    left = iter(range(20))

    def bad(entity):
        if entity is images and next(left, None) is not None:
            raise RuntimeError("cannot be taken")
        return good(entity)

    node.executor._take_subscription = bad
    peer.until(lambda: node.executor.failures >= 20, "it was tried")
    flows(node)
    assert node.executor.failures and "cannot be taken" in node.executor.last_failure


def raw(frame=b"f\0", encoding=b"mono8\0", size=4, length=None) -> bytes:
    """A serialised Image, 2 x 2, whose parts may be wrong."""
    body = struct.pack("<iII", 1, 2, len(frame) if length is None else length) + frame
    body += b"\0" * (-len(body) % 4) + struct.pack("<III", 2, 2, len(encoding)) + encoding + b"\0"
    body += b"\0" * (-len(body) % 4) + struct.pack("<II", 2, size) + b"abcd"
    return b"\0\1\0\0" + body


WHOLE = {
    "image": serialize_message(message(1)),
    "camera_info": serialize_message(CameraInfo(d=[0.0] * 5)),
    "image/compressed": serialize_message(CompressedImage(format="jpeg", data=bytes(range(100)))),
}
RAW = [
    raw(frame=b"\xff\xfe\x80\0"),
    raw(frame=b"a\0b\0"),
    raw(frame=b"abc"),
    raw(frame=b""),
    raw(frame=b"\n" * 5_000 + b"\0"),
    raw(length=0xFFFFFFFF),
    raw(length=0x7FFFFFFF),
    raw(encoding=b"\xff\xff\0"),
    raw(encoding=b"x" * 5_000 + b"\0"),
    raw(size=0xFFFFFFFF),
    raw(size=0x80000000),
    raw(size=0),
    b"",
    b"\0",
    b"\xff\xff\0\0" + bytes(40),
    b"\0\3\0\0" + bytes(40),
    b"\0\7\0\0" + bytes(40),
    b"\0\0\0\0" + bytes(400),
    # Fast CDR 2 reads beyond these, and the process is gone.
    *(bytes((0, 1, 0, padding)) for padding in (1, 2, 3)),
]


def bad(node) -> int:
    """The number of bad frames, by the newest diagnostics that have one."""
    values = (pair for m in reversed(node.diagnostics) for s in m.status for pair in s.values if pair.key == "bad")
    return int(next(values).value) if node.diagnostics else 0


def send_all(node, kind: type, name: str, messages: list[bytes]) -> None:
    """Send them one after the other, and all again once a bad frame has been counted."""
    before, following = bad(node), itertools.cycle(messages)
    stream = node.peer.stream(kind, f"{NAME}/{name}", lambda stamp: next(following), rate=100.0)
    # Each end of a connection learns of the other by itself, and what is sent before both know is lost.
    if name == "image":
        node.peer.until(lambda: bad(node) > before, "bad frames")
    count = stream.sent + len(messages)
    node.peer.until(lambda: stream.sent >= count, f"all to {name}")
    stream.end()


def test_bytes_that_are_no_messages(node, peer, capfd):
    for name, kind in (("image", Image), ("camera_info", CameraInfo)):
        whole = WHOLE[name]
        cut = [whole[:size] for size in (4, 8, 12, 13, 20, 40, 48, len(whole) - 1)]
        send_all(node, kind, name, [*RAW, *cut, whole + bytes(1000)])
        flows(node)
    assert node.executor.failures == 0
    texts = [s.message for m in node.diagnostics for s in m.status]
    texts += [pair.value for m in node.diagnostics for s in m.status for pair in s.values]
    assert max(map(len, texts)) <= 500
    log = capfd.readouterr().err
    assert "error_handling" not in log and max(map(len, log.splitlines())) < 1000


@pytest.mark.heavy
def test_a_camera_that_changes_with_every_message_is_a_few_lines(node, peer, capfd):
    sent = itertools.count()

    def changing(stamp: int) -> Image:
        n = next(sent)
        image = message((stamp + (n % 5 - 2) * 10**10, 0, 1 << 30, stamp)[n % 4])
        image.header.frame_id = f"{n}" * 100
        image.encoding = ("bgr8", f"no\ncode{'abcdefgh'[n % 8] * n}", "16UC1", f"8UC{n}")[n % 4]
        image.height, image.step = (image.height, image.step) if n % 3 else (n, n)
        return image

    camera = peer.stream(Image, f"{NAME}/image", changing, rate=100.0)
    peer.until(lambda: camera.sent > 300, "many of them")
    camera.end()
    lines = [line for line in capfd.readouterr().err.splitlines() if line]
    assert 1 <= len(lines) < 30 and max(map(len, lines)) < 1000, "\n".join(lines)
