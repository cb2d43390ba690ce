"""Results of a recording of the demo: label images, a video of the overlay, latency and accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np

from m2f_ros import taxonomy as taxonomies
from m2f_ros.bags.image_topic import decode_label
from m2f_ros.bags.reader import Bag
from m2f_ros.frame.raw import image_view
from m2f_ros.metrics import Confusion
from m2f_ros.metrics.confusion import over_classes
from m2f_ros.sources.labels import taxonomy_of_legend
from m2f_ros.taxonomy import Taxonomy

MILLISECOND = Fraction(1, 1000)


@dataclass(frozen=True)
class Topics:
    """Names of the topics in a recording."""

    image: str
    ground_truth: str
    label: str
    overlay: str
    color: str
    stats: str
    legend: str


@dataclass(frozen=True)
class Digest:
    """Counts and measures of a recording.

    Attributes:
        segmented: number of received labels.
        received: number of frames that arrived at the node, by its own count with its last result.
        dropped: number of frames that the node replaced by a newer one, by the same count.
        fps: labels a second, from the stamp of the first to the reception of the last; None without labels.
        latency_ms: (segmented,) float64, time from the stamp of the image to the reception of its label.
        miou: mean IoU, 0..1; None without ground truth.
        scored: number of labels with ground truth.
        truth: number of images with ground truth.
        averaged: description of the classes in the mean IoU.
        classes: classes of the labels; None without a legend.
    """

    segmented: int
    received: int
    dropped: int
    fps: float | None
    latency_ms: np.ndarray
    miou: float | None
    scored: int = 0
    truth: int = 0
    averaged: str = ""
    classes: Taxonomy | None = None


def digest(
    bag: Path,
    topics: Topics,
    new: Callable[[str], Path],
    truth: Taxonomy | None,
    progress: Callable[[], object] = lambda: None,
) -> Digest:
    """Read a recording once, frame by frame, and write labels/*.png, overlay.mp4 and overlay.png.

    Label files are named by the number of the image in the recording and its stamp in nanoseconds.

    bag: rosbag2 folder, with log times of reception. new: function that returns the path for a file name.
    truth: taxonomy of the ground truth, into which the predictions are merged; None for no score. progress: function
        that is called after every label.
    """
    number: dict[int, int] = {}  # stamp -> number of the image
    waiting: dict[int, np.ndarray] = {}  # stamp -> ground truth
    latency: list[float] = []
    first = last = received_by_node = dropped = scored = with_truth = 0
    table: np.ndarray | None = None
    classes: Taxonomy | None = None
    confusion = None if truth is None else Confusion(len(truth.classes))
    with Bag(bag) as reader, OverlayVideo(new) as video:
        middle = reader.image_topics().get(topics.overlay, 0) // 2
        for message in reader.messages(astuple(topics)):
            topic, stamp = message.topic, message.stamp_ns
            if topic == topics.legend:
                classes = taxonomy_of_legend(message.decode())
                if truth is not None:
                    table = taxonomies.merge_table(classes, truth)
            elif topic == topics.image:
                number[stamp] = len(number)
            elif topic == topics.stats:
                stats = message.decode()
                received_by_node, dropped = int(stats.received), int(stats.dropped)
            elif topic == topics.ground_truth and truth is not None:
                waiting[stamp] = decode_label(message.decode())
                with_truth += 1
            elif topic == topics.label:
                label, received = decode_label(message.decode()), message.log_ns
                write_png(new(f"labels/{number.get(stamp, 0):06d}_{stamp}.png"), label)
                first, last = first or stamp, received
                latency.append((received - stamp) / 1e6)
                if truth and confusion and table is not None and stamp in waiting:
                    confusion.update(waiting[stamp], table[label], truth.unlabelled)
                    scored += 1
                # Labels come in the order of their images: the label of older ground truth will not come.
                waiting = {other: image for other, image in waiting.items() if other > stamp}
                progress()
            elif topic == topics.overlay:
                video.add(image_view(message.decode()), stamp, is_picture=video.frames == middle)
    return Digest(
        segmented=len(latency),
        received=received_by_node,
        dropped=dropped,
        fps=len(latency) * 1e9 / (last - first) if latency else None,
        latency_ms=np.array(latency),
        miou=confusion.miou() if confusion and table is not None else None,
        scored=scored,
        truth=with_truth,
        averaged=_averaged(confusion, truth) if truth and confusion and scored else "",
        classes=classes,
    )


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write (H, W) uint8 or uint16, or (H, W, 3) uint8 BGR. Raises OSError if the file cannot be written."""
    done, data = cv2.imencode(".png", picture)
    if not done:
        raise OSError(f"{path.name} is too large for a PNG")
    path.write_bytes(data.tobytes())


def _averaged(confusion: Confusion, truth: Taxonomy) -> str:
    iou = confusion.iou()
    return over_classes([c.name for c in truth.classes if not np.isnan(iou[c.id])], truth.names)


class OverlayVideo:
    """Writes overlay.mp4 (H.264 that plays everywhere, each frame at its stamp's time) and overlay.png."""

    def __init__(self, new: Callable[[str], Path]) -> None:
        """new: function that returns the path for a file name."""
        self._new = new
        self._out: tuple[av.container.OutputContainer, av.VideoStream] | None = None
        self._first = 0
        self._last_pts = -1
        self.frames = 0

    def add(self, picture: np.ndarray, stamp: int, is_picture: bool) -> None:
        """Add a frame, (H, W, 3) uint8 BGR, all of one size. stamp: ns. is_picture: True to write overlay.png, too."""
        if is_picture:
            write_png(self._new("overlay.png"), picture)
        # Chroma is subsampled by two: odd last rows and columns are cropped.
        height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2
        if not height or not width:
            return
        if self._out is None:
            self._first, self._out = stamp, self._open(width, height)
        container, stream = self._out
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="bgr24")
        frame.pts = self._last_pts = max(self._last_pts + 1, (stamp - self._first) // 10**6)
        frame.time_base = MILLISECOND
        container.mux(stream.encode(frame))
        self.frames += 1

    def _open(self, width: int, height: int) -> tuple[av.container.OutputContainer, av.VideoStream]:
        # With file:, since FFmpeg reads a colon in a path as the end of a protocol.
        path = f"file:{self._new('overlay.mp4')}"
        container = av.open(path, "w", format="mp4", options={"movflags": "faststart"})
        stream = container.add_stream("libx264", options={"crf": "21", "preset": "veryfast"})
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = MILLISECOND
        return container, stream

    def __enter__(self) -> OverlayVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._out is not None:
            container, stream = self._out
            if error is None:
                container.mux(stream.encode(None))
            container.close()
