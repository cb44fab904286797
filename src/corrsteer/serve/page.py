"""The page of a dial: one HTML file that asks nobody but this process.

Its text comes as JSON and is put in as text, never as HTML. A dial belongs to a run of one request:
who does not have its id, which nobody can guess, cannot turn it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from corrsteer.errors import CorrSteerError
from corrsteer.serve.fields import body, flag, steering, text, whole
from corrsteer.serve.gates import GATES
from corrsteer.serve.guard import Refused
from corrsteer.serve.listening import Heard
from corrsteer.serve.source import Loaded
from corrsteer.serve.stepper import Pane, Reading, Sampling
from corrsteer.serve.worker import Event, Job, Worker

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

DRAWS = 1000
"""Draws of random features that may be asked for."""


@cache
def _html() -> tuple[str, str]:
    """The page, and its policy: no script but its own, no connection but to this process."""
    own = files("corrsteer.serve").joinpath("templates")
    shared = files("corrsteer.report").joinpath("templates", "style.css").read_text("utf-8")
    script = own.joinpath("dial.js").read_text("utf-8")
    page = own.joinpath("dial.html").read_text("utf-8")
    page = page.replace("{{ style }}", shared + own.joinpath("dial.css").read_text("utf-8"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline';"
        " img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    )
    return page.replace("{{ script }}", script), policy


class Page:
    """``most``: new tokens at most."""

    def __init__(self, loaded: Loaded, worker: Worker, most: int) -> None:
        self._loaded, self._worker, self._most = loaded, worker, most
        self._jobs: dict[str, Job] = {}

    async def page(self, request: Request) -> Response:
        from starlette.responses import HTMLResponse

        html, policy = _html()
        headers = {
            "Content-Security-Policy": policy,
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }
        return HTMLResponse(html, headers=headers)

    async def about(self, request: Request) -> Response:
        """What the page shows before anything is asked."""
        from starlette.responses import Response

        source = self._loaded.source
        plan, told = source.plan, source.plan.about.get("task") or {}
        layers = [
            {
                "layer": e.layer,
                "feature": e.feature,
                "several": len(e.about.get("features", [])),
                "r": e.r,
                "norm": e.norm,
                "card": source.cards.get(e.layer, {}),
            }
            for e in sorted(plan.entries, key=lambda e: e.layer)
        ]
        found = {
            "model": source.spec.name,
            "task": str(told.get("name", "")),
            "operator": type(plan.operator).__name__,
            "gate": "" if plan.gate.open is None else type(plan.gate).__name__,
            "gates": [{"name": name, "words": GATES[name]} for name in source.gates.names],
            "coef": plan.coef,
            "positions": plan.positions,
            "layers": layers,
            "questions": [{"id": name, "prompt": prompt} for name, prompt in source.questions],
            "tokens": min(source.tokens, self._most),
            "most": self._most,
            "chat": source.spec.chat_template,
            "none": source.chance.none,
        }
        # A token may be half of a surrogate pair, which UTF-8 cannot encode: JSON escapes it.
        return Response(json.dumps(found), media_type="application/json")

    async def run(self, request: Request) -> Response:
        """Three answers, as server-sent events."""
        from starlette.responses import StreamingResponse

        fields = await body(request)
        loaded, gates = self._loaded, self._loaded.source.gates
        turned = steering(fields.get("steering"), gates)
        most = whole(fields, "max_tokens", self._most, 1, self._most)
        draw = whole(fields, "draw", 1, 1, DRAWS)
        read = loaded.reader.asked if flag(fields, "template", True) else loaded.reader.as_it_is
        try:
            prompt = read(text(fields, "prompt"), most)
        except Refused:
            raise
        except CorrSteerError as error:
            raise Refused(400, str(error), param="prompt") from None

        def pane(of: Any) -> Pane:
            return Pane(loaded.stepper, prompt, of, Sampling(), gates.under_and_watched)

        def chance() -> Pane | None:
            drawn = loaded.source.chance.plan(draw)
            return None if drawn is None else pane(drawn)

        panes: dict[str, Callable[[], Pane | None]] = {
            "unsteered": lambda: pane(None),
            "steered": lambda: pane(gates.plan),
        }
        if not loaded.source.chance.none:
            panes["random"] = chance
        heard = Heard(self._worker, panes, turned, most, loaded.reader.ends)
        return StreamingResponse(self._stream(heard), media_type="text/event-stream")

    async def _stream(self, heard: Heard) -> AsyncGenerator[str, None]:
        name = secrets.token_urlsafe(18)
        self._jobs[name] = heard.job
        events = heard.events()
        try:
            yield _sent("begin", {"id": name, "waiting": heard.before})
            async with contextlib.aclosing(events):
                async for event in events:
                    yield _sent(event.kind, self._told(event))
        finally:
            heard.job.leave()
            del self._jobs[name]

    def _told(self, event: Event) -> dict[str, Any]:
        if event.kind == "token":
            (shown,) = self._loaded.reader.token_texts([event.token])
            told = {"pane": event.pane, "id": event.token, "text": shown, "dial": event.dial}
            return {**told, **_read(event.readings)}
        if event.kind == "done":
            return {"pane": event.pane, "why": event.text}
        chance = self._loaded.source.chance
        return {"text": event.text, "random": chance.what, "instead": chance.why}

    async def turn(self, request: Request) -> Response:
        """Turn the dial of a run: from its next token on."""
        from starlette.responses import JSONResponse

        fields = await body(request)
        job = self._job(fields)
        job.turned = steering(fields.get("steering"), self._loaded.source.gates)
        return JSONResponse({})

    async def stop(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        self._job(await body(request)).stop()
        return JSONResponse({})

    def _job(self, fields: Mapping[str, Any]) -> Job:
        job = self._jobs.get(text(fields, "id"))
        if job is None:
            raise Refused(404, "this run has ended", "run_not_found", "id")
        return job


def _read(readings: Mapping[int, Reading]) -> dict[str, Any]:
    """``on``: the layers that steered the token; ``acts``: by layer, the activation of its feature
    before and after, as far as it is read."""
    acts = {}
    for layer, one in readings.items():
        both = one.before, one.after
        if all(x is not None and math.isfinite(x) for x in both):
            acts[str(layer)] = [float(f"{x:.4g}") for x in both]
    return {"on": [layer for layer, one in readings.items() if one.on], "acts": acts}


def _sent(kind: str, value: Mapping[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(value)}\n\n"
