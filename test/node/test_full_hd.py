"""Twenty seconds of 1920x1080 at 30 Hz through segmentation_node as a process over real DDS, with a tiny network."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from m2f_ros.node.messages import encode

pytest.importorskip("rclpy", reason="rclpy is absent")
pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")
from builtin_interfaces.msg import Time
from m2f_ros.msg import Stats
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from m2f_ros.node.recorder import stamp_of

NAME = "/segmentation_node"
HEIGHT, WIDTH, RATE, FRAMES = 1080, 1920, 30.0, 600
WARM_UP = 200  # frames
# Frames that were sent and of which the node has said nothing yet, at most. The subscription keeps as many, so that
# none is lost however busy the machine is, and the node has newer ones to choose from.
UNANSWERED = 4


def held(pid: int) -> int:
    """Bytes of memory that a process has for itself; DDS' segments, which it shares, are not among them."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.search(r"^RssAnon:\s*(\d+) kB$", status, re.MULTILINE)[1])


def second(message) -> int:
    return message.header.stamp.sec


@pytest.mark.more
@pytest.mark.process
def test_every_frame_arrives_and_the_newest_wins(segment, peer):
    process = segment(max_pixels=4096, depth=UNANSWERED, output_depth=UNANSWERED)
    camera = peer.node.create_publisher(Image, "/camera/image", UNANSWERED)
    stats = peer.listen(Stats, f"{NAME}/stats")
    outputs: dict[str, list[int]] = {"label": [], "overlay": []}
    for name, stamps in outputs.items():

        def keep(message: bytes, stamps: list[int] = stamps) -> None:
            stamps.append(stamp_of(message) // 10**9)

        # Not decoded: 600 images are for nobody to keep.
        peer.node.create_subscription(Image, f"{NAME}/{name}", keep, QoSProfile(depth=50), raw=True)

    blocks = np.random.default_rng(0).integers(0, 256, (HEIGHT // 120, WIDTH // 120, 3), np.uint8)
    message = encode(blocks.repeat(120, 0).repeat(120, 1), "bgr8", Header())
    seconds = itertools.count(1)

    def send() -> None:
        message.header.stamp = Time(sec=next(seconds))
        camera.publish(message)

    peer.settled("/camera/image", str(process.log))
    # Each end of a connection learns of the other by itself, and what is sent before both know is lost.
    timer = peer.node.create_timer(0.2, send)
    peer.until(lambda: stats and all(outputs.values()), f"the node answers: {process.log}")
    peer.node.destroy_timer(timer)
    send()
    begin = second(message)
    peer.until(lambda: second(stats[-1]) == begin, "the last frame before those that count")
    before = stats[-1]

    def sent() -> int:
        return second(message) - begin

    def send_next() -> None:
        if sent() < FRAMES and sent() - (stats[-1].received - before.received) < UNANSWERED:
            send()

    peer.node.create_timer(1 / RATE, send_next)
    memory = {}
    for count in range(WARM_UP, FRAMES + 1, 10):
        peer.until(lambda count=count: sent() >= count, f"frame {count}: {process.log}")
        memory[count] = held(process.process.pid)
    peer.until(
        lambda: {second(stats[-1]), *(stamps[-1] for stamps in outputs.values())} == {begin + FRAMES},
        "the last frame is segmented",
    )

    after = stats[-1]
    assert after.received - before.received == FRAMES
    assert after.received == after.segmented + after.dropped
    assert after.bad == 0 and set(after.drop_reasons) <= {"newer"}
    segmented = [second(one) for one in stats if second(one) > begin]
    assert len(segmented) == after.segmented - before.segmented
    assert segmented == sorted(set(segmented))
    for name, stamps in outputs.items():
        assert [stamp for stamp in stamps if stamp > begin] == segmented, name
    # Images come and go, more of them at a time on a busy machine: the least that is held tells what stays. DDS may
    # come to keep as many images and outputs as it may; between the middles of the two halves are 200 frames.
    middle = (WARM_UP + FRAMES) // 2
    early, late = (min(memory[c] for c in memory if (c > middle) == half) for half in (False, True))
    assert late - early < (UNANSWERED + 1) * HEIGHT * WIDTH * (3 + 3 + 1), memory
    assert process.end() == 0
