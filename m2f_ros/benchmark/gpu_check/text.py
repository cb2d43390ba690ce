"""The check in a few tables: for the terminal, and for the page of benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from m2f_ros.benchmark.gpu_check.plan import FILE, KIND
from m2f_ros.benchmark.page import columns, commit_of, markdown
from m2f_ros.benchmark.result import read_object, shape, warn_of_version
from m2f_ros.benchmark.targets import TARGETS, judge
from m2f_ros.errors import ConfigError


def describe(content: dict, folder: Path) -> str:
    """For the terminal: the parts, then the targets."""
    found: dict[str, list] = {}
    for part in content["parts"]:
        for what, figures in ((part["result"] or {}).get("targets") or {}).items():
            found.setdefault(what, []).extend(figures)
    rows = []
    for target in TARGETS:
        verdict = judge(target, found)
        figure = f"{verdict.value:.5g}{target.unit}" if verdict.value is not None else ""
        name = f"{target.where}: {target.what}"
        rows.append([name, target.shown, figure, verdict.outcome or "not measured in this run"])
    targets = columns(["must be reached", "", "found", ""], rows)
    return "\n".join([columns(*_parts(content)), "", targets, "", _where(content), str(folder / FILE)])


def check_sections(folder: Path) -> list[str]:
    """`section` of each check in a folder and those below it. ConfigError for a file of that name that is none."""
    sections = []
    for path in sorted(folder.rglob(f"*{FILE}")):
        content = read_object(path)
        if content.get("kind") != KIND:
            raise ConfigError(f"{path} is not what m2f gpu-check writes; run that again, or remove the file")
        warn_of_version(path, content)
        sections.append(section(path.relative_to(folder).with_suffix("").as_posix(), content))
    return sections


def section(name: str, content: dict) -> str:
    """For docs/benchmarks.md: everything that one check found, as Markdown."""
    machine = content["machine"]
    described = machine.get("described") or {}
    device = described.get("gpu") or described.get("cpu") or "an unknown machine"
    texts = [
        f"## {name}\n",
        f"`make gpu-check` on {device}, {content['date'][:10]}, "
        f"{commit_of(machine.get('commit'), machine.get('dirty'))}. {_where(content)}\n",
        markdown(*_parts(content)),
    ]
    for part in content["parts"]:
        if part["result"] and part["kind"] in _DETAILS:
            texts += [f"### {part['name']}: {part['what']}\n", _DETAILS[part["kind"]](part["result"])]
    return "\n".join(texts)


def _parts(content: dict) -> tuple[list[str], list[list[str]]]:
    rows = [[p["name"], p["status"], f"{p['seconds']:.0f}", _found(p)] for p in content["parts"]]
    return ["part", "", "s", "found"], rows


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
    """In a few words."""
    result, kind = part["result"] or {}, part["kind"]
    rows = [row for row in result.get("rows", ()) if not row.get("error")]
    if not result:
        return (part["error"] or "").partition("\n")[0][:90]
    if kind == "tests":
        reasons = "; ".join(f"{count} {reason}" for reason, count in result["skips"].items())
        counts = ", ".join(f"{result[name]} {name}" for name in ("passed", "failed", "skipped"))
        return f"{counts} {reasons}".strip()[:110]
    if kind == "bench":
        return (
            f"{result['ours_ms']:.1f} ms, {result['ours_fps']:.1f} frames/s; HF {result['hf_ms']:.1f} ms; "
            f"roofline {100 * result['roofline_share']:.0f} %; agreement {result['agreement']:.5f}"
        )
    if kind == "ablation" and rows:
        most = max(rows, key=lambda row: row["gain"])
        return f"{len(rows)} variants; most from {most['without']}: {most['gain']:.2f} times"
    if kind == "matrix" and rows:
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


def _rows(result: dict, names: Mapping[str, str]) -> str:
    """A table of a result's rows. names: header -> field."""
    rows = [[_cell(row.get(field)) for field in names.values()] for row in result.get("rows", ())]
    return _about(result) + markdown(list(names), rows)


def _cell(value: object) -> str:
    if isinstance(value, list | tuple):
        return shape(value)
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _profile(result: dict) -> str:
    frame = result["frame"]
    kernels = [[f"`{k['name'][:100]}`", str(k["count"]), f"{k['ms']:.3f}"] for k in frame["top"]]
    tables: list[tuple[Sequence[str], Sequence[Sequence[str]]]] = [
        (["kernel", "count", "ms"], kernels),
        (["group, by kernels' names", "ms"], [[name, f"{ms:.3f}"] for name, ms in frame["groups_ms"].items()]),
    ]
    if "modules_ms" in result:
        modules = [[f"`{name}`", f"{ms:.3f}"] for name, ms in result["modules_ms"].items() if name.count(".") <= 3]
        tables.append((["module, in a pass without graph", "ms"], modules))
    text = _about(result) + "\n".join(markdown(*table) for table in tables)
    if "frame_tflop_per_s" in result:
        text += (
            f"\n{result['network_gflop']:.0f} GFLOP in {frame['busy_ms']:.2f} ms of device time: "
            f"{result['frame_tflop_per_s']:.3g} TFLOP/s, {100 * result['share_of_matrix_product_rate']:.0f} % of a "
            f"matrix product's {result['matrix_product_tflop_per_s']:.3g}; copies {result['copy_gb_per_s']:.4g} GB/s.\n"
        )
    return text


def _ablation(result: dict) -> str:
    fields = ("without", "ms", "against_ms", "gain", "agreement", "memory_mb", "error")
    header = ("without", "ms", "ms of the whole", "gain", "agreement", "adds MB", "error")
    return _rows(result, dict(zip(header, fields, strict=True)))


def _matrix(result: dict) -> str:
    fields = ("size", "batch", "ours_ms", "hf_ms", "ratio", "ours_fps", "hf_fps", "agreement")
    header = ("size", "batch", "ms", "HF's ms", "ratio", "frames/s", "HF's frames/s", "agreement")
    more = {"MB": "ours_memory_mb", "HF's MB": "hf_memory_mb", "HF's set-up s": "hf_setup_s", "error": "error"}
    text = "Labels are compared on the first batches. "
    return text + _rows(result, dict(zip(header, fields, strict=True)) | more)


_DETAILS = {"ablation": _ablation, "matrix": _matrix, "profile": _profile}


def _about(result: dict) -> str:
    return f"`{result['model']}` {shape(result['size'])}, {result['precision']}. Weights: {result['weights']}.\n\n"
