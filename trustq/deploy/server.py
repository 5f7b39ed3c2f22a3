"""The server of a packaged model: page and API; nothing of an image is stored or logged.

Order of what a request meets: size as stated, rate, room, size as received within a time limit,
kind and sides by content, and only then a decoder.
"""

import asyncio
import errno
import json
import os
import socket
import ssl
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trustq.core.safe_headers import Send, with_safe_headers
from trustq.data.pillow_rgb import as_rgb, reason_of
from trustq.deploy.answer import Prepared, answers_for
from trustq.deploy.api_description import openapi
from trustq.deploy.extras import load_extra
from trustq.deploy.model import Model, load_model
from trustq.deploy.page_files import page_files
from trustq.deploy.rate_limit import RateLimit
from trustq.deploy.uploads import (
    MOST_BYTES,
    MOST_IMAGES,
    Refused,
    opened_image,
    parts_of,
    too_large,
)
from trustq.errors import InputError, NotFound

BACKLOG = 256  # connections that wait to be taken
_SLACK = 65_536  # bytes of a multipart body beside its image, and of headers
_MOST_BATCH = 40_000_000  # bytes of a batch request
_TOGETHER = 4  # images of one run; eight took no less time each, and the first waits for the last
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Parts = Sequence[tuple[str, bytes]]  # name and bytes of each image


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


@dataclass(frozen=True, eq=False)
class _Asked:
    """An image that waits for a worker, and where its answer is waited for."""

    data: bytes
    answer: "asyncio.Future[dict[str, Any]]"


def _deliver(asked: Sequence[_Asked], found: Sequence[Exception | dict[str, Any]]) -> None:
    for one, answer in zip(asked, found, strict=True):
        if one.answer.done():
            continue  # who asked has gone
        if isinstance(answer, Exception):
            one.answer.set_exception(answer)
        else:
            one.answer.set_result(answer)


class Service:
    """An open model with its workers; counts what was answered, and nothing else."""

    def __init__(self, folder: Path, settings: ServeSettings | None = None) -> None:
        self.settings = settings or ServeSettings()
        n_workers = self.settings.workers or len(os.sched_getaffinity(0))
        self.model: Model = load_model(folder, variant=self.settings.variant, threads=1)
        self.limit = RateLimit(self.settings.per_minute)
        self.counts: dict[int, int] = {}
        self._n_workers = n_workers
        self._pool = ThreadPoolExecutor(n_workers, thread_name_prefix="predict")
        self._waiting: deque[_Asked] = deque()
        self._n_at_work = 0  # workers
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
        """The answer for one image's bytes, made by a worker; raises `Refused`.

        A worker that gets free takes its share of the images that wait, four at most, through the
        network together.
        """
        loop = asyncio.get_running_loop()
        asked = _Asked(data, loop.create_future())
        with self._lock:
            self._waiting.append(asked)
            is_idle = self._n_at_work < self._n_workers
            self._n_at_work += is_idle
        if is_idle:
            self._pool.submit(self._work, loop)
        found: dict[str, Any] = await asked.answer
        return found

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer images as long as some wait: waking a worker for each would take its time."""
        while own := self._taken():
            try:
                found = self._judged([asked.data for asked in own])
            except Exception as error:  # a bug, or ONNX Runtime's: theirs who asked
                found = [error] * len(own)
            try:
                loop.call_soon_threadsafe(_deliver, own, found)
            except RuntimeError:  # the loop was closed, and nobody waits any more
                continue

    def _taken(self) -> list[_Asked]:
        """The images that a worker takes next; without any it counts as idle."""
        with self._lock:
            share = -(-len(self._waiting) // self._n_workers)  # none is left idle beside a batch
            own = [self._waiting.popleft() for _ in range(min(_TOGETHER, share))]
            self._n_at_work -= not own
            return own

    def _judged(self, uploads: Sequence[bytes]) -> list[Exception | dict[str, Any]]:
        prepared = [self._prepared(data) for data in uploads]
        sound = [one for one in prepared if isinstance(one, Prepared)]
        answers = iter(answers_for(sound, self.model) if sound else ())
        return [next(answers) if isinstance(one, Prepared) else one for one in prepared]

    def _prepared(self, data: bytes) -> Prepared | Exception:
        try:
            with opened_image(data) as image:
                return Prepared(as_rgb(image), len(data), self.model)
        except Refused as error:
            return error
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
            if type(error).__module__.startswith("trustq"):
                return error
            return Refused(400, f"The image is damaged: {reason_of(error)}.")

    def close(self) -> None:
        """Let the workers go, whatever waits."""
        with self._lock:
            self._waiting.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)


def make_app(service: Service) -> Any:
    """The service as an ASGI application: page, `POST /api/analyze`, `/api/analyze/batch`, health.

    Errors are JSON objects with a sentence in `error`: 400 damaged, 405 not POST, 408 too slow,
    413 too large, 415 not an image, 421 another host, 429 too often, 503 busy.
    """
    applications = load_extra("starlette.applications", "trustq serve")
    responses = load_extra("starlette.responses", "trustq serve")
    routing = load_extra("starlette.routing", "trustq serve")

    async def health(request: Any) -> Any:
        about = service.model.about
        return responses.JSONResponse(
            {
                "status": "ok",
                "model": about["name"],
                "variant": service.model.variant,
                "digest": about["digest"],
                "answered": {str(status): n for status, n in sorted(service.counts.items())},
            }
        )

    async def description(request: Any) -> Any:
        return responses.JSONResponse(openapi(service.model))

    routes = [
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


async def _one(service: Service, parts: Parts) -> Any:
    if len(parts) != 1:
        raise Refused(400, "Send one image, or several to /api/analyze/batch.")
    return await service.answer(parts[0][1])


async def _batch(service: Service, parts: Parts) -> Any:
    found = await asyncio.gather(*(_or_error(service, data) for _, data in parts))
    return {"answers": [{"name": name} | own for (name, _), own in zip(parts, found, strict=True)]}


async def _or_error(service: Service, data: bytes) -> dict[str, Any]:
    try:
        return await service.answer(data)
    except Refused as error:
        return {"error": error.text, "status": error.status}


@dataclass(frozen=True)
class _Post:
    """What is done with the images of a request, and the most bytes that it may have."""

    work: Callable[[Service, Parts], Awaitable[Any]]
    most_bytes: int


_POSTS = {
    "/api/analyze": _Post(_one, MOST_BYTES + _SLACK),
    "/api/analyze/batch": _Post(_batch, _MOST_BATCH),
}


async def _handle(
    service: Service, post: _Post, scope: Scope, receive: Receive, send: Send
) -> None:
    """Receive a body within its limits, do the work, and count; a refusal is a sentence."""
    headers = []
    try:
        content, status = await _worked(service, post, scope, receive), 200
    except Refused as error:
        content, status = {"error": error.text}, error.status
        again = {429: error.text.rpartition("in ")[2].partition(" ")[0], 503: "2"}
        if status in again:
            headers.append((b"retry-after", again[status].encode()))
        if status == 405:
            headers.append((b"allow", b"POST"))
        if status in (405, 408, 413):
            headers.append((b"connection", b"close"))  # the rest of the body is not waited for
    service.counts[status] = service.counts.get(status, 0) + 1
    await _send_json(send, content, status, headers)


async def _worked(service: Service, post: _Post, scope: Scope, receive: Receive) -> Any:
    if scope["method"] != "POST":
        raise Refused(405, "Send images by POST.")
    headers = dict(scope["headers"])
    stated = headers.get(b"content-length", b"")
    if stated.isdigit() and int(stated) > post.most_bytes:
        raise Refused(413, too_large())
    sender = scope["client"][0] if scope.get("client") else ""
    _require_rate(service, sender, 1)
    # Room is taken before the body is read, so that what waits in memory is bounded, too.
    service.enter(1)
    try:
        body = await _received(receive, post.most_bytes, service.settings.receive_seconds)
        parts = parts_of(body, headers.get(b"content-type", b"").decode("latin-1"))
        del body
        if len(parts) > 1:
            _require_rate(service, sender, len(parts) - 1)
        return await post.work(service, parts)
    finally:
        service.leave(1)


async def _send_json(
    send: Send, content: Any, status: int, headers: Sequence[tuple[bytes, bytes]]
) -> None:
    body = _JSON.encode(content).encode()
    stated = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": stated})
    await send({"type": "http.response.body", "body": body})


def _require_rate(service: Service, sender: str, n: int) -> None:
    wait = service.limit.wait_for(sender, n)
    if wait > 0:
        raise Refused(429, f"Too many images from this address; try again in {int(wait) + 1} s.")


async def _received(receive: Receive, most_bytes: int, seconds: float) -> bytes:
    """The body, read within its limits of bytes and of time."""
    parts: list[bytes] = []
    n_bytes = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(400, "The request was cut short; send it again.")
                part = message.get("body", b"")
                n_bytes += len(part)
                if n_bytes > most_bytes:
                    raise Refused(413, too_large())
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise Refused(
            408, f"The image did not arrive within {seconds:g} s; send it again."
        ) from None


class _Guard:
    """Answers for its own hosts only, and adds the headers that every answer has."""

    def __init__(self, app: Any, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sending = with_safe_headers(send)
        hosts = self._service.settings.hosts
        if hosts:
            named = next((v for name, v in scope["headers"] if name == b"host"), b"").decode(
                "latin-1"
            )
            if (named.rpartition(":")[0] or named).strip("[]") not in hosts:
                error = {"error": "This server answers for its own address only."}
                await _send_json(sending, error, 421, ())
                return
        # Nearly all requests are for these: Starlette's routing and requests would add to each.
        post = _POSTS.get(scope["path"])
        if post is None:
            await self._app(scope, receive, sending)
        else:
            await _handle(self._service, post, scope, receive, sending)


def uvicorn_config(
    service: Service,
    *,
    certificate: Path | None = None,
    key: Path | None = None,
) -> Any:
    """What uvicorn needs to serve a service: no access log, few headers, slow senders cut off."""
    uvicorn = load_extra("uvicorn", "trustq serve")
    if (certificate is None) != (key is None):
        raise InputError("A certificate and its key go together: give `certificate` and `key`.")
    if certificate is not None and key is not None:
        _require_pair(certificate, key)
    from trustq.deploy.slow_senders import impatient_protocol

    return uvicorn.Config(
        make_app(service),
        http=impatient_protocol(service.settings.header_seconds, _SLACK),
        ws="none",
        log_config=None,  # the former handlers of the process stay open
        log_level="error",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_keep_alive=15,
        backlog=BACKLOG,
        ssl_certfile=None if certificate is None else str(certificate),
        ssl_keyfile=None if key is None else str(key),
    )


def _require_pair(certificate: Path, key: Path) -> None:
    """Raise `TrustqError` where a certificate or its key cannot be used."""
    for path, setting in ((certificate, "certificate"), (key, "key")):
        if not path.is_file():
            raise NotFound(f"`{setting}` {path}: no such file.", path=path)

    def no_password() -> str:
        raise InputError(
            f"`key` {key} is encrypted with a password; give one without (`openssl pkey`).",
            path=key,
        )

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, no_password)
    except (ssl.SSLError, OSError) as error:
        raise InputError(
            f"{certificate} and {key} are not a certificate and its key as PEM ({error}). Give a "
            "file that begins with -----BEGIN CERTIFICATE----- as `certificate`, and its private "
            "key as `key`.",
            path=certificate,
        ) from error


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens on an address, on any free port for 0; raises `TrustqError`."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        own = socket.socket(family, kind, number)
    except OSError as error:
        raise InputError(
            f"`host` {host} is not an address of this machine ({error.strerror}). Give 127.0.0.1 "
            "for this machine alone, or 0.0.0.0 for its network."
        ) from error
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        own.bind(address)
        own.listen(BACKLOG)
    except OSError as error:
        own.close()
        if error.errno == errno.EADDRNOTAVAIL:
            way_out = "Give 127.0.0.1 for this machine alone, or 0.0.0.0 for its network"
        elif error.errno == errno.EADDRINUSE:
            way_out = "Another program listens there; choose another `port`, or 0 for any free one"
        else:
            way_out = "Choose another `port` or `host`"
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"Cannot listen on {host}, port {port}: {reason}. {way_out}.") from error
    return own


__all__ = [
    "MOST_IMAGES",
    "ServeSettings",
    "Service",
    "listening",
    "make_app",
    "uvicorn_config",
]
