"""The `m2f` command and its verbs. A verb imports its room when it is called."""

from __future__ import annotations

import math
import os
import re
import signal
import sys
from pathlib import Path

import click

from m2f_ros import __version__, signals
from m2f_ros.errors import M2fError


class _Range(click.FloatRange):
    """A number in a range. NaN is refused: it is neither below nor above a bound."""

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


class _Place(click.Path):
    """Path for results. A leading ~ is the home, also in --out=~/results, which no shell expands."""

    def convert(self, value, param, ctx):
        try:
            return Path(os.fsdecode(super().convert(value, param, ctx))).expanduser()
        except RuntimeError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


class _Verbs(click.Group):
    """The verbs. A verb ends as by SIGPIPE if its output has no reader."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            sys.exit(128 + signal.SIGPIPE)


@click.group(cls=_Verbs)
@click.version_option(__version__, prog_name="m2f")
def m2f() -> None:
    """Mask2Former for camera streams: train, replay and score without ROS."""


@m2f.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", type=_Place(), help="Folder of the run.  [default: out/NAME of CONFIG]")
@click.option("--data", "data_root", help="Folder of the data sets, in place of the config's data.root.")
@click.option("--resume", is_flag=True, help="Continue the run in --out, or start one if there is none.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads, in place of the config's.")
@click.option("--max-minutes", type=float, help="Save and stop after this time; --resume continues.")
def train(config, out, data_root, resume, device, threads, max_minutes) -> None:
    """Train the model that CONFIG (YAML) describes."""
    from dataclasses import replace

    from m2f_ros.street import Street
    from m2f_ros.training.config import load_config
    from m2f_ros.training.loop import train as run

    settings = load_config(config, data_root)
    if threads:
        settings = replace(settings, threads=threads)
    out = out or Path("out") / config.stem
    run(settings, out, resume=resume, device=device, max_minutes=max_minutes, street=Street)


@m2f.command()
@click.argument("out", type=_Place())
@click.option("--seeds", default="0..9", show_default=True, help="A..B, both included; one street for each seed.")
@click.option("--frames", type=click.IntRange(1), default=300, show_default=True, help="Frames of a drive.")
@click.option("--every", type=click.IntRange(1), default=10, show_default=True, help="Write every Nth frame.")
@click.option("--size", default="640x480", show_default=True, help="WIDTHxHEIGHT in pixels.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Number of processes.")
def street(out, seeds, frames, every, size, workers) -> None:
    """Write simulated streets to OUT/images, OUT/labels and OUT/instances, for training."""
    from tqdm import tqdm

    from m2f_ros.street.export import export_street

    first, last = _two_numbers(seeds, "..", "--seeds 0..9")
    if first > last:
        raise click.UsageError(f"--seeds {seeds!r} is empty; the smaller number comes first")
    width, height = _size(size, "--size 640x480")
    done = export_street(out, range(first, last + 1), range(0, frames, every), width, height, workers)
    for _ in tqdm(done, total=last + 1 - first, unit="street"):
        pass


@m2f.command()
@click.argument("source")
@click.option("--out", type=_Place(), required=True, help="Folder of the new bag.")
@click.option("--labels", help="Folder of label images for the source; their topic for a rosbag2.")
@click.option("--taxonomy", help="Taxonomy of the ids in the label images: camvid, a YAML file, …")
@click.option("--topic", help="Image topic of a rosbag2.")
@click.option("--rate", type=_Range(0.01, 1000), help="Frames a second.  [default: the source's; folder: 10]")
@click.option("--frames", type=click.IntRange(1), help="Number of frames.  [default: all; 100 of an endless source]")
@click.option("--bit-depth", type=int, default=0, help="Bits used of 16, for example 12.  [default: from the values]")
@click.option("--stamps", help="Text file with a stamp a line for each image: seconds, nanoseconds or UTC.")
@click.option("--calibration", help="ROS camera_info YAML.  [default: the source's own]")
@click.option("--namespace", default="/camera", show_default=True, help="Namespace of the camera's topics.")
@click.option("--transport", type=click.Choice(["raw", "compressed"]), default="raw", show_default=True)
@click.option("--storage", type=click.Choice(["mcap", "sqlite3"]), default="mcap", show_default=True)
@click.option("--compression", type=click.Choice(["none", "chunk", "message"]), default="none", show_default=True)
def bag(source, out, labels, taxonomy, topic, rate, frames, bit_depth, stamps, **options) -> None:
    """Turn SOURCE into a rosbag2 with images and, if it has them, camera_info and ground truth.

    SOURCE is a video, a folder of images, the simulated street (street[:SEED]), or one camera of a rosbag2. A rosbag2
    keeps its stamps and log times. For other sources the first frame is stamped 2020-01-01 00:00 UTC, unless --stamps
    is given, so that the same command gives the same bytes. Exit status 2: frames are missing.
    """
    from tqdm import tqdm

    from m2f_ros.replay.make_bag import make_bag
    from m2f_ros.sources.open import ENDLESS_FRAMES, open_source

    chosen = {"labels": labels, "taxonomy": taxonomy, "topic": topic, "bit_depth": bit_depth, "stamps": stamps}
    opened = open_source(source, rate=rate, frames=frames, **chosen)
    if opened.epoch and rate:
        raise click.UsageError(f"--rate {rate:g}: not for {source}, whose frames have stamps")
    if opened.length is None:
        opened.end_after(ENDLESS_FRAMES)
    with tqdm(total=opened.length, unit="frame") as bar:
        drive = make_bag(opened, out, progress=lambda count: bar.update(count - bar.n), **options)
    click.echo(f"{drive.path}: {drive.frames} frames, {drive.labels} of them with labels")
    if drive.cut:
        click.echo(f"m2f: error: {drive.path}: cut short: {drive.cut}; the bag holds the frames before", err=True)
        sys.exit(128 + drive.signal if drive.signal else 2)
    if drive.problem:
        click.echo(f"m2f: error: {source}: {drive.problem}; the bag holds the others", err=True)
        sys.exit(2)


@m2f.command()
@click.option("--source", default="street", show_default=True, help="Video, images, rosbag2, /dev/videoN.")
@click.option("--labels", help="Folder of label images for the source.")
@click.option("--taxonomy", help="Taxonomy of the ids in the label images: camvid, a YAML file, …")
@click.option("--topic", help="Image topic of a rosbag2.")
@click.option("--rate", type=_Range(0.01, 1000), help="Frames a second.  [default: the source's]")
@click.option("--frames", type=click.IntRange(1), help="Number of frames.  [default: all; 100 of an endless source]")
@click.option("--bit-depth", type=int, default=0, help="Bits used of 16, for example 12.  [default: from the values]")
@click.option("--model", default="street", show_default=True, help="Name, folder or Hugging Face hub id.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--out", type=_Place(), default="out/demo", show_default=True, help="Folder of the results.")
@click.option("--timeout", type=_Range(1), default=120, show_default=True, help="Most seconds without progress.")
def demo(**options) -> None:
    """Segment a camera stream with the ROS node and show the results (needs ROS and a built package)."""
    from m2f_ros.processes.children import ProcessError
    from m2f_ros.replay import demo

    chosen = demo.Options(**options)
    try:
        summary = demo.run(chosen)
        click.echo(demo.describe(summary, chosen.out))
        if "missing" in summary:
            sys.exit(2)
    except ProcessError as error:
        click.echo(f"m2f: error: {error}", err=True)
        sys.exit(1)


@m2f.command()
@click.option("--model", default="swin-tiny", show_default=True, help="swin-tiny, -small, -base, -large, a name, …")
@click.option("--size", default="256x512", show_default=True, help="HEIGHTxWIDTH of the network's input.")
@click.option("--against", default="hf", show_default=True, help="hf,compiled,openvino,onnxruntime; or none.")
@click.option("--backend", default="eager", show_default=True, help="Own backends: eager,compile,openvino.")
@click.option("--precision", help="fp32, tf32, fp16 or bf16, on both sides.  [default: fp16 on CUDA, else fp32]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--threads", type=int, help="CPU threads.  [default: one for each available core]")
@click.option("--batch", type=int, default=1, show_default=True, help="Frames of a batch.")
@click.option("--rounds", type=int, default=20, show_default=True, help="Measurements of each, in turns.")
@click.option("--rate", type=float, help="Arrivals a second.  [default: 30 on CUDA, else 4/5 of the rate reached]")
@click.option("--seconds", type=float, default=10, show_default=True, help="Duration of the arriving frames; 0: none.")
@click.option("--frames", default="street", show_default=True, help="Source of the frames, as for m2f demo.")
@click.option("--frame-size", help="HEIGHTxWIDTH of the frames.  [default: --size]")
@click.option("--json", "path", type=_Place(), help="File for the result.")
def bench(model, size, against, backend, frame_size, path, **options) -> None:
    """Measure this pipeline against Hugging Face's code with the same weights, on the same frames, in one run."""
    # Set before torch is imported: its threads would otherwise spin after their work, beside the next contestant's.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from m2f_ros.benchmark.report import describe
    from m2f_ros.benchmark.result import Settings, is_own, parse_names, parse_size, write
    from m2f_ros.benchmark.runner import run
    from m2f_ros.files import refuse_foreign

    if path:
        refuse_foreign(path, is_own)  # before minutes of work
    settings = Settings(
        model=model,
        size=parse_size(size, "--size"),
        frame_size=parse_size(frame_size, "--frame-size") if frame_size else None,
        against=parse_names(against),
        backends=parse_names(backend),
        **options,
    )
    result = run(settings, lambda line: click.echo(f"m2f: {line}", err=True))
    click.echo(describe(result))
    if path:
        write(result, path)


@m2f.command("bench-node")
@click.option("--frames", type=click.IntRange(1), default=300, show_default=True, help="Frames to measure.")
@click.option("--json", "path", type=_Place(), help="File for the result: …node.json.")
def bench_node(frames, path) -> None:
    """Measure the CPU time that the ROS node adds to a full-HD frame beyond the pipeline (needs a built package)."""
    from m2f_ros.benchmark.machine import node_share
    from m2f_ros.benchmark.report import NODE, describe_share
    from m2f_ros.benchmark.result import is_own, write
    from m2f_ros.files import refuse_foreign

    try:
        from m2f_ros.node.benchmark import measure
    except ImportError as error:
        raise click.UsageError(f"{error.name} cannot be imported; run `make build` and `. scripts/env.sh`") from None
    if path and not path.name.endswith(NODE):
        raise click.UsageError(f"--json {path}: the name must end in {NODE}, by which m2f bench-report knows it")
    if path:
        refuse_foreign(path, is_own)
    share = node_share(**measure(frames))
    click.echo(describe_share(share))
    if path:
        write(share, path)


@m2f.command()
@click.option("--model", default="street", show_default=True, help="Name, folder or Hugging Face hub id.")
@click.option("--image", "size", default="640x480", show_default=True, help="WIDTHxHEIGHT of the camera's images.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
def prepare(model, size, device) -> None:
    """Convert a model for images of one size ahead of time, so that the node's first image does not wait for it."""
    from m2f_ros.pipeline.build import PipelineSettings, build_pipeline

    width, height = _size(size, "--image 640x480")
    pipeline = build_pipeline(PipelineSettings(model, device=device, precision="auto"))
    pipeline.warm_up(height, width)
    click.echo(f"{model} is ready for {width}x{height} on {pipeline.device} ({pipeline.backend}, {pipeline.precision})")


@m2f.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--metric", "metrics", multiple=True, default=["miou"], show_default=True, help="miou, pq, iou:person, …")
@click.option("--max-drop", type=_Range(0), default=0.01, show_default=True, help="Allowed loss, in its unit.")
@click.option(
    "--allow-missing", default="0", show_default=True, help="Frames without prediction, in A and in B: 20, or 5%."
)
@click.option("--other-frames", is_flag=True, help="Allow different frames in A and B.")
@click.option("--json", "path", type=_Place(), help="File for all differences.")
def compare(a, b, metrics, max_drop, allow_missing, other_frames, path) -> None:
    """List the scores that rose and fell from A to B, results of m2f eval: folders, or their result.json.

    Exit status 1: one of the chosen metrics got worse by more than the bound. 2: the two do not compare, because a
    result is of a part of its frames, the frames differ, or the ground truth has only one class.
    """
    from dataclasses import replace

    from m2f_ros.evaluation import compare
    from m2f_ros.evaluation.result import Result

    results = {path: Result.load(path) for path in (a, b)}
    comparison = compare.compare(results[a], results[b], str(a), str(b))
    obstacles = compare.obstacles(comparison, results[a], results[b], metrics, allow_missing, other_frames)
    comparison = replace(comparison, obstacles=obstacles)
    verdicts = [compare.judge(comparison.find(metric), max_drop) for metric in metrics]
    click.echo("\n".join([compare.describe(comparison), "", *(text for _, text in verdicts)]))
    if path:
        comparison.save(path)
    for line in comparison.obstacles:
        click.echo(f"m2f: error: {line}", err=True)
    if comparison.obstacles:
        sys.exit(2)
    sys.exit(not all(held for held, _ in verdicts))


@m2f.command()
@click.argument("drives", nargs=-1, required=True)
@click.option("--out", type=_Place(), required=True, help="Rosbag2 to write; for several drives, their folder.")
@click.option("--model", default="street", show_default=True, help="Name, folder or Hugging Face hub id.")
@click.option("--topics", default="", help="Image topics of a rosbag2, separated by commas.  [default: all cameras]")
@click.option("--frames", type=int, help="Frames of each drive.  [default: all; 100 of the simulated street]")
@click.option("--bit-depth", type=int, default=0, help="Bits used of 16, for example 12.  [default: from the values]")
@click.option("--outputs", default="label,overlay,confidence,panoptic", show_default=True, help="color is another.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--precision", help="fp32, tf32, fp16 or bf16.  [default: fp16 on CUDA, else fp32]")
@click.option("--backend", default="auto", show_default=True, help="auto, eager, compile or openvino.")
@click.option("--batch", type=int, default=1, show_default=True, help="Frames of a batch.")
@click.option("--size", help="HEIGHTxWIDTH of the network's input.  [default: the checkpoint's, or the frame's]")
@click.option("--max-pixels", type=int, help="Most pixels of the network's input.  [default: the model's bound]")
@click.option("--storage", default="mcap", show_default=True, help="mcap or sqlite3.")
@click.option("--compression", default="none", show_default=True, help="none, or zstd by message or chunk.")
@click.option("--video", is_flag=True, help="Write OUT/overlay.mp4, too.")
@click.option("--png", is_flag=True, help="Write OUT/labels/*.png (train ids), too.")
@click.option("--threads", type=int, default=0, help="CPU threads of each worker.  [default: one a core, at most 4]")
@click.option("--workers", type=click.IntRange(1), help="Drives at a time.  [default: one for each of --devices, or 1]")
@click.option("--devices", default="", help="Devices for the drives, in turns: cuda:0,cuda:1.")
@click.option("--ray", is_flag=True, help="Use workers of the Ray cluster that RAY_ADDRESS names, or start one here.")
@click.option("--part", type=int, default=128, show_default=True, help="Images in each file of the bag.")
@click.option("--restart", is_flag=True, help="Begin anew instead of continuing the replay in OUT.")
def replay(drives, out, topics, outputs, size, workers, devices, ray, restart, **options) -> None:
    """Segment every frame of DRIVES: rosbag2, videos, folders of images or of bags, street, street:SEED, or patterns.

    After an interruption the same command continues, and the result equals that of one run.
    """
    # Set before torch is imported: its threads would spin after their work, while reader and writer need the cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from m2f_ros.replay.job import describe
    from m2f_ros.replay.run import run
    from m2f_ros.replay.settings import Settings

    wanted = _size(size, "--size 480x640") if size else None
    settings = Settings(topics=_names(topics), outputs=_names(outputs), size=wanted, **options)
    choice = {"restart": restart, "workers": workers or 0, "devices": _names(devices), "ray": ray}
    outcomes, number = run(drives, out, settings, **choice)
    for outcome in outcomes:
        click.echo(describe(outcome), err=bool(outcome.problem))
    sys.exit(128 + number if number else 2 if any(outcome.problem for outcome in outcomes) else 0)


@m2f.command("eval")
@click.argument("predictions", nargs=-1, required=True)
@click.option("--truth", multiple=True, required=True, help="Bag, folder of labels, panoptic JSON, or a glob.")
@click.option("--out", type=_Place(), default="out/eval", show_default=True, help="Folder of the report.")
@click.option("--classes", help="Classes of the scores: a taxonomy, or YAML of new ones.  [default: see above]")
@click.option("--taxonomy", help="Taxonomy of the truth's ids: cityscapes, camvid, a YAML file, …")
@click.option("--prediction-taxonomy", help="Taxonomy of the predictions.  [default: their legend, or the truth's]")
@click.option("--topic", help="Label topic of the predictions.  [default: topics that end in /label]")
@click.option("--truth-topic", help="Label topic of the truth.  [default: topics that end in /ground_truth]")
@click.option("--images", help="Folder of the images, if labels are in folders: for pictures and --flips.")
@click.option("--boundary/--no-boundary", default=True, show_default=True, help="Boundary F-score; slowest.")
@click.option("--flips/--no-flips", default=None, help="Labels that flip between frames.  [default: for bags]")
@click.option("--worst", type=click.IntRange(0), default=12, show_default=True, help="Worst frames to show.")
@click.option(
    "--allow-missing", default="0", show_default=True, help="Frames with truth and without prediction: 20, or 5%."
)
@click.option("--workers", type=click.IntRange(1), help="Processes, one a drive.  [default: number of cores]")
@click.option("--ray", is_flag=True, help="Spread the drives over a Ray cluster (RAY_ADDRESS), or start one here.")
def evaluate(out, workers, **options) -> None:
    """Score PREDICTIONS (bags of m2f replay or the node, folders of label PNGs) against ground truth.

    Several drives are paired by name. Scores are in the classes of the truth, or, if only the truth's taxonomy maps to
    the predictions' (Mapillary's), in the classes of the predictions. Exit status 2: a recording was cut off or
    damaged, its replay stopped, or a frame with ground truth has no prediction; the rest is scored. Predictions without
    ground truth are no fault.
    """
    from tqdm import tqdm

    from m2f_ros.evaluation.coverage import shortfalls
    from m2f_ros.evaluation.options import Options
    from m2f_ros.evaluation.report import check_out, write_report
    from m2f_ros.evaluation.report.tables import problems
    from m2f_ros.evaluation.run import LEFT_OUT, NOT_COMPARABLE, evaluate
    from m2f_ros.evaluation.text import describe, not_comparable

    read = ("classes", "taxonomy", "prediction_taxonomy", "images")
    # Checked before minutes of scoring.
    check_out(out, [*options["predictions"], *options["truth"], *(options[name] for name in read)])
    with tqdm(unit="frame", disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        result, worst = evaluate(Options(workers=workers or 0, **options), progress)
    write_report(result, worst, out)
    click.echo(describe(result))
    for problem in problems(result):
        click.echo(f"m2f: scored as far as it goes: {problem}", err=True)
    for line in result.settings.get(LEFT_OUT, []):
        click.echo(f"m2f: without pictures and flips: {line}", err=True)
    if names := result.settings.get(NOT_COMPARABLE):
        click.echo(f"m2f: {not_comparable(names)}; give --classes FILE.yaml", err=True)
    click.echo(f"report: {out / 'report.html'}")
    if shortfalls(result, options["allow_missing"]):
        click.echo("m2f: predict these frames, too; if they are meant to be missing, give --allow-missing", err=True)
    sys.exit(2 if problems(result) else 0)


@m2f.command()
@click.argument("checkpoint")
@click.option("--out", type=_Place(), help="File of the card.  [default: MODEL_CARD.md in CHECKPOINT]")
@click.option(
    "--evaluation", "evaluations", type=click.Path(path_type=Path), multiple=True, help="Folder or JSON of m2f eval."
)
@click.option("--benchmarks", type=click.Path(path_type=Path), help="Folder of JSONs of m2f bench.")
@click.option("--about", type=click.Path(path_type=Path), help="Data, licence, use.  [default: CHECKPOINT's card.yaml]")
@click.option("--pictures", type=click.IntRange(0), default=3, show_default=True, help="Pictures of failures, at most.")
@click.option("--commands", is_flag=True, help="Print the commands of the evaluations in the card.yaml, and stop.")
def card(commands, **options) -> None:
    """Write the model card of CHECKPOINT: a folder, a shipped model, or a hub id.

    Figures come from results of m2f eval (--evaluation, or the card.yaml's) and m2f bench; licence and use come from a
    card.yaml. m2f_ros/model/weights/street has an example.
    """
    from m2f_ros.evaluation.card import Request, find_about, write_card

    request = Request(**options)
    if commands:
        own = [entry for entry in find_about(request).evaluations if not entry.model]
        click.echo("\n".join(entry.command for entry in own if entry.command))
        return
    click.echo(write_card(request).path)


@m2f.command("bench-report")
@click.option("--results", type=click.Path(path_type=Path), default="docs/benchmarks", show_default=True)
@click.option("--out", type=_Place(), default="docs/benchmarks.md", show_default=True)
def bench_report(results, out) -> None:
    """Make the page of benchmarks, with its plots, from the JSONs of m2f bench."""
    from m2f_ros.benchmark.report import write_report

    write_report(results, out)


@m2f.command()
@click.option("--minutes", type=_Range(0.5), default=60, show_default=True, help="Minutes with hostile cameras.")
@click.option("--model", default="street", show_default=True, help="Name, folder or Hugging Face hub id.")
@click.option("--image", "size", default="256x192", show_default=True, help="WIDTHxHEIGHT of the good cameras' images.")
@click.option("--rate", type=_Range(1, 100), default=10, show_default=True, help="Images a second of each good camera.")
@click.option("--hostile", "kinds", help="sizes,stamps,pictures,fields,cdr,info,peers,calls; or none.  [default: all]")
@click.option("--flood", type=_Range(1, 10000), default=300, show_default=True, help="Small messages a second.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the hostile messages.")
@click.option("--json", "path", type=_Place(), default="out/soak/soak.json", show_default=True)
@click.option("--log", type=_Place(), default="out/soak/node.log", show_default=True, help="Log of the node.")
def soak(size, kinds, path, **options) -> None:
    """Run the ROS node with good cameras beside hostile ones, and check criteria (needs a built package).

    Exit status 1: a criterion is missed. m2f soak-report makes the page.
    """
    from m2f_ros.benchmark.soak import criteria, describe, is_own, new_soak, write
    from m2f_ros.files import refuse_foreign

    try:
        from m2f_ros.node.hostile import KINDS, NODE
        from m2f_ros.node.soak import Options, soak
    except ImportError as error:
        raise click.UsageError(f"{error.name} cannot be imported; run `make build` and `. scripts/env.sh`") from None
    width, height = _size(size, "--image 256x192")
    chosen = tuple(KINDS) if kinds is None else () if kinds == "none" else _names(kinds)
    if unknown := set(chosen) - set(KINDS):
        raise click.UsageError(f"--hostile {', '.join(sorted(unknown))}: take {', '.join(KINDS)}, or none")
    refuse_foreign(path, is_own)  # before an hour of work
    refuse_foreign(options["log"], lambda text: f"[{NODE.strip('/')}]" in text)
    asked = Options(image=(height, width), kinds=chosen, **options)
    result = new_soak(**soak(asked, lambda line: click.echo(f"m2f: {line}", err=True)))
    click.echo(describe(result))
    write(result, path)
    sys.exit(not all(criterion.met for criterion in criteria(result)))


@m2f.command("soak-report")
@click.option("--results", type=click.Path(path_type=Path), default="docs/soak.json", show_default=True)
@click.option("--out", type=_Place(), default="docs/soak.md", show_default=True)
def soak_report(results, out) -> None:
    """Make the page of the soak, with its plot, from the JSON of m2f soak."""
    from m2f_ros.benchmark.soak import write_soak_page

    write_soak_page(results, out)


@m2f.command("gpu-check")
@click.option("--out", type=_Place(), default="out/gpu-check", show_default=True, help="Folder of the results.")
@click.option("--minutes", type=_Range(0.1), help="Time for all parts.  [default: 9; 3 without a GPU]")
@click.option("--model", help="Checkpoint in place of Swin-L with random weights: a folder, …")
@click.option("--size", help="HEIGHTxWIDTH of the network's input.  [default: 1024x2048; 128x256 on a CPU]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--only", default="", help="Names of parts, separated by commas.  [default: all]")
def gpu_check(size, only, **options) -> None:
    """Test and measure the GPU code, in parts with deadlines; without a GPU the part for a CPU."""
    from m2f_ros.benchmark.gpu_check.runner import Options, check, passed
    from m2f_ros.benchmark.gpu_check.text import describe
    from m2f_ros.benchmark.result import parse_names, parse_size

    asked = Options(size=parse_size(size, "--size") if size else None, only=parse_names(only), **options)
    content = check(asked, lambda line: click.echo(f"m2f: {line}", err=True))
    click.echo(describe(content, asked.out))
    sys.exit(not passed(content))


def _two_numbers(text: str, between: str, example: str) -> tuple[int, int]:
    first, found, second = text.partition(between)
    if not (found and all(re.fullmatch(r"\d{1,18}", number) for number in (first, second))):
        raise click.UsageError(f"{text!r} is not of the form {example}")
    return int(first), int(second)


def _size(text: str, example: str) -> tuple[int, int]:
    from m2f_ros.frame.frame import LARGEST_SIDE

    first, second = _two_numbers(text, "x", example)
    if not all(1 <= side <= LARGEST_SIDE for side in (first, second)):
        raise click.UsageError(f"{example.split()[0]} {text}: sides must be 1 to {LARGEST_SIDE}")
    return first, second


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def main() -> None:
    """Run the command line.

    A user's error gives one line and exit status 2. A signal that the verb does not handle gives 128 plus its number;
    Ctrl-C gives a line, too.
    """
    signals.begin_command()
    code: str | int | None = 0
    try:
        code = m2f.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        signals.tell(signals.INTERRUPTED)
        code = 130
    except M2fError as error:
        click.echo(f"m2f: error: {error}", err=True)
        code = 2
    except SystemExit as error:
        code = error.code
    finally:
        read = signals.flush()
        signals.act_as_usual()
    sys.exit(code if read or code else 128 + signal.SIGPIPE)


if __name__ == "__main__":
    main()
