"""Runs the server until a signal ends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import uvicorn

from m2f_ros.errors import ConfigError
from m2f_ros.pipeline.build import PipelineSettings, build_pipeline
from m2f_ros.pipeline.images import ImageSegmenter
from m2f_ros.serve.app import Limits, make_app
from m2f_ros.serve.listening import listen, quiet, require_token, run, shown

GRACE = 30  # seconds in which running requests end after a signal


def name_of(model: str) -> str:
    """Return the name of a model in URLs: a folder's own name, else as it is given."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def named(models: Sequence[str]) -> dict[str, str]:
    """Return name -> model. Raises ConfigError for two models of one name."""
    found: dict[str, str] = {}
    for model in models:
        name = name_of(model)
        if name in found:
            raise ConfigError(f"{found[name]} and {model} have one name in URLs, {name!r}: rename a folder")
        found[name] = model
    return found


def serve(
    models: Sequence[str],
    host: str,
    port: int,
    token: str,
    limits: Limits,
    settings: PipelineSettings,
    say: Callable[[str], object],
) -> None:
    """Serve models until SIGINT or SIGTERM; running requests are answered before it returns.

    Args:
        port: 0 for a free one, which is said.
        settings: of all models, without `model`.
    Raises:
        ConfigError: the port is in use, or other machines would reach a server without a token.
        CheckpointError: a model cannot be read.
    """
    require_token(host, token)
    names = named(models)
    place = listen(host, port)  # before the models: loading them takes longer
    segmenters: dict[str, ImageSegmenter] = {}
    try:
        for name, model in names.items():
            segmenters[name] = ImageSegmenter(build_pipeline(replace(settings, model=model)))
        app = make_app(segmenters, limits, token)
        for name in names:
            say(f"http://{shown(place)}/models/{name}")
        config = uvicorn.Config(app, log_config=quiet(), timeout_graceful_shutdown=GRACE, server_header=False)
        run(config, place)
    finally:
        place.close()
        for segmenter in segmenters.values():
            segmenter.close()
