"""`m2f serve` and `m2f bench-serve`."""

from __future__ import annotations

import sys

import click

from m2f_ros.cli.options import Range, image_size


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; with --token that of other machines.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free one.")
@click.option("--token", default="", envvar="M2F_TOKEN", help="Clients send it: Authorization: Bearer TOKEN.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, …")
@click.option("--precision", default="auto", show_default=True, help="fp32, fp16, bf16, int8, …")
@click.option("--backend", default="auto", show_default=True, help="As the node's parameter backend.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="CPU threads of torch; 0: torch's choice.")
@click.option("--batch", type=click.IntRange(1, 256), default=1, show_default=True, help="Most images of a batch.")
@click.option("--wait-ms", type=Range(0, 1000), default=5, show_default=True, help="Wait for a batch to fill.")
@click.option("--waiting", type=click.IntRange(min=1), default=32, show_default=True, help="Then answers are 429.")
@click.option("--timeout", type=Range(0.1, 3600), default=60, show_default=True, help="Seconds of a request.")
@click.option("--max-bytes", type=click.IntRange(1), default=32 << 20, show_default=True, help="Of a request.")
@click.option("--max-pixels", type=click.IntRange(1, 1 << 26), default=1 << 26, show_default=True, help="Of an image.")
def serve(models, host, port, token, wait_ms, **options) -> None:
    """Segment images over HTTP with MODELS; the first one answers at /.

    POST / and /models/NAME speak Hugging Face's inference API for image-segmentation; /label and /models/NAME/label
    answer with a PNG of train ids. /docs has the rest.
    """
    from m2f_ros.pipeline.build import PipelineSettings
    from m2f_ros.serve.app import Limits
    from m2f_ros.serve.run import serve as run

    settings = {name: options.pop(name) for name in ("device", "precision", "backend", "threads")}
    run(
        models,
        host,
        port,
        token,
        Limits(wait=wait_ms / 1000, **options),
        PipelineSettings(**settings),
        lambda line: click.echo(f"m2f: {line}", err=True),
    )


@click.command("bench-serve")
@click.argument("model", default="street")
@click.option("--requests", type=click.IntRange(1), default=200, show_default=True, help="Number of requests.")
@click.option("--clients", type=click.IntRange(1), default=2, show_default=True, help="Each waits for its answer.")
@click.option("--frame-size", default="480x640", show_default=True, help="HEIGHTxWIDTH of the image.")
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True, help="Turns of server and pipeline.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, …")
@click.option("--precision", default="auto", show_default=True, help="fp32, fp16, bf16, int8, …")
@click.option("--backend", default="auto", show_default=True, help="As the node's parameter backend.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="CPU threads of torch; 0: torch's choice.")
@click.option("--batch", type=click.IntRange(1, 256), default=1, show_default=True, help="Most images of a batch.")
def bench_serve(model, requests, clients, frame_size, rounds, batch, **settings) -> None:
    """Measure m2f serve under load, and the pipeline alone, in turns. Exit status 1: a request was lost."""
    from m2f_ros.pipeline.build import PipelineSettings
    from m2f_ros.serve.load import describe, measure

    load = measure(
        PipelineSettings(model=model, **settings),
        ["--batch", str(batch), "--waiting", str(max(32, clients))],
        requests,
        clients,
        image_size(frame_size, "--frame-size 480x640"),
        rounds,
        lambda line: click.echo(f"m2f: {line}", err=True),
    )
    click.echo(describe(load))
    sys.exit(1 if load.lost else 0)
