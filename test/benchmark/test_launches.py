"""The model of the time of a frame."""

import json
from pathlib import Path

import pytest

from m2f_ros.benchmark import launches
from m2f_ros.benchmark.launches import GAP, START, Gpu

# 10 multiprocessors; a matrix rate of 1e12 a multiprocessor.
GPU = Gpu("test", "sm_0", 10, 1e9, 1e13, 1e12, 1e6, 2e12)


@pytest.mark.parametrize(
    "row, seconds",
    [
        ({"kind": "sum", "bytes": 2e6}, 2e6 / 1e12),
        ({"kind": "sum", "bytes": 1e6}, 1e6 / 2e12),  # fits into the cache
        ({"kind": "convolution", "flops": 1e9, "bytes": 1}, 1e9 / 0.65e13),
        ({"kind": "kernel", "cycles": 5e6, "bytes": 1e6}, 5e6 / 10 / 1e9),
        ({"kind": "attention", "serial": 7000, "bytes": 1}, 7e-6),
        # 10 tiles of 128 x 256: one wave; an eleventh row of tiles starts another
        ({"kind": "matrix product", "shape": [1280, 256, 1000, 1], "bytes": 1}, 2 * 128 * 256 * 1000 / 1e12 + START),
        ({"kind": "matrix product", "shape": [128, 256, 1000, 20], "bytes": 1}, 4 * 128 * 256 * 1000 / 1e12 + START),
    ],
)
def test_a_launch_takes_its_longest_bound(row, seconds) -> None:
    assert launches.seconds({"launches": 1, **row}, GPU) == pytest.approx(seconds + GAP, rel=1e-9)


def test_totals_count_every_launch() -> None:
    rows = [{"part": "a", "kind": "sum", "launches": 3, "bytes": 2e6}, {"part": "b", "kind": "sum", "launches": 1}]
    found = launches.totals({"rows": rows}, GPU, lambda row: row["part"])
    assert found["a"] == (3, 6e6, pytest.approx(3 * (2e-3 + 1000 * GAP)))
    assert found["b"] == (1, 0, pytest.approx(1000 * GAP))
    assert launches.whole({"rows": rows}, GPU)[0] == 4


def test_the_page_is_made_from_the_lists() -> None:
    root = Path(__file__).resolve().parents[2]
    assert launches.page(root / launches.FOLDER) == (root / launches.PAGE).read_text(), (
        "python -m m2f_ros.benchmark.launches"
    )


def test_the_page_says_that_it_is_a_model() -> None:
    root = Path(__file__).resolve().parents[2]
    text = launches.page(root / launches.FOLDER)
    assert "no figure on this page is measured" in text.splitlines()[2]
    for name in ("before", "after"):
        content = json.loads((root / launches.FOLDER / f"{name}.json").read_text())
        assert f"| {sum(row['launches'] for row in content['rows'])} |" in text
