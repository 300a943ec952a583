"""Refuses requests that are too large or would fill the disk, and logs each refusal in one line."""

import sys
from typing import Any

from starlette.requests import ClientDisconnect

from seemore_jax.system.errors import one_line
from seemore_jax.web.storage import Storage

# The largest body of a request that uploads nothing, in bytes.
_MESSAGE = 2**20


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
        if scope["type"] == "http":
            await self._watch(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _watch(self, scope: Any, receive: Any, send: Any) -> None:
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
