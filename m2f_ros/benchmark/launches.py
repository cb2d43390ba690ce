"""A model of the time of a frame on GPUs, from the list of its launches: `python -m m2f_ros.benchmark.launches`.

The command writes docs/launches.md from the lists in docs/launches. A list holds every launch of one captured frame, as
PyTorch and Triton dispatch it, with what it reads, writes and computes. No figure of the page is measured.

A list is a JSON object: kind, schema, model, size (height, width), precision, outputs, versions, commit, and rows with

- part, kind: where the launch belongs, and its operation;
- launches: number of such launches;
- bytes: memory traffic of one launch; strided patterns count more than their bytes;
- flops: operations of one launch, a multiply-add is two;
- shape: (m, n, k, batch) of a matrix product;
- cycles: clock cycles of one multiprocessor that the instructions of all programs of a Triton kernel take;
- serial: clock cycles of the longest chain of dependent steps.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from m2f_ros.documents import read_json
from m2f_ros.files import write_whole
from m2f_ros.tables import cell, markdown, template

FOLDER, PAGE = Path("docs/launches"), Path("docs/launches.md")
GAP = 2e-6  # seconds between the starts of two nodes of a graph beyond the work of the first
# (rows, columns) of a tile of a matrix product, and the share of the peak that it reaches.
TILES = ((128, 256, 1.0), (256, 128, 1.0), (128, 128, 0.85), (64, 128, 0.6), (128, 64, 0.6), (64, 64, 0.4))
FLOAT8 = 1.8  # rate of float8 products over that of fp16
START = 0.6e-6  # seconds to fill and drain the pipeline of a matrix product
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Gpu:
    """The rates of a GPU that the model takes.

    Attributes:
        name: as in the page.
        capability: CUDA compute capability, as sm_90.
        multiprocessors: number of streaming multiprocessors.
        clock: cycles a second.
        matrix: fp16 operations a second of large dense matrix products, with float32 sums.
        memory: bytes a second from and to device memory, read and written.
        cache: bytes of the L2 cache.
        cached: bytes a second of what stays in the L2 cache.
    """

    name: str
    capability: str
    multiprocessors: int
    clock: float
    matrix: float
    memory: float
    cache: float
    cached: float


# Nine tenths of the datasheets' dense fp16 rates and five sixths of their bandwidths. The H200's figures are those that
# large products and copies reach.
GPUS = (
    Gpu("H200", "sm_90", 132, 1.75e9, 695e12, 4.0e12, 50e6, 5.5e12),
    Gpu("RTX 4090", "sm_89", 128, 2.5e9, 150e12, 0.84e12, 60e6, 4.0e12),
    Gpu("Jetson AGX Orin", "sm_87", 16, 1.3e9, 38e12, 0.17e12, 3e6, 0.5e12),
)


def seconds(row: Row, gpu: Gpu) -> float:
    """Return the modelled time of one launch: the longest of its bounds."""
    bytes_, flops = row.get("bytes", 0), row.get("flops", 0)
    traffic = bytes_ / (gpu.memory if bytes_ > gpu.cache else gpu.cached)
    if row.get("shape"):
        m, n, k, batch = row["shape"]
        work = _product((m, n, k / FLOAT8 if row["kind"] == "float8 product" else k, batch), gpu)
    elif row["kind"] == "convolution":
        work = flops / (0.65 * gpu.matrix)
    else:
        work = row.get("cycles", 0) / gpu.multiprocessors / gpu.clock
    return max(traffic, work, row.get("serial", 0) / gpu.clock) + GAP


def _product(shape: tuple[int, int, float, int], gpu: Gpu) -> float:
    """Return the time of the best tile, in whole waves of the multiprocessors."""
    m, n, k, batch = shape
    rate = gpu.matrix / gpu.multiprocessors

    def waves(rows: int, columns: int) -> int:
        return math.ceil(math.ceil(m / rows) * math.ceil(n / columns) * batch / gpu.multiprocessors)

    return min(waves(r, c) * 2 * r * c * k / (rate * share) for r, c, share in TILES) + START


def totals(content: Mapping[str, Any], gpu: Gpu, key: Callable[[Row], str]) -> dict[str, tuple[int, float, float]]:
    """Return launches, bytes and milliseconds of the rows of each key, the longest first."""
    found: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for row in content["rows"]:
        sums, count = found[key(row)], row["launches"]
        for i, value in enumerate((1, row.get("bytes", 0), 1000 * seconds(row, gpu))):
            sums[i] += count * value
    longest = sorted(found.items(), key=lambda item: -item[1][2])
    return {name: (int(count), bytes_, ms) for name, (count, bytes_, ms) in longest}


def whole(content: Mapping[str, Any], gpu: Gpu) -> tuple[int, float, float]:
    """Return launches, bytes and milliseconds of a frame."""
    return totals(content, gpu, lambda row: "")[""]


def page(folder: Path = FOLDER) -> str:
    """Return the text of docs/launches.md."""
    lists = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    before, after = lists.pop("before"), lists.pop("after")
    compared = {
        key: _compared(*(totals(content, GPUS[0], itemgetter(key)) for content in (before, after)))
        for key in ("part", "kind")
    }
    devices = markdown(
        ["", "", "height, width", "", "launches", *(f"{gpu.name} ({gpu.capability})" for gpu in GPUS)],
        [
            [
                name.partition("_")[0],
                content["model"],
                " x ".join(map(str, content["size"])),
                content["precision"],
                str(whole(content, GPUS[0])[0]),
                *(_milliseconds(content, gpu) for gpu in GPUS),
            ]
            for name, content in {"before": before, "after": after, **lists}.items()
        ],
        right=range(4, 5 + len(GPUS)),
    )
    rates = markdown(
        ["", "multiprocessors", "GHz", "fp16 TFLOP/s", "TB/s", "L2, TB/s"],
        [
            [g.name, str(g.multiprocessors)]
            + [f"{x:.3g}" for x in (g.clock / 1e9, g.matrix / 1e12, g.memory / 1e12, g.cached / 1e12)]
            for g in GPUS
        ],
        right=range(1, 6),
    )
    return template(Path(__file__).with_name("launches.md.j2")).render(
        before=before, after=after, devices=devices, rates=rates, **compared
    )


def _milliseconds(content: Mapping[str, Any], gpu: Gpu) -> str:
    if content["precision"] == "fp8" and gpu.capability < "sm_89":
        return "–"  # the device has no float8 products
    return f"{whole(content, gpu)[2]:.1f}"


def _compared(before: Mapping[str, tuple], after: Mapping[str, tuple]) -> str:
    nothing = (0, 0.0, 0.0)
    names = [*before, *(name for name in after if name not in before)]
    rows = [[cell(name), *_cells(before.get(name, nothing)), *_cells(after.get(name, nothing))] for name in names]
    sums = [[sum(values) for values in zip(*of.values(), strict=True)] for of in (before, after)]
    header = ["", "launches", "GB", "ms", "launches", "GB", "ms"]
    return markdown(header, [*rows, ["**all**", *_cells(sums[0]), *_cells(sums[1])]], right=range(1, 7))


def _cells(values: Iterable[float]) -> list[str]:
    launches, bytes_, ms = values
    return [f"{launches:.0f}", f"{bytes_ / 1e9:.2f}", f"{ms:.3f}"] if launches else ["–"] * 3


if __name__ == "__main__":
    write_whole(PAGE, page())
