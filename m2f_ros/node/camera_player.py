"""A camera that plays recorded or simulated images.

Publishes `image` (or `image/compressed`), `camera_info`, and, if there are labels, `ground_truth` with its legend; with
`space` also depth images, transforms and clouds of a lidar. All messages of a frame have the same header. Its stamp is
the time of publication, or with `clock` the source's own; /clock then follows the time of recording. Progress goes to
standard output as lines of JSON: prepared {n}, ready {length, rate}, sent {n}, missing {why} if frames cannot be read,
end {sent, last_stamp, qos}; stamps in nanoseconds. Exit status 3: frames cannot be read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rclpy.node import Node
from rclpy.time import Time
from std_msgs.msg import Header

from m2f_ros.errors import M2fError
from m2f_ros.frame.bit_depth import AUTO, DEPTHS
from m2f_ros.node.declare import declare_settings
from m2f_ros.node.drive_topics import DriveTopics
from m2f_ros.node.entities import qos_of
from m2f_ros.node.parameters import at_start, parameters_of
from m2f_ros.node.process import Ending, emit, join, one_line, read_line, run, say
from m2f_ros.node.sim_time import SimTime
from m2f_ros.processes.children import PARTIAL
from m2f_ros.sources.open import open_source
from m2f_ros.sources.read_ahead import ReadAhead
from m2f_ros.sources.sample import Sample, SpaceOptions


@dataclass(frozen=True)
class PlayerSettings:
    """Values of camera_player's parameters."""

    source: str = at_start("street", "Video, folder of images, rosbag2, /dev/videoN, or street:SEED.")
    labels: str = at_start("", "Folder of label images for the source; empty: its own, where it has any.")
    taxonomy: str = at_start("", "Meaning of the ids in the label images; empty: guessed where it is plain.")
    topic: str = at_start("", "Image topic of a rosbag2; empty: the only one.")
    rate: float = at_start(0.0, "Frames per second; 0: the source's own.", range=(0.0, 1000.0))
    frames: int = at_start(0, "Frames to play; 0: all.", range=(0, 1 << 31))
    bit_depth: int = at_start(AUTO, "Bits used of 16; 0: by the values that come.", choices=DEPTHS)
    subscribers: int = at_start(1, "Subscribers of the image to wait for before the first.", range=(0, 100))
    truth_subscribers: int = at_start(0, "Subscribers of the ground truth to wait for, too.", range=(0, 100))
    timeout: float = at_start(30.0, "Seconds to wait for them.", range=(0.0, 86400.0))
    wait_for_line: bool = at_start(False, "Wait for a line on standard input, too.")
    read_ahead: int = at_start(256, "MiB of images to read before the first is played.", range=(0, 1 << 16))
    transport: str = at_start("raw", "How images are sent; compressed: as JPEG.", choices=("raw", "compressed"))
    clock: float = at_start(
        0.0,
        "Messages a second on /clock, which then runs by the log times of a bag, else by the stamps of the source; "
        "images carry their own stamps. 0.0: no /clock, and images carry the time of publication.",
        range=(0.0, 1000.0),
    )
    space: tuple[str, ...] = at_start(
        ("",),
        "Data to publish beside the images of a rosbag2 or the street, as far as it is there: depth (depth/image_raw), "
        "clouds (/lidar/points), transforms (/tf and /tf_static, of the street, where tf2_msgs is installed).",
        choices=("depth", "transforms", "clouds"),
    )
    space_subscribers: int = at_start(0, "Subscribers of depth images and clouds to wait for, too.", range=(0, 100))
    speed: float = at_start(1.0, "With clock: times as fast as recorded.", range=(0.01, 100.0))


PARAMETERS = parameters_of(PlayerSettings)
# Seconds to wait for acknowledgement of the last frames: what Fast DDS takes to repeat lost heartbeats, or to find that
# a subscriber is gone.
ACKNOWLEDGE_TIMEOUT = 30.0


class CameraPlayer(Node):
    """Plays a source once, at its rate, and ends."""

    def __init__(self, ending: Ending) -> None:
        super().__init__("camera_player")
        self._ending = ending
        s = self._settings = declare_settings(self, PlayerSettings)
        self._source = open_source(
            s.source,
            labels=s.labels or None,
            taxonomy=s.taxonomy or None,
            rate=s.rate or None,
            frames=s.frames or None,
            topic=s.topic or None,
            bit_depth=s.bit_depth,
            space=SpaceOptions(
                depth="depth" in s.space,
                transforms="transforms" in s.space,
                clouds="clouds" in s.space,
                needed=False,
            ),
        )
        self._topics = DriveTopics(self, self._source.taxonomy, s.transport == "compressed", s.space)
        self._time = SimTime(self, s.clock, s.speed, ending) if s.clock else None
        live = s.source.startswith("/dev/")
        self._samples = ReadAhead(self._source, 0 if live else s.read_ahead << 20)
        self._pace = 0.0 if live else 1.0 / self._source.rate
        self._thread = threading.Thread(target=self._run, name="player", daemon=True)
        self._thread.start()

    def close(self, timeout: float) -> bool:
        """Stop playing. Return False if a thread still runs after `timeout` seconds."""
        self._samples.stop()
        return join([self._thread], timeout) and self._samples.join(timeout)

    def _run(self) -> None:
        try:
            self._samples.fill(lambda n: emit("prepared", n=n))
            if self._wait_for_subscribers():
                emit("ready", length=self._source.length, rate=self._source.rate)
                if not self._settings.wait_for_line or read_line(self._ending):
                    self._play()
                self._ending.ask(PARTIAL if self._source.problem else 0)
        except Exception as error:
            say(f"error: {one_line(error)}")
            self._ending.ask(2 if isinstance(error, M2fError) else 1)

    def _wait_for_subscribers(self) -> bool:
        wanted = [("subscribers", self._topics.image), ("truth_subscribers", self._topics.truth)]
        wanted += [("space_subscribers", publisher) for publisher in self._topics.space]
        deadline = time.monotonic() + self._settings.timeout
        # Polled, since Humble has no events for matched subscriptions.
        for name, publisher in wanted:
            count = getattr(self._settings, name)
            while (found := publisher.get_subscription_count()) < count:
                if time.monotonic() > deadline:
                    say(
                        f"error: {found} of {count} subscribers of {publisher.topic_name} after "
                        f"{self._settings.timeout:g} s: start them, or set the parameter '{name}'"
                    )
                    self._ending.ask(1)
                    return False
                if self._ending.wait(0.05):
                    return False
        return True

    def _play(self) -> None:
        sent, last = 0, None
        for sample in self._samples:
            last = self._wait_for(sample, sent)
            if last is None:
                return
            header = Header(stamp=Time(nanoseconds=last).to_msg(), frame_id=sample.frame_id)
            self._topics.publish(sample, header)
            sent += 1
            emit("sent", n=sent)
        self._topics.wait_for_all_acked(ACKNOWLEDGE_TIMEOUT)
        qos = qos_of(self, self._topics.image.topic_name)  # before the subscribers go
        if self._source.problem:
            say(f"error: {self._settings.source}: {self._source.problem}")
            emit("missing", why=self._source.problem)
        emit("end", sent=sent, last_stamp=last, qos=qos)

    def _wait_for(self, sample: Sample, number: int) -> int | None:
        """Wait until a sample is due. Return its stamp in nanoseconds; None if the process ends."""
        if number == 0:
            self._start = time.monotonic()
        if self._time is not None:
            return self._source.start_ns + sample.stamp_ns if self._time.wait_until(sample.log_ns) else None
        due = self._start + number * self._pace
        return None if self._ending.wait(max(0.0, due - time.monotonic())) else self.get_clock().now().nanoseconds


def main(args: Sequence[str] | None = None) -> int:
    return run(CameraPlayer, args)
