"""If these fail, uploads fill the disk, or a bad request fills the log."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from seemore_jax.web.guard import Guard
from seemore_jax.web.storage import Storage


class Server:
    """What a request is answered with, and what is logged."""

    def __init__(self, folder: Path, app: Any, capsys: pytest.CaptureFixture[str]) -> None:
        self.storage = Storage(folder)
        self.guard = Guard(app, self.storage, max_upload=10**7)
        self.capsys = capsys

    def ask(self, method: str, path: str, length: int | None = None) -> tuple[int, str]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [] if length is None else [(b"content-length", str(length).encode())]
        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "headers": headers}
        asyncio.run(self.guard(scope | {"client": ("192.0.2.7", 1)}, None, send))
        return sent[0]["status"], self.capsys.readouterr().err


async def page(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 404 if scope["path"] == "/missing" else 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def broken(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("several\nlines")


@pytest.mark.parametrize(
    ("method", "path", "length", "status"),
    [
        ("POST", "/gradio_api/upload", 10**7, 200),
        ("POST", "/gradio_api/upload", 10**7 + 1, 413),
        ("POST", "/gradio_api/upload", None, 413),
        ("POST", "/gradio_api/queue/join", 2**20, 200),
        ("POST", "/gradio_api/queue/join", 2**20 + 1, 413),
        ("GET", "/missing", None, 404),
        ("GET", "/", None, 200),
    ],
)
def test_each_refusal_is_one_line(
    method: str, path: str, length: int | None, status: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answered, logged = Server(folder, page, capsys).ask(method, path, length)
    assert answered == status
    if status == 200:
        assert logged == ""
    else:
        assert logged.startswith(f"refused: 192.0.2.7 {method} '{path}': {status}")
        assert logged.count("\n") == 1


def test_a_full_disk_refuses_uploads_but_shows_results(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = Server(folder, page, capsys)
    (folder / "file").write_bytes(b"x" * 11)
    server.storage.limit = 10
    assert server.ask("POST", "/gradio_api/upload", 1)[0] == 507
    assert server.ask("POST", "/gradio_api/queue/join", 1)[0] == 200
    assert server.ask("GET", "/")[0] == 200


def test_an_exception_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answered, logged = Server(folder, broken, capsys).ask("GET", "/a\nb")
    assert answered == 400
    assert logged == "refused: 192.0.2.7 GET '/a\\nb': 400 ValueError: several lines\n"


def test_other_than_requests_pass(folder: Path) -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(Guard(app, Storage(folder), 1)({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]
