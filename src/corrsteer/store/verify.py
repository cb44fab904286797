"""Whether a cache entry is what was written: its manifest, and what is done with a harmed one.

The first look at an entry in a process reads all its files, about 1 s per GB; later ones only
their sizes and times (:func:`stamps`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import stat
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from corrsteer.store.files import (
    aside_of,
    clear_way,
    is_folder,
    make_folder,
    open_plain,
    read_plain,
    sync,
    walk,
)
from corrsteer.store.keys import canonical, key

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
CLOCK = 2.0  # seconds: the coarsest time stamps of a file system
# What reading one says of an entry that is harmed, as opposed to one that nobody may read.
_HARMED = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ESTALE, errno.EIO, errno.ELOOP, errno.ENXIO,
}  # fmt: skip
# Files that were as their manifest says when this process last looked: entry -> their stamps.
_verified: dict[Path, dict[str, tuple[int, ...]]] = {}


def write_manifest(folder: Path, stage: str, settings: Mapping[str, Any], schema: int) -> None:
    """Last of all files, after the others have reached the disk: it vouches for them."""
    files = {}
    for file in sorted(f for f, s in walk(folder) if stat.S_ISREG(s.st_mode)):
        sync(file)
        files[file.relative_to(folder).as_posix()] = measure(file)
    manifest = {
        "stage": stage,
        "schema": schema,
        "settings": canonical(settings),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": files,
    }
    path = folder / MANIFEST
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    sync(path)
    sync(folder)


def ready(entry: Path) -> bool:
    """Whether an entry can be used. A harmed one's files are moved aside.

    Other jobs may be doing the same, or may have put a good entry there since it was judged.
    So its files are taken out of the folder that was judged, whatever the path says by now, and
    the path is given up only where it is an empty folder. What is no folder at all is not the
    store's (:func:`corrsteer.store.files.clear_way`): a link's folder is not even looked into.
    """
    while True:
        try:
            folder = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        except OSError:
            if is_folder(entry):  # nobody may read it
                raise
            log.warning("%s is not a cache entry: removed", entry)
            clear_way(entry)
            return False
        try:
            wrong = flaw(entry)
            if wrong is None:
                return True
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.lstat(entry), os.fstat(folder)):
                    log.warning("cache entry %s is harmed (%s): computed again", entry, wrong)
                    _move_aside(folder, entry)
                    return False
        finally:
            os.close(folder)


def _move_aside(folder: int, entry: Path) -> None:
    """Empty the open ``folder``, which ``entry`` was the path of, and give up the path."""
    aside = aside_of(entry)
    make_folder(aside, entry.parents[1])
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # another job moved it first
            os.rename(name, aside / name, src_dir_fd=folder)
    with contextlib.suppress(OSError):  # something is in it, as it should be
        aside.rmdir()
    try:
        entry.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise


def flaw(entry: Path) -> str | None:
    """What is wrong with an entry, or None. OSError where that cannot be found out."""
    now = time.time_ns()
    try:
        if not is_folder(entry):
            return "it is no folder"
        there = stamps(entry)
        if there and _verified.get(entry) == there:
            return None
        wrong = _difference(entry, there)
    except OSError as error:
        if error.errno not in _HARMED:
            raise
        return f"{error.filename or 'it'} cannot be read"
    # A change within the clock's grain of the last one would leave the stamps as they are.
    newest = max((max(mtime, ctime) for _, mtime, ctime, _ in there.values()), default=0)
    if wrong is None and newest < now - CLOCK * 1e9:
        _verified[entry] = there
    return wrong


def stamps(entry: Path) -> dict[str, tuple[int, ...]]:
    """What tells without reading whether a file was touched: name -> size, times, inode. OSError
    (ELOOP) for an entry in which something is neither a plain file nor a folder."""
    touched: dict[str, tuple[int, ...]] = {}
    for file, s in walk(entry):
        if stat.S_ISREG(s.st_mode):
            touched[file.relative_to(entry).as_posix()] = (
                s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino,
            )  # fmt: skip
        elif not stat.S_ISDIR(s.st_mode):
            raise OSError(errno.ELOOP, "is no plain file", str(file))
    return touched


def _difference(entry: Path, there: Mapping[str, tuple[int, ...]]) -> str | None:
    """What an entry and its manifest disagree about."""
    try:
        manifest = json.loads(read_plain(entry / MANIFEST).decode("utf-8"))
        named = key(manifest["stage"], manifest["schema"], manifest["settings"])
        files = {name: (m["bytes"], m["sha256"]) for name, m in dict(manifest["files"]).items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return "no readable manifest"
    if named != entry.name:
        return "its manifest belongs to another entry"
    if set(there) != {MANIFEST, *files}:
        wrong = sorted(set(there) ^ {MANIFEST, *files})
        return f"files were added or removed: {', '.join(map(ascii, wrong))}"
    for name, (size, content) in files.items():
        # The size first: it is free, and tells a truncated file from a changed one.
        if there[name][0] != size:
            return f"{name} has another size"
        if measure(entry / name) != {"bytes": size, "sha256": content}:
            return f"{name} has another content"
    return None


def measure(file: Path) -> dict[str, Any]:
    with open(open_plain(file), "rb") as handle:
        content = hashlib.file_digest(handle, "sha256").hexdigest()
        return {"bytes": os.fstat(handle.fileno()).st_size, "sha256": content}
