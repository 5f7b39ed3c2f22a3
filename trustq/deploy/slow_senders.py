"""An HTTP protocol of uvicorn that hangs up on who does not finish a request's headers.

uvicorn waits for headers for ever, and takes as many as are sent: its only time limit is between
requests.
"""

from typing import Any

from trustq.deploy.extras import load_extra
from trustq.deploy.whole_answers import WholeAnswer


def impatient_protocol(seconds: float, most_bytes: int) -> Any:
    """uvicorn's httptools protocol with limits on the headers of a request.

    It hangs up where they take longer than `seconds`, and answers 400 and hangs up where they are
    longer than `most_bytes`.
    """
    base = load_extra("uvicorn.protocols.http.httptools_impl", "trustq serve").HttpToolsProtocol

    class Impatient(base):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._patience: Any = None
            self._in_headers = False
            self._n_bytes = 0  # of headers that are not complete

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._in_headers:
                self._n_bytes += len(data)
                if self._n_bytes > most_bytes and not self.transport.is_closing():
                    self.send_400_response("The headers of the request are too long.")
            if self._is_asking():
                self._wait()
            else:
                self._stop_waiting()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_headers, self._n_bytes = True, 0

        def on_headers_complete(self) -> None:
            self._in_headers = False
            super().on_headers_complete()
            if self.scope["method"] != "HEAD":
                self.cycle.transport = WholeAnswer(self.transport, self.cycle)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._is_asking() and self._in_headers:  # a next request has begun already
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _is_asking(self) -> bool:
            """Whether headers are waited for: no request is being answered."""
            return self.cycle is None or self.cycle.response_complete

        def _wait(self) -> None:
            if self._patience is None:
                self._patience = self.loop.call_later(seconds, self._hang_up)

        def _stop_waiting(self) -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

        def _hang_up(self) -> None:
            self._patience = None
            if self._is_asking() and not self.transport.is_closing():
                self.transport.close()

    return Impatient
