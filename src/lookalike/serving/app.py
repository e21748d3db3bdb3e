"""The app of a server: paths, the way of a request to the model and back, errors as JSON."""

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableSequence, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..backbones.onnx_file import FEATURES, PROBABILITIES
from ..cores import worker_count
from ..printing import brief, shown
from . import kserve, openapi
from .batcher import Batcher
from .bodies import Courteous, chunks, whole
from .load import Load
from .metrics import Metrics
from .model import Arrays, Model
from .preparation import prepared
from .refusal import Gone, Refused
from .settings import Settings
from .uploads import Upload, from_form, from_json

T = TypeVar("T")
SHOWN = 5
"""Classes per image in an answer, likeliest first."""
FREE = ("/v2/health/live", "/v2/health/ready")
"""Paths that need no token: probes of orchestrators call them."""
HEADERS = {
    "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
}  # fmt: skip
CLOSED = 499
"""Status of a request whose client is gone, for the metrics."""


class Service:
    """The handlers of all paths."""

    def __init__(self, model: Model, settings: Settings, cells: MutableSequence[float], worker: int) -> None:
        self.model, self.settings = model.description, settings
        self._run = model.run
        self._load = Load(settings.max_waiting, settings.max_bytes_of_all)
        self._document = openapi.document(self.model, settings)
        self._page = openapi.page(self._document)
        self.metrics = Metrics(cells, worker)
        self._batcher: Batcher | None = None
        self._threads = ThreadPoolExecutor(worker_count(None), "decoding", lambda: torch.set_num_threads(1))

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Runs the thread of the model."""
        self._batcher = Batcher(
            self._run, max_batch=self.settings.max_batch, max_wait=self.settings.max_wait_ms / 1000,
            report=self._batch_done,
        )  # fmt: skip
        try:
            yield
        finally:
            await asyncio.to_thread(self._batcher.close)
            self._threads.shutdown(wait=False, cancel_futures=True)

    def routes(self) -> list[Route]:
        model = "/v2/models/{name}"
        found = [
            Route("/embed", self.embed, methods=["POST"]),
            Route("/predict", self.predict, methods=["POST"]),
            Route("/v2", self.server),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/metrics", self.show_metrics),
            Route("/openapi.json", self.show_document),
            Route("/docs", self.show_page),
        ]
        for path in (model, f"{model}/versions/{{version}}"):
            found += [
                Route(path, self.metadata),
                Route(f"{path}/ready", self.model_ready),
                Route(f"{path}/infer", self.infer, methods=["POST"]),
            ]
        return found

    async def embed(self, request: Request) -> Response:
        found = await self._of_images(request)
        return self._answer({"embeddings": _finite(found[FEATURES]).tolist()})

    async def predict(self, request: Request) -> Response:
        classes = self.model.classes
        if classes is None:
            raise Refused(404, "The model is an encoder, which has no classes. Use /embed, or serve a finetune run.")
        found = _finite((await self._of_images(request))[PROBABILITIES])
        order = np.argsort(-found, axis=1, kind="stable")[:, :SHOWN]
        rows = [
            [{"label": classes[k], "probability": float(row[k])} for k in likeliest]
            for row, likeliest in zip(found, order)
        ]
        return self._answer({"predictions": rows})

    async def infer(self, request: Request) -> Response:
        self._check_name(request)
        with self._load.uploading() as reserve:
            body = await whole(request, self.settings.max_bytes, reserve)
            length = request.headers.get(kserve.LENGTH)
            asked = await self._in_thread(kserve.parse, body, length, self.model, self.settings.max_batch)
            with self._load.waiting(len(asked.images)):
                found = await self._computed(asked.images)
        content, headers = kserve.answer(asked, found, self.model)
        return Response(content, headers=headers)

    async def metadata(self, request: Request) -> Response:
        self._check_name(request)
        return JSONResponse(kserve.metadata(self.model))

    async def model_ready(self, request: Request) -> Response:
        self._check_name(request)
        return JSONResponse({"name": self.model.name, "ready": True})

    async def server(self, request: Request) -> Response:
        return JSONResponse(kserve.SERVER)

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        return JSONResponse({"ready": True})

    async def show_metrics(self, request: Request) -> Response:
        self.metrics.waiting(self._load.images, self._load.bytes)
        return PlainTextResponse(self.metrics.text(self.model))

    async def show_document(self, request: Request) -> Response:
        return JSONResponse(self._document)

    async def show_page(self, request: Request) -> Response:
        return HTMLResponse(self._page)

    async def _of_images(self, request: Request) -> Arrays:
        """The outputs of the model for the image files of a request."""
        with self._load.uploading() as reserve:
            uploads = await self._uploads(request, reserve)
            with self._load.waiting(len(uploads)):
                images = await self._in_thread(prepared, uploads, self.model, self.settings.max_pixels)
                return await self._computed(images)

    async def _uploads(self, request: Request, reserve: Callable[[int], None]) -> Sequence[Upload]:
        kind = request.headers.get("content-type", "")
        maximum, most = self.settings.max_bytes, self.settings.max_batch
        match kind.partition(";")[0].strip().lower():
            case "multipart/form-data":
                return await from_form(chunks(request, maximum, reserve), kind, most)
            case "application/json":
                body = await whole(request, maximum, reserve)
                return await self._in_thread(from_json, body, most)
        raise Refused(415, f"Content-Type is {shown(kind)}; send multipart/form-data or application/json.")

    async def _computed(self, images: NDArray[np.float32]) -> Arrays:
        assert self._batcher is not None
        return await self._batcher.run(images)

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def _batch_done(self, images: int, seconds: float) -> None:
        self._load.seconds_per_image = seconds / max(1, images)
        self.metrics.batch(images, seconds)
        self.metrics.waiting(self._load.images, self._load.bytes)

    def _check_name(self, request: Request) -> None:
        name, version = request.path_params["name"], request.path_params.get("version", "1")
        if (name, version) != (self.model.name, "1"):
            raise Refused(404, f"There is no model {brief(name)} of version {brief(version)}. Use {self.model.name}.")

    def _answer(self, content: dict[str, object]) -> Response:
        return Response(json.dumps({**content, "model": self.model.facts}), media_type="application/json")


class Guard:
    """The outermost part: asks for the token, counts requests, adds headers."""

    def __init__(self, app: ASGIApp, token: str | None, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics
        self.expected = None if token is None else f"Bearer {token}".encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status = time.perf_counter(), CLOSED

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                more = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        path = scope["path"]
        try:
            if path in FREE or self._is_allowed(dict(scope["headers"]).get(b"authorization", b"")):
                await self.app(scope, receive, sending)
            else:
                refused = Refused(
                    401, "The token is missing or wrong. Send the header Authorization: Bearer TOKEN.",
                    {"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
                await _refusal(refused)(scope, receive, sending)
        finally:
            route = "/v2/models/infer" if path.startswith("/v2/") and path.endswith("/infer") else path
            self.metrics.request(route, status, time.perf_counter() - begin)

    def _is_allowed(self, given: bytes) -> bool:
        return self.expected is None or hmac.compare_digest(given, self.expected)


def make_app(model: Model, settings: Settings, cells: MutableSequence[float], worker: int = 0) -> ASGIApp:
    """The app of one worker.

    Args:
        cells: the counters of all workers, see `Metrics`.
        worker: its index.
    """
    service = Service(model, settings, cells, worker)
    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        Refused: _refused, Gone: _gone, HTTPException: _no_such_path, Exception: _failed,
    }  # fmt: skip
    app = Starlette(routes=service.routes(), lifespan=service.lifespan, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Courteous(Guard(app, settings.token, service.metrics))


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(values).all():
        raise ValueError(
            "The model gave values that are not finite. Check the encoder: its training may have diverged."
        )
    return values


def _refusal(error: Refused) -> Response:
    return JSONResponse({"error": str(error)}, error.status, error.headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _refusal(error)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLOSED)


async def _no_such_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"{brief(request.url.path)} does not take {request.method}." if error.status_code == 405 else (
        f"There is no path {brief(request.url.path)}."
    )  # fmt: skip
    return JSONResponse({"error": f"{text} See /docs."}, error.status_code, dict(error.headers or {}))


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"The model failed: {brief(error)} The server's output says more."}, 500)
