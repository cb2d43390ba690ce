"""The page of a running node: its frames, statistics and parameters."""

from __future__ import annotations

import io
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is absent")
pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")
from PIL import Image as Pillow
from sensor_msgs.msg import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))
sys.path.insert(0, str(Path(__file__).parent))
import in_process
from in_process import HEIGHT, NAME, WIDTH, message
from pages import Client, browser, running
from stub import LABELS, on_cpu

from m2f_ros.node.viewing import LiveFeed


@pytest.fixture
def port(ros_env, peer):
    """The page of a node whose camera sends images."""
    with in_process.running(peer, on_cpu, "diagnostics_period:=0.1"), running(LiveFeed()) as port:
        publisher, ended = peer.node.create_publisher(Image, f"{NAME}/image", 1), threading.Event()

        def publish() -> None:  # the peer's own streams rest while a test waits for the page
            while not ended.wait(0.05):
                publisher.publish(message(time.time_ns()))

        thread = threading.Thread(target=publish)
        thread.start()
        yield port
        ended.set()
        thread.join()
        peer.node.destroy_publisher(publisher)


def with_parameters(client: Client) -> dict:
    """The parameters by name, once the page has them."""
    while True:
        found = client.until("parameters")["parameters"]
        if found:
            return {one["name"]: one for one in found}


def parameters_of(client: Client) -> dict:
    state = client.until("state")
    found = {one["name"]: one for one in state["parameters"]}
    return found or with_parameters(client)


def labelled(client: Client, part: str = "label") -> tuple[dict, dict]:
    """The next frame with this part; every frame is drawn."""
    while True:
        head, parts = client.frame()
        client.send(shown=head["camera"])
        if part in parts and "image" in parts:
            return head, parts


def test_the_frames_of_a_node(port, peer):
    labels = peer.listen(Image, f"{NAME}/label")
    with Client(port) as client:
        client.send(want={"confidence": True})
        head, parts = labelled(client, "confidence")
        peer.until(lambda: any(stamp_of(one) == head["stamp"] for one in labels), "the same label")
        (own,) = [one for one in labels if stamp_of(one) == head["stamp"]]
        found = np.asarray(Pillow.open(io.BytesIO(parts["label"])))
        np.testing.assert_array_equal(found, np.array(own.data, np.uint8).reshape(HEIGHT, WIDTH))
        stats = client.until("stats")
        assert stats["age_ms"] > 0 and stats["received"] >= stats["segmented"] > 0
        assert client.until("level")["text"]


def stamp_of(image: Image) -> str:
    return str(image.header.stamp.sec * 10**9 + image.header.stamp.nanosec)


def test_the_legend_and_the_camera(port):
    with Client(port) as client:
        while not (cameras := client.until("state")["cameras"]) or not (cameras[0]["legends"] and cameras[0]["topic"]):
            pass
    assert [one["name"] for one in cameras[0]["legends"][0]["classes"]] == list(LABELS)
    assert cameras[0]["topic"] == f"{NAME}/image" and cameras[0]["labels"] == [f"{NAME}/label"]


def test_a_node_has_listeners_only_while_a_page_looks(port, peer):
    topic = f"{NAME}/label"
    assert peer.node.count_subscribers(topic) == 0
    with Client(port) as client:
        peer.until(lambda: peer.node.count_subscribers(topic) == 1, "the page listens")
        assert peer.node.count_subscribers(f"{NAME}/confidence") == 0
        client.send(want={"paused": True})
        peer.until(lambda: peer.node.count_subscribers(topic) == 0, "a page that pauses listens no more")
        client.send(want={"paused": False})
        peer.until(lambda: peer.node.count_subscribers(topic) == 1, "it listens again")
    peer.until(lambda: peer.node.count_subscribers(topic) == 0, "nobody listens")


def test_two_pages_set_one_parameter(port, peer):
    with Client(port) as one, Client(port) as other:
        alpha = parameters_of(one)["alpha"]
        assert (alpha["type"], alpha["range"], alpha["value"]) == ("float", [0.0, 1.0], 0.5)
        assert "model" not in parameters_of(other)
        one.send(set={"name": "alpha", "value": 0.25})
        for page in (one, other):
            page.until("parameter", name="alpha", value=0.25)
        other.send(set={"name": "alpha", "value": 1})
        for page in (one, other):
            page.until("parameter", name="alpha", value=1.0)
        # From elsewhere.
        assert peer.set(NAME, alpha=0.75)[0].successful
        for page in (one, other):
            page.until("parameter", name="alpha", value=0.75)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("alpha", 2.0, "alpha"),  # in ROS' words
        ("alpha", "much", "alpha must be of type float"),
        ("hidden", ["no class"], "no class"),
        ("model", "other", "there is no parameter 'model' that can change now"),
    ],
)
def test_a_refusal_has_a_reason(name, value, reason, port):
    with Client(port) as client:
        parameters_of(client)
        client.send(set={"name": name, "value": value})
        assert reason in client.until("answer", name=name)["reason"]


def test_a_node_that_is_not_there(ros_env, peer):
    with running(LiveFeed("/robot/segmentation_node")) as port, Client(port) as client:
        state = client.until("state")
        assert state["note"] == "waiting for /robot/segmentation_node" and state["cameras"] == []
        client.send(set={"name": "alpha", "value": 1.0})
        assert client.until("answer")["reason"].startswith("there is no parameter 'alpha'")


@pytest.mark.more
def test_a_slider_sets_the_parameter_and_follows_it(port, peer):
    with browser() as chromium:
        page = chromium.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        page.get_by_text("Parameters", exact=True).click()
        slider = page.get_by_label("alpha", exact=True)
        slider.fill("0.3")
        peer.until(lambda: value_of(peer, "alpha") == 0.3, "the node has the value of the slider")
        assert peer.set(NAME, alpha=0.8)[0].successful
        page.wait_for_timeout(1)
        while slider.input_value() != "0.8":
            page.wait_for_timeout(20)
        hidden = page.get_by_label("hidden", exact=True)
        hidden.fill("no class")
        hidden.press("Enter")
        page.get_by_role("alert").filter(has_text="no class").wait_for()
        assert hidden.input_value() == ""


def value_of(peer, name: str) -> float:
    from rcl_interfaces.srv import GetParameters

    request = GetParameters.Request(names=[name])
    return peer.call(GetParameters, f"{NAME}/get_parameters", request).values[0].double_value
