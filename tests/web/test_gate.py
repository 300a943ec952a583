"""If these fail, visitors without the password reach the page, or those with it do not."""

import asyncio
from typing import Any
from urllib.parse import urlencode

import pytest

from seemore_jax.web import gate
from seemore_jax.web.gate import Gate


async def page(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the page"})


def ask(guarded: Gate, method: str, path: str, cookie: str = "", form: str = "") -> tuple[int, dict[str, str], str]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": form.encode()}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"cookie", cookie.encode()), (b"content-type", b"application/x-www-form-urlencoded")]
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b""}
    asyncio.run(guarded(scope | {"server": ("127.0.0.1", 80), "scheme": "http"}, receive, send))
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered, b"".join(message.get("body", b"") for message in sent[1:]).decode()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_WRONG_PASSWORD", 0.0)


def test_only_the_password_opens_the_page() -> None:
    guarded = Gate(page, "ouvre-toi, sésame")
    status, _, text = ask(guarded, "GET", "/")
    assert status == 200
    assert "Password" in text
    for wrong in ("", "ouvre-toi", "ouvre-toi, sésame!"):
        status, headers, text = ask(guarded, "POST", "/password", form=urlencode({"password": wrong}))
        assert status == 401
        assert "not the password" in text
        assert "set-cookie" not in headers
    status, headers, _ = ask(guarded, "POST", "/password", form=urlencode({"password": "ouvre-toi, sésame"}))
    assert (status, headers["location"]) == (303, "/")
    assert "HttpOnly" in headers["set-cookie"]
    cookie = headers["set-cookie"].partition(";")[0]
    assert ask(guarded, "GET", "/anything", cookie)[2] == "the page"
    assert ask(Gate(page, "ouvre-toi, sésame"), "GET", "/", cookie)[2] != "the page"


@pytest.mark.parametrize("cookie", ["", "seemore-jax=", "seemore-jax=x", "seemore-jax=é"])
@pytest.mark.parametrize("path", ["/config", "/gradio_api/upload", "/gradio_api/file=/tmp/a.png", "/theme.css", "//"])
def test_nothing_behind_the_gate_answers_without_the_cookie(path: str, cookie: str) -> None:
    for method in ("GET", "POST", "HEAD"):
        status, _, text = ask(Gate(page, "word"), method, path, cookie)
        assert (status, text) == (401, "needs the password")
