"""`m2f eval`, `m2f compare`, `m2f compare-models`, `m2f explain` and `m2f card`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from m2f_ros.cli.options import Place, Range, image_size, names, two_numbers


@click.command("eval")
@click.argument("predictions", nargs=-1, required=True)
@click.option("--truth", multiple=True, required=True, help="Bag, folder of labels, JSON of COCO's, or a glob.")
@click.option("--out", type=Place(), default="out/eval", show_default=True, help="Folder of the report.")
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


@click.command()
@click.argument("source")
@click.option("--frame", default="0", show_default=True, help="Number of the frame, its name, or its stamp, 12.345…")
@click.option("--model", default="street", show_default=True, help="Name, folder or Hugging Face hub id.")
@click.option("--labels", help="Folder of label PNGs, or label topic of a bag.")
@click.option("--taxonomy", help="Taxonomy of the labels: cityscapes, camvid, a YAML file, …")
@click.option("--topic", help="Image topic of a bag with several cameras.")
@click.option("--at", help="X,Y: explain the region around this pixel first.")
@click.option("--segments", type=click.IntRange(0), default=6, show_default=True, help="Most segments to explain.")
@click.option("--mistakes", type=click.IntRange(0), default=3, show_default=True, help="Most mistakes, with labels.")
@click.option("--out", type=Place(), default="out/explain", show_default=True, help="Folder of the page.")
def explain(at, out, **options) -> None:
    """Show how a model came to the labels of a frame of SOURCE (image, folder, bag, video, street).

    One page has, for each segment: the queries that made it, their masks after each layer of the decoder, their
    cross-attention, class scores, the second best class, and with labels the mistakes. Networks that classify pixels
    have maps of gradients.
    """
    from m2f_ros.evaluation.explain.run import Options
    from m2f_ros.evaluation.explain.run import explain as run

    click.echo(run(Options(at=two_numbers(at, ",", "--at 320,240") if at else None, **options), out))


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--metric", "metrics", multiple=True, default=["miou"], show_default=True, help="miou, pq, iou:person, …")
@click.option("--max-drop", type=Range(0), default=0.01, show_default=True, help="Allowed loss, in its unit.")
@click.option(
    "--allow-missing", default="0", show_default=True, help="Frames without prediction, in A and in B: 20, or 5%."
)
@click.option("--other-frames", is_flag=True, help="Allow different frames in A and B.")
@click.option("--json", "path", type=Place(), help="File for all differences.")
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


@click.command()
@click.argument("drives", nargs=-1, required=True)
@click.option("--models", required=True, help="Names, folders or Hugging Face hub ids, separated by commas.")
@click.option("--out", type=Place(), default="out/models", show_default=True, help="Folder of report and replays.")
@click.option("--classes", help="Classes of the scores: a taxonomy, or YAML of new ones.  [default: as in m2f eval]")
@click.option("--taxonomy", help="Taxonomy of the ground truth's ids: cityscapes, camvid, a YAML file, …")
@click.option("--topics", default="", help="Image topics, separated by commas.  [default: all cameras]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--precision", help="Of all models: fp32, fp16, bf16, …  [default: fp16 on CUDA, else fp32]")
@click.option("--backend", default="auto", show_default=True, help="auto, eager, compile, openvino.")
@click.option("--size", help="HEIGHTxWIDTH of the networks' input.  [default: each checkpoint's, or the frame's]")
@click.option("--threads", type=int, default=0, help="CPU threads.  [default: one a core, at most 4]")
@click.option("--rounds", type=click.IntRange(2), default=60, show_default=True, help="Frames to time.")
@click.option("--pictures", type=click.IntRange(0), default=6, show_default=True, help="Frames of differences to show.")
def compare_models(drives, models, out, classes, taxonomy, topics, size, rounds, pictures, **options) -> None:
    """Replay DRIVES with several models, and write one page: scores, latency, memory, and where they differ most.

    DRIVES are rosbag2s with images and ground truth, as m2f bag makes them. All models are in memory together while
    they are timed. After an interruption the same command goes on. Exit status 2: a model failed, or its result is of a
    part; the page says so.
    """
    # Set before torch is imported: its threads would spin after their work, beside the next model's.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from m2f_ros.evaluation.models.comparison import describe
    from m2f_ros.evaluation.models.run import Request, Stopped, compare_models
    from m2f_ros.replay.settings import Settings

    wanted = image_size(size, "--size 480x640") if size else None
    settings = Settings(topics=names(topics), size=wanted, **options)
    request = Request(drives, names(models), settings, classes, taxonomy, rounds, pictures)
    try:
        comparison = compare_models(request, out, lambda line: click.echo(f"m2f: {line}", err=True))
    except Stopped as stopped:
        click.echo("m2f: stopped; the same command goes on", err=True)
        sys.exit(128 + stopped.args[0])
    click.echo(describe(comparison))
    for problem in comparison.problems:
        click.echo(f"m2f: error: {problem}", err=True)
    click.echo(f"report: {out / 'models.html'}")
    sys.exit(2 if comparison.problems else 0)


@click.command()
@click.argument("checkpoint")
@click.option("--out", type=Place(), help="File of the card.  [default: MODEL_CARD.md in CHECKPOINT]")
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
