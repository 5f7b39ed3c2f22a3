"""Headers that every answer of a server of ours carries."""

from collections.abc import Awaitable, Callable
from typing import Any

Send = Callable[[dict[str, Any]], Awaitable[None]]


def with_safe_headers(send: Send) -> Send:
    """An ASGI `send` whose answers are not sniffed, referred, embedded elsewhere or stored.

    A `cache-control` that is there already is kept.
    """

    async def sending(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                (b"x-content-type-options", b"nosniff"),
                (b"referrer-policy", b"no-referrer"),
                (b"cross-origin-resource-policy", b"same-origin"),
                *([] if b"cache-control" in names else [(b"cache-control", b"no-store")]),
            ]
        await send(message)

    return sending
