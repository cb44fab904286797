"""The stage cache: a result is computed once for all runs with the same relevant settings.

``<root>/<stage>/<key>/`` holds a stage's files and ``manifest.json``; the key is a hash of the
settings that can change the result (:mod:`corrsteer.store.keys`), so an entry is never out of
date. Whether it is still what was written is checked at every use (:mod:`corrsteer.store.verify`).

Jobs that miss at once wait for the one that computes (:meth:`Store.claim`). Locks save time and
nothing else: where a file system has none, all compute, and all but the first one's work is
dropped. A good entry is never moved or replaced: all that is done to an entry's path is a rename
onto it, which fails while anything is inside, and a removal, which fails likewise. While a result
is being made its parts can be kept in ``.<key>.partial/`` (:mod:`corrsteer.store.partial`), so
that a job that was killed goes on where it stopped.

:mod:`corrsteer.store.listing` says what is there, and deletes what is old.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from corrsteer.errors import ConfigError
from corrsteer.store.files import (
    FULL,
    discard,
    is_file,
    is_folder,
    make_folder,
    one_line,
    share,
    sync,
    touch,
    weigh,
)
from corrsteer.store.keys import key
from corrsteer.store.locks import holder, lock, unlock
from corrsteer.store.partial import Partial
from corrsteer.store.verify import flaw, ready, write_manifest

log = logging.getLogger(__name__)

DAY = 86400.0  # seconds without a sign of life after which a writer counts as dead
BEAT = 600.0  # seconds between two signs of life
POLL = 1.0  # seconds between two looks at a lock that another job holds

# Temporary folders of writers, and locks, as their names are made in Store.
LEFTOVER = re.compile(r"\.[0-9a-f]{32}-[0-9a-f]{32}")
LOCK = re.compile(r"\.[0-9a-f]{32}\.lock")

Name = TypeVar("Name", bound=Hashable)


class Store:
    """The cache below one folder.

    Raises ConfigError at once when the folder cannot be written: better than after an hour. What
    killed writers left is removed after a day. ``log`` counts what happened, as in
    ``store.log["miss collect"]``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log: Counter[str] = Counter()
        self._held: set[Path] = set()
        self.check_writable()
        for work in _inside(root, LEFTOVER):
            if is_folder(work) and time.time() - weigh(work)[1] > DAY:
                shutil.rmtree(work, ignore_errors=True)
        for file in _inside(root, LOCK):
            with contextlib.suppress(OSError):
                old = is_file(file) and time.time() - os.lstat(file).st_mtime > DAY
                if old and (taken := lock(file)):
                    unlock(taken)

    def check_writable(self) -> None:
        with one_line("write", self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass

    def has(self, stage: str, settings: Mapping[str, Any], schema: int = 1) -> bool:
        """Whether the entry is there and unharmed."""
        with one_line("read", self.root):
            entry = self._entry(stage, settings, schema)
            return flaw(entry) is None and touch(entry)

    def get(
        self,
        stage: str,
        settings: Mapping[str, Any],
        make: Callable[[Path], None],
        schema: int = 1,
    ) -> Path:
        """The folder of a stage's result, read-only by agreement.

        Where it is missing, or no longer what was written, ``make(folder)`` writes its files
        into a temporary folder that is then renamed; what ``make`` raises comes out as it is,
        a full disk as a ConfigError, and neither leaves an entry. The files of a harmed entry are
        moved to ``<key>.corrupt-<time>`` first.
        """
        entry = self._entry(stage, settings, schema)
        with one_line("read", self.root):
            usable = ready(entry) and touch(entry)
        if usable:
            self._count("hit", entry)
            return entry
        with self.claim(stage, {None: settings}, schema):
            with one_line("read", self.root):
                if ready(entry):  # the job that was waited for has made it
                    self._count("hit", entry)
                    return entry
            self._count("miss", entry)
            return self._made(entry, make, stage, settings, schema)

    def _made(
        self,
        entry: Path,
        make: Callable[[Path], None],
        stage: str,
        settings: Mapping[str, Any],
        schema: int,
    ) -> Path:
        # Not mkdtemp: its 0700 would lock a cluster's other users out of a shared cache.
        work = entry.with_name(f".{entry.name}-{uuid.uuid4().hex}")
        with one_line("write", self.root):
            make_folder(work, self.root)
        try:
            with _signs_of_life(work):
                with one_line("write", self.root, only=FULL):
                    make(work)
                with one_line("write", self.root):
                    write_manifest(work, stage, settings, schema)
                    share(work, self.root)
                    while not _renamed(work, entry):
                        if ready(entry):
                            log.info("cache entry %s was written by another job meanwhile", entry)
                            break
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return entry

    def fill(
        self,
        stage: str,
        settings: Mapping[Name, Mapping[str, Any]],
        make: Callable[[list[Name]], None],
        schema: int = 1,
        *,
        together: bool = False,
    ) -> None:
        """Have ``make(names)`` write the entries that are missing, each with :meth:`get`.

        What another job is making is waited for; meanwhile this one makes the rest, unless all
        are made ``together``, in one pass that would otherwise be gone through twice.
        """

        def missing(names: Iterable[Name]) -> list[Name]:
            return [name for name in names if not self.has(stage, settings[name], schema)]

        lacking, made = missing(settings), set[Name]()
        while lacking:
            wanted = {name: settings[name] for name in lacking}
            with self.claim(stage, wanted, schema, together=together) as held:
                if still_missing := missing(held):
                    make(still_missing)
                    made.update(still_missing)
            lacking = missing(lacking)
        for name in settings:
            if name not in made:
                self._count("hit", self._entry(stage, settings[name], schema))

    def read(self, stage: str, settings: Mapping[str, Any], schema: int = 1) -> Path:
        """The folder of a result that is there, after :meth:`fill`."""
        entry = self._entry(stage, settings, schema)
        with one_line("read", self.root):
            if ready(entry) and touch(entry):
                return entry
        raise ConfigError(f"{entry} was changed while it was read: type it again")

    def place(self, stage: str, settings: Mapping[str, Any], schema: int = 1) -> Path:
        """Where a result is, or would be."""
        return self._entry(stage, settings, schema)

    def drop(self, stage: str, settings: Mapping[str, Any], schema: int = 1) -> None:
        """Delete a result that can be made again, if it is there. Whoever reads it meanwhile may
        find half of it: drop what only those need that make it again."""
        entry = self._entry(stage, settings, schema)
        doomed = entry.with_name(f".{entry.name}-{uuid.uuid4().hex}")
        with one_line("write", self.root), contextlib.suppress(FileNotFoundError):
            entry.rename(doomed)  # whoever stops this leaves no half of an entry
            discard(doomed)

    @contextlib.contextmanager
    def claim(
        self,
        stage: str,
        settings: Mapping[Name, Mapping[str, Any]],
        schema: int = 1,
        *,
        together: bool = False,
    ) -> Iterator[list[Name]]:
        """Wait until no other job makes one of these results, or with ``together`` any of them.

        Yields the names of those that are this job's until the block ends, at least one. A job
        that dies gives up its claims at once (``flock``).
        """
        files = {name: self._lock(stage, settings[name], schema) for name in settings}
        locks: dict[Path, FileLock] = {}
        announced = False
        with contextlib.suppress(OSError):  # whoever writes there says so
            make_folder(self.root / stage, self.root)
        try:
            while True:
                for file in sorted(set(files.values()) - self._held):
                    if (taken := lock(file)) is not None:
                        locks[file] = taken
                    elif together:
                        break
                held = [name for name in files if files[name] in {*locks, *self._held}]
                if len(held) == len(files) or (held and not together):
                    break
                _release(locks)
                if not announced:
                    log.warning("waiting for %s, which computes the same (%s)", holder(file), stage)
                    announced = True
                time.sleep(POLL)
            self._held |= set(locks)
            yield held
        finally:
            self._held -= set(locks)
            _release(locks)

    def _lock(self, stage: str, settings: Mapping[str, Any], schema: int) -> Path:
        entry = self._entry(stage, settings, schema)
        return entry.with_name(f".{entry.name}.lock")

    def partial(self, stage: str, settings: Mapping[str, Any], schema: int = 1) -> Partial:
        """Where the parts of a result that is still being made are kept."""
        entry = self._entry(stage, settings, schema)
        return Partial(entry.with_name(f".{entry.name}.partial"))

    def _entry(self, stage: str, settings: Mapping[str, Any], schema: int) -> Path:
        home = self.root / stage
        if home.is_symlink():
            raise ConfigError(
                f"{home} is a link, and the cache follows none: move what it points to in its"
                " place, or type cache=FOLDER to use another folder"
            )
        return home / key(stage, schema, settings)

    def _count(self, event: str, entry: Path) -> None:
        self.log[f"{event} {entry.parent.name}"] += 1
        log.info("cache %s %s %s", event, entry.parent.name, entry.name[:8])


def _renamed(work: Path, entry: Path) -> bool:
    """Make a finished folder the entry, unless there is one."""
    try:
        work.rename(entry)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        return False
    sync(entry.parent)
    return True


@contextlib.contextmanager
def _signs_of_life(work: Path) -> Iterator[None]:
    """Touch a temporary folder now and then: its maker may compute for days before it writes."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT):
            touch(work)

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _release(locks: dict[Path, FileLock]) -> None:
    for taken in locks.values():
        unlock(taken)
    locks.clear()


def _inside(root: Path, names: re.Pattern[str]) -> Iterator[Path]:
    """What has such a name in the folder of any stage."""
    for stage in filter(is_folder, root.iterdir()):
        with contextlib.suppress(PermissionError):  # somebody else's, of this name by chance
            yield from (f for f in stage.iterdir() if names.fullmatch(f.name))
