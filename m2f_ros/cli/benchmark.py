"""`m2f bench`, `m2f bench-node`, `m2f bench-report`, `m2f soak`, `m2f soak-report` and `m2f gpu-check`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from m2f_ros.cli.options import Place, Range, image_size, names


@click.command()
@click.option(
    "--model",
    default="swin-tiny",
    show_default=True,
    help="swin-tiny, -small, -base, -large; a name, folder or hub id; or random:NETWORK, with random weights: "
    "random:segformer, random:smp:Unet/mobilenet_v2, random:torchvision:lraspp_mobilenet_v3_large, …",
)
@click.option("--size", default="256x512", show_default=True, help="HEIGHTxWIDTH of the network's input.")
@click.option(
    "--against",
    help="hf,compiled,openvino,onnxruntime, of this package's own Mask2Former; library, of other families; or none.  "
    "[default: hf or library]",
)
@click.option("--backend", default="eager", show_default=True, help="Own backends: eager,compile,openvino.")
@click.option("--exports", default="none", show_default=True, help="Folders of m2f export of the model, with commas.")
@click.option(
    "--precision",
    help="fp32, bf16, …, on both sides; with more after a comma, as fp32,bf16,int8, also for ours in these.  "
    "[default: fp16 on CUDA, else fp32]",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--threads", type=int, help="CPU threads.  [default: one for each available core]")
@click.option("--batch", type=int, default=1, show_default=True, help="Frames of a batch.")
@click.option("--rounds", type=int, default=20, show_default=True, help="Measurements of each, in turns.")
@click.option("--rate", type=float, help="Arrivals a second.  [default: 30 on CUDA, else 4/5 of the rate reached]")
@click.option("--seconds", type=float, default=10, show_default=True, help="Duration of the arriving frames; 0: none.")
@click.option("--frames", default="street", show_default=True, help="Source of the frames, as for m2f demo.")
@click.option("--frame-size", help="HEIGHTxWIDTH of the frames.  [default: --size]")
@click.option("--json", "path", type=Place(), help="File for the result.")
def bench(model, size, against, backend, exports, precision, frame_size, path, **options) -> None:
    """Measure this pipeline against the library's own code with the same weights, on the same frames, in one run."""
    # Set before torch is imported: its threads would otherwise spin after their work, beside the next contestant's.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from m2f_ros.benchmark.report import describe
    from m2f_ros.benchmark.result import Settings, is_own, parse_names, parse_size, write
    from m2f_ros.benchmark.runner import run
    from m2f_ros.files import refuse_foreign

    if path:
        refuse_foreign(path, is_own)  # before minutes of work
    precisions = parse_names(precision or "")
    settings = Settings(
        model=model,
        size=parse_size(size, "--size"),
        frame_size=parse_size(frame_size, "--frame-size") if frame_size else None,
        against=None if against is None else parse_names(against),
        backends=parse_names(backend),
        exports=parse_names(exports),
        precision=precisions[0] if precisions else None,
        more_precisions=precisions[1:],
        **options,
    )
    result = run(settings, lambda line: click.echo(f"m2f: {line}", err=True))
    click.echo(describe(result))
    if path:
        write(result, path)


@click.command("bench-node")
@click.option("--frames", type=click.IntRange(1), default=300, show_default=True, help="Frames to measure.")
@click.option("--frame-size", default="1080x1920", show_default=True, help="HEIGHTxWIDTH of the images.")
@click.option(
    "--outputs",
    default="label,overlay",
    show_default=True,
    help="Outputs that are listened to: label, overlay, points, grid, obstacles.",
)
@click.option("--json", "path", type=Place(), help="File for the result: …node.json.")
def bench_node(frames, frame_size, outputs, path) -> None:
    """Measure the CPU time that the ROS node adds to a frame beyond the pipeline (needs a built package)."""
    from m2f_ros.benchmark.machine import node_share
    from m2f_ros.benchmark.report import NODE, describe_share
    from m2f_ros.benchmark.result import is_own, parse_names, parse_size, write
    from m2f_ros.files import refuse_foreign
    from m2f_ros.node.load.benchmark import measure

    if path and not path.name.endswith(NODE):
        raise click.UsageError(f"--json {path}: the name must end in {NODE}, by which m2f bench-report knows it")
    if path:
        refuse_foreign(path, is_own)
    share = node_share(**measure(frames, parse_size(frame_size, "--frame-size"), parse_names(outputs)))
    click.echo(describe_share(share))
    if path:
        write(share, path)


@click.command("bench-report")
@click.option("--results", type=click.Path(path_type=Path), default="docs/benchmarks", show_default=True)
@click.option("--out", type=Place(), default="docs/benchmarks.md", show_default=True)
def bench_report(results, out) -> None:
    """Make the page of benchmarks, with its plots, from the JSONs of m2f bench."""
    from m2f_ros.benchmark.report import write_report

    write_report(results, out)


@click.command()
@click.option("--minutes", type=Range(0.5), default=60, show_default=True, help="Minutes with hostile cameras.")
@click.option("--model", default="street", show_default=True, help="Name, folder or Hugging Face hub id.")
@click.option("--image", "size", default="256x192", show_default=True, help="WIDTHxHEIGHT of the good cameras' images.")
@click.option("--rate", type=Range(1, 100), default=10, show_default=True, help="Images a second of each good camera.")
@click.option("--hostile", "kinds", help="sizes,stamps,pictures,fields,cdr,info,peers,calls; or none.  [default: all]")
@click.option("--flood", type=Range(1, 10000), default=300, show_default=True, help="Small messages a second.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the hostile messages.")
@click.option("--json", "path", type=Place(), default="out/soak/soak.json", show_default=True)
@click.option("--log", type=Place(), default="out/soak/node.log", show_default=True, help="Log of the node.")
def soak(size, kinds, path, **options) -> None:
    """Run the ROS node with good cameras beside hostile ones, and check criteria (needs a built package).

    Exit status 1: a criterion is missed. m2f soak-report makes the page.
    """
    from m2f_ros.benchmark.soak import criteria, describe, is_own, new_soak, write
    from m2f_ros.files import refuse_foreign
    from m2f_ros.node.load.hostile import KINDS, NODE
    from m2f_ros.node.load.soak import Options, soak

    width, height = image_size(size, "--image 256x192")
    chosen = tuple(KINDS) if kinds is None else () if kinds == "none" else names(kinds)
    if unknown := set(chosen) - set(KINDS):
        raise click.UsageError(f"--hostile {', '.join(sorted(unknown))}: take {', '.join(KINDS)}, or none")
    refuse_foreign(path, is_own)  # before an hour of work
    refuse_foreign(options["log"], lambda text: f"[{NODE.strip('/')}]" in text)
    asked = Options(image=(height, width), kinds=chosen, **options)
    result = new_soak(**soak(asked, lambda line: click.echo(f"m2f: {line}", err=True)))
    click.echo(describe(result))
    write(result, path)
    sys.exit(not all(criterion.met for criterion in criteria(result)))


@click.command("soak-report")
@click.option("--results", type=click.Path(path_type=Path), default="docs/soak.json", show_default=True)
@click.option("--out", type=Place(), default="docs/soak.md", show_default=True)
def soak_report(results, out) -> None:
    """Make the page of the soak, with its plot, from the JSON of m2f soak."""
    from m2f_ros.benchmark.soak import write_soak_page

    write_soak_page(results, out)


@click.command("gpu-check")
@click.option("--out", type=Place(), default="out/gpu-check", show_default=True, help="Folder of the results.")
@click.option("--minutes", type=Range(0.1), help="Time for all parts.  [default: 9; 3 without a GPU]")
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
