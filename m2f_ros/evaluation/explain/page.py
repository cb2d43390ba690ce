"""The explanation as one self-contained page, and its pictures as files."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field

import cv2
import numpy as np

from m2f_ros.errors import CheckpointError, M2fError
from m2f_ros.evaluation.explain.regions import Region, Truth
from m2f_ros.evaluation.explain.watched import Watched
from m2f_ros.evaluation.report.page import Picture, Row, Section, Tile, render
from m2f_ros.evaluation.report.tables import Cell, Table

PANEL = 400  # pixels, at most, of the longer side of a picture
QUERIES = 3  # of a region
_CLASSES = 3  # of a query


@dataclass
class Page:
    """The page, and its pictures.

    Attributes:
        html: the whole page.
        pictures: file name -> content.
    """

    html: str
    pictures: dict[str, bytes]


@dataclass
class _Album:
    """Pictures by file name."""

    files: dict[str, bytes] = field(default_factory=dict)

    def add(self, image: np.ndarray, caption: str, alt: str) -> Picture:
        """Add an (H, W, 3) uint8 BGR picture: a PNG as a file, and a JPEG of at most PANEL pixels for the page."""
        name = re.sub(r"\W+", "_", caption).strip("_").lower()[:60]
        self.files[f"{len(self.files):03d}_{name}.png"] = cv2.imencode(".png", image)[1].tobytes()
        height, width = image.shape[:2]
        shrink = min(1.0, PANEL / max(height, width))
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        data = cv2.imencode(".jpg", small, (cv2.IMWRITE_JPEG_QUALITY, 80))[1].tobytes()
        return Picture(base64.b64encode(data).decode(), caption, alt)


def page(
    title: str, origin: str, watched: Watched, truth: Truth | None, regions: list[Region], notes: list[str]
) -> Page:
    """Make the page of a frame."""
    album = _Album()
    palette = watched.taxonomy.palette()[:, ::-1]
    sections = [Section("frame", "The frame", rows=[_frame(album, watched, truth, palette)])]
    if truth is not None:
        sections.append(Section("mistakes", "Wrong pixels", tables=[_confusions(watched, truth)]))
    for number, region in enumerate(regions):
        sections.append(_region(album, watched, region, number, notes))
    tiles = [
        Tile("mean confidence", f"{_confidence(watched).mean():.3f}"),
        Tile("mean entropy", f"{watched.entropy.mean():.3f}", "of its largest value"),
    ]
    if truth is not None:
        labelled = int(truth.right.sum() + truth.wrong.sum())
        tiles.append(Tile("wrong pixels", f"{truth.wrong.sum() / max(labelled, 1):.1%}", f"of {labelled} with truth"))
    classes = watched.taxonomy.classes
    key = [Cell(classes[i].name, _colour(classes[i].colour)) for i in np.unique(watched.label) if i < len(classes)]
    summary = (
        f"{watched.summary}, in fp32 on a CPU. A share is a query's part in the score of the class over the region."
    )
    return Page(render(title, origin, summary, [], list(dict.fromkeys(notes)), tiles, sections, key), album.files)


def _frame(album: _Album, watched: Watched, truth: Truth | None, palette: np.ndarray) -> Row:
    image, label = watched.image, watched.label
    colours = palette[label]
    overlay = cv2.addWeighted(image, 0.5, np.ascontiguousarray(colours), 0.5, 0)
    pictures = [
        album.add(image, "image", "The image."),
        album.add(overlay, "prediction", "The image, mixed with the colours of the predicted classes."),
        album.add(_heat(_confidence(watched)), "confidence: dark 0, bright 1", "Confidence of the labels."),
        album.add(_heat(watched.entropy), "entropy: dark 0, bright the largest", "Entropy of the classes' scores."),
        album.add(np.ascontiguousarray(palette[watched.second]), "second best class", "Second best class, by colour."),
    ]
    if truth is not None:
        wrong = image // 3
        wrong[truth.wrong] = (60, 60, 230)
        wrong[truth.right] = image[truth.right] // 2
        pictures.append(album.add(wrong, "wrong pixels, red", "The image, darkened, with wrong pixels in red."))
    return Row("Classes by colour; black is unlabelled.", pictures)


def _confusions(watched: Watched, truth: Truth) -> Table:
    pairs: dict[tuple[int, int], int] = {}
    for true in np.unique(truth.label[truth.wrong]):
        values, counts = np.unique(watched.label[truth.wrong & (truth.label == true)], return_counts=True)
        pairs |= {(int(true), int(value)): int(count) for value, count in zip(values, counts, strict=True)}
    classes = watched.taxonomy.classes
    rows = [
        [
            Cell(truth.names[true]),
            Cell(classes[got].name if got < len(classes) else "no class"),
            Cell(str(count)),
        ]
        for (true, got), count in sorted(pairs.items(), key=lambda one: -one[1])[:15]
    ]
    return Table("The most frequent mistakes.", ["true class", "predicted class", "pixels"], rows, range(2, 3))


def _region(album: _Album, watched: Watched, region: Region, number: int, notes: list[str]) -> Section:
    names = [one.name for one in watched.taxonomy.classes]
    name, other = names[region.train_id], names[region.other]
    scores = watched.scores[:, region.mask].mean(1)
    text = (
        f"{int(region.mask.sum())} pixels. Mean score of {name} {scores[region.train_id]:.2f}, of {other} "
        f"{scores[region.other]:.2f}."
    )
    if region.wrong is not None:
        text += f" {region.wrong} pixels are wrong."
    outlined = album.add(_outlined(watched.image, region.mask), "region", f"The image with {region.title} outlined.")
    rows = [Row("The region.", [outlined, *_differences(album, watched, region, name, other)])]
    tables = []
    if watched.layers:
        chosen = _queries(watched, region)
        tables.append(_table(watched, region, chosen))
        for query in chosen[:1] + [q for q in chosen[1:] if q == _best(watched, region, region.other)]:
            rows += _ways(album, watched, region, query)
    else:
        for train_id in dict.fromkeys((region.train_id, region.other)):
            try:
                found = watched.gradients(region.mask, train_id)
            except (M2fError, CheckpointError) as error:
                notes.append(f"without the maps of gradients: {error}".rstrip("."))
                break
            picture = album.add(
                _mixed(watched.image, found),
                f"evidence for {names[train_id]}",
                f"Places whose features raise the score of {names[train_id]} in the region.",
            )
            rows.append(Row(f"Seg-Grad-CAM of the features before the class layer, for {names[train_id]}.", [picture]))
    return Section(f"region-{number}", region.title, tables=tables, text=text, rows=rows)


def _differences(album: _Album, watched: Watched, region: Region, name: str, other: str) -> list[Picture]:
    scores = watched.scores
    return [
        album.add(
            _mixed(watched.image, scores[region.train_id]), f"score of {name}", f"Score of {name} at each pixel."
        ),
        album.add(_mixed(watched.image, scores[region.other]), f"score of {other}", f"Score of {other} at each pixel."),
    ]


def _best(watched: Watched, region: Region, train_id: int) -> int:
    return int(watched.shares(region.mask, train_id).argmax())


def _queries(watched: Watched, region: Region) -> list[int]:
    """Return the queries with the largest shares in the region's class, then the best one of the other class."""
    shares = watched.shares(region.mask, region.train_id)
    best = [int(q) for q in np.argsort(-shares)[:QUERIES]]
    return list(dict.fromkeys([*best, _best(watched, region, region.other)]))


def _table(watched: Watched, region: Region, queries: list[int]) -> Table:
    names = [*(one.name for one in watched.taxonomy.classes), "no object"]
    name, other = names[region.train_id], names[region.other]
    own, others = (watched.shares(region.mask, train_id) for train_id in (region.train_id, region.other))
    last = watched.layers[-1]
    rows = []
    for query in queries:
        classes = last.classes[query]
        best = ", ".join(f"{names[i]} {classes[i]:.2f}" for i in np.argsort(-classes)[:_CLASSES])
        mask = last.masks[query][region.mask].mean()
        rows.append(
            [Cell(str(query)), Cell(f"{own[query]:.2f}"), Cell(f"{others[query]:.2f}"), Cell(f"{mask:.2f}"), Cell(best)]
        )
    header = ["query", f"share in {name}", f"share in {other}", "mean mask", "classes"]
    return Table("Queries that made the region, and the best one for the other class.", header, rows, range(1, 4))


def _ways(album: _Album, watched: Watched, region: Region, query: int) -> list[Row]:
    """Return the masks of a query after each layer, and its cross-attention in each."""
    names = [*(one.name for one in watched.taxonomy.classes), "no object"]
    masks, attention = [], []
    for number, layer in enumerate(watched.layers):
        best = int(layer.classes[query].argmax())
        after = f"after layer {number}" if number else "learned query" if len(watched.layers) > 1 else "result"
        caption = f"{after}: {names[best]} {layer.classes[query, best]:.2f}"
        masks.append(
            album.add(
                _mixed(watched.image, layer.masks[query]),
                f"query {query} {caption}",
                f"Mask of query {query}, {caption}.",
            )
        )
        if layer.stride:
            caption = f"query {query}, layer {number}, stride {layer.stride}"
            attention.append(
                album.add(_mixed(watched.image, layer.attention[query]), caption, f"Cross-attention of {caption}.")
            )
    rows = [Row(f"Masks of query {query}.", masks)]
    if attention:
        rows.append(
            Row(f"Cross-attention of query {query}: mean of the heads, the largest weight is bright.", attention)
        )
    return rows


def _confidence(watched: Watched) -> np.ndarray:
    assert watched.result.confidence is not None
    return watched.result.confidence / np.float32(255)


def _heat(values: np.ndarray) -> np.ndarray:
    return cv2.applyColorMap((values.clip(0, 1) * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)


def _mixed(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mix a grey image with a map of heat, the stronger the larger the value."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR).astype(np.float32)
    heat = cv2.applyColorMap((values.clip(0, 1) * 255).astype(np.uint8), cv2.COLORMAP_INFERNO).astype(np.float32)
    return (0.45 * grey + 0.75 * heat).clip(0, 255).astype(np.uint8)


def _outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    outlined = image.copy()
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    width = max(1, round(max(image.shape[:2]) / 320))
    cv2.drawContours(outlined, contours, -1, (255, 255, 255), 3 * width)
    cv2.drawContours(outlined, contours, -1, (40, 40, 230), width)
    return outlined


def _colour(rgb: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)
