"""What the store does to files: look at them, sync, share and remove them, and say in one line what
went wrong.

Nothing here follows a link, or opens what is no plain file: a cache lies where other people and
programs write, too, and what they left is not the store's to read, move or delete.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from corrsteer.errors import ConfigError, CorrSteerError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
# The second is NumPy's.
_NO_SPACE = re.compile(f"{os.strerror(errno.ENOSPC)}|requested and [0-9]+ written")


CACHE = ("the cache folder", "type cache=FOLDER to use another")
RUN = ("the run folder", "make room and type the command again, it goes on from what was kept")


@contextlib.contextmanager
def one_line(
    verb: str, root: Path, only: set[int] | None = None, place: tuple[str, str] = CACHE
) -> Iterator[None]:
    """Failures of the file system, or ``only`` these, as one line that says what to do. ``place``:
    what ``root`` is, and the way out."""
    try:
        yield
    except CorrSteerError:
        raise
    except Exception as error:
        number = errno_of(error)
        if number is None or (only is not None and number not in only):
            raise
        more = "; make cache lists what can go" if number in (errno.ENOSPC, errno.EDQUOT) else ""
        what, advice = place
        raise ConfigError(
            f"cannot {verb} {what} {root}: {os.strerror(number)}{more}; {advice}"
        ) from error


def errno_of(error: Exception) -> int | None:
    """The error number of a failure of the file system; libraries have errors of their own for a
    full disk."""
    if _NO_SPACE.search(str(error)):
        return errno.ENOSPC
    return error.errno if isinstance(error, OSError) else None


# -- what is there -------------------------------------------------------------------------------


def is_folder(path: Path) -> bool:
    """Whether a folder is there, and no link to one."""
    return stat.S_ISDIR(_mode(path))


def is_file(path: Path) -> bool:
    """Whether a plain file is there, and no link to one."""
    return stat.S_ISREG(_mode(path))


def is_odd(path: Path) -> bool:
    """Whether something is there that is no plain file, such as a link or a pipe."""
    return (mode := _mode(path)) != 0 and not stat.S_ISREG(mode)


def _mode(path: Path) -> int:
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def open_plain(path: Path) -> int:
    """A descriptor to read a plain file. OSError (ELOOP) for a link and for anything else that is
    no plain file; a pipe that nobody writes to is not waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.ELOOP, "is no plain file", str(path))


def read_plain(path: Path) -> bytes:
    """The content of a plain file; OSError as in :func:`open_plain`."""
    with open(open_plain(path), "rb") as file:
        return file.read()


def walk(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """All that is below a folder and its lstat; links are named, and not followed."""
    with os.scandir(folder) as found:
        for each in found:
            status = each.stat(follow_symlinks=False)
            yield Path(each.path), status
            if stat.S_ISDIR(status.st_mode):
                yield from walk(Path(each.path))


def weigh(path: Path) -> tuple[int, float]:
    """(bytes, time of the last change) of a file, or of a folder and all that is in it."""
    size, newest = 0, 0.0
    with contextlib.suppress(FileNotFoundError):
        own = os.lstat(path)
        size, newest = 0 if stat.S_ISDIR(own.st_mode) else own.st_size, own.st_mtime
    for folder, _, files in os.walk(path) if is_folder(path) else ():
        for file in (folder, *(os.path.join(folder, name) for name in files)):
            with contextlib.suppress(FileNotFoundError):
                s = os.lstat(file)
                newest = max(newest, s.st_mtime)
                size += s.st_size if file is not folder else 0
    return size, newest or time.time()


# -- what is done to it ---------------------------------------------------------------------------


def touch(path: Path) -> bool:
    """Note that it is in use."""
    with contextlib.suppress(OSError):  # somebody else's
        os.utime(path, follow_symlinks=False)
    return True


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def share(path: Path, root: Path) -> None:
    """Let whoever may read and write the cache folder ``root`` do so with a new file or folder in
    it, and all below, whatever this process's umask is. Its group is the kernel's business (setgid
    on ``root``)."""
    allowed = stat.S_IMODE(os.stat(root).st_mode) & 0o777
    below = walk(path) if is_folder(path) else ()
    for each, status in ((path, os.lstat(path)), *below):
        mode = stat.S_IMODE(status.st_mode)
        wanted = mode | (allowed if stat.S_ISDIR(status.st_mode) else allowed & 0o666)
        if wanted != mode and not stat.S_ISLNK(status.st_mode):
            with contextlib.suppress(PermissionError):  # somebody else's
                os.chmod(each, wanted)


def make_folder(path: Path, root: Path) -> None:
    """Make a folder below ``root``, and those on the way; one that is there will do."""
    if is_folder(path):
        return
    if path == root:  # somebody deleted the cache
        root.mkdir(parents=True, exist_ok=True)
        return
    make_folder(path.parent, root)
    try:
        path.mkdir()
    except FileExistsError:
        if not is_folder(path):
            raise
    else:
        share(path, root)


def clear_way(path: Path) -> None:
    """Remove what stands where a folder of the store belongs and is none. A link, a pipe or a
    device is unlinked; a file is kept beside it, as ``<name>.corrupt-<...>``.

    A folder that another job puts there meanwhile stays: it can be neither linked nor unlinked.
    """
    mode = _mode(path)
    if not mode or stat.S_ISDIR(mode):
        return
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        if stat.S_ISREG(mode):
            os.link(path, aside_of(path), follow_symlinks=False)
        os.unlink(path)


def aside_of(path: Path) -> Path:
    """A free name beside a path, for what is harmed."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return path.with_name(f"{path.name.strip('.')[:32]}.corrupt-{stamp}-{uuid.uuid4().hex[:8]}")


def discard(path: Path) -> None:
    """Delete a folder of the store with all that is in it; a link is unlinked alone."""
    if is_folder(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)
