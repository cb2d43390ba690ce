"""Makes videos of the overlay from the complete bag, since an interrupted video cannot be resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2

from m2f_ros.bags.reader import Bag
from m2f_ros.frame.raw import image_view
from m2f_ros.replay.digest import OverlayVideo
from m2f_ros.replay.folder import writing
from m2f_ros.replay.outputs import camera_folders, namespace
from m2f_ros.results import Results


def write_videos(results: Results, cameras: Sequence[str], stopped: Callable[[], bool]) -> bool:
    """Write overlay.mp4 and overlay.png of each camera into the folder of the bag. Return False if stopped.

    With several cameras each has its own folder. Frames are shown at their recording times; images are resized to the
    size of the first one.
    """
    for camera, folder in camera_folders(cameras).items():
        with writing(results.folder):
            if not _write(results, f"{namespace(camera)}/overlay", folder, stopped):
                return False
    return True


def _write(results: Results, topic: str, folder: str, stopped: Callable[[], bool]) -> bool:
    with Bag(results.folder) as reader, OverlayVideo(lambda name: results.new(folder + name)) as video:
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
