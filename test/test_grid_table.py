"""The table of docs/navigation.md is of the form that scripts/grid_table.py writes, and of its rows."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "grid_table.py"


def test_the_table_of_the_page():
    spec = importlib.util.spec_from_file_location("grid_table", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    _, begin, rest = script.PAGE.read_text().partition(script.BEGIN)
    found, end, _ = rest.partition(script.END)
    assert begin and end
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found.strip().splitlines()[2:]]
    assert found == f"\n{script.table(rows)}\n"
    assert [(labels, ground) for labels, ground, *_ in rows] == list(script.ROWS)
    true_deep = dict(zip(script.METRICS, map(float, rows[0][2:]), strict=True))
    assert true_deep["occupied_precision"] >= 0.95 and true_deep["occupied_recall"] >= 0.90
