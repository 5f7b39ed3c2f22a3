"""The server of a packaged model: page and API; nothing of an image is stored or logged.

Order of what a request meets: size as stated, rate, room, size as received within a time limit,
kind and sides by content, and only then a decoder.
"""

import asyncio
import json
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trustq.core.safe_headers import Send, with_safe_headers
from trustq.data.pillow_rgb import reason_of
from trustq.deploy.answer import answer_for
from trustq.deploy.api_description import openapi
from trustq.deploy.extras import load_extra
from trustq.deploy.model import Model, load_model
from trustq.deploy.page_files import page_files
from trustq.deploy.rate_limit import RateLimit
from trustq.deploy.uploads import (
    MOST_BYTES,
    MOST_IMAGES,
    Refused,
    parts_of,
    require_image,
    too_large,
)
from trustq.errors import InputError

_SLACK = 65_536  # bytes of a multipart body beside its image
_MOST_BATCH = 40_000_000  # bytes of a batch request

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class ServeSettings:
    """How a model is served.

    `per_minute` is the images that one address may send a minute (0: any number); `workers` the
    predictions at once (0: cores); `waiting` the requests that may wait for one, above which 503 is
    answered; a request has `receive_seconds` to arrive, and its headers `header_seconds`.
    """

    variant: str = "float32"
    per_minute: float = 60.0
    workers: int = 0
    waiting: int = 64
    receive_seconds: float = 15.0
    header_seconds: float = 10.0
    hosts: tuple[str, ...] = ()  # names this server answers for; none: any


class Service:
    """An open model with its workers; counts what was answered, and nothing else."""

    def __init__(self, folder: Path, settings: ServeSettings | None = None) -> None:
        self.settings = settings or ServeSettings()
        n_workers = self.settings.workers or len(os.sched_getaffinity(0))
        self.model: Model = load_model(folder, variant=self.settings.variant, threads=1)
        self.limit = RateLimit(self.settings.per_minute)
        self.counts: dict[int, int] = {}
        self._pool = ThreadPoolExecutor(n_workers, thread_name_prefix="predict")
        self._room = self.settings.waiting + n_workers
        self._inside = 0
        self._lock = threading.Lock()

    def enter(self, n: int) -> None:
        """Take room for n images; raises `Refused` (503) where there is none."""
        with self._lock:
            if self._inside + n > max(self._room, n):
                raise Refused(503, "The server is busy; try again in a few seconds.")
            self._inside += n

    def leave(self, n: int) -> None:
        """Give the room back."""
        with self._lock:
            self._inside -= n

    async def answer(self, data: bytes) -> dict[str, Any]:
        """The answer for one image's bytes, made by a worker; raises `Refused`."""
        require_image(data)
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, answer_for, data, self.model)
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
            if type(error).__module__.startswith(("onnxruntime", "trustq")):
                raise
            raise Refused(400, f"The image is damaged: {reason_of(error)}.") from error

    def close(self) -> None:
        """Let the workers go."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def make_app(service: Service) -> Any:
    """The service as an ASGI application: page, `POST /api/analyze`, `/api/analyze/batch`, health.

    Errors are JSON objects with a sentence in `error`: 400 damaged, 408 too slow, 413 too large,
    415 not an image, 421 another host, 429 too often, 503 busy.
    """
    applications = load_extra("starlette.applications", "trustq serve")
    responses = load_extra("starlette.responses", "trustq serve")
    routing = load_extra("starlette.routing", "trustq serve")

    def respond(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Any:
        return responses.JSONResponse(content, status_code=status, headers=headers)

    async def analyze(request: Any) -> Any:
        async def one(parts: list[tuple[str, bytes]]) -> Any:
            if len(parts) != 1:
                raise Refused(400, "Send one image, or several to /api/analyze/batch.")
            return respond(await service.answer(parts[0][1]))

        return await _handled(service, request, respond, one, MOST_BYTES + _SLACK)

    async def batch(request: Any) -> Any:
        async def all_of(parts: list[tuple[str, bytes]]) -> Any:
            found = await asyncio.gather(*(_or_error(service, data) for _, data in parts))
            listed = [{"name": n} | own for (n, _), own in zip(parts, found, strict=True)]
            return respond({"answers": listed})

        return await _handled(service, request, respond, all_of, _MOST_BATCH)

    async def health(request: Any) -> Any:
        about = service.model.about
        return respond(
            {
                "status": "ok",
                "model": about["name"],
                "variant": service.model.variant,
                "digest": about["digest"],
                "answered": {str(status): n for status, n in sorted(service.counts.items())},
            }
        )

    async def description(request: Any) -> Any:
        return respond(openapi(service.model))

    routes = [
        routing.Route("/api/analyze", analyze, methods=["POST"]),
        routing.Route("/api/analyze/batch", batch, methods=["POST"]),
        routing.Route("/api/health", health),
        routing.Route("/openapi.json", description),
    ]
    for file in page_files(service.model):
        routes.append(routing.Route(file.address, _sender(responses, file)))
    return _Guard(applications.Starlette(routes=routes), service)


def _sender(responses: Any, file: Any) -> Any:
    async def send(request: Any) -> Any:
        return responses.Response(
            file.content, media_type=file.media_type, headers=dict(file.headers)
        )

    return send


async def _or_error(service: Service, data: bytes) -> dict[str, Any]:
    try:
        return await service.answer(data)
    except Refused as error:
        return {"error": error.text, "status": error.status}


async def _handled(service: Service, request: Any, respond: Any, work: Any, most_bytes: int) -> Any:
    """Receive a body within its limits, do the work, and count; a refusal is a sentence."""
    try:
        stated = request.headers.get("content-length", "")
        if stated.isascii() and stated.isdigit() and int(stated) > most_bytes:
            raise Refused(413, too_large())
        sender = request.client.host if request.client else ""
        _require_rate(service, sender, 1)
        # Room is taken before the body is read, so that what waits in memory is bounded, too.
        service.enter(1)
        try:
            body = await _received(request, most_bytes, service.settings.receive_seconds)
            parts = parts_of(body, request.headers.get("content-type", ""))
            del body
            if len(parts) > 1:
                _require_rate(service, sender, len(parts) - 1)
            found = await work(parts)
        finally:
            service.leave(1)
    except Refused as error:
        again = {429: error.text.rpartition("in ")[2].partition(" ")[0], 503: "2"}
        headers = {"retry-after": again[error.status]} if error.status in again else {}
        if error.status in (408, 413):
            headers["connection"] = "close"  # the rest of the body is not waited for
        found = respond({"error": error.text}, error.status, headers)
    service.counts[found.status_code] = service.counts.get(found.status_code, 0) + 1
    return found


def _require_rate(service: Service, sender: str, n: int) -> None:
    wait = service.limit.wait_for(sender, n)
    if wait > 0:
        raise Refused(429, f"Too many images from this address; try again in {int(wait) + 1} s.")


async def _received(request: Any, most_bytes: int, seconds: float) -> bytes:
    """The body, read within its limits of bytes and of time."""
    disconnect = load_extra("starlette.requests", "trustq serve").ClientDisconnect
    parts: list[bytes] = []
    n_bytes = 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                n_bytes += len(part)
                if n_bytes > most_bytes:
                    raise Refused(413, too_large())
                parts.append(part)
    except TimeoutError:
        raise Refused(
            408, f"The image did not arrive within {seconds:g} s; send it again."
        ) from None
    except disconnect:
        raise Refused(400, "The request was cut short; send it again.") from None
    return b"".join(parts)


class _Guard:
    """Answers for its own hosts only, and adds the headers that every answer has."""

    def __init__(self, app: Any, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        hosts = self._service.settings.hosts
        host = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
        if hosts and host.strip("[]") not in hosts:
            body = json.dumps({"error": "This server answers for its own address only."}).encode()
            start = {"type": "http.response.start", "status": 421}
            await send(start | {"headers": [(b"content-type", b"application/json")]})
            await send({"type": "http.response.body", "body": body})
            return
        await self._app(scope, receive, with_safe_headers(send))


def uvicorn_config(
    service: Service,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    certificate: Path | None = None,
    key: Path | None = None,
) -> Any:
    """What uvicorn needs to serve a service: no access log, few headers, slow senders cut off."""
    uvicorn = load_extra("uvicorn", "trustq serve")
    if (certificate is None) != (key is None):
        raise InputError("A certificate and its key go together: give `certificate` and `key`.")
    from trustq.deploy.slow_senders import impatient_protocol

    return uvicorn.Config(
        make_app(service),
        host=host,
        port=port,
        http=impatient_protocol(service.settings.header_seconds),
        log_level="error",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_keep_alive=15,
        backlog=256,
        h11_max_incomplete_event_size=_SLACK,
        ssl_certfile=None if certificate is None else str(certificate),
        ssl_keyfile=None if key is None else str(key),
    )


__all__ = ["MOST_IMAGES", "ServeSettings", "Service", "make_app", "uvicorn_config"]
