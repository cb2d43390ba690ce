"""Tracks panoptic segments: ids persist from frame to frame while the masks overlap, or by the network's queries.

By overlap: greedy matching by intersection over union between consecutive frames, without a model of motion.
(Bochinski, Eiselein, Sikora 2017: High-Speed Tracking-by-Detection Without Using Image Information, there with boxes)

By queries: the queries of two consecutive frames are matched one to one by the cosine similarity of their embeddings;
a query that matches takes over the id. (Huang, Yu, Anandkumar 2022: MinVIS, https://arxiv.org/abs/2208.02245)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from m2f_ros.frame.segment import Segment

LAST_ID = 65535
STRIP = 1 << 22  # pixels compared at once, 16 bytes of memory each


class Tracker:
    """Tracks the segments of one camera.

    Args:
        min_iou: least intersection over union, 0..1, of two matching segments of one class in consecutive frames.
    """

    def __init__(self, min_iou: float = 0.2):
        self._min_iou = min_iou
        self._ids = np.zeros((0, 0), np.uint16)
        self._segments: list[Segment] = []
        self._newest = 0
        self._known: dict[int, tuple[int, int]] = {}  # slot -> id and train id
        self._embeddings = np.zeros((0, 0), np.float32)  # of length 1, by slot

    def reset(self) -> None:
        """Forget the frames before: all segments of the next one get new ids."""
        self._ids, self._segments = np.zeros((0, 0), np.uint16), []
        self._known, self._embeddings = {}, np.zeros((0, 0), np.float32)

    def state(self) -> dict[str, np.ndarray]:
        """Return the state of the tracker as arrays, for `restore`."""
        rows = [(s.id, s.train_id, s.score, s.area, *s.box) for s in self._segments]
        return {
            "ids": self._ids,
            "segments": np.array(rows, np.float64).reshape(-1, 8),
            "newest": np.array(self._newest),
            "known": np.array([(slot, *of) for slot, of in self._known.items()], np.int64).reshape(-1, 3),
            "embeddings": self._embeddings,
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore the state that `state` returned."""
        self._ids, self._newest = state["ids"], int(state["newest"])
        self._segments = [
            Segment(int(i), int(train_id), float(score), int(area), (int(x), int(y), int(width), int(height)))
            for i, train_id, score, area, x, y, width, height in state["segments"]
        ]
        # A replay of an older version has neither.
        self._known = {int(slot): (int(i), int(train_id)) for slot, i, train_id in state.get("known", ())}
        self._embeddings = state.get("embeddings", self._embeddings)

    def update(
        self,
        ids: np.ndarray,
        segments: Sequence[Segment],
        slots: np.ndarray | None = None,
        embeddings: np.ndarray | None = None,
    ) -> tuple[np.ndarray, list[Segment]]:
        """Track the segments of the next frame.

        By overlap without `slots`. With them a slot keeps its id while its class stays. Slots that the network hands
        from frame to frame keep it through frames that lack them; those that `embeddings` match do not, since a query
        often finds another object later.

        Args:
            ids: (height, width) integers below 65536, segment id of each pixel, 0 for none. Not kept.
            segments: segments of `ids`.
            slots, embeddings: see `Segmentation`.
        Returns:
            Read-only (height, width) uint16 ids, and the segments in their order, with persistent ids. New ids count up
            to 65535 and then from 1 again, so that an id is not reused soon.
        """
        table = np.zeros(LAST_ID + 1, np.uint16)
        if slots is None:
            for before, now in self._matches(ids, segments):
                table[now.id] = before.id
        else:
            slots = self._followed(slots, embeddings)
            for slot, now in zip(slots.tolist(), segments, strict=True):
                number, train_id = self._known.get(slot, (0, -1))
                table[now.id] = number if train_id == now.train_id else 0
        taken = {segment.id for segment in self._segments} | {number for number, _ in self._known.values()}
        for segment in segments:
            if not table[segment.id]:
                table[segment.id] = self._next(taken)
        if slots is not None:
            seen = {
                slot: (int(table[now.id]), now.train_id) for slot, now in zip(slots.tolist(), segments, strict=True)
            }
            self._known = self._known | seen if embeddings is None else seen
        self._ids = table[ids]
        self._ids.flags.writeable = False
        self._segments = [segment._replace(id=int(table[segment.id])) for segment in segments]
        return self._ids, list(self._segments)

    def _next(self, taken: set[int]) -> int:
        """Return the unused id that was assigned longest ago, or never."""
        while True:
            self._newest = self._newest % LAST_ID + 1
            if self._newest not in taken:
                return self._newest

    def _followed(self, slots: np.ndarray, embeddings: np.ndarray | None) -> np.ndarray:
        """Return the slots with the numbers of the matching queries of the first frame, and keep the embeddings."""
        if embeddings is None:
            return slots
        from scipy.optimize import linear_sum_assignment  # an extra

        length = np.linalg.norm(embeddings, axis=1, keepdims=True)
        unit = embeddings / np.maximum(length, np.finfo(np.float32).tiny)
        if self._embeddings.shape == unit.shape:
            of = linear_sum_assignment(unit @ self._embeddings.T, maximize=True)[1]
        else:
            of = np.arange(len(unit))
        self._embeddings = np.empty_like(unit)
        self._embeddings[of] = unit
        return np.append(of, np.arange(len(of), max(len(of), slots.max(initial=0) + 1)))[slots]

    def _matches(self, ids: np.ndarray, segments: Sequence[Segment]) -> Iterator[tuple[Segment, Segment]]:
        """Yield (segment of the frame before, matching segment), in descending order of their overlap."""
        if ids.shape != self._ids.shape or not segments or not self._segments:
            return
        iou = self._iou(ids, segments)
        rows, columns = np.nonzero((iou > 0) & (iou >= self._min_iou))
        left, found = set(range(len(self._segments))), set()
        for pair in np.argsort(-iou[rows, columns], kind="stable"):
            i, j = int(rows[pair]), int(columns[pair])
            if i in left and j not in found:
                left.remove(i)
                found.add(j)
                yield self._segments[i], segments[j]

    def _iou(self, ids: np.ndarray, segments: Sequence[Segment]) -> np.ndarray:
        """Return the intersection over union, (segments before, segments now), 0 for different classes."""
        old, new = _positions(self._segments), _positions(segments)
        shape = len(self._segments) + 1, len(segments) + 1
        common = np.zeros(shape, np.int64)
        some = max(1, STRIP // ids.shape[1])
        for start in range(0, len(ids), some):
            rows = slice(start, start + some)
            pairs = old[self._ids[rows]]
            pairs *= shape[1]
            pairs += new[ids[rows]]
            common += np.bincount(pairs.ravel(), minlength=common.size).reshape(shape)
        union = common.sum(1, keepdims=True) + common.sum(0) - common
        classes = [np.array([s.train_id for s in some]) for some in (self._segments, segments)]
        same = classes[0][:, None] == classes[1]
        return np.where(same, common[1:, 1:] / np.maximum(union[1:, 1:], 1), 0.0)


def _positions(segments: Sequence[Segment]) -> np.ndarray:
    """Return a table (65536,): id -> 1 + its index in the list, 0 for unknown ids."""
    table = np.zeros(LAST_ID + 1, np.int64)
    table[[segment.id for segment in segments]] = np.arange(1, len(segments) + 1)
    return table
