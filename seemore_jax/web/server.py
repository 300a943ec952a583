"""The server of the page: refuses what is too large, closes idle connections, and logs each refusal in one line."""

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import Any

import gradio as gr
import h11
import uvicorn
from fastapi import FastAPI
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

from seemore_jax.system.errors import one_line
from seemore_jax.web import page as pages
from seemore_jax.web.gate import Gate
from seemore_jax.web.start import Address
from seemore_jax.web.storage import Storage

# The seconds after which a connection is closed on which the rest of a request does not come.
IDLE = 30.0
# The largest body of a request that uploads nothing, in bytes.
_MESSAGE = 2**20
# The seconds for answers under way when the server ends.
_FAREWELL = 1


def run_server(
    page: pages.Page,
    address: Address,
    storage: Storage,
    max_bytes: int,
    password: str | None,
    started: Callable[[], None],
) -> None:
    """Serves a page until the process gets Ctrl-C or SIGTERM.

    Args:
      page: the page.
      address: where to listen.
      storage: the folder with uploads and results.
      max_bytes: the largest size of an uploaded file in bytes.
      password: the password that visitors must give, or None.
      started: function that is called when visitors can open the page.
    """
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page.blocks,
        "/",
        server_name=address.host,
        server_port=address.port,
        max_file_size=max_bytes,
        enable_monitoring=False,
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        footer_links=[],
        theme=pages.theme(),
        css=pages.STYLE,
        head=pages.HEAD,
    )
    config = uvicorn.Config(
        Guard(Gate(app, password) if password else app, storage, pages.FILES * max_bytes),
        host=address.host,
        port=address.port,
        http=ClosingProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_FAREWELL,
    )
    _log_in_lines()
    _Server(config, started).run()


class _Server(uvicorn.Server):
    """A server that says when it has started."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()


class ClosingProtocol(H11Protocol):
    """HTTP that closes a connection on which the rest of a request does not come for `IDLE` seconds."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
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


class Guard:
    """An ASGI application that refuses bodies that are too large or would fill the disk, and logs what was refused."""

    def __init__(self, app: Any, storage: Storage, max_upload: int) -> None:
        """Wraps an application.

        Args:
          app: the application.
          storage: the folder with uploads and results.
          max_upload: the largest body of an upload in bytes.
        """
        self._app = app
        self._storage = storage
        self._max_upload = max_upload

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status = 0

        async def watched(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        reason = ""
        try:
            if refusal := self._refusal(scope):
                reason = refusal[1]
                await _refuse(watched, *refusal)
            else:
                await self._app(scope, receive, watched)
        except ClientDisconnect:
            reason = "the connection ended before the request did"
        except Exception as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
            if not status:
                await _refuse(watched, 400, "the request could not be handled")
        if status >= 400 or reason:
            _log(scope, status, reason)

    def _refusal(self, scope: Any) -> tuple[int, str] | None:
        """Returns the status and the reason if a request is refused because of its size."""
        if scope["method"] not in ("POST", "PUT", "PATCH"):
            return None
        length = dict(scope["headers"]).get(b"content-length", b"")
        is_upload = scope["path"].endswith("/upload")
        if not length.isdigit() or int(length) > (self._max_upload if is_upload else _MESSAGE):
            return 413, "too large, or of unknown size"
        if is_upload and self._storage.is_full():
            return 507, "the server has no room for more pictures now"
        return None


async def _refuse(send: Any, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})


def _log(scope: Any, status: int, reason: str) -> None:
    client = (scope.get("client") or ["?"])[0]
    path = scope.get("raw_path", b"").decode("ascii", "replace")[:100]
    print(f"refused: {client} {scope['method']} {path!r}: {status} {reason}".rstrip(), file=sys.stderr, flush=True)


class _OneLine(logging.Formatter):
    """Formats messages without tracebacks, because most tell of clients and not of errors here."""

    def format(self, record: logging.LogRecord) -> str:
        error = f" ({one_line(record.exc_info[1])})" if record.exc_info and record.exc_info[1] else ""
        return f"{record.levelname.lower()}: {' '.join(record.getMessage().split())}{error}"


def _log_in_lines() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    for name in ("uvicorn", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate, logger.level = [handler], False, logging.WARNING
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # `Guard` says it
