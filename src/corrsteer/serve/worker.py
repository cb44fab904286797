"""The one thread that a model belongs to, and what is written in it.

A few jobs are written in turn, a token each, so that nobody waits for another's whole answer; more
wait in a queue of bounded length, and who comes then is refused. State of a person's dial is in
their job and nowhere else.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from corrsteer.errors import CorrSteerError
from corrsteer.serve.stepper import Pane, Reading, Turned

log = logging.getLogger(__name__)

TOGETHER = 4
"""Jobs that are written in turn; others wait."""


class Full(CorrSteerError):
    """Too many wait already."""


@dataclass(frozen=True)
class Event:
    """``kind``: token (of ``pane``), end, or error; ``text`` says why."""

    kind: str
    pane: str = ""
    token: int = -1
    dial: float = 0.0
    text: str = ""
    readings: Mapping[int, Reading] = field(default_factory=dict)


class Job:
    """Answers to one prompt, a pane each. ``panes``: their makers by name, called when it is their
    turn; one that gives None is not ready, and is asked again. ``tell``: is called in the worker's
    thread; it raises RuntimeError where nobody listens any more."""

    def __init__(
        self,
        panes: Mapping[str, Callable[[], Pane | None]],
        turned: Turned,
        most: int,
        ends: Sequence[int],
        tell: Callable[[Event], None],
    ) -> None:
        self.turned = turned
        self.stopped = self.left = False
        self._makers, self._most, self._ends, self._tell = dict(panes), most, ends, tell
        self._panes: dict[str, Pane] = {}

    def stop(self) -> None:
        """End it after the token at hand, and say so."""
        self.stopped = True

    def leave(self) -> None:
        """End it: nobody listens any more."""
        self.left = True

    @property
    def is_over(self) -> bool:
        return self.stopped or self.left

    def advance(self) -> bool:
        """Write a token in every pane. Whether there is more to do."""
        for name, maker in list(self._makers.items()):
            pane = maker()
            if pane is not None:
                self._panes[name] = pane
                del self._makers[name]
        for name, pane in list(self._panes.items()):
            if self.is_over:
                return False
            turned = self.turned
            token = pane.step(turned)
            self._tell(Event("token", name, token, turned.coef, readings=pane.readings))
            if token in self._ends or len(pane.tokens) >= self._most:
                del self._panes[name]
                why = "stop" if token in self._ends else "length"
                self._tell(Event("done", name, text=why))
        return bool(self._panes or self._makers)

    @property
    def waits(self) -> bool:
        """Whether all that is left is not ready."""
        return bool(self._makers) and not self._panes

    def finish(self) -> None:
        """Say that it is over."""
        self.end(text="stopped" if self.stopped else "")

    def end(self, kind: str = "end", text: str = "") -> None:
        if not self.left:
            self._tell(Event(kind, text=text))


class Worker:
    """``waiting``: how many jobs may wait at most."""

    def __init__(self, waiting: int) -> None:
        self._waiting: queue.Queue[Job | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._closed = False
        self._begin: Callable[[], None] = lambda: None

    def start(self, begin: Callable[[], None] = lambda: None) -> None:
        """``begin``: is called in the thread, before the first job."""
        self._begin = begin
        self._thread.start()

    def end(self) -> None:
        """Begin no token more, and say so to whoever waits for one."""
        self._closed = True
        with suppress(queue.Full):  # then it does not wait for one
            self._waiting.put_nowait(None)

    def close(self) -> None:
        """End, and wait until the model is free."""
        self.end()
        self._thread.join(30)

    def submit(self, job: Job) -> int:
        """How many wait before it. Raises Full."""
        self._drop()
        before = self._waiting.qsize()
        try:
            self._waiting.put_nowait(job)
        except queue.Full:
            raise Full(
                f"{before} requests wait already, as many as may: ask again in a moment, or start"
                " the server with more (--waiting)"
            ) from None
        return before

    def _drop(self) -> None:
        """Those that are over are not waited for."""
        with self._waiting.mutex:
            some = list(self._waiting.queue)
            over = [job for job in some if job is not None and job.is_over]
            for job in over:
                self._waiting.queue.remove(job)
        for job in over:
            with suppress(RuntimeError):  # nobody listens any more
                job.finish()

    def _work(self) -> None:
        try:
            self._begin()
        except Exception as error:  # of any kind: jobs are answered all the same
            log.warning("at the beginning: %s", _words(error))
        active: list[Job] = []
        room = TOGETHER
        while not self._closed:
            active += list(self._next(active, room))
            writing = 0
            for job in list(active):
                if writing == TOGETHER and not job.is_over:
                    continue  # several that were waited for came at once: the first come first
                if not self._advanced(job):
                    active.remove(job)
                elif not job.waits:
                    writing += 1
            # Jobs that only wait hold no place, but they are not without end either.
            idle = len(active) - writing
            room = TOGETHER - writing if idle < self._waiting.maxsize else 0
            if active and not writing:
                time.sleep(0.05)
        for job in (*active, *self._left()):
            self._failed(job, CorrSteerError("the server was ended"))

    def _left(self) -> Iterator[Job]:
        """Those whose turn never came."""
        with suppress(queue.Empty):
            while True:
                if (job := self._waiting.get_nowait()) is not None:
                    yield job

    def _next(self, active: list[Job], room: int) -> Iterator[Job]:
        """Jobs whose turn it is; waits for one where there is none at all."""
        for n in range(room):
            try:
                job = self._waiting.get(block=not active and n == 0)
            except queue.Empty:
                return
            if job is None:
                return
            yield job

    def _advanced(self, job: Job) -> bool:
        """Whether a job is to be gone on with."""
        try:
            if not job.is_over and job.advance() and not job.is_over:
                return True
            job.finish()
        except Exception as error:  # whatever a model raises: the next job must not suffer
            self._failed(job, error)
        return False

    def _failed(self, job: Job, error: Exception) -> None:
        if not isinstance(error, CorrSteerError):
            log.warning("a request failed: %s", _words(error))
        with suppress(RuntimeError):  # nobody listens any more
            job.end("error", _words(error))


def _words(error: Any) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, CorrSteerError) else f"{type(error).__name__}: {text}"
