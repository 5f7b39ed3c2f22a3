"""An answer's head and body in one piece.

uvicorn writes each by itself: a system call more for the server, and a wake-up more for who asked.
"""

from typing import Any

_MOST_JOINED = 65_536  # bytes of a body: a larger one is not worth a copy


class WholeAnswer:
    """The transport of one request of uvicorn, which holds an answer's head until its body comes.

    For methods whose answers have a body, so not for HEAD.
    """

    def __init__(self, transport: Any, cycle: Any) -> None:
        self._transport, self._cycle = transport, cycle
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """Hold the head, which is what comes first of an answer; send anything else."""
        if self._head is None:
            if self._cycle.response_started:
                self._head = data
            else:  # 100 Continue
                self._transport.write(data)
            return
        head, self._head = self._head, b""
        if len(data) > _MOST_JOINED:
            self._transport.write(head)
            self._transport.write(data)
        else:
            self._transport.write(head + data)

    def close(self) -> None:
        """Send a head that waits, and close."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the transport is closing."""
        return bool(self._transport.is_closing())
