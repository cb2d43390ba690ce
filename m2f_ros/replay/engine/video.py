"""Videos of the overlay, made of the bag once it is whole: a video cannot be continued."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2

from m2f_ros.replay.bag_reader import Bag
from m2f_ros.replay.digest import OverlayVideo
from m2f_ros.replay.engine.folder import writing
from m2f_ros.replay.engine.outputs import namespace
from m2f_ros.replay.images import image_view


def write_videos(bag: Path, cameras: Sequence[str], stopped: Callable[[], bool]) -> bool:
    """Write overlay.mp4 and overlay.png of each camera into the folder of the bag; False where it was stopped.

    With several cameras each has a folder of its own. Each frame is shown from the time of its recording on; images of
    another size than the first get its size.
    """
    for camera in cameras:
        out = bag / camera
        with writing(bag):
            out.mkdir(exist_ok=True)
            if not _write(bag, f"{namespace(camera)}/overlay", out, stopped):
                return False
    return True


def _write(bag: Path, topic: str, out: Path, stopped: Callable[[], bool]) -> bool:
    with Bag(bag) as reader, OverlayVideo(out) as video:
        middle = reader.image_topics().get(topic, 0) // 2
        size = None
        for number, message in enumerate(reader.messages([topic])):
            if stopped():
                return False
            picture = image_view(message.decode())
            size = size or picture.shape[1::-1]
            if picture.shape[1::-1] != size:
                picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            video.add(picture, message.log_ns, is_picture=number == middle)
    return True
