"""A disk that is full from one moment on, for tests: whatever would write below a folder fails."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Disk:
    """``left``: how many files may be opened for writing, or folders made, before it is full; None:
    it is not watched. One for a whole process: an audit hook cannot be taken away."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.root = ""
        self.was_full = False
        self.installed = False

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.left is None or event not in ("open", "os.mkdir"):
            return
        path = args[0]
        if event == "open" and not (isinstance(args[2], int) and args[2] & WRITING):
            return
        if not isinstance(path, str | bytes | os.PathLike):
            return
        if not os.path.abspath(os.fsdecode(path)).startswith(self.root):
            return
        self.left -= 1
        if self.left < 0:
            self.was_full = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsdecode(path))


DISK = Disk()


@contextmanager
def full_after(writes: int, root: Path) -> Iterator[Disk]:
    if not DISK.installed:
        sys.addaudithook(DISK.hook)
        DISK.installed = True
    DISK.left, DISK.root, DISK.was_full = writes, str(root), False
    try:
        yield DISK
    finally:
        DISK.left = None
