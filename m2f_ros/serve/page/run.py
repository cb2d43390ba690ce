"""Runs the server of the page until a signal ends it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote

import uvicorn

from m2f_ros.errors import ConfigError
from m2f_ros.serve.listening import listen, quiet, require_token, run, shown
from m2f_ros.serve.page.app import make_app
from m2f_ros.serve.page.feed import Feed

GRACE = 3  # seconds in which open pages are closed
LARGEST = 1 << 16  # bytes of a page's message


def config_of(feed: Feed, token: str = "") -> uvicorn.Config:
    """Return the configuration of the server. Raises ConfigError without the library for WebSockets."""
    try:
        import websockets  # noqa: F401
    except ImportError:
        raise ConfigError("the page needs websockets: pip install 'm2f_ros[serve]'") from None
    return uvicorn.Config(
        make_app(feed, token),
        ws="websockets-sansio",
        ws_max_size=LARGEST,
        # JPEG and PNG do not become smaller.
        ws_per_message_deflate=False,
        log_config=quiet(),
        timeout_graceful_shutdown=GRACE,
        server_header=False,
    )


def view(feed: Callable[[], Feed], host: str, port: int, token: str, say: Callable[[str], object]) -> None:
    """Serve the page until SIGINT or SIGTERM.

    Args:
        feed: opens what is shown, once the port is there.
        port: 0 for a free one, which is said.
    Raises:
        ConfigError: the port is in use, or other machines would reach a page without a token.
    """
    require_token(host, token)
    place = listen(host, port)
    try:
        config = config_of(feed(), token)
        say(f"http://{address(place)}/" + (f"?token={quote(token, safe='')}" if token else ""))
        with suppress(KeyboardInterrupt):  # the usual end
            run(config, place)
    finally:
        place.close()


def address(place: socket.socket) -> str:
    """Return HOST:PORT for a browser on this machine: a wildcard address has no name of its own."""
    text = shown(place)
    for wildcard in ("0.0.0.0:", "[::]:"):
        if text.startswith(wildcard):
            return f"localhost:{text.removeprefix(wildcard)}"
    return text
