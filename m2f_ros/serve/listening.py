"""The socket of a server, its end by signals, and the rule for servers that other machines reach."""

from __future__ import annotations

import errno
import ipaddress
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from m2f_ros import signals
from m2f_ros.errors import ConfigError


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


def require_token(host: str, token: str) -> None:
    """Raise ConfigError if other machines would reach a server without a token, or no header can hold the token."""
    if not all("!" <= character <= "~" for character in token):
        raise ConfigError("--token: take letters, digits and signs of ASCII, without spaces: headers hold no others")
    if not token and not is_loopback(host):
        raise ConfigError(f"--host {host}: other machines reach it; give --token too, or M2F_TOKEN in the environment")


def shown(place: socket.socket) -> str:
    """Return HOST:PORT of a socket that listens, as in a URL."""
    host, port = place.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def quiet() -> dict:
    """Return uvicorn's logging without a line for each request."""
    loggers = {name: value | {"level": "WARNING"} for name, value in LOGGING_CONFIG["loggers"].items()}
    return LOGGING_CONFIG | {"loggers": loggers}


class _Server(uvicorn.Server):
    """A server whose signals `run` handles."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(config: uvicorn.Config, place: socket.socket) -> None:
    """Serve until a signal ends it. Running requests are answered; a second signal ends the process at once.

    Raises KeyboardInterrupt after SIGINT, SystemExit after another signal.
    """
    server, got = _Server(config), list[int]()

    def end(number: int, frame: FrameType | None) -> None:
        got.append(number)
        server.should_exit = True
        if len(got) > 1:
            if got[0] == signal.SIGINT:
                signals.tell(signals.INTERRUPTED)
            os._exit(128 + got[0])

    before = signals.listen(end)
    try:
        server.run([place])
    finally:
        signals.restore(before)
    if got:
        raise KeyboardInterrupt if got[0] == signal.SIGINT else SystemExit(128 + got[0])
