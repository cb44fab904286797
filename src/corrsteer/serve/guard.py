"""Who may ask: this machine's own pages and programs, in bodies of a bounded size, with the key.

A page of another site in the same browser can send requests to a local port, and a name that is
made to point here (DNS rebinding) can read the answers: so the host must be a loopback name, and
what says where it comes from must come from here.
"""

from __future__ import annotations

import hmac
import json
import re
from typing import TYPE_CHECKING, Any

from corrsteer.errors import CorrSteerError

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST = 2**20
"""Bytes of a body at most."""
_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)


class Refused(CorrSteerError):
    """A request that gets no answer: an HTTP status, and what OpenAI's clients read of it."""

    def __init__(
        self, status: int, words: str, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(words)
        self.status, self.code, self.param = status, code, param

    def response(self) -> Response:
        from starlette.responses import Response

        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "api_error")
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        headers = {"Retry-After": "1"} if self.status in (429, 503) else {}
        if self.status == 413:  # what is left of the body is not read
            headers["Connection"] = "close"
        # Words of a request may hold half of a surrogate pair, which UTF-8 cannot encode.
        text = json.dumps({"error": error})
        return Response(text, self.status, headers, media_type="application/json")


class Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app, self._key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            self._check(scope)
        except Refused as refused:
            await refused.response()(scope, receive, send)
            return
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > LARGEST:
                raise _too_large()
            return message

        await self._app(scope, bounded, send)

    def _check(self, scope: Scope) -> None:
        headers: dict[str, Any] = {}
        for raw, value in scope["headers"]:
            name = raw.decode("latin-1").lower()
            if name in headers and name in ("host", "origin", "content-length", "authorization"):
                raise Refused(400, f"two headers {name}")
            headers[name] = value.decode("latin-1")
        host = headers.get("host", "")
        if not _HOST.fullmatch(host):
            raise Refused(403, "this server only answers on this machine: ask 127.0.0.1")
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"http://{host}".lower():
            raise Refused(403, "this server only answers its own page and programs, no other pages")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 15:
            raise Refused(400, "Content-Length is no number")
        if int(length) > LARGEST:
            raise _too_large()
        if self._key is not None and scope["path"] != "/":
            given = headers.get("authorization", "").removeprefix("Bearer ").strip()
            if not hmac.compare_digest(given.encode(), self._key.encode()):
                raise Refused(
                    401, "this server wants its key: send it as a bearer token", "invalid_api_key"
                )


def _too_large() -> Refused:
    return Refused(413, f"the body is larger than {LARGEST:,} bytes")
