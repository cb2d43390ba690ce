"""Makes the table of docs/navigation.md: precision and recall of the grid on the simulated street.

    . scripts/env.sh && python scripts/grid_table.py --write

Runs `m2f bag`, `m2f replay` and `m2f eval` in the folder --out, minutes in all, and continues what is there. The bags
stay, for other options of `m2f replay`, which come behind `--`: `python scripts/grid_table.py -- -p grid.decay:=1.0`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "navigation.md"
BEGIN, END = "<!-- grid_table.py -->\n", "<!-- /grid_table.py -->\n"
SEEDS = range(2001, 2007)
FRAMES = 26
ROWS = {  # labels, ground -> options of m2f replay
    ("true", "depth"): ("--model", "truth"),
    ("predicted by `street`", "depth"): (),
    ("true", "flat"): ("--model", "truth", "--depth-topic", "none"),
    ("predicted by `street`", "flat"): ("--depth-topic", "none"),
}
METRICS = ("occupied_precision", "occupied_recall", "free_precision", "free_recall")


def m2f(*arguments: object) -> None:
    """Run a verb of m2f; end this program by its exit status if that is not 0."""
    command = [sys.executable, "-m", "m2f_ros", *map(str, arguments)]
    print("m2f", *arguments[:1], *map(str, arguments[1:]), flush=True)
    if status := subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        sys.exit(status)


def measured(out: Path, frames: int, options: list[str]) -> list[list[str]]:
    """Return the rows of the table."""
    for seed in SEEDS:
        drive = out / "drives" / f"street_{seed}"
        if not drive.exists():
            m2f("bag", f"street:{seed}", "--frames", frames, "--depth", "--grid", "--out", drive)
    rows = []
    for number, ((labels, ground), chosen) in enumerate(ROWS.items()):
        replayed, report = out / f"replay_{number}", out / f"eval_{number}"
        m2f("replay", out / "drives", "--out", replayed, "--outputs", "label,grid", *chosen, *options)
        m2f("eval", replayed, "--truth", out / "drives", "--out", report, "--no-boundary", "--no-flips")
        result = json.loads((report / "result.json").read_text())
        assert result["measured"]["grids"] == frames * len(SEEDS), "a grid for each frame"
        rows.append([labels, ground, *(f"{result['metrics'][name]:.3f}" for name in METRICS)])
    return rows


def table(rows: list[list[str]]) -> str:
    """Return the table in Markdown."""
    head = [
        "| labels | ground | occupied: precision | recall | free: precision | recall |",
        "|---|---|---:|---:|---:|---:|",
    ]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/grid_table"))
    parser.add_argument("--frames", type=int, default=FRAMES, help="frames of each drive, 10 a second")
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.relative_to(ROOT)}")
    parser.add_argument("replay", nargs="*", help="options of m2f replay, behind --")
    given = parser.parse_args()
    if given.write and (given.replay or given.frames != FRAMES):
        parser.error("--write: not with other frames or options than those of the page")
    found = table(measured(given.out, given.frames, given.replay))
    print(found, end="")
    if given.write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text(before + BEGIN + "\n" + found + "\n" + END + after)


if __name__ == "__main__":
    main()
