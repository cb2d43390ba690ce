"""Runs the server until a signal ends it."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from m2f_ros.errors import ConfigError
from m2f_ros.pipeline.build import PipelineSettings, build_pipeline
from m2f_ros.pipeline.images import ImageSegmenter
from m2f_ros.serve.app import Limits, make_app

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


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises ConfigError: the port is in use, or the address is not this machine's."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror:
        raise ConfigError(f"--host {host}: there is no such address") from None
    place = socket.socket(family, socket.SOCK_STREAM)
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(address)
        place.listen(2048)
    except OSError as error:
        place.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} of {host} is in use: give another --port") from None
        raise ConfigError(f"{host}, port {port}: cannot listen: {error.strerror}") from None
    return place


def is_loopback(host: str) -> bool:
    """Return True if only this machine reaches the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
    if not token and not is_loopback(host):
        raise ConfigError(f"--host {host}: other machines reach it; give --token too, or M2F_TOKEN in the environment")
    names = named(models)
    place = listen(host, port)  # before the models: loading them takes longer
    segmenters: dict[str, ImageSegmenter] = {}
    try:
        for name, model in names.items():
            segmenters[name] = ImageSegmenter(build_pipeline(replace(settings, model=model)))
        app = make_app(segmenters, limits, token)
        for name in names:
            say(f"http://{_shown(place)}/models/{name}")
        config = uvicorn.Config(app, log_config=_quiet(), timeout_graceful_shutdown=GRACE, server_header=False)
        uvicorn.Server(config).run([place])
    finally:
        place.close()
        for segmenter in segmenters.values():
            segmenter.close()


def _shown(place: socket.socket) -> str:
    host, port = place.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _quiet() -> dict:
    """Return uvicorn's logging without a line for each request: /metrics counts them."""
    loggers = {name: value | {"level": "WARNING"} for name, value in LOGGING_CONFIG["loggers"].items()}
    return LOGGING_CONFIG | {"loggers": loggers}
