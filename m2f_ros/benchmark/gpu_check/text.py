"""The check in a few tables: for the terminal, and for the page of benchmarks."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from m2f_ros.benchmark.gpu_check.plan import FAILED, FILE, KIND
from m2f_ros.benchmark.page import Table, commit_of, markdown
from m2f_ros.benchmark.result import read_object, shape
from m2f_ros.benchmark.targets import TARGETS, Found, judge
from m2f_ros.tables import columns

DETAILED = ("ablation", "matrix", "profile")  # kinds of parts whose results the page shows
ROWS = 40  # of a table there: the longest; the JSON has all


def describe(content: dict, folder: Path) -> str:
    """For the terminal: the parts, then the targets."""
    found: dict[str, list[Found]] = defaultdict(list)
    for part in content["parts"]:
        for what, figures in ((part["result"] or {}).get("targets") or {}).items():
            found[what] += figures
    rows = [["must be reached", "", "found", ""]]
    for target in TARGETS:
        verdict = judge(target, found)
        figure = f"{verdict.value:.5g}{target.unit}" if verdict.value is not None else ""
        outcome = verdict.outcome or "not measured in this run"
        rows.append([f"{target.where}: {target.what}", target.shown, figure, outcome])
    return "\n".join([columns(_parts(content)), "", columns(rows), "", _where(content), str(folder / FILE)])


def check_sections(folder: Path) -> list[str]:
    """`section` of each check in a folder and those below it. ConfigError for a file of that name that is none."""
    sections = []
    for path in sorted(folder.rglob(f"*{FILE}")):
        content = read_object(path, KIND)
        sections.append(section(path.relative_to(folder).with_suffix("").as_posix(), content))
    return sections


def section(name: str, content: dict) -> str:
    """For docs/benchmarks.md: everything that one check found, as Markdown."""
    machine = content["machine"]
    described = machine.get("described") or {}
    device = described.get("gpu") or described.get("cpu") or "an unknown machine"
    commit = commit_of(machine.get("commit"), machine.get("dirty"))
    texts = [
        f"## {name}",
        f"`make gpu-check` on {device}, {content['date'][:10]}, {commit}. {_where(content)}",
        markdown(_parts(content)),
    ]
    for part in content["parts"]:
        if part["result"] and part["kind"] in DETAILED:
            texts += [f"### {part['name']}: {part['what']}", *_details(part["result"])]
    return "\n\n".join(texts) + "\n"


def _parts(content: dict) -> Table:
    rows = [[p["name"], p["status"], f"{p['seconds']:.0f}", _found(p)] for p in content["parts"]]
    return [["part", "", "s", "found"], *rows]


def _where(content: dict) -> str:
    """The weights that the figures are of, and the parts that need a GPU and were not run."""
    origins = {p["result"]["weights"] for p in content["parts"] if (p["result"] or {}).get("weights")}
    text = "Weights: " + ("; ".join(sorted(origins)) or "none were needed") + "."
    if content["device"] != "cuda":
        text += (
            " No CUDA device was found: graphs, streams, kernels on a device, fp16, memory over 2,000 frames, Swin-L "
            "and the node at full rate were not run, and no figure here is of a GPU."
        )
    return text


def _found(part: dict) -> str:
    """The figures of a part, or its error, in a few words."""
    result = part["result"] or {}
    figures: dict = {}
    for name in ("frame", "matrix_product_tflop_per_s", "latency_ms"):
        figures |= result[name] if isinstance(result.get(name), dict) else {}
    figures |= result
    words = [f"{name} {_cell(value)}" for name, value in figures.items() if type(value) in (int, float)]
    words += [f"{count} {reason}" for reason, count in result.get("skips", {}).items()]
    rows = [row for row in result.get("rows", ()) if not row.get("error")]
    for name in ("gain", "ratio"):
        if values := [row[name] for row in rows if name in row]:
            words.append(f"{len(rows)} rows, {name} {min(values):.2f} to {max(values):.2f}")
    if part["status"] == FAILED:
        words.insert(0, (part["error"] or "").strip().rpartition("\n")[2])  # the last line names the error
    elif count := len(result.get("rows", ())) - len(rows):
        words.insert(0, f"{count} rows without figures")
    return (", ".join(words) or (part["error"] or "").partition("\n")[0])[:120]


def _details(result: dict) -> list[str]:
    """A part's result: plain values in a line, lists and objects as tables."""
    plain = {name: value for name, value in result.items() if name == "size" or not isinstance(value, list | dict)}
    texts = [", ".join(f"{name} {_cell(value)}" for name, value in plain.items()) + "."]
    for name, value in result.items():
        if name in (*plain, "kernels") or not value:
            continue
        if isinstance(value, list):
            value = sorted(value, key=lambda row: -row.get("us", 0))[:ROWS]
            header = list(dict.fromkeys(key for row in value for key in row if key != "traceback"))
            texts.append(markdown([header, *([_cell(row.get(key)) for key in header] for row in value)]))
        elif all(isinstance(inner, int | float) for inner in value.values()):
            texts.append(markdown([[name, ""], *([key, _cell(inner)] for key, inner in value.items())]))
        else:
            texts += _details(value)
    return texts


def _cell(value: object) -> str:
    if isinstance(value, list | tuple):
        return shape(value)
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)[:200]
