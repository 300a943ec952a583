"""If these fail, half requests keep connections open for ever, or the connection of a patient visitor is closed."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from seemore_jax.web import protocol

LIMIT = 0.4  # the seconds after which connections are closed in these tests


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Reads a body, and answers /slow only after several times the limit."""
    import asyncio

    while (message := await receive()).get("more_body"):
        pass
    if scope["path"] == "/slow":
        await asyncio.sleep(3 * LIMIT)
    if message["type"] != "http.disconnect":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(protocol, "IDLE", LIMIT)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, http=protocol.ClosingProtocol, ws="none", lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(10)


def answer(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    """Sends parts of a request with pauses, and returns all that comes back until the connection is closed."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(20)
        received = b""
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            while got := connection.recv(4096):
                received += got
        except ConnectionError:
            pass
        return received


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n"


@pytest.mark.parametrize("half", [b"", HEAD[:20], HEAD, HEAD + b"half"])
def test_the_connection_of_a_half_request_is_closed(half: bytes, port: int) -> None:
    start = time.monotonic()
    assert answer(port, half) == b""
    assert time.monotonic() - start >= 0.9 * LIMIT


def test_a_head_that_never_ends_is_closed_even_if_it_goes_on(port: int) -> None:
    lines = [b"GET / HTTP/1.1\r\n"] + [b"a: b\r\n"] * 8
    assert answer(port, *lines, b"\r\n", pause=LIMIT / 3) == b""


def test_a_slow_upload_is_not_closed_while_it_goes_on(port: int) -> None:
    parts = [b"ab"] * 6
    assert answer(port, HEAD.replace(b"Host", b"Connection: close\r\nHost"), *parts, pause=LIMIT / 3).endswith(b"ok")


def test_who_waits_for_a_slow_answer_gets_it(port: int) -> None:
    assert answer(port, b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").endswith(b"ok")
