"""Hostile cameras, listeners and callers in one process, for `m2f soak`.

Says how many messages of each kind it has sent, once a second, as a line of JSON.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.srv import ChangeState, GetAvailableTransitions, GetState
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String

from m2f_ros.node.load import mutations
from m2f_ros.node.process import Ending, emit, run

NODE = "/segmentation_node"
# Cameras of the node that these messages go to.
CAMERAS = ("sizes", "stamps", "pictures", "fields")
# Messages, changes or calls a second of each kind; None: a third of the flood.
KINDS = {"sizes": 3, "stamps": 3, "pictures": None, "fields": None, "cdr": None, "info": 10, "peers": 0.5, "calls": 2}
OUTPUTS = ("label", "overlay", "color", "confidence", "panoptic", "overlay/compressed", "label/compressed")
MOST_LISTENERS = 4


def topic(camera: str, compressed: bool = False) -> str:
    """Where the images of a camera are published."""
    return f"/soak/{camera}/image{'/compressed' if compressed else ''}"


class Hostile(Node):
    """Parameters: seed; kinds: of KINDS; flood: messages a second of those kinds that share it."""

    def __init__(self, ending: Ending) -> None:
        super().__init__("hostile")
        self._random = random.Random(self.declare_parameter("seed", 0).value)
        flood = self.declare_parameter("flood", 300.0).value
        self._sent: Counter[str] = Counter()
        self._offers: dict[tuple[str, type], Publisher] = {}
        self._audience: list[Subscription] = []
        self._questions = [
            (self.create_client(kind, f"{NODE}/{name}"), make)
            for kind, name, make in (
                (SetParameters, "set_parameters", self._set),
                (SetParameters, "set_parameters", self._set),
                (SetParametersAtomically, "set_parameters_atomically", self._set),
                (GetParameters, "get_parameters", self._names),
                (DescribeParameters, "describe_parameters", self._names),
                (ListParameters, "list_parameters", lambda kind: kind.Request(prefixes=["camera"], depth=2)),
                (GetState, "get_state", lambda kind: kind.Request()),
                (GetAvailableTransitions, "get_available_transitions", lambda kind: kind.Request()),
                (ChangeState, "change_state", self._transition),
            )
        ]
        for kind in self.declare_parameter("kinds", list(KINDS)).value:
            act: Callable[[], None] = getattr(self, f"_{kind}")
            self.create_timer(1 / (KINDS[kind] or flood / 3), act)
        self.create_timer(1.0, self._report)

    def close(self, timeout: float) -> bool:
        self._report()
        return True

    def _report(self) -> None:
        emit("sent", counts=dict(self._sent))

    def _publish(self, kind: str, camera: str, message: Image | CompressedImage | CameraInfo | bytes, of: type) -> None:
        """of: type of the message, which bytes do not tell."""
        if (camera, of) not in self._offers:
            where = f"/soak/{camera}/camera_info" if of is CameraInfo else topic(camera, of is CompressedImage)
            self._offers[camera, of] = self.create_publisher(of, where, self._qos())
        self._offers[camera, of].publish(message)
        self._sent[kind] += 1

    def _qos(self) -> QoSProfile:
        pick = self._random.choice
        return QoSProfile(
            depth=pick([1, 1, 5, 50]),
            reliability=pick([ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT]),
            durability=pick([DurabilityPolicy.VOLATILE, DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL]),
        )

    def _now(self) -> Header:
        return Header(stamp=self.get_clock().now().to_msg(), frame_id="hostile")

    # The kinds

    def _sizes(self) -> None:
        message = mutations.odd_size(self._random)
        message.header = self._now()
        self._publish("sizes", "sizes", message, Image)

    def _stamps(self) -> None:
        message = Image(height=240, width=320, encoding="mono8", step=320, data=bytes(240 * 320))
        message.header.stamp = mutations.odd_stamp(self._random, self.get_clock().now().nanoseconds)
        self._publish("stamps", "stamps", message, Image)

    def _pictures(self) -> None:
        message = mutations.odd_picture(self._random)
        message.header = self._now()
        self._publish("pictures", "pictures", message, CompressedImage)

    def _fields(self) -> None:
        message = mutations.odd_fields(self._random)
        message.header.stamp = self._now().stamp
        self._publish("fields", "fields", message, Image)

    def _cdr(self) -> None:
        make, camera, of = self._random.choice(
            [
                (mutations.odd_fields, "fields", Image),
                (mutations.odd_picture, "pictures", CompressedImage),
                (mutations.odd_info, "fields", CameraInfo),
            ]
        )
        self._publish("cdr", camera, mutations.odd_bytes(self._random, make(self._random)), of)

    def _info(self) -> None:
        self._publish("info", self._random.choice(CAMERAS), mutations.odd_info(self._random), CameraInfo)

    def _peers(self) -> None:
        """A listener comes or goes, or a publisher comes again as another."""
        pick, self._sent["peers"] = self._random.choice, self._sent["peers"] + 1
        if not self._random.randrange(3) and self._offers:
            self.destroy_publisher(self._offers.pop(pick(list(self._offers))))
        elif len(self._audience) >= MOST_LISTENERS or (self._audience and not self._random.randrange(3)):
            self.destroy_subscription(self._audience.pop(0))
        else:
            camera, output = pick([*CAMERAS, "raw", "jpeg"]), pick(OUTPUTS)
            of = pick([CompressedImage if "/" in output else Image] * 3 + [String])
            where = f"{NODE}/{camera}/{output}"
            self._audience.append(self.create_subscription(of, where, lambda _: None, self._qos(), raw=True))

    def _calls(self) -> None:
        client, make = self._random.choice(self._questions)
        if not client.service_is_ready():
            return
        self._sent["call"] += 1
        client.call_async(make(client.srv_type)).add_done_callback(self._answered)

    def _answered(self, _future: object) -> None:
        self._sent["answer"] += 1

    def _set(self, kind: Any) -> object:
        count = self._random.choice([0, 1, 1, 1, 3, 50])
        return kind.Request(parameters=[mutations.odd_parameter(self._random) for _ in range(count)])

    def _names(self, kind: Any) -> object:
        names = [self._random.choice(["alpha", "model", "", "x" * 20_000, "a..b", "use_sim_time"]) for _ in range(5)]
        return kind.Request(names=names)

    def _transition(self, kind: Any) -> object:
        """Return a request for a transition that an active node refuses."""
        request = kind.Request()
        request.transition.id = self._random.choice([1, 3, 77, 255])
        request.transition.label = self._random.choice(["", "configure", "x" * 10_000])
        return request


if __name__ == "__main__":
    sys.exit(run(Hostile))
