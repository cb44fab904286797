"""Locks on files: held by a process, and gone with it, however it ends (``flock``, by filelock).

They reach across machines where the shared file system has locks. Where it has none, a lock that
cannot be had is as good as one, and :func:`lock` says so once: whatever is guarded here must be
safe without, and only save time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from corrsteer.store.files import is_odd, read_plain

log = logging.getLogger(__name__)


def lock(file: Path, timeout: float = 0.0) -> FileLock | None:
    """The lock, or None while another process has it for ``timeout`` seconds more."""
    taken = FileLock(file, fallback_to_soft=False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if is_odd(file):  # not ours to write to; a plain file may be a lock, however young
            file.unlink(missing_ok=True)
        taken.acquire(timeout=timeout)
        _sign(file)
    except Timeout:
        return None
    except (OSError, NotImplementedError) as error:
        _say(f"no locks in {file.parent} ({error}): jobs may repeat each other's work")
    return taken


def _sign(file: Path) -> None:
    flags = os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(file, flags), "wb") as handle:
        handle.write(f"process {os.getpid()} on {socket.gethostname()}".encode())


def unlock(taken: FileLock) -> None:
    """The file goes first: whoever holds an open one that is gone takes a new one (filelock)."""
    if taken.is_locked:
        with contextlib.suppress(OSError):
            os.unlink(taken.lock_file)
    taken.release()


def holder(file: Path) -> str:
    """Who has a lock, in words."""
    try:
        return read_plain(file)[:300].decode("utf-8", "replace") or "another process"
    except OSError:
        return "another process"


def held_here(file: Path) -> bool:
    """Whether a process of this machine has the lock, or had it when it was killed."""
    return holder(file).endswith(f" on {socket.gethostname()}")


@cache
def _say(text: str) -> None:
    log.warning(text)
