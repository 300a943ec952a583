"""Asks visitors for the password, before anything else of the page answers them."""

import asyncio
import hmac
import secrets
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

_COOKIE = "seemore-jax"
_FORM = "/password"
# The seconds that a wrong password costs, so that passwords cannot be tried out quickly.
_WRONG_PASSWORD = 1.0

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SeemoRe: password</title>
<link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark; }
  body { font: 1.1rem/1.5 system-ui, sans-serif; margin: 0; }
  main { max-width: 22rem; margin: 15vh auto 0; padding: 0 1.25rem; }
  h1 { font-size: 1.5rem; }
  input, button { font: inherit; width: 100%; box-sizing: border-box; padding: 0.6rem 0.8rem; border-radius: 8px; }
  input { margin: 0.25rem 0 1rem; border: 1px solid gray; }
  button { border: 0; background: #1d4ed8; color: white; font-weight: 600; cursor: pointer; }
  :focus-visible { outline: 3px solid light-dark(#1d4ed8, #93c5fd); outline-offset: 2px; }
</style>
</head>
<body>
<main>
<h1>SeemoRe image super-resolution</h1>
MESSAGE
<form method="post" action="FORM">
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required autofocus>
<button>Enter</button>
</form>
</main>
</body>
</html>
"""


class Gate:
    """An ASGI application that lets only visitors with a cookie through, which they get for the password."""

    def __init__(self, app: Any, password: str) -> None:
        """Wraps an application.

        Args:
          app: the application.
          password: the password.
        """
        self._app = app
        self._password = password.encode()
        self._token = secrets.token_urlsafe(32)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers a request."""
        if scope["type"] != "http" or self._has_cookie(Request(scope, receive)):
            await self._app(scope, receive, send)
        else:
            response = await self._answer(Request(scope, receive))
            await response(scope, receive, send)

    def _has_cookie(self, request: Request) -> bool:
        return hmac.compare_digest(request.cookies.get(_COOKIE, "").encode(), self._token.encode())

    async def _answer(self, request: Request) -> Response:
        if request.method == "POST" and request.url.path == _FORM:
            return await self._enter(request)
        if request.method == "GET" and request.url.path == "/":
            return _form("", 200)
        return PlainTextResponse("needs the password", 401)

    async def _enter(self, request: Request) -> Response:
        given = (await request.form()).get("password")
        if not isinstance(given, str) or not hmac.compare_digest(given.encode(), self._password):
            await asyncio.sleep(_WRONG_PASSWORD)
            return _form('<p role="alert">This is not the password. Please try again.</p>', 401)
        response = RedirectResponse("/", 303)
        response.set_cookie(_COOKIE, self._token, httponly=True, samesite="strict")
        return response


def _form(message: str, status: int) -> Response:
    return HTMLResponse(_PAGE.replace("MESSAGE", message).replace("FORM", _FORM), status)
