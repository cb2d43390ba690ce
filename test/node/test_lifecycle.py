"""segmentation_node as a managed node: its transitions, and parameters that change while it runs."""

from __future__ import annotations

import signal
import sys
import threading
from array import array
from pathlib import Path

import numpy as np
import pytest
import yaml

from m2f_ros import taxonomy
from m2f_ros.frame.raw import image_view
from m2f_ros.node.parameters import CAMERA, NODE

pytest.importorskip("rclpy", reason="rclpy is absent")
from builtin_interfaces.msg import Time
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from rclpy.parameter import get_parameter_value, parameter_value_to_python
from sensor_msgs.msg import Image
from std_msgs.msg import Header

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
sys.path.insert(0, str(Path(__file__).parent))
from in_process import running
from stub import on_cpu

pytestmark = pytest.mark.process

msg = pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")

TIMEOUT = 240.0  # seconds
NAME = "/segmentation_node"
PICTURE = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8).repeat(14, 0).repeat(14, 1)


def message(stamp: int) -> Image:
    return Image(
        header=Header(stamp=Time(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id="camera"),
        height=PICTURE.shape[0],
        width=PICTURE.shape[1],
        encoding="bgr8",
        step=PICTURE.shape[1] * 3,
        data=array("B", PICTURE.tobytes()),
    )


def state(peer) -> str:
    return peer.call(GetState, f"{NAME}/get_state", GetState.Request()).current_state.label


def change(peer, label: str, wait: bool = True):
    request = ChangeState.Request()
    request.transition.label = label
    answer = peer.call(ChangeState, f"{NAME}/change_state", request, wait)
    return answer.success if wait else answer


def test_parameters_that_there_are_not_are_named_once(segment, peer):
    process = segment(
        autostart=False, cameras=["front"], camera__fromt__max_rate=5.0, nosuch=1, modle="x", qos_overrides__x=1
    )
    for label in ("configure", "cleanup", "configure"):
        assert change(peer, label)
    process.until(lambda: process.says("does not have"))
    lines = [line for line in process.log.read_text().splitlines() if "does not have" in line]
    assert [line.partition("effect: ")[2] for line in lines] == [
        "'camera.fromt.max_rate' (meant: 'camera.front.max_rate'?), 'modle' (meant: 'model'?), 'nosuch'"
    ]


def topics(peer) -> set[str]:
    return {name for name, _ in peer.node.get_topic_names_and_types() if peer.node.count_publishers(name)}


def test_a_walk_through_the_states(segment, peer):
    process = segment(autostart=False)
    camera = peer.stream(Image, "/camera/image", message)
    labels = peer.listen(Image, f"{NAME}/label")
    legend = peer.listen(msg.Legend, f"{NAME}/legend", latched=True)
    assert state(peer) == "unconfigured"
    assert not change(peer, "activate") and not change(peer, "cleanup")
    assert not change(peer, "no such transition")

    # Parameters that configure reads can be set now; a model that is not there leaves the node as it was.
    (model,) = peer.call(GetParameters, f"{NAME}/get_parameters", GetParameters.Request(names=["model"])).values
    assert peer.set(NAME, model="/no/such/model")[0].successful
    assert not change(peer, "configure")
    assert state(peer) == "unconfigured"
    process.until(lambda: process.says("cannot load the model"))
    assert peer.set(NAME, model=model.string_value)[0].successful

    assert change(peer, "configure") and state(peer) == "inactive"
    (refused,) = peer.set(NAME, device="cuda")
    assert not refused.successful and "'device'" in refused.reason and "clean up" in refused.reason
    peer.until(lambda: process.says("not active: the images of /camera/image"), "it says that it is not active")
    assert not labels and not legend

    for _ in range(2):  # and once more after cleanup
        assert change(peer, "activate") and state(peer) == "active"
        peer.until(lambda: legend and labels, "labels")
        assert not change(peer, "configure") and not change(peer, "cleanup")
        assert change(peer, "deactivate") and state(peer) == "inactive"
        sent = camera.sent
        labels.clear()  # those that were on their way, or come of frames sent before
        peer.until(lambda sent=sent: camera.sent > sent + 10, "more images")
        assert len(labels) <= 4
        assert change(peer, "activate")
        count = len(labels)
        peer.until(lambda count=count: len(labels) > count + 4, "labels again")
        assert change(peer, "deactivate") and change(peer, "cleanup") and state(peer) == "unconfigured"
        peer.until(lambda: f"{NAME}/label" not in topics(peer), "the topics are gone")
        assert change(peer, "configure")
        labels.clear()
        legend.clear()

    assert change(peer, "activate") and change(peer, "shutdown")
    assert state(peer) == "finalized"
    assert not change(peer, "configure")
    assert process.end() == 0
    assert not process.says("Traceback")


def test_while_the_model_loads_the_topics_are_there_and_services_answer(ros_env, peer):
    may_load = threading.Event()

    def load():
        assert may_load.wait(TIMEOUT)
        return on_cpu()

    with running(peer, load, "autostart:=false") as node:
        configured = node.change("configure", wait=False)
        peer.until(lambda: node.state() == "configuring", "it configures")
        peer.until(lambda: f"{NAME}/label" in topics(peer), "the topics")
        assert peer.set(NAME, alpha=0.25)[0].successful
        assert not configured.done()
        may_load.set()
        peer.until(configured.done, "the model is loaded")
        assert configured.result().success and node.state() == "inactive"


def dump(peer, node: str = NAME) -> dict:
    """All parameters of a node, as `ros2 param dump` writes them and YAML reads them."""
    names = peer.call(ListParameters, f"{node}/list_parameters", ListParameters.Request()).result.names
    values = peer.call(GetParameters, f"{node}/get_parameters", GetParameters.Request(names=names)).values
    return yaml.safe_load(yaml.dump(dict(zip(names, map(parameter_value_to_python, values), strict=True))))


def load(peer, values: dict, node: str = NAME) -> list[str]:
    """Set parameters as `ros2 param load` does, one by one and then together; what is refused."""
    parameters = [Parameter(name=name, value=get_parameter_value(str(value))) for name, value in values.items()]
    results = peer.call(SetParameters, f"{node}/set_parameters", SetParameters.Request(parameters=parameters)).results
    refused = [
        f"{name}: {result.reason}" for name, result in zip(values, results, strict=True) if not result.successful
    ]
    request = SetParametersAtomically.Request(parameters=parameters)
    result = peer.call(SetParametersAtomically, f"{node}/set_parameters_atomically", request).result
    return refused + ([] if result.successful else [result.reason])


def test_what_is_dumped_is_loaded_in_every_state(segment, peer):
    arguments = {"autostart": False, "cameras": ["front", "rear"], "camera__rear__max_rate": 7.0}
    arguments |= {"hidden": [], "image_sizes": [], "alpha": 1e-05}
    process = segment({"~/front/image": "/a", "~/rear/image": "/b"}, **arguments)
    for label in ("configure", "activate", "deactivate", "cleanup"):
        assert load(peer, dump(peer)) == []
        assert change(peer, label)
        if label == "activate":
            active = dump(peer)
    assert active["hidden"] == active["image_sizes"] == [""]
    assert active["qos_overrides./a.subscription.depth"] == 1 and active["camera.rear.max_rate"] == 7.0
    assert load(peer, active) == []
    # Other values are refused as ever, and a request that sets all together sets nothing.
    assert change(peer, "configure")
    assert load(peer, {"alpha": 0.25, "autostart": True}) == [
        "autostart: Trying to set a read-only parameter: autostart.",
        "Trying to set a read-only parameter: autostart.",
    ]
    assert load(peer, {"hidden": [], "image_sizes": [], "cameras": ["front", "rear", ""]}) == []
    assert process.end() == 0

    # A new process takes the values of topics that it has not created yet, for when it does.
    peer.forget()
    process = segment({"~/front/image": "/a", "~/rear/image": "/b"}, **arguments)
    assert load(peer, active | {"qos_overrides./a.subscription.depth": 3}) == []
    assert change(peer, "configure")
    assert dump(peer) == active | {"qos_overrides./a.subscription.depth": 3}
    assert process.end() == 0


@pytest.mark.parametrize("name", ["camera_player", "evaluation_node"])
def test_what_another_node_dumps_it_loads(start, peer, tmp_path, name):
    start(name, "--ros-args", *(("-p", f"out:={tmp_path / 'out'}") if name == "evaluation_node" else ()))
    values = dump(peer, f"/{name}")
    assert load(peer, values, f"/{name}") == [] and len(values) > 10


def test_a_text_that_looks_like_a_number_is_loaded(segment, peer):
    segment(autostart=False, taxonomy="2026")
    assert load(peer, {"taxonomy": 2026, "alpha": 0.5}) == []
    assert load(peer, {"taxonomy": 2027})[0].startswith("taxonomy: parameter 'taxonomy' must be text, not 2027")


def test_killed_and_started_again_it_goes_on(segment, peer):
    peer.stream(Image, "/camera/image", message)
    labels = peer.listen(Image, f"{NAME}/label")
    legends = peer.listen(msg.Legend, f"{NAME}/legend", latched=True)
    for starts, number in enumerate((signal.SIGKILL, signal.SIGTERM), start=1):
        process = segment()
        peer.until(lambda starts=starts: len(legends) >= starts, "its legend")
        count = len(labels)
        peer.until(lambda count=count: len(labels) > count + 2, "labels")
        assert process.end(number) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
        labels.clear()


@pytest.fixture
def live(segment, peer):
    """The node with a camera, and overlays that come."""
    process = segment()
    peer.stream(Image, "/camera/image", message)
    overlays = peer.listen(Image, f"{NAME}/overlay")
    peer.until(lambda: overlays, "overlays")
    return process, overlays


def test_values_change_between_frames_or_not_at_all(live, peer):
    process, overlays = live
    assert not np.array_equal(image_view(overlays[-1]), PICTURE)

    result = peer.set(NAME, together=True, alpha=0.0, max_rate=-1.0)
    assert not result.successful and "max_rate" in result.reason
    result = peer.set(NAME, together=True, alpha=0.0, hidden=["unicorn"])
    assert not result.successful and "'hidden'" in result.reason and "'unicorn'" in result.reason
    assert "traffic light" in result.reason
    (alpha,) = peer.call(GetParameters, f"{NAME}/get_parameters", GetParameters.Request(names=["alpha"])).values
    assert alpha.double_value == 0.5

    (result,) = peer.set(NAME, alpha=1)
    assert not result.successful and result.reason.endswith("must be a number with a point from 0.0 to 1.0, not 1")
    assert not peer.set(NAME, alpha=None)[0].successful  # that would undeclare it

    assert peer.set(NAME, together=True, alpha=0.0, max_rate=1000.0).successful
    peer.until(lambda: np.array_equal(image_view(overlays[-1]), PICTURE), "an overlay without colours")
    assert peer.set(NAME, alpha=1.0)[0].successful
    peer.until(lambda: not np.array_equal(image_view(overlays[-1]), PICTURE), "an overlay with colours")
    assert peer.set(NAME, hidden=list(taxonomy.get("cityscapes").names))[0].successful
    peer.until(lambda: np.array_equal(image_view(overlays[-1]), PICTURE), "an overlay whose classes are hidden")

    assert peer.set(NAME, outputs=["label"])[0].successful
    assert not peer.set(NAME, outputs=["labels"])[0].successful
    assert process.process.poll() is None


def test_every_bound_holds_and_is_described(live, peer):
    rows = [*NODE, *CAMERA]
    request = DescribeParameters.Request(names=[row.name for row in rows])
    described = peer.call(DescribeParameters, f"{NAME}/describe_parameters", request).descriptors
    for row, descriptor in zip(rows, described, strict=True):
        assert (descriptor.name, descriptor.description) == (row.name, row.description)
        assert descriptor.read_only == (row.change == "start")
        ranges = [*descriptor.floating_point_range, *descriptor.integer_range]
        assert [(r.from_value, r.to_value) for r in ranges] == ([row.range] if row.range else [])
    for row in rows:
        if row.range and row.change == "running":
            kind, (low, high) = type(row.default), row.range
            step = 1 if kind is int else 0.5
            answers = [peer.set(NAME, **{row.name: kind(v)})[0] for v in (low - step, high + step, low, high)]
            assert [answer.successful for answer in answers] == [False, False, True, True], row.name
            assert all(row.name in answer.reason for answer in answers[:2])
            assert peer.set(NAME, **{row.name: row.default})[0].successful
        elif row.change == "start":
            assert not peer.set(NAME, **{row.name: not row.default if row.name == "autostart" else ["a"]})[0].successful
