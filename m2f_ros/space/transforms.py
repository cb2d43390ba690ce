"""Poses of frames over time: a buffer of transforms with the rules of tf2, without ROS.

A transform is a (4, 4) float64 matrix: p_target = M @ p_source, in metres. Stamps are nanoseconds.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Lock
from typing import Literal

import numpy as np

from m2f_ros.errors import SpaceError, some

Kind = Literal["missing", "unconnected", "stale", "past", "old", "loop", "conflict", "invalid", "full"]

# The axes of an optical frame (x right, y down, z forward) in its body's frame (x forward, y left, z up).
OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
OPTICAL.flags.writeable = False

_NORM = 0.01  # how far the square of a quaternion's length may be from 1: tf2's tolerance
_FRAMES = 1000  # frames in a buffer
_SAMPLES = 100_000  # transforms in a buffer, about 30 MB
_LONGEST = 256  # characters of a frame's name
_RESTART = 10  # transforms in a row, each older than all that is kept, that make an edge begin anew


class TransformError(SpaceError):
    """A transform that is not there or cannot be taken.

    Attributes:
        kind: what to count it as. A lookup raises
            "missing": one of the frames was never heard of;
            "unconnected": no path leads from frame to frame;
            "stale": the newest transform is older than the stamp, a newer one may come yet;
            "past": the oldest transform that is kept is newer than the stamp;
            "conflict": the frame's parent changes to and fro, two publishers claim it.
            A put raises
            "invalid": a name, matrix or quaternion that is none;
            "old": a stamp older than all that is kept;
            "loop": the frame would be its own ancestor;
            "full": there are too many frames;
            "conflict": a static transform changed its parent, or became a moving one, or the other way round.
    """

    def __init__(self, message: str, kind: Kind = "invalid") -> None:
        super().__init__(message)
        self.kind = kind


def from_quaternion(translation: Sequence[float], rotation: Sequence[float]) -> np.ndarray:
    """Make the matrix of a geometry_msgs/Transform.

    translation: x, y, z in metres.
    rotation: quaternion x, y, z, w. Its length may be off by half a percent and is brought to 1.

    Raises TransformError ("invalid") for other counts, NaN, infinity, and quaternions of another length.
    """
    try:
        (px, py, pz), (x, y, z, w) = translation, rotation
        square = x * x + y * y + z * z + w * w
        finite = math.isfinite(px + py + pz + square)
    except (TypeError, ValueError):
        raise TransformError(f"transform: {translation!r}, {rotation!r} is not x, y, z and a quaternion") from None
    if not finite:
        raise TransformError(f"transform: NaN or infinity in {px, py, pz}, quaternion {x, y, z, w}")
    if abs(square - 1) >= _NORM:
        raise TransformError(f"transform: the quaternion {x, y, z, w} has the length {math.sqrt(square):.3g}, not 1")
    s = 2 / square
    xx, yy, zz = s * x * x, s * y * y, s * z * z
    xy, xz, yz, wx, wy, wz = s * x * y, s * x * z, s * y * z, s * w * x, s * w * y, s * w * z
    return np.array(
        [
            [1 - yy - zz, xy - wz, xz + wy, px],
            [xy + wz, 1 - xx - zz, yz - wx, py],
            [xz - wy, yz + wx, 1 - xx - yy, pz],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def pose(values: Sequence[float]) -> np.ndarray:
    """Make the matrix of a pose in its parent, p_parent = M @ p.

    values: x, y, z in metres, roll, pitch, yaw in radians about the parent's x, y and z axes in this order, as in URDF.

    Raises TransformError ("invalid") where these are not six finite numbers.
    """
    try:
        x, y, z, roll, pitch, yaw = map(float, values)
    except (TypeError, ValueError):
        raise TransformError(f"pose: {values!r}, expected [x, y, z, roll, pitch, yaw] (metres, radians)") from None
    if not math.isfinite(x + y + z + roll + pitch + yaw):
        raise TransformError(f"pose: {list(values)}, expected finite numbers")
    (cr, sr), (cp, sp), (cy, sy) = ((math.cos(angle), math.sin(angle)) for angle in (roll, pitch, yaw))
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr, x],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr, y],
            [-sp, cp * sr, cp * cr, z],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Invert a rigid transform, (4, 4)."""
    out = np.eye(4)
    out[:3, :3] = matrix[:3, :3].T
    out[:3, 3] = -out[:3, :3] @ matrix[:3, 3]
    return out


def interpolate(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """Go a share of the way from one rigid transform to another: straight on, and turning the shorter way.

    first, second: (4, 4).
    share: 0 (first) to 1 (second).
    """
    a, b = quaternion(first), quaternion(second)
    if a @ b < 0:
        b = -b
    # Twice the arctangent is exact for small angles, where the arccosine of a @ b is not.
    half = 2 * math.atan2(float(np.linalg.norm(a - b)), float(np.linalg.norm(a + b)))
    if half < 1e-9:
        q = a + share * (b - a)
    else:
        q = (math.sin((1 - share) * half) * a + math.sin(share * half) * b) / math.sin(half)
    position = first[:3, 3] + share * (second[:3, 3] - first[:3, 3])
    return from_quaternion(position.tolist(), q.tolist())


def quaternion(matrix: np.ndarray) -> np.ndarray:
    """Return the quaternion x, y, z, w of a rigid transform, (4, 4)."""
    # By its largest component: divisions by less than 1 lose digits.
    ((m00, m01, m02), (m10, m11, m12), (m20, m21, m22)) = matrix[:3, :3].tolist()
    four = (  # 4 q_i q, for each i
        (1 + m00 - m11 - m22, m01 + m10, m02 + m20, m21 - m12),
        (m01 + m10, 1 - m00 + m11 - m22, m12 + m21, m02 - m20),
        (m02 + m20, m12 + m21, 1 - m00 - m11 + m22, m10 - m01),
        (m21 - m12, m02 - m20, m10 - m01, 1 + m00 + m11 + m22),
    )
    row = np.array(max(zip(four, range(4), strict=True), key=lambda pair: pair[0][pair[1]])[0])
    return row / np.linalg.norm(row)


@dataclass(eq=False)
class _Edge:
    """The transforms of a frame to its parent, p_parent = M @ p, in the order of their stamps."""

    parent: str
    static: bool
    since: int  # stamp of its first transform
    rival: str | None = None  # the parent before this one, not long ago
    contested: bool = False  # this parent has taken its place before
    stamps: list[int] = field(default_factory=list)
    matrices: list[np.ndarray] = field(default_factory=list)
    late: list[tuple[int, np.ndarray]] = field(default_factory=list)  # those older than all of these, in a row

    def insert(self, stamp_ns: int, matrix: np.ndarray) -> None:
        at = bisect_left(self.stamps, stamp_ns)
        if at < len(self.stamps) and self.stamps[at] == stamp_ns:
            self.matrices[at] = matrix
        else:
            self.stamps.insert(at, stamp_ns)
            self.matrices.insert(at, matrix)

    def keep(self, window_ns: int, most: int) -> None:
        """Forget what is older than the window before the newest, and more than `most` of them."""
        end = max(bisect_left(self.stamps, self.stamps[-1] - window_ns), len(self.stamps) - most)
        if end > 0:
            del self.stamps[:end], self.matrices[:end]

    def at(self, stamp_ns: int, tolerance_ns: int) -> np.ndarray | Kind:
        if self.static:
            return self.matrices[0]
        stamps = self.stamps
        if stamp_ns >= stamps[-1]:
            return self.matrices[-1] if stamp_ns - stamps[-1] <= tolerance_ns else "stale"
        if stamp_ns <= stamps[0]:
            return self.matrices[0] if stamps[0] - stamp_ns <= tolerance_ns else "past"
        after = bisect_right(stamps, stamp_ns)
        start, end = stamps[after - 1], stamps[after]
        return interpolate(self.matrices[after - 1], self.matrices[after], (stamp_ns - start) / (end - start))


class Transforms:
    """A tree of frames whose transforms are kept for some seconds; safe to use from several threads.

    The rules are tf2's: a static transform holds at all times; between two stamps of a moving one the position goes
    straight and the rotation by slerp; nothing is extrapolated; a static transform replaces a moving one and the other
    way round; a leading slash of a name is left out. Other than in tf2

    - a transform that would close a loop is refused when it comes, the tree before it stays;
    - a frame that changes its parent begins anew; one whose parents take turns is refused by lookups;
    - two transforms of the same frame and stamp: the later replaces the earlier;
    - transforms older than all that is kept are refused, but ten of them in a row are a clock that was set back, and
      the frame begins anew with them;
    - 0 is a stamp like any other, None asks for the newest;
    - the memory is bounded: 1000 frames and about 100,000 transforms; the oldest go first.
    """

    def __init__(self, seconds: float = 10.0, tolerance: float = 0.0) -> None:
        """seconds: how long moving transforms are kept, by the stamps of each frame.
        tolerance: seconds past either end of what is kept, for which the transform at that end holds as it is.
        """
        self._window_ns = round(seconds * 1e9)
        self._tolerance_ns = round(tolerance * 1e9)
        self._edges: dict[str, _Edge] = {}  # by the child
        self._children: dict[str, int] = {}  # how many edges lead to a parent
        self._lock = Lock()

    def put(self, parent: str, child: str, matrix: np.ndarray, stamp_ns: int, static: bool = False) -> None:
        """Take the pose of a frame in its parent.

        matrix: (4, 4), p_parent = matrix @ p_child; a rigid transform.
        stamp_ns: when it is valid; of no meaning for a static one.

        Raises TransformError for what cannot be taken, see its kinds. In case of a "conflict" the new one is taken.
        """
        parent, child = _name(parent), _name(child)
        if parent == child:
            raise TransformError(f"transform: frame {child} to itself is left out")
        matrix = _rigid(matrix, parent, child)
        with self._lock:
            edge, conflict = self._edges.get(child), ""
            if edge is None or edge.parent != parent or edge.static != static:
                self._check(parent, child, edge)
                new = _Edge(parent, static, stamp_ns)
                if edge is not None and edge.parent != parent:
                    new.rival = edge.parent
                    new.contested = edge.rival == parent and not static and not edge.static
                if edge is not None and (static or edge.static):
                    was, now = (f"{'static' if e.static else 'moving'} in {e.parent}" for e in (edge, new))
                    conflict = f"transform: frame {child} was {was} and is now {now}: the newer is taken"
                self._set(child, new)
                edge = new
            if static:
                edge.stamps[:], edge.matrices[:] = [stamp_ns], [matrix]
            else:
                self._insert(edge, child, stamp_ns, matrix)
        if conflict:
            raise TransformError(conflict, "conflict")

    def _check(self, parent: str, child: str, edge: _Edge | None) -> None:
        path = [parent]
        while (up := self._edges.get(path[-1])) is not None:
            path.append(up.parent)
            if up.parent == child:
                line = " in ".join([child, *path])
                raise TransformError(f"transform: a loop, {line}: the last to come is left out, {child}", "loop")
        if edge is None and len(self._edges) >= _FRAMES:
            raise TransformError(f"transform: more than {_FRAMES} frames, {child} is left out", "full")

    def _set(self, child: str, edge: _Edge | None) -> None:
        old = self._edges.pop(child, None)
        if old is not None:
            self._children[old.parent] -= 1
            if not self._children[old.parent]:
                del self._children[old.parent]
        if edge is not None:
            self._edges[child] = edge
            self._children[edge.parent] = self._children.get(edge.parent, 0) + 1

    def _insert(self, edge: _Edge, child: str, stamp_ns: int, matrix: np.ndarray) -> None:
        if edge.stamps and stamp_ns < edge.stamps[-1] - self._window_ns:
            edge.late.append((stamp_ns, matrix))
            if len(edge.late) < _RESTART:
                behind = (edge.stamps[-1] - stamp_ns) / 1e9
                raise TransformError(
                    f"transform: of frame {child} at {_time(stamp_ns)} is {behind:.3f} s older than the newest, "
                    f"{self._window_ns / 1e9:g} s are kept: left out; look for two clocks or two publishers",
                    "old",
                )
            edge.stamps.clear()
            edge.matrices.clear()
            edge.since = stamp_ns
            for late in edge.late:
                edge.insert(*late)
        else:
            edge.insert(stamp_ns, matrix)
        if edge.late:
            edge.late.clear()
        edge.keep(self._window_ns, max(2, _SAMPLES // len(self._edges)))
        if edge.rival and edge.stamps[-1] - edge.since > self._window_ns:  # it has been silent since
            edge.rival, edge.contested = None, False

    def lookup(self, target: str, source: str, stamp_ns: int | None) -> np.ndarray:
        """Return the (4, 4) transform with p_target = M @ p_source at a stamp; None: the newest that all frames have.

        A frame in itself is the identity, also one that was never heard of. Raises TransformError, see its kinds.
        """
        target, source = _name(target), _name(source)
        if target == source:
            return np.eye(4)
        asked = f"transform from {source} to {target}"
        with self._lock:
            self._known(asked, source, target)
            ups, downs = self._path(source), self._path(target)
            if ups[-1] != downs[-1]:
                raise TransformError(
                    f"{asked}: {source} is in the tree of {ups[-1]}, {target} in that of {downs[-1]}, and nothing "
                    f"connects them: publish {ups[-1]} in {downs[-1]}, or the other way round",
                    "unconnected",
                )
            while len(ups) > 1 and len(downs) > 1 and ups[-2] == downs[-2]:  # above, both go the same way
                del ups[-1], downs[-1]
            edges = {frame: self._edges[frame] for frame in (*ups[:-1], *downs[:-1])}
            if stamp_ns is None:
                stamp_ns = min((edge.stamps[-1] for edge in edges.values() if not edge.static), default=0)
            found = {frame: self._at(asked, frame, edge, stamp_ns) for frame, edge in edges.items()}
        return inverse(_chain(found, downs)) @ _chain(found, ups)

    def lookup_between(self, target: str, target_ns: int, source: str, source_ns: int, fixed: str) -> np.ndarray:
        """Return the (4, 4) transform of points seen from `source` at one stamp into `target` at another.

        fixed: a frame that does not move in the world, in which the points are taken to stand still.

        At equal stamps the fixed frame is not needed. Raises TransformError, see its kinds.
        """
        if target_ns == source_ns:
            return self.lookup(target, source, source_ns)
        return self.lookup(target, fixed, target_ns) @ self.lookup(fixed, source, source_ns)

    def clear(self) -> None:
        """Forget all moving transforms, as after a jump of the time. Static ones stay, they come only once."""
        with self._lock:
            for child in [child for child, edge in self._edges.items() if not edge.static]:
                self._set(child, None)

    def _known(self, asked: str, *frames: str) -> None:
        for frame in frames:
            if frame not in self._edges and frame not in self._children:
                names = sorted({*self._edges, *self._children})
                known = f"there are {some(names)}" if names else "there are none yet"
                raise TransformError(
                    f"{asked}: no frame {frame}, {known}: publish it on /tf or /tf_static, or give its extrinsics",
                    "missing",
                )

    def _path(self, frame: str) -> list[str]:
        """The frame and its ancestors; no loop can have been put."""
        path = [frame]
        while (edge := self._edges.get(path[-1])) is not None:
            path.append(edge.parent)
        return path

    def _at(self, asked: str, frame: str, edge: _Edge, stamp_ns: int) -> np.ndarray:
        if edge.contested:
            raise TransformError(
                f"{asked}: the parent of {frame} is {edge.parent} and {edge.rival} in turns: stop one publisher",
                "conflict",
            )
        found = edge.at(stamp_ns, self._tolerance_ns)
        if isinstance(found, np.ndarray):
            return found
        stale = found == "stale"
        end, way = (edge.stamps[-1], "newest") if stale else (edge.stamps[0], "oldest")
        raise TransformError(
            f"{asked} at {_time(stamp_ns)}: the {way} of {frame} in {edge.parent} is of {_time(end)}, "
            f"{abs(stamp_ns - end) / 1e9:.3f} s too {'old' if stale else 'new'}",
            found,
        )


def _chain(found: dict[str, np.ndarray], path: list[str]) -> np.ndarray:
    """The transform from the first frame of a path to the last."""
    out = np.eye(4)
    for frame, _ in pairwise(path):
        out = found[frame] @ out
    return out


def _name(frame: str) -> str:
    frame = frame.removeprefix("/")
    if not frame:
        raise TransformError("transform: a frame without a name")
    if len(frame) > _LONGEST:
        raise TransformError(f"transform: the name {frame[:40]}… of a frame has more than {_LONGEST} characters")
    return frame


def _time(stamp_ns: int) -> str:
    return f"{stamp_ns // 10**9}.{stamp_ns % 10**9:09d}"


def _rigid(matrix: np.ndarray, parent: str, child: str) -> np.ndarray:
    """A copy of the matrix that nobody else can change."""
    own = np.array(matrix, np.float64)
    if own.shape != (4, 4):
        raise TransformError(f"transform: {child} in {parent} is of the shape {own.shape}, expected (4, 4)")
    (a, b, c, x), (d, e, f, y), (g, h, i, z), last = own.tolist()
    # Rows of unit length, at right angles, and right-handed; false for NaN, too.
    lengths = max(abs(a * a + b * b + c * c - 1), abs(d * d + e * e + f * f - 1), abs(g * g + h * h + i * i - 1))
    angles = max(abs(a * d + b * e + c * f), abs(a * g + b * h + c * i), abs(d * g + e * h + f * i))
    volume = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    right = lengths < _NORM and angles < _NORM and volume > 0 and last == [0, 0, 0, 1] and math.isfinite(x + y + z)
    if not right:
        raise TransformError(f"transform: {child} in {parent} is not a finite rotation and translation")
    own.flags.writeable = False
    return own
