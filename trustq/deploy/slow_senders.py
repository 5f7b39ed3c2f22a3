"""An HTTP protocol of uvicorn that hangs up on who does not finish a request's headers.

uvicorn waits for headers for ever: its only time limit is between requests.
"""

from typing import Any

from trustq.deploy.extras import load_extra


def impatient_protocol(seconds: float) -> Any:
    """uvicorn's h11 protocol, which hangs up where headers take longer than `seconds`."""
    base = load_extra("uvicorn.protocols.http.h11_impl", "trustq serve").H11Protocol

    class Impatient(base):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._patience: Any = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._is_asking():
                self._wait()
            else:
                self._stop_waiting()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            # What of the next request is there already was handled; the rest is waited for.
            if self._is_asking() and self.conn.trailing_data[0]:
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
