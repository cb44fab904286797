"""The web application: the page and the API, behind the guard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from corrsteer.serve.api import Api
from corrsteer.serve.guard import Guard, Refused
from corrsteer.serve.page import Page
from corrsteer.serve.source import Loaded
from corrsteer.serve.worker import Worker

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response


def application(loaded: Loaded, worker: Worker, *, most: int, key: str | None) -> Starlette:
    """``most``: new tokens of an answer at most."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.routing import Route

    page, api = Page(loaded, worker, most), Api(loaded, worker, most)
    routes = [
        Route("/", page.page),
        Route("/dial/about", page.about),
        Route("/dial/run", page.run, methods=["POST"]),
        Route("/dial/turn", page.turn, methods=["POST"]),
        Route("/dial/stop", page.stop, methods=["POST"]),
        Route("/v1/models", api.models),
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
        Route("/v1/completions", api.completions, methods=["POST"]),
    ]

    async def refused(request: Request, error: Any) -> Response:
        return error.response()  # type: ignore[no-any-return]

    async def no_page(request: Request, error: Any) -> Response:
        words = "there is no such address" if error.status_code == 404 else str(error.detail)
        return Refused(
            error.status_code, f"{words}: {request.method} {request.url.path}"
        ).response()

    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, key=key)],
        exception_handlers={Refused: refused, HTTPException: no_page},
    )
