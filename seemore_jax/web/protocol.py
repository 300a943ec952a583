"""HTTP on connections that are closed when the rest of a request does not come."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# The seconds after which a connection is closed on which the rest of a request does not come.
IDLE = 30.0


class ClosingProtocol(H11Protocol):
    """HTTP that closes a connection on which the rest of a request does not come for `IDLE` seconds."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:  # uvloop's transports are not asyncio's
        """Begins to wait for a request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Handles a part of a request. The beginning of a request must come within the time, however slowly."""
        was_idle = self.conn.their_state is h11.IDLE
        super().data_received(data)
        if not (was_idle and self.conn.their_state is h11.IDLE):
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the waiting."""
        self._stop()
        super().connection_lost(exc)

    def _should_upgrade(self) -> bool:
        return False  # there are no web sockets; uvicorn would say so in two lines

    def _wait(self) -> None:
        self._stop()
        self._timer = self.loop.call_later(IDLE, self._close_if_waiting)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _close_if_waiting(self) -> None:
        # While the application reads slowly, the client is not to blame. After the request, the client reads.
        waits = self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not self.flow.read_paused
        if waits:
            self.transport.abort()
        else:
            self._wait()
