"""The HTTP interface: Hugging Face's inference API for image-segmentation, label images, health and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import swagger_ui_bundle
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException as StarletteHTTPException

from m2f_ros import __version__
from m2f_ros.errors import ConfigError, FrameError, M2fError, SourceError
from m2f_ros.frame.pictures import MAX_PIXELS
from m2f_ros.pipeline.images import ImageSegmenter, Thresholds, TooLargeError, found_in
from m2f_ros.pipeline.segmentation import Segmentation
from m2f_ros.serve.answers import PARAMETERS, Question, answer_of, array_of, question_of
from m2f_ros.serve.worker import BusyError, Worker

_NPY = "application/x-npy"
_OPEN = ("/health",)  # needs no token: probes have none


@dataclass(frozen=True)
class Limits:
    """Bounds of a server.

    Attributes:
        batch: most images of a batch.
        wait: seconds for which the first image of a batch waits for others; without effect at batch 1.
        waiting: most images of a model that wait.
        timeout: seconds until a request is given up.
        max_bytes: most bytes of a request.
        max_pixels: most pixels of an image.
    """

    batch: int = 1
    wait: float = 0.005
    waiting: int = 32
    timeout: float = 60.0
    max_bytes: int = 32 << 20
    max_pixels: int = MAX_PIXELS


class _Metrics:
    """Counters and histograms of /metrics."""

    def __init__(self, workers: Mapping[str, Worker]):
        to = self.registry = CollectorRegistry()
        self.requests = Counter(
            "m2f_requests_total", "Requests by model and HTTP status.", ["model", "status"], registry=to
        )
        self.seconds = Histogram(
            "m2f_request_seconds", "From the start of a request to its answer of status 200.", ["model"], registry=to
        )
        self.batches = Histogram(
            "m2f_batch_images", "Images of a batch.", ["model"], buckets=[1, 2, 4, 8, 16, 32, 64], registry=to
        )
        waiting = Gauge("m2f_waiting_images", "Images that wait for the device.", ["model"], registry=to)
        for name, worker in workers.items():
            waiting.labels(name).set_function(partial(_waiting, worker))


def _waiting(worker: Worker) -> float:
    return worker.waiting


def make_app(segmenters: Mapping[str, ImageSegmenter], limits: Limits = Limits(), token: str = "") -> FastAPI:
    """Make the application.

    Args:
        segmenters: by name; the first one answers at /. They are closed when the application ends.
        token: if not empty, each request but /health needs the header "Authorization: Bearer TOKEN".
    """
    workers = {name: Worker(one, limits.batch, limits.wait, limits.waiting) for name, one in segmenters.items()}
    metrics = _Metrics(workers)
    for name, worker in workers.items():
        worker.on_batch = metrics.batches.labels(name).observe
    first = next(iter(workers))
    decoding = asyncio.Semaphore(2 * (os.cpu_count() or 1))  # bounds the memory of images that do not wait yet

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        for worker in workers.values():
            await run_in_threadpool(worker.close)

    app = FastAPI(
        title="m2f_ros",
        version=__version__,
        description="Segmentation of images: Hugging Face's inference API for image-segmentation, and label images.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
    )

    @app.middleware("http")
    async def guarded(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        if token and request.url.path not in _OPEN:
            given = request.headers.get("authorization", "").encode()
            if not secrets.compare_digest(given, f"Bearer {token}".encode()):
                answer = JSONResponse({"error": "send the header Authorization: Bearer TOKEN"}, 401)
                answer.headers["WWW-Authenticate"] = "Bearer"
                return answer
        return await go_on(request)

    @app.exception_handler(StarletteHTTPException)  # also of paths and methods that are not there
    async def refused(request: Request, error: StarletteHTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    async def answered(
        name: str, request: Request, make: Callable[[Worker, Question, Segmentation], Response], label: bool = False
    ) -> Response:
        """Answer a request: wait for its turn, its result, and the answer made from the result."""
        began = time.monotonic()
        status = 500
        try:
            if name not in workers:
                raise HTTPException(404, f"there is no model {name!r}; there are {', '.join(workers)}")
            answer = await asyncio.wait_for(
                _segmented(workers[name], request, limits, decoding, make, label), limits.timeout
            )
            status = answer.status_code
            metrics.seconds.labels(name).observe(time.monotonic() - began)
            return answer
        except HTTPException as error:
            status = error.status_code
            raise
        except asyncio.CancelledError:
            status = 503
            raise HTTPException(503, "the server is stopping") from None
        except asyncio.TimeoutError:
            status = 504
            raise HTTPException(504, f"there was no result within {limits.timeout:g} s") from None
        finally:
            metrics.requests.labels(name if name in workers else "", status).inc()

    async def inferred(name: str, request: Request) -> Response:
        def make(worker: Worker, question: Question, result: Segmentation) -> Response:
            subtask = worker.segmenter.check(question.subtask, question.thresholds)
            return JSONResponse(answer_of(found_in(result, subtask, worker.segmenter.pipeline)))

        return await answered(name, request, make)

    async def labelled(name: str, request: Request) -> Response:
        as_npy = _NPY in request.headers.get("accept", "")

        def make(worker: Worker, question: Question, result: Segmentation) -> Response:
            assert result.label is not None
            return Response(array_of(result.label, as_npy), media_type=_NPY if as_npy else "image/png")

        return await answered(name, request, make, label=True)

    @app.post("/", openapi_extra=_INFERENCE, summary=f"Segment an image with {first}")
    async def infer(request: Request) -> Response:
        return await inferred(first, request)

    @app.post("/label", openapi_extra=_LABEL, summary=f"Train ids of an image, by {first}")
    async def label(request: Request) -> Response:
        return await labelled(first, request)

    @app.post("/models/{name:path}/label", openapi_extra=_LABEL, summary="Train ids of an image")
    async def label_of(name: str, request: Request) -> Response:
        return await labelled(name, request)

    @app.post("/models/{name:path}", openapi_extra=_INFERENCE, summary="Segment an image")
    async def infer_with(name: str, request: Request) -> Response:
        return await inferred(name, request)

    @app.get("/models", summary="The models, with their classes")
    def models() -> dict[str, Any]:
        return {name: _described(worker.segmenter) for name, worker in workers.items()}

    @app.get("/health", summary="Status 200 while the server takes requests")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics", summary="Counters, in the text format of Prometheus")
    def shown_metrics() -> Response:
        return Response(generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    # FastAPI's own page fetches its scripts from another host.
    app.mount("/docs/files", StaticFiles(directory=Path(swagger_ui_bundle.swagger_ui_path)))

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title="m2f_ros",
            swagger_js_url="docs/files/swagger-ui-bundle.js",
            swagger_css_url="docs/files/swagger-ui.css",
            swagger_favicon_url="docs/files/favicon-32x32.png",
        )

    return app


async def _body(request: Request, most: int) -> bytes:
    """Return the body. Raises HTTPException above `most` bytes, without reading the rest."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise HTTPException(413, f"the request has more than {most} bytes")
        parts.append(part)
    return b"".join(parts)


async def _segmented(
    worker: Worker,
    request: Request,
    limits: Limits,
    decoding: asyncio.Semaphore,
    make: Callable[[Worker, Question, Segmentation], Response],
    label: bool,
) -> Response:
    body = await _body(request, limits.max_bytes)
    is_json = request.headers.get("content-type", "").lower().startswith("application/json")
    try:
        worker.check_room()  # before the image takes memory
        async with decoding:
            question = await run_in_threadpool(question_of, body, is_json, limits.max_pixels)
        if label:
            worker.segmenter.check(question.subtask, question.thresholds)  # a wrong one is said here, too
            question = Question(question.frame, "semantic", Thresholds())
        future = worker.submit(question.frame, question.subtask, question.thresholds)
    except BusyError as error:
        raise HTTPException(429, str(error), {"Retry-After": "1"}) from None
    except TooLargeError as error:
        raise HTTPException(413, str(error)) from None
    except SourceError as error:
        raise HTTPException(400, str(error)) from None
    except (ConfigError, FrameError) as error:
        raise HTTPException(422, str(error)) from None
    waiting: asyncio.Future = asyncio.wrap_future(future)
    leaving: asyncio.Future = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait([waiting, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise HTTPException(499, "the client went away")
        return await run_in_threadpool(make, worker, question, waiting.result())
    except M2fError as error:
        raise HTTPException(413 if isinstance(error, FrameError) else 500, str(error)) from None
    finally:
        # An image that nobody waits for is not segmented.
        waiting.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    """Return when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _described(segmenter: ImageSegmenter) -> dict[str, Any]:
    taxonomy = segmenter.pipeline.taxonomy
    return {
        "subtasks": segmenter.subtasks,
        "unlabelled": taxonomy.unlabelled,
        "classes": [
            {"id": number, "name": one.name, "colour": list(one.colour), "thing": one.thing}
            for number, one in enumerate(taxonomy.classes)
        ],
    }


_BYTES = {"schema": {"type": "string", "format": "binary"}}
_INFERENCE = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": _BYTES,
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "inputs": {"type": "string", "format": "byte"},
                        "parameters": {
                            "type": "object",
                            "properties": {
                                "subtask": {"enum": ["panoptic", "instance", "semantic"]},
                                **{name: {"type": "number", "minimum": 0, "maximum": 1} for name in PARAMETERS[1:]},
                            },
                        },
                    },
                }
            },
        },
    }
}
_LABEL = {
    "requestBody": {"required": True, "content": {"image/*": _BYTES}},
    "responses": {"200": {"description": "Train ids", "content": {"image/png": _BYTES, _NPY: _BYTES}}},
}
