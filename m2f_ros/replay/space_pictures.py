"""Pictures of outputs in space, beside the overlay of their frame."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from m2f_ros.bags.reader import Bag, Message
from m2f_ros.frame.raw import image_view
from m2f_ros.replay.digest import write_png
from m2f_ros.space.cloud import Cloud
from m2f_ros.space.transforms import OPTICAL, inverse, pose
from m2f_ros.taxonomy import Taxonomy

PICTURED = ("points", "lidar", "grid", "obstacles")
BACKGROUND, UNKNOWN, LINES = (24, 24, 24), (70, 70, 70), (120, 120, 120)  # BGR
FREE, COSTLY, LETHAL, OBSTACLE = (120, 190, 110), (70, 170, 215), (50, 50, 200), (255, 255, 255)
_UNLABELLED = (110, 110, 110)
_EYE = pose((-3.0, 0.0, 3.5, 0.0, 0.36, 0.0)) @ OPTICAL  # behind and above a camera that looks ahead
_FOCAL = 0.9  # of the picture's height
_MOST = 5  # pixels of a point's side
_RING = 5.0  # metres between the rings around the base


@dataclass(frozen=True, eq=False)
class Ground:
    """The content of a picture of the ground.

    Attributes:
        cells: (rows, columns) int8 costs, row = y, column = x; None without a grid.
        origin: x and y of the outer corner of cell (0, 0), metres.
        resolution: side of a cell, metres.
        obstacles: (N, 2) float64, x and y of obstacles, metres.
    """

    cells: np.ndarray | None
    origin: tuple[float, float] = (0.0, -10.0)
    resolution: float = 0.1
    obstacles: np.ndarray | None = None


def write_pictures(
    bag: Path, topics: Mapping[str, str], overlay: str, taxonomy: Taxonomy | None, new: Callable[[str], Path]
) -> dict[str, int]:
    """Write NAME.png of each output, of the frame in the middle, and return the number of messages of each.

    bag: rosbag2 folder. topics: output -> topic; only those of PICTURED have a picture. overlay: topic of the overlays.
    taxonomy: of the labels; None for no pictures. new: function that returns the path for a file name.
    """
    with Bag(bag) as reader:
        counts = {name: reader.topics[topic].count if topic in reader.topics else 0 for name, topic in topics.items()}
        stamps = sorted(message.stamp_ns for message in reader.messages([overlay]))
        wanted = {name: topics[name] for name in topics if name in PICTURED and counts[name]}
        if not stamps or not wanted or taxonomy is None:
            return counts
        own = {name: sorted(m.stamp_ns for m in reader.messages([topic])) for name, topic in wanted.items()}
        # A frame that has as many of the outputs as any, in the middle.
        middle = stamps[len(stamps) // 2]
        shown = min(stamps, key=lambda at: (-sum(at in some for some in own.values()), abs(at - middle)))
        found = {"overlay": _at(reader.messages([overlay]), shown)}
        for name, topic in wanted.items():
            nearest = min(own[name], key=lambda at: abs(at - shown))
            found[name] = _at(reader.messages([topic]), nearest)
    picture = image_view(found["overlay"])
    for name in wanted:
        write_png(new(f"{name}.png"), beside(picture, _view(name, found, picture.shape[:2], taxonomy)))
    return counts


def _at(messages: Iterable[Message], stamp: int) -> Any:
    return next(message.decode() for message in messages if message.stamp_ns == stamp)


def _view(name: str, found: Mapping[str, Any], size: tuple[int, int], taxonomy: Taxonomy) -> np.ndarray:
    if name in ("points", "lidar"):
        cloud = Cloud.of(found[name])
        points = cloud.xyz().astype(np.float64)
        if name == "lidar":  # x ahead, as its frame has it
            points = points @ OPTICAL[:3, :3]
        return cloud_view(points, cloud.column("label"), size, taxonomy)
    ground = Ground(None)
    if grid := found.get("grid"):
        corner = grid.info.origin.position
        cells = np.asarray(grid.data, np.int8).reshape(grid.info.height, grid.info.width)
        ground = Ground(cells, (corner.x, corner.y), grid.info.resolution)
    if name == "obstacles":
        scan = found["obstacles"]
        angle = scan.angle_min + scan.angle_increment * np.arange(len(scan.ranges))
        there = np.isfinite(scan.ranges)
        places = np.stack([np.cos(angle), np.sin(angle)], axis=1)[there] * np.asarray(scan.ranges)[there, None]
        ground = Ground(ground.cells, ground.origin, ground.resolution, places)
    return ground_view(ground, size)


def cloud_view(points: np.ndarray, labels: np.ndarray, size: tuple[int, int], taxonomy: Taxonomy) -> np.ndarray:
    """Draw points in the colours of their classes, seen from behind and above the camera: (height, width, 3) BGR.

    points: (N, 3) metres in a frame as the camera's optical one, NaN for none. labels: (N,) train ids; other values are
    grey. size: (height, width).
    """
    height, width = size
    picture = np.full((height, width, 3), BACKGROUND, np.uint8)
    palette = taxonomy.palette()[:, ::-1].copy()
    known = np.zeros(len(palette), bool)
    known[[c.id for c in taxonomy.classes]] = True
    matrix = inverse(_EYE) @ OPTICAL
    seen = points @ matrix[:3, :3].T + matrix[:3, 3]
    with np.errstate(invalid="ignore"):
        ahead = seen[:, 2] > 0.1
    seen, labels = seen[ahead], np.minimum(labels[ahead], len(palette) - 1)
    colours = np.where(known[labels][:, None], palette[labels], np.array(_UNLABELLED, np.uint8))
    at = seen[:, :2] / seen[:, 2:] * (_FOCAL * height) + ((width - 1) / 2, (height - 1) / 2)
    order = np.argsort(-seen[:, 2])  # the nearest is drawn last
    pixel, colours = np.rint(at[order]).astype(np.int64), colours[order]
    # A near point covers more pixels, so that surfaces look closed.
    side = np.clip(np.rint(0.05 * _FOCAL * height / seen[order, 2]), 2, _MOST).astype(int)
    for dy in range(_MOST):
        for dx in range(_MOST):
            x, y = pixel[:, 0] + dx, pixel[:, 1] + dy
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (side > max(dx, dy))
            picture[y[inside], x[inside]] = colours[inside]
    return picture


def ground_view(ground: Ground, size: tuple[int, int]) -> np.ndarray:
    """Draw the ground from above, ahead is up: (height, width, 3) BGR, with rings of 5 metres around the base.

    Green is free, from there by its cost to orange, red is lethal, grey is unknown; obstacles are white dots.
    """
    height, width = size
    cells = np.full((200, 200), -1, np.int8) if ground.cells is None else ground.cells
    cost = cells.astype(np.float64)[..., None]
    colours = np.array(FREE) + (np.array(COSTLY) - FREE) * np.clip(cost, 0, 99) / 99
    colours = np.where(cost == 100, LETHAL, np.where(cost < 0, UNKNOWN, colours)).astype(np.uint8)
    up = np.ascontiguousarray(colours.transpose(1, 0, 2)[::-1, ::-1])  # rows: x downwards, columns: y leftwards
    scale = min(height / up.shape[0], width / up.shape[1])
    drawn = cv2.resize(up, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)[:height, :width]
    picture = np.full((height, width, 3), BACKGROUND, np.uint8)
    top, left = height - drawn.shape[0], (width - drawn.shape[1]) // 2
    metre = scale / ground.resolution  # pixels
    rows, columns = cells.shape
    end = ground.origin[0] + columns * ground.resolution, ground.origin[1] + rows * ground.resolution

    def place(x: float, y: float) -> tuple[int, int]:
        return round((end[1] - y) * metre - 0.5), round((end[0] - x) * metre - 0.5)

    for ring in np.arange(_RING, np.hypot(*np.abs([ground.origin, end]).max(axis=0)), _RING):
        cv2.circle(drawn, place(0, 0), round(ring * metre), LINES, 1, cv2.LINE_AA)
    for x, y in [] if ground.obstacles is None else ground.obstacles.tolist():
        cv2.circle(drawn, place(x, y), 2, OBSTACLE, -1, cv2.LINE_AA)
    picture[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    return picture


def beside(overlay: np.ndarray, view: np.ndarray) -> np.ndarray:
    """Return two pictures of one height side by side."""
    return np.hstack([overlay, view])
