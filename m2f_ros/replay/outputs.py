"""The outputs of a replay: messages like those of the node, and label PNGs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from rosbags.typesys import Stores, get_typestore

from m2f_ros.bags.messages import CAMERA_INFO, IMAGE, LEGEND, SEGMENTS, STATS, Messages
from m2f_ros.bags.space_messages import SpaceMessages
from m2f_ros.bags.topics import CAMERA_INFO as INFO
from m2f_ros.bags.writer import BagWriter, register_type
from m2f_ros.errors import SpaceError
from m2f_ros.files import file_names
from m2f_ros.frame.calibration import trouble
from m2f_ros.frame.outputs import OUTPUTS
from m2f_ros.frame.segment import Segment
from m2f_ros.pipeline import Segmentation, Tracker
from m2f_ros.replay.batches import Batch
from m2f_ros.replay.digest import write_png
from m2f_ros.replay.folder import LABELS, METADATA, RECORD, UNFINISHED, Folder, Progress, writing
from m2f_ros.replay.settings import Settings
from m2f_ros.replay.space import SpaceOutputs, is_each
from m2f_ros.sources.sample import Sample
from m2f_ros.taxonomy import Taxonomy

log = logging.getLogger("m2f_ros.replay")

NODE = "/segmentation_node"
# In the names of the arrays of a commit; no camera's name has a point.
_SPACE = "in.space"
_MEMORY = "network.memory"


class _Message(NamedTuple):
    """Arguments of BagWriter.write. data: CDR."""

    topic: str
    type: str
    data: memoryview
    log_ns: int


class BagOutputs:
    """Writes the bag file by file. Not thread-safe.

    Args:
        cameras: cameras of the drive.
        taxonomy: taxonomy of the labels.
    Attributes:
        memories: camera -> the network's memory after its last written frame; of a network with memory alone.
    """

    def __init__(self, folder: Folder, cameras: Sequence[str], settings: Settings, taxonomy: Taxonomy) -> None:
        self._folder, self._settings, self._taxonomy = folder, settings, taxonomy
        self._bases = {camera: namespace(camera) for camera in cameras}
        self._outputs = [output for output in OUTPUTS if output.name in settings.outputs]
        self._trackers = {camera: Tracker() for camera in cameras}
        tracks = folder.tracks()
        self.memories: dict[str, np.ndarray] = {}
        if tracks:
            for camera, tracker in self._trackers.items():
                tracker.restore(_below(camera, tracks))
            self.memories = _below(_MEMORY, tracks)
        self._progress, self._tracks = folder.progress, tracks
        self._present = folder.progress  # of the batch that is being written
        self._warned: set[str] = set()
        self._part: BagWriter | None = None
        self._store = get_typestore(Stores.LATEST)
        register_type(self._store, STATS)
        self._make = Messages(self._store)
        self._space = None
        if settings.spatial:
            own = SpaceMessages(self._store)
            self._space = SpaceOutputs(settings, taxonomy, self._make, own, self._miss, self._tell)
            if tracks:
                self._space.restore(_below(_SPACE, tracks))
        self._folders = camera_folders(cameras)
        if settings.png:
            with writing(folder.path):
                taxonomy.with_train_ids().to_yaml(folder.results.new(f"{LABELS}/taxonomy.yaml"))

    def write(self, batch: Batch, results: Sequence[Segmentation]) -> None:
        """Add all images of a batch, or, on an error, none.

        results: results of `batch.readable`. Raises SourceError if writing fails.
        """
        progress, found = deepcopy(self._progress), iter(results)
        self._present = progress
        messages: list[_Message] = []
        for image in batch.images:
            readable = image.frame is not None
            counts = progress.segmented if readable else progress.bad
            counts[image.camera] = counts.get(image.camera, 0) + 1
            progress.problem = progress.problem or image.problem
            progress.lost = progress.lost or image.lost
            result = next(found) if readable else None
            if result is not None and result.memory is not None:
                self.memories[image.camera] = result.memory.copy()
            panoptic = self._tracked(image, result) if result is not None and "panoptic" in result.images else None
            if result is not None:
                messages += self._messages_of(image, result, panoptic, progress)
            if self._space is not None:
                messages += self._in_space(image, result, panoptic)
        progress.next = batch.end
        with writing(self._folder.path):
            if self._settings.png:
                for image, result in zip(batch.readable, results, strict=True):
                    name = f"{LABELS}/{self._folders[image.camera]}{image.name}.png"
                    write_png(self._folder.results.new(name), result.images["label"])
            if messages:
                self._write_messages(messages)
        self._progress = progress
        self._tracks = {
            f"{camera}/{name}": array
            for camera, tracker in self._trackers.items()
            for name, array in tracker.state().items()
        }
        self._tracks |= {f"{_MEMORY}/{camera}": memory for camera, memory in self.memories.items()}
        if self._space is not None:
            self._tracks |= {f"{_SPACE}/{name}": array for name, array in self._space.state().items()}

    def commit(self) -> None:
        """Commit the present file. The next image begins another one."""
        if self._part is not None:
            self._folder.commit(self._part, self._progress, self._tracks)
            self._part = None
        elif self._progress.next != self._folder.progress.next:  # only by damaged images
            self._folder.save(self._progress)

    def discard(self) -> None:
        """Discard everything since the last commit. Never raises."""
        if self._part is not None:
            self._part.abort()
            self._part = None
        self._progress = self._folder.progress
        self._folder.discard()

    def _write_messages(self, messages: list[_Message]) -> None:
        if self._part is None:
            self._part = self._folder.begin()
            if not self._folder.files:
                legend = self._make.legend(self._taxonomy, self._settings.model)
                for base in self._bases.values():
                    self._part.add_topic(f"{base}/legend", LEGEND, latched=True)
                    self._part.write(f"{base}/legend", LEGEND, legend, messages[0].log_ns)
        self._part.require(sum(len(message.data) for message in messages))
        try:
            for message in messages:
                self._part.write(*message)
        except BaseException:
            self.discard()  # the file may hold a part of the batch
            raise

    def _tracked(self, image: Sample, result: Segmentation) -> tuple[np.ndarray, Sequence[Segment]]:
        """Return ids and segments, with the ids of the frames before."""
        return self._trackers[image.camera].update(
            result.images["panoptic"], result.segments or [], result.slots, result.embeddings
        )

    def _in_space(
        self, image: Sample, result: Segmentation | None, panoptic: tuple[np.ndarray, Sequence[Segment]] | None
    ) -> list[_Message]:
        assert self._space is not None
        found = []
        for one in self._space.of(image, result, panoptic):
            base = self._bases[one.camera] if is_each(one.output) else NODE
            data = self._store.serialize_cdr(one.message, one.type)
            found.append(_Message(f"{base}/{one.output}", one.type, data, image.log_ns))
        return found

    def _miss(self, output: str, error: SpaceError) -> None:
        self._present.miss(output, str(error))

    def _tell(self, line: str) -> None:
        # The bag of the result names the drive: one process may replay several.
        log.warning("%s: %s", self._folder.path, line)

    def _messages_of(
        self,
        image: Sample,
        result: Segmentation,
        panoptic: tuple[np.ndarray, Sequence[Segment]] | None,
        progress: Progress,
    ) -> list[_Message]:
        make, header = self._make, self._header(image)
        found = []

        def add(name: str, kind: str, message: Any) -> None:
            data = self._store.serialize_cdr(message, kind)
            found.append(_Message(f"{self._bases[image.camera]}/{name}", kind, data, image.log_ns))

        for output in self._outputs:
            if output.name == "panoptic":
                assert panoptic is not None, "it was asked for"
                array, segments = panoptic
                add("segments", SEGMENTS, make.segments(segments, header))
            else:
                array = result.images[output.name]
            add(output.name, IMAGE, make.image(array, output.encoding_of(array), header))
        if image.calibration is not None:
            height, width = image.image.shape[:2]
            size = width, height
            self._check_info(image, size)
            info = replace(image.calibration.fitted(size, size), frame_id=None)
            add(INFO, CAMERA_INFO, make.camera_info(info, header))
        add("stats", STATS, self._stats(image, result, progress, header))
        return found

    def _check_info(self, image: Sample, size: tuple[int, int]) -> None:
        """Log once for each camera a fault of its camera_info. size: (width, height) of the image."""
        if image.camera not in self._warned and (wrong := trouble(image.calibration, size)):
            self._warned.add(image.camera)
            log.warning("%s/%s %s; the labels do not depend on it", self._bases[image.camera], INFO, wrong)

    def _header(self, image: Sample) -> Any:
        assert image.header is not None, "an image that was decoded has a header"
        stamp = self._store.types["builtin_interfaces/msg/Time"](image.header.sec, image.header.nanosec)
        return self._store.types["std_msgs/msg/Header"](stamp, image.header.frame_id)

    def _stats(self, image: Sample, result: Segmentation, progress: Progress, header: Any) -> Any:
        """Make the node's statistics message; the age of a frame is the sum of its stage times, without waiting."""
        segmented, bad = progress.segmented[image.camera], progress.bad.get(image.camera, 0)
        return self._store.types[STATS](
            header=header,
            number=segmented + bad,
            received=segmented + bad,
            segmented=segmented,
            dropped=0,
            bad=bad,
            drop_reasons=[],
            drops=np.zeros(0, np.uint64),
            age_ms=sum(result.stages.values()),
            wait_ms=0.0,
            stages=list(result.stages),
            stage_ms=np.array(list(result.stages.values()), np.float32),
            class_shares=np.zeros(0, np.float32) if result.shares is None else result.shares,
        )


def camera_folders(cameras: Sequence[str]) -> dict[str, str]:
    """Return the folder of each camera's files, such as "front/"; "" for an only camera."""
    if len(cameras) == 1:
        return {cameras[0]: ""}
    # Reserved, since the folders of videos lie beside these.
    names = file_names(cameras, [LABELS, UNFINISHED, RECORD, METADATA])
    return {camera: f"{name}/" for camera, name in zip(cameras, names, strict=True)}


def namespace(camera: str) -> str:
    """Return the namespace of a camera's output topics, as in the node."""
    return f"{NODE}/{camera}" if camera else NODE


def _below(camera: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of one camera, by names without its prefix."""
    return {name.removeprefix(f"{camera}/"): array for name, array in arrays.items() if name.startswith(f"{camera}/")}
