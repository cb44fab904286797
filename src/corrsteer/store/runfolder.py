"""The files of one run that are no stage's: ``config.yaml``, ``status.json``, ``log.txt``.

What lies in a run's folder (docs/reference/run_folder.md is made of these lists):

- ``report.html``: the result with its controls, self-contained; read this first
- ``metrics.json``: everything that was measured, and on what: see below
- ``features.csv``: the ranked features of every layer: the selector's score, r, noise ceiling,
  coefficient, frequencies, means
- ``answers.parquet``: one row per sample and arm: prompt as the model saw it, answer, parsed, gold,
  score, tokens, steered positions; where an option was chosen, every option's log-likelihood,
  characters and tokens, and the margin of the right one
- ``plan/``: the vectors (safetensors) and what they are (json): operator, positions, gate, model,
  architecture, SAEs, features, splits, versions
- ``contexts.json``: the pooled tokens that activate the chosen features most, what they fire on
  elsewhere, and the tokens they make likelier; class, Neuronpedia page
- ``classes.csv``: the class of every feature that was looked at, and why
- ``layers.csv``: which layers a strategy kept, and what each gains alone, where it chose them
- ``trials.csv``: every candidate of a search, where one was asked for
- ``ablations.csv``: what each layer contributes, where asked for
- ``config.yaml``: every setting
- ``status.json``: how the job ended
- ``log.txt``: what it said

In a sweep's folder, beside its jobs:

- ``report.html``: accuracy and side effects against the dial, the transfer matrix, seeds together;
  every figure has its numbers beside it, and a link to them as CSV
- ``summary.csv``: a row per job
- ``verdict.md``: a row per setting: the dial that validation chose, with all controls; jobs that
  differ in anything but dial and seed stay apart
- ``multirun.yaml``: what the sweep was asked for

What ``job=train_sae`` leaves, in the run's folder and in ``job.out``:

- ``report.html``: the quality of the SAEs
- ``saes.json``: the same as numbers, by layer
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from corrsteer.errors import DataError
from corrsteer.report.record import FILE as RECORD
from corrsteer.store.files import FULL, RUN, is_file, is_folder, one_line, read_plain
from corrsteer.store.locks import held_here, lock, unlock

ALIVE = ".running"  # locked while the run's process lives
STATUS = "status.json"
JOB = re.compile(r"0|[1-9][0-9]{0,5}")


def jobs(sweep: Path) -> list[int]:
    """The numbers of a sweep's jobs that have begun, in order. Of folders that are called by a
    number, those alone that have a job's files: others are the user's."""
    return sorted(
        int(folder.name)
        for folder in sweep.iterdir()
        if JOB.fullmatch(folder.name)
        and is_folder(folder)
        and (is_file(folder / STATUS) or is_file(folder / "log.txt"))
    )


class LogFile(logging.FileHandler):
    """``log.txt``, as ``conf/hydra/job_logging`` has it. On a full disk its lines are lost without
    a word, since the run says so itself; a link is not followed, and a pipe not waited for."""

    def _open(self) -> Any:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        return open(os.open(self.baseFilename, flags, 0o666), "a", encoding="utf-8")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class RunFolder:
    """``status.json`` is the truth about a run. Its ``state`` is ``running``, ``done``, ``failed``
    with an ``error``, or ``requeued``: stopped by its cluster, and about to go on.

    A run whose process died says ``running`` for ever; a lock that died with it tells, and
    :meth:`status` then says ``killed``. Only on the machine it ran on: whether locks reach across
    machines nobody can tell, and a cluster's sweep asks the cluster.
    Files are written to a temporary name and renamed, so a reader never sees half of one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._alive: FileLock | None = None

    def write_config(self, text: str) -> None:
        self._write("config.yaml", text)

    def start(self, overrides: list[str]) -> None:
        for left in self.path.glob(f".{STATUS}.[0-9]*"):  # of a process that was killed
            if is_file(left):
                left.unlink(missing_ok=True)
        if is_file(self.path / STATUS):  # an earlier run's: until this one ends it has no record
            (self.path / RECORD).unlink(missing_ok=True)
        self._alive = lock(self.path / ALIVE, timeout=5.0)
        started = {"started": _now(), "ended": None, "seconds": None}
        self._write_status({"state": "running", "error": None, **started, "overrides": overrides})

    def done(self) -> None:
        self._end("done")

    def failed(self, error: str, trace: str = "", refused: bool = False) -> None:
        """Error and trace also go to log.txt, and not to the terminal. ``refused``: nothing was
        computed. Where the disk is full nothing does, and the run will count as killed."""
        more: dict[str, Any] = {"traceback": trace} if trace else {}
        more |= {"refused": True} if refused else {}
        with contextlib.suppress(OSError), (self.path / "log.txt").open("a", encoding="utf-8") as f:
            f.write(f"failed: {error}\n{trace}")
        with contextlib.suppress(OSError):
            self._end("failed", error=error, **more)

    def forget(self) -> None:
        """Remove what an earlier run in this folder said of its end."""
        if is_file(self.path / STATUS):
            for name in (STATUS, RECORD):
                (self.path / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def in_one_line(self) -> Iterator[None]:
        """A disk that is full, as one line that says what to do."""
        with one_line("write", self.path, FULL, RUN):
            yield

    def requeued(self) -> None:
        if status := self.status():
            self._write_status({**status, "state": "requeued"})

    def status(self) -> dict[str, Any]:
        """Empty where the run never began. DataError for a file that no run has written so."""
        status = self._read()
        if status.get("state") == "running" and self._is_dead():
            return {**status, "state": "killed", "error": "its process was killed: see log.txt"}
        return status

    def _read(self) -> dict[str, Any]:
        file = self.path / STATUS
        try:
            status = json.loads(read_plain(file).decode("utf-8"))
            fits = _is_status(status)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError, RecursionError):
            fits = False
        if not fits:
            raise DataError(f"{file} is damaged: type the run's command again, or delete {file}")
        return dict(status)

    def _is_dead(self) -> bool:
        file = self.path / ALIVE
        if self._alive is not None or not held_here(file):
            return False
        probe = FileLock(file, fallback_to_soft=False)
        try:
            with probe.acquire(timeout=0):
                # It may have ended between our two looks.
                return bool(self._read().get("state") == "running")
        except (Timeout, OSError, NotImplementedError):  # alive, or nobody can tell
            return False

    def _end(self, state: str, **more: Any) -> None:
        status, ended = self.status(), _now()
        began = status.get("started", ended)  # somebody may have deleted it
        lasted = datetime.fromisoformat(ended) - datetime.fromisoformat(began)
        times = {"started": began, "ended": ended, "seconds": round(lasted.total_seconds(), 2)}
        try:
            ended_so = {"overrides": [], **status, "state": state, "error": None, **times, **more}
            self._write_status(ended_so)
        except OSError:
            if self._alive is not None:
                self._alive.release()  # and the file stays: it tells that the process is gone
            raise
        if self._alive is not None:
            unlock(self._alive)
            self._alive = None
        (self.path / ALIVE).unlink(missing_ok=True)

    def _write_status(self, status: dict[str, Any]) -> None:
        self._write(STATUS, json.dumps(status, indent=2) + "\n")

    def _write(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}.{os.getpid()}"
        temporary.unlink(missing_ok=True)  # write_text would write through a link
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self.path / name)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def _is_status(status: Any) -> bool:
    """Whether it has what every status has, in the types that readers rely on."""
    if not (isinstance(status, Mapping) and isinstance(status.get("state"), str)):
        return False
    words, seconds = status.get("overrides", []), status.get("seconds")
    return (
        isinstance(words, list)
        and all(isinstance(word, str) for word in words)
        and isinstance(status.get("error"), str | None)
        and isinstance(seconds, int | float | None)
        and all(_is_time(status.get(name)) for name in ("started", "ended"))
    )


def _is_time(text: Any) -> bool:
    try:
        return text is None or bool(datetime.fromisoformat(text))
    except (TypeError, ValueError):
        return False


def _now() -> str:
    return datetime.now(UTC).isoformat()
