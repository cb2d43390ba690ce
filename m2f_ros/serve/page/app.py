"""The server of the page: its files, and a WebSocket for each page that is open."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from m2f_ros.serve.listening import is_loopback
from m2f_ros.serve.page.feed import Feed, Want

FILES = Path(__file__).resolve().parent / "files"  # links of an installation lead to the sources
COOKIE = "m2f_token"
# Frames of a camera on the way to a page that it has not drawn yet. Two hide the way; more would be old when drawn.
AHEAD = 2
_NEWS = 500  # JSON messages that wait for a slow page; older ones are lost
_HEADERS = {
    # The page speaks to this server alone.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class _Page:
    """One open page: what it wants, and what it has got."""

    def __init__(self, socket: WebSocket) -> None:
        self.socket = socket
        self.want = Want()
        self.news: deque[dict[str, Any]] = deque(maxlen=_NEWS)
        self.changed = asyncio.Event()
        self.marks: dict[str, object] = {}
        self.ahead: dict[str, int] = {}
        self.answered = -1

    def tell(self, news: dict[str, Any] | None) -> None:
        if news is not None:
            if news["type"] == "state":
                self.marks.clear()
            self.news.append(news)
        self.changed.set()


class Hub:
    """The open pages of a feed."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.pages: set[_Page] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def tell(self, news: dict[str, Any] | None) -> None:
        """Pass something on to all pages. Thread-safe."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._tell, news)

    def _tell(self, news: dict[str, Any] | None) -> None:
        for page in self.pages:
            page.tell(news)

    def look(self) -> None:
        """Tell the feed what the pages want."""
        self.feed.watch([page.want for page in self.pages], self.tell)

    async def serve(self, socket: WebSocket) -> None:
        """Serve one page until it goes."""
        self._loop = asyncio.get_running_loop()
        await socket.accept()
        page = _Page(socket)
        page.tell(self.feed.state())
        self.pages.add(page)
        self.look()
        tasks = [asyncio.ensure_future(self._receive(page)), asyncio.ensure_future(self._send(page))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.pages.discard(page)
            self.look()
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                # A send fails with RuntimeError once the page has gone.
                known = (WebSocketDisconnect, asyncio.CancelledError, RuntimeError, OSError)
                if isinstance(result, BaseException) and not isinstance(result, known):
                    raise result

    async def _receive(self, page: _Page) -> None:
        while True:
            text = await page.socket.receive_text()
            try:
                asked = json.loads(text)
                if not isinstance(asked, dict):
                    raise ValueError("a message must be an object")
                if "want" in asked:
                    page.want = Want.read(asked["want"], page.want)
                    page.answered = -1
                    self.look()
                if "shown" in asked:
                    camera = str(asked["shown"])
                    page.ahead[camera] = max(0, page.ahead.get(camera, 0) - 1)
                if "set" in asked:
                    name, value = str(asked["set"]["name"]), asked["set"]["value"]
                    reason = await run_in_threadpool(self.feed.set, name, value)
                    page.tell({"type": "answer", "name": name, "reason": reason})
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                page.tell({"type": "fault", "reason": f"a message that cannot be read: {error!r:.200}"})
            page.changed.set()

    async def _send(self, page: _Page) -> None:
        while True:
            await page.changed.wait()
            page.changed.clear()
            while page.news:
                await page.socket.send_text(json.dumps(page.news.popleft()))
            want = page.want
            if self.feed.live and want.paused:
                continue
            for camera in self.feed.cameras():
                if self.feed.live and page.ahead.get(camera, 0) >= AHEAD:
                    continue  # the newest frame then is sent when the page has drawn one
                found = await run_in_threadpool(self.feed.frame, camera, want, page.marks.get(camera))
                if found is not None:
                    page.marks[camera], data = found
                    page.ahead[camera] = page.ahead.get(camera, 0) + 1
                    await page.socket.send_bytes(data)
            if not self.feed.live and self.feed.cameras() and page.answered != want.index:
                page.answered = want.index
                await page.socket.send_text(json.dumps({"type": "at", "index": want.index}))


class _Guard:
    """Lets pages in that bring the token, and pages of this server alone.

    Without a token the server is reached by names of this machine only: another site's page, whose name was made to
    point here, could read the camera and set parameters.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        answer = self._refusal(HTTPConnection(scope))
        if answer is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: status 403
        else:
            await answer(scope, receive, send)

    def _refusal(self, asked: HTTPConnection) -> Response | None:
        host = asked.headers.get("host", "")
        origin = asked.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return PlainTextResponse("this server answers its own page alone\n", 403)
        if not self._token:
            try:
                name = urlsplit(f"//{host}").hostname or ""
            except ValueError:
                name = ""
            if not is_loopback(name):
                return PlainTextResponse(f"give --host and --token to reach this server as {host!r:.100}\n", 403)
            return None
        if asked.scope["type"] == "http" and asked.url.path == "/" and self._is(asked.query_params.get("token")):
            # The token leaves the address bar.
            answer = RedirectResponse("/", 303)
            answer.set_cookie(COOKIE, self._token, httponly=True, samesite="strict")
            return answer
        scheme, _, given = asked.headers.get("authorization", "").partition(" ")
        if self._is(asked.cookies.get(COOKIE)) or (scheme == "Bearer" and self._is(given)):
            return None
        return PlainTextResponse("open this page with ?token=TOKEN\n", 401, {"WWW-Authenticate": "Bearer"})

    def _is(self, given: str | None) -> bool:
        return given is not None and secrets.compare_digest(given.encode(), self._token.encode())


def make_app(feed: Feed, token: str = "") -> ASGIApp:
    """Make the application.

    Args:
        feed: what pages show. It is closed when the application ends.
        token: if not empty, a page is opened as /?token=TOKEN, or with the header "Authorization: Bearer TOKEN".
    """
    hub = Hub(feed)

    @contextlib.asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(feed.close)

    def page(request: Request) -> Response:
        return Response((FILES / "index.html").read_bytes(), media_type="text/html", headers=_HEADERS)

    routes = [
        Route("/", page),
        WebSocketRoute("/live", hub.serve),
        Mount("/files", _with_headers(StaticFiles(directory=FILES))),
    ]
    return _Guard(Starlette(routes=routes, lifespan=life), token)


def _with_headers(app: ASGIApp) -> ASGIApp:
    """Give each file the headers of the page: a browser then asks whether it has changed."""

    async def files(scope: Scope, receive: Receive, send: Send) -> None:
        async def begun(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
            await send(message)

        await app(scope, receive, begun)

    return files
