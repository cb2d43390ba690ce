"""docs/benchmarks.md, made of the JSONs of `m2f bench` and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from m2f_ros.benchmark.gpu_check.runner import FILE as CHECK
from m2f_ros.benchmark.gpu_check.text import check_sections
from m2f_ros.benchmark.node_share import FILE as NODE
from m2f_ros.benchmark.node_share import NodeShare
from m2f_ros.benchmark.result import Result, read
from m2f_ros.benchmark.targets import TARGETS, Verdict, best, blame, judge
from m2f_ros.benchmark.text import latency, percent
from m2f_ros.errors import ConfigError
from m2f_ros.files import refuse_foreign, replace_own, whole

T = TypeVar("T")
INTRODUCTION = """\
# Benchmarks

Made by `m2f bench-report` from the JSON files in `docs/benchmarks`, each written by `m2f bench --json FILE`, or
`m2f bench-node --json FILE`, on the machine that it names. Edit neither page nor JSON: measure again (`make bench`).

All figures of a JSON are of one process and of the same frames and weights. The contestants take turns, one batch
each a round; a time is the median of the rounds, with quartiles.

- **time**: one batch from frames in the host's memory to labels in the host's memory, nothing else in flight.
  **ratio**: median time of the other over that of ours. **frames a second**: in steady state, with as many frames in
  flight as the contestant allows; on a CPU, where they follow each other, the batch over the median time.
- **HF** is transformers' `Mask2FormerForUniversalSegmentation` with its defaults and the same weights: eager, under
  `torch.compile(dynamic=False)`, and by `torch.export` and `torch.onnx.export` in OpenVINO and ONNX Runtime. It gets
  its frames resized and normalised by plain torch operations on the device, the same resampling as ours. Its labels are
  made as its `post_process_semantic_segmentation` makes them, but from mask logits interpolated to the network's size,
  as upstream does it; transformers itself takes 384x384 for every image. On a CPU torch's part of it stays in fp32
  where ours is in bf16: torch's `grid_sample` would round the coordinates of samples, and many labels would be wrong.
- **HF-style code for `street`**: transformers has no EfficientNet-Lite. The baseline is transformers' pixel decoder
  and transformer module with the same weights around this package's own backbone module, batch norms as trained and
  not folded, and the same steps before and after. No such model exists on the hub.
- **agreement**: part of the pixels, over all different frames, whose label is that of HF's network in fp32. **Lead
  where labels differ**: at most so much, as a part of it, is the reference's best score above its second at such a
  pixel; what is of the size of fp32's rounding is a tie. Random weights say nothing about quality; they are made such
  that several classes occur, and how many is stated.
- **latency at a rate**: frames arrive whether or not the last one is done, and of those waiting only the newest is
  taken, as in the node. From arrival to the label on the host. Jitter is the standard deviation.
- **memory**: what a contestant adds while it runs, loading left out: peak of what PyTorch allocates on the device, on
  a CPU of the process' resident memory (with the libraries that it was the first to load).
- **roofline**: max(operations / rate of a matrix product, bytes / rate of a copy), both rates the best measured in the
  same run in the same precision. Operations (a multiply-add is two) and bytes (operands and results, each once) of
  matrix products, convolutions, attention and weighted sums of the fp32 eager network and head; everything else counts
  as free. The share is that bound over the time a batch takes in steady state.
- **stages**: of eager passes without graphs, ours and HF's in turns, by events between the parts of the network.
- **Python thread**: submit and result of one frame, less the device's work, with a network that answers at once.
- **the node's share** (`m2f bench-node`): CPU time of the node's whole process for a frame, on one core, with a
  pipeline that answers at once: to receive, decode, hand over, encode and publish, over DDS, raw images in and out. A
  frame is sent when the outputs of the one before have come, and no sooner than the rate allows. Threads: the executor
  takes images, the publisher encodes and sends, the others are those of DDS.
"""


def write_report(folder: Path, out: Path) -> None:
    """Write the page and its plots, in images/ beside it.

    Args:
        folder: of the JSONs. One in a subfolder (of a matrix of runs) gets a line in the table only; of those whose
            names end in gpu_check.json, which `m2f gpu-check` writes, each gets a section of its own.
        out: the page.
    Raises:
        ConfigError: a JSON is no result; matplotlib is not installed; the page cannot be written.
        OutputError: another page or picture is there.
    """
    from m2f_ros.benchmark.plots import draw

    results = load(folder)
    images = out.parent / "images"
    pictures = {images / plot_name(name): result for name, result in detailed(results).items()}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        refuse_foreign(out, _is_own, [f"images/{picture.name}" for picture in pictures])
        if pictures:
            images.mkdir(exist_ok=True)
        for picture, result in pictures.items():
            with whole(picture) as partial:
                draw(result, partial)
        replace_own(out, "\n".join([page(results), *check_sections(folder)]), _is_own)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}") from None


def _is_own(text: str) -> bool:
    return "Made by `m2f bench-report`" in text


def load(folder: Path) -> dict[str, Result | NodeShare]:
    """Path below `folder`, without .json -> result, in the paths' order. Names of a NodeShare end in node.json."""
    return {
        str(path.relative_to(folder).with_suffix("").as_posix()): read(
            path, NodeShare if path.name.endswith(NODE) else Result
        )
        for path in sorted(folder.rglob("*.json"))
        if not path.name.endswith(CHECK)
    }


def detailed(results: Mapping[str, Result | NodeShare]) -> dict[str, Result]:
    return {name: result for name, result in _only(Result, results).items() if "/" not in name}


def _only(kind: type[T], results: Mapping[str, object]) -> dict[str, T]:
    return {name: result for name, result in results.items() if isinstance(result, kind)}


def plot_name(name: str) -> str:
    return f"benchmark_{name}.png"


def page(results: Mapping[str, Result | NodeShare]) -> str:
    """The whole text."""
    parts = [INTRODUCTION, "## What must be reached\n", _targets(results)]
    if runs := _only(Result, results):
        parts += ["## All runs\n", _overview(runs)]
        parts += [_section(name, result) for name, result in detailed(runs).items()]
    parts += [_node_section(name, share) for name, share in _only(NodeShare, results).items()]
    return "\n".join(parts)


def _targets(results: Mapping[str, Result | NodeShare]) -> str:
    names = {id(result): name for name, result in results.items()}
    rows = []
    missed = []
    for target in TARGETS:
        verdict = judge(target, list(results.values()))
        bound = f"{'at most' if target.most else 'at least'} {_plain(target.bound)}{target.unit}"
        if verdict.result is None:
            rows.append([target.where, target.what, bound, "no run committed yet", "", ""])
            continue
        name = names[id(verdict.result)]
        rows.append([target.where, target.what, bound, _value(verdict), _outcome(verdict), f"`{name}`"])
        if not verdict.met and target.timed:
            missed.append(f"- {target.what}: {blame(verdict.result)} (`{name}`).")
    text = _table(["where", "what", "target", "reached", "", "run"], rows)
    if missed:
        text += "\nWhat the profile blames where a target is missed:\n\n" + "\n".join(missed) + "\n"
    return text


def _value(verdict: Verdict) -> str:
    # As many digits as it takes not to round a miss up to the bound.
    for digits in (2, 3, 4, 5, 6):
        shown = f"{verdict.value:.{digits}f}"
        if verdict.met or float(shown) != verdict.target.bound:
            break
    return shown + verdict.target.unit


def _outcome(verdict: Verdict) -> str:
    if verdict.met:
        return "met"
    part = 100 * verdict.missed_by
    return f"missed by {part:.1f} %" if part >= 0.1 else f"missed by {part:.1g} %"


def _overview(results: dict[str, Result]) -> str:
    header = ["run", "model", "size", "batch", "precision", "device", "best of ours", "time ms", "frames/s"]
    header += ["roofline", "memory MB", "agreement", "HF eager's time over ours"]
    rows = []
    for name, result in results.items():
        own = best(result)
        against = next((c for c in result.comparisons if (c.ours, c.theirs) == (own.name, "hf")), None)
        rows.append(
            [
                f"`{name}`",
                result.settings.model,
                _size(result.input.network_size),
                str(result.settings.batch),
                result.precision,
                _device(result),
                own.name.removeprefix("ours "),
                f"{own.time_ms.median:.1f}",
                f"{own.throughput_fps:.1f}",
                f"{100 * own.roofline_share:.0f} %",
                _or_dash(own.memory_mb, ".0f"),
                percent(own.agreement),
                _or_dash(against and against.ratio, ".2f"),
            ]
        )
    return _table(header, rows)


def _section(name: str, result: Result) -> str:
    lines = [
        f"## {name}\n",
        f"`{result.settings.model}`, network {_size(result.input.network_size)}, frames "
        f"{_size(result.input.frame_size)}, batch {result.settings.batch}, {result.precision}, on {_device(result)} "
        f"({result.machine.system}, {result.machine.cores} of {result.machine.cores_in_all} cores, "
        f"{result.machine.memory_gib:.0f} GiB). {_origin(result)}",
        f"Weights: {result.weights.origin}; {result.weights.parameters / 1e6:.1f} million. "
        f"{result.input.count} frames of `{result.input.source}`, sha256 `{result.input.sha256[:16]}`; "
        f"{result.settings.rounds} rounds. {result.reference_labels} classes occur in the reference "
        f"({result.reference}).",
        "",
        f"    {result.command}",
        "",
        f"![Times, stages and latency of {name}](images/{plot_name(name)})",
        "",
        _contestants(result),
        _latency(result) if any(c.at_rate for c in result.contestants) else "",
        _comparisons(result) if result.comparisons else "",
        _stages(result),
        f"Work: {result.work.network_gflop:.1f} GFLOP in the network, {result.work.head_gflop:.2f} in the head, "
        f"{result.work.gigabytes:.2f} GB{_hf_work(result)}. Roofline: {result.roofline.gemm_tflop_per_s:.3g} TFLOP/s, "
        f"{result.roofline.copy_gb_per_s:.4g} GB/s, so at least {result.roofline.bound_ms:.2f} ms. "
        f"Python thread: {result.host.time_ms.median:.2f} ms for a frame of {_size(result.host.frame_size[::-1])}.",
        "",
    ]
    return "\n".join(lines)


def _node_section(name: str, share: NodeShare) -> str:
    time, machine = share.time_ms, share.machine
    rows = [["whole process", f"{time.median:.2f}", f"{time.quartile1:.2f} to {time.quartile3:.2f}"]]
    rows += [[thread, f"{value:.2f}", ""] for thread, value in share.threads_ms.items()]
    lines = [
        f"## {name}\n",
        f"The node's share of a frame: `{share.encoding}`, {_size(share.frame_size[::-1])}, at most "
        f"{share.rate_hz:g} Hz, {' and '.join(share.outputs)} listened to; {time.count} frames. "
        f"On one core of {machine.cpu} ({machine.system}, {machine.cores} of {machine.cores_in_all} cores, "
        f"{machine.memory_gib:.0f} GiB). {_origin(share)}",
        "",
        f"    {share.command}",
        "",
        _table(["thread", "CPU time a frame, ms", "quartiles"], rows),
    ]
    return "\n".join(lines)


def _origin(result: Result | NodeShare) -> str:
    """When, of what."""
    return (
        f"{result.date[:10]}, commit {(result.commit or 'unknown')[:12]}{' and changes' if result.dirty else ''}.\n"
        f"Versions: {', '.join(f'{package} {version}' for package, version in result.versions.items())}."
    )


def _contestants(result: Result) -> str:
    header = ["contestant", "time ms", "quartiles", "min", "frames/s", "set-up s", "memory MB", "roofline", "agreement"]
    header += ["lead where labels differ", "class logits off by", "mask logits off by"]
    rows = [
        [
            c.name,
            f"{c.time_ms.median:.1f}",
            f"{c.time_ms.quartile1:.1f} to {c.time_ms.quartile3:.1f}",
            f"{c.time_ms.minimum:.1f}",
            f"{c.throughput_fps:.2f}",
            f"{c.setup_s:.1f}",
            _or_dash(c.memory_mb, ".0f"),
            f"{100 * c.roofline_share:.0f} %",
            percent(c.agreement),
            _or_dash(c.disagreement_margin, ".1e"),
            _or_dash(c.class_logit_error, ".1e"),
            _or_dash(c.mask_logit_error, ".1e"),
        ]
        for c in result.contestants
    ]
    return _table(header, rows)


def _latency(result: Result) -> str:
    rated = [c for c in result.contestants if c.at_rate]
    header = [f"at {rated[0].at_rate.rate_hz:.3g} arrivals a second", "p50 ms", "p99 ms", "jitter ms", "dropped"]
    return _table(header, [[c.name, *latency(c.at_rate)] for c in rated])


def _comparisons(result: Result) -> str:
    header = ["ours", "theirs", "ratio", "quartiles of the rounds", "ratio of frames/s", "agreement"]
    rows = [
        [
            c.ours.removeprefix("ours "),
            c.theirs,
            f"{c.ratio:.2f}",
            f"{c.paired_ratio.quartile1:.2f} to {c.paired_ratio.quartile3:.2f}",
            f"{c.throughput_ratio:.2f}",
            percent(c.agreement),
        ]
        for c in result.comparisons
    ]
    return _table(header, rows)


def _stages(result: Result) -> str:
    names = list(dict.fromkeys(stage for stages in result.stages_ms.values() for stage in stages))
    rows = [[who, *(_or_dash(stages.get(n), ".2f") for n in names)] for who, stages in result.stages_ms.items()]
    return _table(["eager, ms", *names], rows)


def _hf_work(result: Result) -> str:
    gflop = result.work.hf_network_gflop
    return "" if gflop is None else f" (HF's network: {gflop:.1f} GFLOP)"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _size(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"


def _device(result: Result) -> str:
    return result.machine.gpu or f"{result.machine.cpu}, {result.threads} threads"


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _plain(value: float) -> str:
    return f"{value:g}"
