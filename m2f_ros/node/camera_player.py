"""A camera made of recorded or simulated images.

Publishes `image`, `camera_info`, and `ground_truth` where there are labels. All three carry the same header,
with the time of publication as stamp. Progress goes to standard output as lines of JSON: prepared {n},
ready {length, rate}, sent {n}, end {sent, last_stamp}; stamps in nanoseconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from m2f_ros.errors import M2fError
from m2f_ros.node.declare import declare
from m2f_ros.node.messages import encode
from m2f_ros.node.parameters import Parameter
from m2f_ros.node.process import Ending, emit, join, read_line, run, say
from m2f_ros.replay.camera import CameraModel
from m2f_ros.replay.read_ahead import ReadAhead
from m2f_ros.replay.sources import Sample, open_source

PARAMETERS = (
    Parameter("source", "street", "Video, folder of images, rosbag2, /dev/videoN, or street:SEED."),
    Parameter("labels", "", "Folder of label images for the source; empty: its own, where it has any."),
    Parameter("taxonomy", "", "What the ids in the label images mean; empty: guessed where it is plain."),
    Parameter("topic", "", "Image topic of a rosbag2; empty: the only one."),
    Parameter("rate", 0.0, "Frames per second; 0: the source's own.", range=(0.0, 1000.0)),
    Parameter("frames", 0, "Frames to play; 0: all.", range=(0, 1 << 31)),
    Parameter("subscribers", 1, "Subscribers of the image to wait for before the first.", range=(0, 100)),
    Parameter("timeout", 30.0, "Seconds to wait for them.", range=(0.0, 86400.0)),
    Parameter("wait_for_line", False, "Wait for a line on standard input, too."),
    Parameter("read_ahead", 256, "MiB of images to read before the first is played.", range=(0, 1 << 16)),
)
# Enough for a recorder that misses a fragment, or that is busy for a moment.
QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
ACKNOWLEDGE_TIMEOUT = 5.0  # seconds that the last frames get to arrive


class CameraPlayer(Node):
    """Plays a source once, at its rate, and ends."""

    def __init__(self, ending: Ending) -> None:
        super().__init__("camera_player")
        self._ending = ending
        s = self._settings = declare(self, PARAMETERS)
        self._source = open_source(
            s.source,
            labels=s.labels or None,
            taxonomy=s.taxonomy or None,
            rate=s.rate or None,
            frames=s.frames or None,
            topic=s.topic or None,
        )
        self._image = self.create_publisher(Image, "image", QOS)
        self._info = self.create_publisher(CameraInfo, "camera_info", QOS)
        self._truth = self.create_publisher(Image, "ground_truth", QOS)
        live = s.source.startswith("/dev/")
        self._samples = ReadAhead(self._source, 0 if live else s.read_ahead << 20)
        self._pace = 0.0 if live else 1.0 / self._source.rate
        self._thread = threading.Thread(target=self._run, name="player", daemon=True)
        self._thread.start()

    def close(self, timeout: float) -> bool:
        """Stop playing. False when a thread still runs after `timeout` s."""
        self._samples.stop()
        return join([self._thread], timeout) and self._samples.join(timeout)

    def _run(self) -> None:
        try:
            self._samples.fill(lambda n: emit("prepared", n=n))
            if self._wait_for_subscribers():
                emit("ready", length=self._source.length, rate=self._source.rate)
                if not self._settings.wait_for_line or read_line(self._ending):
                    self._play()
                self._ending.ask(0)
        except Exception as error:
            kind = "" if isinstance(error, M2fError) else f"{type(error).__name__}: "
            say(f"error: {kind}{' '.join(str(error).split())}")
            self._ending.ask(2 if isinstance(error, M2fError) else 1)

    def _wait_for_subscribers(self) -> bool:
        wanted = self._settings.subscribers
        deadline = time.monotonic() + self._settings.timeout
        # Matched events exist from Jazzy on; Humble has to ask again and again.
        while (found := self._image.get_subscription_count()) < wanted:
            if time.monotonic() > deadline:
                say(
                    f"error: {found} of {wanted} subscribers of {self._image.topic_name} after "
                    f"{self._settings.timeout:g} s: start them, or set the parameter 'subscribers'"
                )
                self._ending.ask(1)
                return False
            if self._ending.wait(0.05):
                return False
        return True

    def _play(self) -> None:
        sent, last = 0, None
        start = time.monotonic()
        for sample in self._samples:
            if self._ending.wait(max(0.0, start + sent * self._pace - time.monotonic())):
                return
            last = self._publish(sample)
            sent += 1
            emit("sent", n=sent)
        if hasattr(self._image, "wait_for_all_acked"):  # not on Humble
            for publisher in (self._image, self._info, self._truth):
                publisher.wait_for_all_acked(Duration(seconds=ACKNOWLEDGE_TIMEOUT))
        emit("end", sent=sent, last_stamp=last)

    def _publish(self, sample: Sample) -> int:
        """Publish a sample now; returns its stamp in nanoseconds."""
        now = self.get_clock().now()
        header = Header(stamp=now.to_msg(), frame_id=sample.frame_id)
        if sample.label is not None:
            encoding = "mono8" if sample.label.itemsize == 1 else "mono16"
            self._truth.publish(encode(sample.label, encoding, header))
        if sample.camera is not None:
            self._info.publish(camera_info(sample.camera, header))
        self._image.publish(encode(sample.image, sample.encoding, header))
        return now.nanoseconds


def camera_info(camera: CameraModel, header: Header) -> CameraInfo:
    """The message of a camera model: rectification is the identity, the projection that of K."""
    k = camera.matrix()
    projection = [[*row, 0.0] for row in k.tolist()]
    return CameraInfo(
        header=header,
        width=camera.width,
        height=camera.height,
        distortion_model="plumb_bob",
        d=[float(v) for v in camera.distortion] or [0.0] * 5,
        k=k.ravel().tolist(),
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[value for row in projection for value in row],
    )


def main(args: Sequence[str] | None = None) -> int:
    return run(CameraPlayer, args)
