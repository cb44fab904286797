"""Requests that come one by one, answered together.

Whoever holds the lock waits for a moment, takes whoever is there, and answers all of them in a
thread; who comes meanwhile is in the next batch. Requests that were cancelled while they waited are
left out. Nothing of Inspect's: any event loop that anyio knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import anyio
import anyio.to_thread

MOMENT = 0.05
"""Seconds for which a batch is not begun, so that others can come."""

Settings = TypeVar("Settings")
Question = TypeVar("Question")
Reply = TypeVar("Reply")


@dataclass(eq=False)
class _Waiting(Generic[Settings, Question, Reply]):
    settings: Settings
    question: Question
    reply: Reply | None = None
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.reply is not None or self.error is not None


class Batches(Generic[Settings, Question, Reply]):
    """``answer``: replies to several questions of the same settings, in order; called in a thread,
    never twice at a time."""

    def __init__(
        self, answer: Callable[[Settings, list[Question]], list[Reply]], most: int
    ) -> None:
        self._answer, self._most = answer, most
        self._lock = anyio.Lock()
        self._waiting: list[_Waiting[Settings, Question, Reply]] = []

    async def ask(self, settings: Settings, question: Question) -> Reply:
        """Raises what ``answer`` raises."""
        own: _Waiting[Settings, Question, Reply] = _Waiting(settings, question)
        self._waiting.append(own)
        try:
            while not own.is_done:
                async with self._lock:
                    if not own.is_done:
                        await anyio.sleep(MOMENT)
                        await self._one_batch()
        finally:
            if own in self._waiting:
                self._waiting.remove(own)
        if own.error is not None:
            raise own.error
        assert own.reply is not None
        return own.reply

    async def _one_batch(self) -> None:
        first = self._waiting[0].settings
        some = [one for one in self._waiting if one.settings == first][: self._most]
        self._waiting = [one for one in self._waiting if one not in some]
        questions: Any = [one.question for one in some]
        try:
            replies = await anyio.to_thread.run_sync(self._answer, first, questions)
            for one, reply in zip(some, replies, strict=True):
                one.reply = reply
        except Exception as error:  # of any kind: everyone is to hear of it
            for one in some:
                one.error = error
        except BaseException:  # who asked first is cancelled: the others ask again
            self._waiting = [one for one in some if not one.is_done] + self._waiting
            raise
