"""The server of the page, which logs what it says of clients in lines without tracebacks."""

import logging
from collections.abc import Callable
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI

from seemore_jax.system.errors import one_line
from seemore_jax.web import page as pages
from seemore_jax.web.address import Address
from seemore_jax.web.gate import Gate
from seemore_jax.web.guard import Guard
from seemore_jax.web.protocol import ClosingProtocol
from seemore_jax.web.storage import Storage

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
