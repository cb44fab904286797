"""A job's events, from the thread that writes to the request that waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from corrsteer.serve.guard import Refused
from corrsteer.serve.stepper import Pane, Turned
from corrsteer.serve.worker import Event, Full, Job, Worker

if TYPE_CHECKING:
    from starlette.requests import Request

LOOK = 0.5
"""Seconds between two looks whether a client that gets its answer whole is still there."""


class Heard:
    """A job that was handed to the worker, and its events."""

    def __init__(
        self,
        worker: Worker,
        panes: Mapping[str, Callable[[], Pane | None]],
        turned: Turned,
        most: int,
        ends: Sequence[int],
    ) -> None:
        """Raises Refused where too many wait."""
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(event: Event) -> None:
            loop.call_soon_threadsafe(self._events.put_nowait, event)

        self.job = Job(panes, turned, most, ends, tell)
        try:
            self.before = worker.submit(self.job)
        except Full as error:
            raise Refused(429, str(error), "too_many_requests") from None

    async def events(self, request: Request | None = None) -> AsyncGenerator[Event, None]:
        """Until the end, which is the last. Whoever stops listening ends the job: a stream does so
        by itself, and of ``request`` it is looked whether it is still there."""
        clock, limit = asyncio.get_running_loop().time, None
        look = clock() + LOOK
        try:
            while True:
                if request is not None:  # by the clock, however many events there are
                    if clock() >= look:
                        if await request.is_disconnected():
                            return
                        look = clock() + LOOK
                    limit = max(0.0, look - clock())
                try:
                    event = await asyncio.wait_for(self._events.get(), limit)
                except TimeoutError:
                    continue
                yield event
                if event.kind in ("end", "error"):
                    return
        finally:
            self.job.leave()
