"""The check in a few tables: for the terminal, and for the page of benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from m2f_ros.benchmark.gpu_check.runner import FILE, KIND, SCHEMA
from m2f_ros.benchmark.result import Result, read
from m2f_ros.benchmark.targets import TARGETS, judge
from m2f_ros.benchmark.text import table
from m2f_ros.documents import read_json
from m2f_ros.errors import ConfigError


def describe(content: dict, folder: Path) -> str:
    """For the terminal: the parts, then what must be reached."""
    parts = [["part", "", "s", "found"]]
    parts += [[p["name"], p["status"], f"{p['seconds']:.0f}", _found(p)] for p in content["parts"]]
    results = [read(folder / p["result"]["file"]) for p in content["parts"] if p["kind"] == "bench" and p["result"]]
    lines = [table(parts[0], parts[1:]), "", table(*_targets(results)), "", _where(content), str(folder / FILE)]
    return "\n".join(lines)


def check_sections(folder: Path) -> list[str]:
    """`section` of each check in a folder and those below it.

    Raises:
        ConfigError: a file of that name is no check.
    """
    sections = []
    for path in sorted(folder.rglob(f"*{FILE}")):
        try:
            content = read_json(path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from None
        if not isinstance(content, dict) or (content.get("kind"), content.get("schema")) != (KIND, SCHEMA):
            raise ConfigError(f"{path} is not what m2f gpu-check writes; run that again, or remove the file")
        sections.append(section(path.relative_to(folder).with_suffix("").as_posix(), content))
    return sections


def section(name: str, content: dict) -> str:
    """For docs/benchmarks.md: everything that one check found, as Markdown."""
    machine = content["machine"]
    parts = [
        f"## {name}\n",
        f"`make gpu-check` on {_device(content)}, {content['date'][:10]}, commit "
        f"{(machine.get('commit') or 'unknown')[:12]}{' and changes' if machine.get('dirty') else ''}. "
        f"{_where(content)}\n",
        _markdown(["part", "", "s", "found"], [[p["name"], p["status"], f"{p['seconds']:.0f}", _found(p)]
                                                for p in content["parts"]]),
    ]  # fmt: skip
    for part in content["parts"]:
        if part["result"] and part["kind"] in _DETAILS:
            parts.append(f"### {part['name']}: {part['what']}\n")
            parts.append(_DETAILS[part["kind"]](part["result"]))
    return "\n".join(parts)


def _device(content: dict) -> str:
    described = content["machine"].get("described") or {}
    return described.get("gpu") or described.get("cpu") or "an unknown machine"


def _where(content: dict) -> str:
    """What the figures are of, and what was not run for want of a GPU."""
    origins = {(p["result"] or {}).get("weights") for p in content["parts"]} - {None}
    text = "Weights: " + ("; ".join(sorted(origins)) or "none were needed") + "."
    if content["device"] != "cuda":
        text += (
            " No CUDA device was found: graphs, streams, kernels on a device, fp16, memory over 2,000 frames, Swin-L "
            "and the node at full rate were not run, and no figure here is of a GPU."
        )
    return text


def _found(part: dict) -> str:
    """In a few words."""
    result = part["result"] or {}
    if not result:
        return (part["error"] or "").partition("\n")[0][:90]
    rows = [row for row in result.get("rows", ()) if not row.get("error")]
    kind = part["kind"]
    if kind == "tests":
        reasons = "; ".join(f"{count} {reason}" for reason, count in result["skips"].items())
        return f"{result['passed']} passed, {result['failed']} failed, {result['skipped']} skipped {reasons}".strip()[
            :110
        ]
    if kind == "bench":
        return (
            f"{result['ours_ms']:.1f} ms, {result['ours_fps']:.1f} frames/s; HF {result['hf_ms']:.1f} ms; "
            f"roofline {100 * result['roofline_share']:.0f} %; agreement {result['agreement']:.5f}"
        )
    if kind == "ablation" and rows:
        most = max(rows, key=lambda row: row["gain"])
        return f"{len(rows)} variants; most from {most['without']}: {most['gain']:.2f} times"
    if kind in ("matrix", "compiled") and rows:
        ratios = [row["ratio"] for row in rows]
        return f"{len(rows)} points, {min(ratios):.2f} to {max(ratios):.2f} times as fast as HF"
    if kind == "profile":
        return f"{result['frame']['busy_ms']:.1f} ms busy, {result['frame']['launched']} kernels or operations"
    if kind == "node":
        return f"{result['fps']:.1f} a second, latency {result['latency_ms']['p50']:.0f} ms (median)"
    if kind == "machine" and "copy_gb_per_s" in result:
        rates = ", ".join(f"{name} {rate:.3g} TFLOP/s" for name, rate in result["matrix_product_tflop_per_s"].items())
        return f"{rates}, {result['copy_gb_per_s']:.4g} GB/s"
    return ""


def _targets(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for target in TARGETS:
        verdict = judge(target, results)
        bound = f"{'at most' if target.most else 'at least'} {target.bound:g}{target.unit}"
        if verdict.result is None:
            rows.append([f"{target.where}: {target.what}", bound, "", "not measured in this run"])
        else:
            outcome = "met" if verdict.met else f"missed by {100 * verdict.missed_by:.2g} %"
            rows.append([f"{target.where}: {target.what}", bound, f"{verdict.value:.5g}{target.unit}", outcome])
    return ["must be reached", "", "found", ""], rows


def _ablation(result: dict) -> str:
    rows = [
        [
            row["without"],
            row["against"] or "the whole",
            *([row["error"], "", "", "", ""] if row["error"] else _figures(row, "ms", "against_ms", "gain")),
            *([] if row["error"] else [f"{100 * row['agreement']:.4f} %", _figures(row, "memory_mb")[0]]),
        ]
        for row in result["rows"]
    ]
    header = ["without", "against", "ms", "ms of that", "gain", "agreement", "adds MB"]
    return _about(result) + _markdown(header, rows)


def _matrix(result: dict) -> str:
    names = ["ours_ms", "hf_ms", "ratio", "ours_fps", "hf_fps", "agreement", "ours_memory_mb", "hf_memory_mb"]
    rows = [
        ["x".join(map(str, row["size"])), str(row["batch"]), *_figures(row, *names), row.get("error", "")]
        for row in result.get("rows", ())
    ]
    header = ["size", "batch", "ms", "HF's ms", "ratio", "frames/s", "HF's", "agreement", "MB", "HF's MB", ""]
    compiled = f"torch.compile took {result['compile_s']:.0f} s. " if "compile_s" in result else ""
    return compiled + "Labels are compared on the first batch. " + _about(result) + _markdown(header, rows)


def _profile(result: dict) -> str:
    frame = result["frame"]
    text = _about(result)
    text += _markdown(["kernel", "count", "ms"], [[f"`{k['name'][:100]}`", str(k["count"]), f"{k['ms']:.3f}"]
                                                   for k in frame["top"]])  # fmt: skip
    text += "\n" + _markdown(
        ["group, by kernels' names", "ms"], [[n, f"{v:.3f}"] for n, v in frame["groups_ms"].items()]
    )
    if "modules_ms" in result:
        modules = [[f"`{n}`", f"{v:.3f}"] for n, v in result["modules_ms"].items() if n.count(".") <= 3]
        text += "\n" + _markdown(["module, in a pass without graph", "ms"], modules)
    if "frame_tflop_per_s" in result:
        text += (
            f"\n{result['network_gflop']:.0f} GFLOP in {frame['busy_ms']:.2f} ms of device time: "
            f"{result['frame_tflop_per_s']:.3g} TFLOP/s, {100 * result['share_of_matrix_product_rate']:.0f} % of a "
            f"matrix product's {result['matrix_product_tflop_per_s']:.3g}; copies {result['copy_gb_per_s']:.4g} GB/s.\n"
        )
    return text


_DETAILS = {"ablation": _ablation, "matrix": _matrix, "compiled": _matrix, "profile": _profile}


def _about(result: dict) -> str:
    size = f" {'x'.join(map(str, result['size']))}" if "size" in result else ""
    return f"`{result['model']}`{size}, {result['precision']}. Weights: {result['weights']}.\n\n"


def _figures(row: dict, *names: str) -> list[str]:
    return ["–" if row.get(name) is None else f"{row[name]:.4g}" for name in names]


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)
