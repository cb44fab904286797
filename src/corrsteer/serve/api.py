"""``/v1/chat/completions`` and ``/v1/completions`` as OpenAI's clients speak them, with a field
more: ``steering: {coef, layers, positions, gate}``. Without it the plan acts as it was made.

Greedy where no temperature is given. Fields that would change the answer and are not known here are
refused; one text and one answer per request.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from corrsteer.errors import CorrSteerError
from corrsteer.serve.fields import body, flag, number, steering, text, whole, wrong
from corrsteer.serve.guard import Refused
from corrsteer.serve.listening import Heard
from corrsteer.serve.source import Loaded
from corrsteer.serve.stepper import Pane, Sampling
from corrsteer.serve.worker import Worker

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_OWN = {"model", "max_tokens", "stream", "stream_options", "stop", "seed", "steering"}
_OWN |= {"temperature", "top_p"}
_IDLE = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
"""Fields without an influence on the answer."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "echo": (False,), "logprobs": (False, 0), "top_logprobs": (0,),
    "presence_penalty": (0,), "frequency_penalty": (0,), "logit_bias": ({},), "suffix": ("",),
    "tools": ([],), "functions": ([],), "response_format": ({"type": "text"},),
    "parallel_tool_calls": (True, False), "tool_choice": ("none", "auto"),
}  # fmt: skip
"""Fields that are taken where they ask for nothing."""
TOKENS = 64  # where a request says nothing


class Api:
    """``most``: new tokens at most."""

    def __init__(self, loaded: Loaded, worker: Worker, most: int) -> None:
        self._loaded, self._worker, self._most = loaded, worker, most
        self._began = int(time.time())

    @property
    def name(self) -> str:
        return self._loaded.source.spec.name

    async def models(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        one = {
            "id": self.name, "object": "model", "created": self._began, "owned_by": "corrsteer"
        }  # fmt: skip
        return JSONResponse({"object": "list", "data": [one]})

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, chat=True)

    async def completions(self, request: Request) -> Response:
        return await self._answer(request, chat=False)

    async def _answer(self, request: Request, *, chat: bool) -> Response:
        from starlette.responses import JSONResponse, StreamingResponse

        fields = await body(request)
        asked = self._asked(fields, chat)
        loaded = self._loaded

        def pane() -> Pane:
            gates = loaded.source.gates
            return Pane(loaded.stepper, asked.prompt, gates.plan, asked.sampling, gates.under)

        turned = steering(fields.get("steering"), loaded.source.gates)
        heard = Heard(self._worker, {"": pane}, turned, asked.most, loaded.reader.ends)
        answer = Answer(heard, asked, loaded, self.name, chat)
        if asked.stream:
            # Closed at once when a client leaves, not when its generator is collected.
            return StreamingResponse(answer.chunks(), media_type="text/event-stream")
        return JSONResponse(await answer.whole(request))

    def _asked(self, fields: Mapping[str, Any], chat: bool) -> Asked:
        """Raises Refused."""
        own = _OWN | ({"messages", "max_completion_tokens"} if chat else {"prompt"})
        for name, value in fields.items():
            if name in own or name in _IDLE or value is None:
                continue
            if not any(value == some for some in _NEUTRAL.get(name, ())):
                raise wrong(name, "is not supported here: leave it out")
        if text(fields, "model") != self.name:
            raise Refused(404, f"the model here is {self.name!r}", "model_not_found", "model")
        most = whole(fields, "max_tokens", min(TOKENS, self._most), 1, self._most)
        if chat:
            most = whole(fields, "max_completion_tokens", most, 1, self._most)
        reader = self._loaded.reader
        try:
            if chat:
                prompt = reader.chat(_messages(fields.get("messages")), most)
            else:
                prompt = reader.as_it_is(_prompt(fields), most)
        except Refused:
            raise
        except CorrSteerError as error:
            param = "messages" if chat else "prompt"
            raise Refused(400, str(error), "context_length_exceeded", param) from None
        seed = fields.get("seed")
        sampling = Sampling(
            number(fields, "temperature", 0.0, 0.0, 2.0) or 0.0,
            number(fields, "top_p", 1.0, 1e-6, 1.0) or 1.0,
            None if seed is None else whole(fields, "seed", 0, 0, 2**63 - 1),
        )
        options = fields.get("stream_options") or {}
        if not isinstance(options, dict):
            raise wrong("stream_options", "must be an object")
        stream = flag(fields, "stream")
        told = stream and flag(options, "include_usage")
        return Asked(prompt, most, sampling, _stops(fields.get("stop")), stream, told)


@dataclass(frozen=True)
class Asked:
    prompt: list[int]
    most: int
    sampling: Sampling
    stops: tuple[str, ...]
    stream: bool
    usage: bool
    """Whether a stream ends with the numbers of tokens."""


def _prompt(fields: Mapping[str, Any]) -> str:
    given = fields.get("prompt")
    if isinstance(given, list) and len(given) == 1:
        given = given[0]
    if type(given) is not str:
        raise wrong("prompt", "must be one text; send a request for each")
    return text({"prompt": given}, "prompt")


def _messages(given: Any) -> list[dict[str, str]]:
    if not isinstance(given, list) or not given:
        raise wrong("messages", "must be a list of {role, content}")
    messages = []
    for one in given:
        if not isinstance(one, dict) or one.get("role") not in ("system", "user", "assistant"):
            raise wrong("messages", "must each have a role: system, user or assistant")
        content = one.get("content")
        if isinstance(content, list):  # parts, which may only be texts
            if any(not isinstance(part, dict) or part.get("type") != "text" for part in content):
                raise wrong("messages", "may only hold text")
            content = "".join(text(part, "text") for part in content)
        messages.append({"role": one["role"], "content": text({"content": content}, "content")})
    return messages


def _stops(given: Any) -> tuple[str, ...]:
    some = [given] if isinstance(given, str) else given or []
    fits = isinstance(some, list) and all(isinstance(one, str) and one for one in some)
    if not fits or len(some) > 4:
        raise wrong("stop", "must be a text, or a list of at most 4")
    return tuple(some)


@dataclass
class Answer:
    """One answer on its way out. ``sent`` characters of it are."""

    heard: Heard
    asked: Asked
    loaded: Loaded
    model: str
    chat: bool
    name: str = field(default_factory=lambda: f"corrsteer-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    tokens: list[int] = field(default_factory=list)
    why: str = "length"

    async def _texts(self, request: Request | None) -> AsyncGenerator[str, None]:
        """Pieces of the answer. Raises Refused where the model fails."""
        sent, ends = 0, ("\N{REPLACEMENT CHARACTER}",)
        events = self.heard.events(request)
        async with contextlib.aclosing(events):
            async for event in events:
                if event.kind == "error":
                    raise Refused(500, event.text)
                if event.kind == "done" and not self._stopped:
                    self.why = event.text
                if event.kind != "token" or self._stopped:
                    continue
                self.tokens.append(event.token)
                whole, kept = self.loaded.reader.text(self.tokens), self._held
                if found := [whole.index(stop) for stop in self.asked.stops if stop in whole]:
                    whole, self.why, self._stopped = whole[: min(found)], "stop", True
                    self.heard.job.stop()
                elif whole.endswith(ends):
                    continue  # half of a character
                elif self.asked.stops:
                    whole = whole[: len(whole) - kept(whole)]
                if len(whole) > sent:
                    yield whole[sent:]
                    sent = len(whole)
        whole = self.loaded.reader.text(self.tokens)
        if not self._stopped and len(whole) > sent:
            yield whole[sent:]

    _stopped: bool = False

    def _held(self, text: str) -> int:
        """Characters at the end of a text that a stop may begin with."""
        lengths = (
            n for stop in self.asked.stops for n in range(len(stop) - 1, 0, -1)
            if text.endswith(stop[:n])
        )  # fmt: skip
        return max(lengths, default=0)

    @property
    def _usage(self) -> dict[str, int]:
        counts = len(self.asked.prompt), len(self.tokens)
        return {
            "prompt_tokens": counts[0], "completion_tokens": counts[1], "total_tokens": sum(counts)
        }  # fmt: skip

    def _made(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.name, "object": kind, "created": self.created, "model": self.model,
            "choices": choices,
        }  # fmt: skip

    async def whole(self, request: Request) -> dict[str, Any]:
        words = "".join([piece async for piece in self._texts(request)])
        said: dict[str, Any] = {"text": words}
        if self.chat:
            said = {"message": {"role": "assistant", "content": words}}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": self.why}
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._made(kind, [choice]), "usage": self._usage}

    async def chunks(self) -> AsyncGenerator[str, None]:
        """Server-sent events."""
        try:
            if self.chat:
                yield self._chunk({"role": "assistant", "content": ""}, None)
            pieces = self._texts(None)
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    yield self._chunk({"content": piece} if self.chat else piece, None)
            yield self._chunk({} if self.chat else "", self.why)
            if self.asked.usage:
                kind = "chat.completion.chunk" if self.chat else "text_completion"
                yield _event({**self._made(kind, []), "usage": self._usage})
        except Refused as refused:
            yield _event({"error": {"message": str(refused), "type": "api_error", "code": None}})
        yield "data: [DONE]\n\n"

    def _chunk(self, said: Any, why: str | None) -> str:
        words = {"delta": said} if self.chat else {"text": said}
        choice = {"index": 0, **words, "logprobs": None, "finish_reason": why}
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return _event(self._made(kind, [choice]))


def _event(value: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"
