"""What the store does to files: sync them, weigh them, and say in one line what went wrong."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from corrsteer.errors import ConfigError, CorrSteerError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
# The second is NumPy's.
_NO_SPACE = re.compile(f"{os.strerror(errno.ENOSPC)}|requested and [0-9]+ written")


@contextlib.contextmanager
def one_line(verb: str, root: Path, only: set[int] | None = None) -> Iterator[None]:
    """Failures of the file system, or ``only`` these, as one line that says what to do."""
    try:
        yield
    except CorrSteerError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if _NO_SPACE.search(str(error)):  # libraries have errors of their own for it
            number = errno.ENOSPC
        if number is None or (only is not None and number not in only):
            raise
        more = "; make cache lists what can go" if number in (errno.ENOSPC, errno.EDQUOT) else ""
        raise ConfigError(
            f"cannot {verb} the cache folder {root}: {os.strerror(number)}{more};"
            " type cache=FOLDER to use another"
        ) from error


def touch(folder: Path) -> bool:
    """Note that a folder is in use."""
    with contextlib.suppress(OSError):  # somebody else's
        os.utime(folder)
    return True


def weigh(path: Path) -> tuple[int, float]:
    """(bytes, time of the last change) of a file or a folder and all that is in it."""
    size, newest = 0, 0.0
    for folder, _, files in os.walk(path):
        for file in (folder, *(os.path.join(folder, name) for name in files)):
            with contextlib.suppress(FileNotFoundError):
                s = os.lstat(file)
                newest = max(newest, s.st_mtime)
                size += s.st_size if file is not folder else 0
    return size, newest or time.time()


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
