"""The review's server: this machine only, one token, nothing from outside."""

import json
import secrets
import signal
import socket
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from importlib import resources
from typing import Any

from trustq.core.safe_headers import Send, with_safe_headers
from trustq.errors import InputError, TrustqError
from trustq.review.images import ReviewImages
from trustq.review.journal import Answer
from trustq.review.session import ReviewSession, save_plan

LOOPBACK = "127.0.0.1"
LONGEST_BODY = 64 * 1024  # bytes of one answer, far more than any has
ITEMS_AT_ONCE = 50

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]


def make_app(session: ReviewSession, images: ReviewImages, *, hosts: tuple[str, ...]) -> Any:
    """The review as an ASGI application for `hosts`, each `name:port` as browsers state it.

    Every address begins with the session's token. Requests for another host, from another origin
    or without the token are refused; what is sent is limited in size; files are named by row alone.
    """
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    def refused(status: int, text: str) -> Response:
        return JSONResponse({"error": text}, status_code=status)

    async def page(request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        return Response(
            page_html({"mode": "server"} | _facts(session, images), nonce=nonce),
            media_type="text/html",
            headers={"Content-Security-Policy": _policy(nonce)},
        )

    async def queue(request: Request) -> Response:
        rater = request.query_params.get("rater", "").strip()
        start = _whole(request.query_params.get("start"))
        if not rater:
            return refused(400, "Say who answers: the rater's name is missing.")
        if start is None:
            start = session.first_open(rater)
        stop = min(start + ITEMS_AT_ONCE, len(session.queue))
        own = session.answers_of(rater)
        items = []
        for place in range(start, stop):
            item = session.item(place)
            found = own.get(item["sample_id"])
            item["answer"] = None if found is None else {"kind": found.kind, "labels": found.labels}
            item["has_image"] = images.has(item["row"])
            item["facts"] = images.facts(item["row"])
            items.append(item)
        return JSONResponse({"start": start, "items": items, "state": session.state(rater)})

    async def answer(request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return refused(415, "Answers are sent as application/json.")
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > LONGEST_BODY:
                return refused(413, f"An answer has at most {LONGEST_BODY} bytes.")
        try:
            found = _answer(json.loads(body))
        except (ValueError, TypeError, KeyError, RecursionError):
            return refused(400, "That is not an answer.")
        try:
            kept = await run_in_threadpool(session.answer, found)
        except TrustqError as error:
            return refused(400, str(error))
        return JSONResponse({"kept": kept, "state": session.state(found.rater)})

    async def picture(request: Request) -> Response:
        row = int(request.path_params["row"])
        side = 1200 if request.path_params["size"] == "large" else 240
        if row >= len(session.audit.sample_ids):
            return refused(404, "There is no such row.")
        content = await run_in_threadpool(images.jpeg, row, side=side)
        if content is None:
            return refused(404, "The image cannot be read.")
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(content, media_type="image/jpeg", headers=headers)

    base = f"/{session.plan.token}"
    app = Starlette(
        routes=[
            Route(f"{base}/", page),
            Route(f"{base}/queue", queue),
            Route(f"{base}/answers", answer, methods=["POST"]),
            Route(f"{base}/images/{{size:str}}/{{row:int}}", picture),
        ]
    )
    return _Gate(app, base=base, hosts=hosts)


class _Gate:
    """Lets through what is for this server, from its own page, under its token."""

    def __init__(self, app: Any, *, base: str, hosts: tuple[str, ...]) -> None:
        self._app, self._base, self._hosts = app, base, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        origin = headers.get("origin")
        token = str(scope["path"]).split("/")[1:2]
        if headers.get("host", "") not in self._hosts:
            await _plain(send, 421, "This server answers for its own address only.")
        elif origin is not None and origin not in [f"http://{host}" for host in self._hosts]:
            await _plain(send, 403, "Requests of other pages are refused.")
        elif not secrets.compare_digest(
            (token[0] if token else "").encode(), self._base[1:].encode()
        ):
            await _plain(send, 404, "Open the whole address that trustq review printed.")
        else:
            await self._app(scope, receive, with_safe_headers(send))


async def _plain(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


def _policy(nonce: str) -> str:
    return (
        f"default-src 'none'; img-src 'self' data:; script-src 'nonce-{nonce}'; "
        f"style-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def _facts(session: ReviewSession, images: ReviewImages) -> dict[str, Any]:
    return {
        "classes": list(session.audit.classes),
        "n_queue": len(session.queue),
        "title": session.audit.folder.resolve().name,
        "has_images": bool(images),
    }


def page_html(facts: dict[str, Any], *, nonce: str) -> str:
    """The page with its facts inside, as one HTML text."""
    text = resources.files("trustq.review").joinpath("page.html").read_text(encoding="utf-8")
    # Nothing within the JSON can end the script that holds it.
    inside = json.dumps(facts, ensure_ascii=True).replace("<", "\\u003c")
    return text.replace("@NONCE@", nonce).replace("@FACTS@", inside)


def _answer(fields: Any) -> Answer:
    if not isinstance(fields, dict) or not isinstance(fields.get("labels", []), list):
        raise TypeError
    seconds = fields.get("seconds")
    return Answer(
        event=_text(fields["event"]),
        rater=_text(fields["rater"]).strip(),
        sample_id=_text(fields["sample_id"]),
        kind=_text(fields["kind"]),
        labels=tuple(_text(label) for label in fields.get("labels", [])),
        note=_text(fields.get("note", "")),
        saw_guess=fields.get("saw_guess") is True,
        seconds=None if seconds is None else min(max(float(seconds), 0.0), 1e6),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode("utf-8")  # lone surrogates are no text
    return value


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


class ReviewServer:
    """A review on a free port of this machine, in a thread of its own."""

    def __init__(self, session: ReviewSession, images: ReviewImages) -> None:
        import uvicorn

        self.session = session
        self._socket = _bound(session.plan.port)
        self.port = int(self._socket.getsockname()[1])
        if session.plan.port != self.port:
            session.plan = replace(session.plan, port=self.port)
            save_plan(session.audit.folder, session.plan)
        hosts = tuple(f"{name}:{self.port}" for name in (LOOPBACK, "localhost"))
        app = make_app(session, images, hosts=hosts)
        config = uvicorn.Config(
            app,
            http="h11",
            log_config=None,  # the former handlers of the process stay open
            log_level="error",
            access_log=False,
            timeout_keep_alive=30,
            h11_max_incomplete_event_size=LONGEST_BODY,
            lifespan="off",
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{LOOPBACK}:{self.port}/{self.session.plan.token}/"

    def start(self) -> None:
        """Serve in the background."""
        self._thread.start()

    def _run(self) -> None:
        # What the estimate needs is loaded while the page opens, not at the first answer.
        threading.Thread(target=self.session.outlook, daemon=True).start()
        self._server.run(sockets=[self._socket])

    def wait(self) -> None:
        """Block until Ctrl-C or a termination, then write the answer sheet and stop."""
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        while not stop.wait(0.5) and self._thread.is_alive():
            pass
        self.stop()

    def stop(self) -> None:
        """Stop serving, write the sheet, let go of the journal."""
        self._server.should_exit = True
        self._thread.join(timeout=5)
        self.session.close()


def _bound(port: int) -> socket.socket:
    """A socket on the port of last time, so that open pages go on; else on any free one."""
    for wanted in dict.fromkeys((port, 0)):
        own = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            own.bind((LOOPBACK, wanted))
            own.listen(1024)  # so that who comes before the server is up waits for it
        except OSError:
            own.close()
            continue
        return own
    raise InputError("No port of this machine is free.")
