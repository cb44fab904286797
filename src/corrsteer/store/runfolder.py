"""The files of one run that are no stage's: ``config.yaml``, ``status.json``, ``log.txt``."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from corrsteer.store.locks import held_here, lock, unlock

ALIVE = ".running"  # locked while the run's process lives


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
        for left in self.path.glob(".*.json.[0-9]*"):  # of a process that was killed
            left.unlink(missing_ok=True)
        self._alive = lock(self.path / ALIVE, timeout=5.0)
        started = {"started": _now(), "ended": None, "seconds": None}
        self._write_status({"state": "running", "error": None, **started, "overrides": overrides})

    def done(self) -> None:
        self._end("done")

    def failed(self, error: str, trace: str = "") -> None:
        """Both also go to log.txt, and not to the terminal."""
        with (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"failed: {error}\n{trace}")
        self._end("failed", error=error, **({"traceback": trace} if trace else {}))

    def requeued(self) -> None:
        if status := self.status():
            self._write_status({**status, "state": "requeued"})

    def status(self) -> dict[str, Any]:
        """Empty where the run never began."""
        file = self.path / "status.json"
        if not file.exists():
            return {}
        status: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if status["state"] == "running" and self._is_dead():
            return {**status, "state": "killed", "error": "its process was killed: see log.txt"}
        return status

    def _is_dead(self) -> bool:
        file = self.path / ALIVE
        if self._alive is not None or not held_here(file):
            return False
        probe = FileLock(file, fallback_to_soft=False)
        try:
            with probe.acquire(timeout=0):
                # It may have ended between our two looks.
                text = (self.path / "status.json").read_text(encoding="utf-8")
                return bool(json.loads(text)["state"] == "running")
        except (Timeout, OSError, NotImplementedError):  # alive, or nobody can tell
            return False

    def _end(self, state: str, **more: Any) -> None:
        status, ended = self.status(), _now()
        lasted = datetime.fromisoformat(ended) - datetime.fromisoformat(status["started"])
        times = {"ended": ended, "seconds": round(lasted.total_seconds(), 2)}
        self._write_status({**status, "state": state, **times, **more})
        if self._alive is not None:
            unlock(self._alive)
            self._alive = None
        (self.path / ALIVE).unlink(missing_ok=True)

    def _write_status(self, status: dict[str, Any]) -> None:
        self._write("status.json", json.dumps(status, indent=2) + "\n")

    def _write(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}.{os.getpid()}"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.path / name)


def _now() -> str:
    return datetime.now(UTC).isoformat()
