"""The server of the page, which logs what it says of clients in lines without tracebacks."""

import logging
import threading
from collections.abc import Callable

import gradio as gr
import uvicorn
from fastapi import FastAPI

from seemore_jax.system.errors import InputError, one_line
from seemore_jax.web import page as pages
from seemore_jax.web.address import Address
from seemore_jax.web.gate import Gate
from seemore_jax.web.guard import Guard
from seemore_jax.web.protocol import ClosingProtocol
from seemore_jax.web.storage import Storage

# The seconds between two looks whether the server has started.
_LOOK = 0.05


def run_server(
    page: pages.Page,
    address: Address,
    storage: Storage,
    max_bytes: int,
    password: str | None,
    started: Callable[[], None],
) -> None:
    """Serves a page until Ctrl-C raises `KeyboardInterrupt`.

    Args:
      page: the page.
      address: where to listen.
      storage: the folder with uploads and results.
      max_bytes: the largest size of an uploaded file in bytes.
      password: the password that visitors must give, or None.
      started: function that is called when visitors can open the page.

    Raises:
      InputError: the server cannot start.
      KeyboardInterrupt: after Ctrl-C.
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
    )
    _log_in_lines()
    _serve(uvicorn.Server(config), started, page.stop_all)


def _serve(server: uvicorn.Server, started: Callable[[], None], stop: Callable[[], None]) -> None:
    """Runs a server in a thread, which the end of the process does not wait for: a strip may take minutes."""
    thread = threading.Thread(target=server.run, daemon=True, name="server")
    thread.start()
    try:
        while thread.is_alive() and not server.started:
            thread.join(_LOOK)
        if not server.started:
            raise InputError("the server could not start; the line before this one says why")
        started()
        thread.join()
    finally:
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # it would tell of each page that is still open
        stop()
        server.should_exit = True


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
