"""One line per stage: how much is done, how fast, how long it will take.

On a terminal a bar that vanishes; elsewhere, and in a SLURM job, a line of the log at most once a
minute. When the stage ends, one line in both cases.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

log = logging.getLogger(__name__)

EVERY = 60.0  # seconds between two lines of a log


class Show(Protocol):
    def __call__(self, done: int, *, known: bool = False) -> None: ...


@contextmanager
def progress(label: str, total: int) -> Iterator[Show]:
    """Yields a function that is told how many samples are done; ``known`` if without work."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    quiet = not console.is_terminal or "SLURM_JOB_ID" in os.environ
    start = logged = since = time.monotonic()
    kept = 0  # samples that were done before this job began to work

    def words(done: int) -> str:
        rate = (done - kept) / max(time.monotonic() - since, 1e-3)
        if rate == 0:
            return ""
        left = timedelta(seconds=round((total - done) / rate))
        return f"{rate:.{1 if rate < 100 else 0}f}/s, {left} left"

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=quiet) as bar:
        task = bar.add_task(label, total=total, words="")

        def show(done: int, *, known: bool = False) -> None:
            nonlocal logged, since, kept
            now = time.monotonic()
            if known:
                since, kept = now, done
            bar.update(task, completed=done, words=words(done))
            if quiet and now - logged >= EVERY and done < total:
                log.info("%s: %d of %d samples, %s", label, done, total, words(done))
                logged = now

        yield show
    log.info("%s: %d samples in %.1f s", label, total, time.monotonic() - start)
