"""The stage cache: a result is computed once for all runs with the same relevant settings.

``<root>/<stage>/<key>/`` holds a stage's files and ``manifest.json``; the key is a hash of the
settings that can change the result, so an entry is never out of date. The first read in a process
checks the files against the manifest, about 1 s per GB; later ones only whether they were touched.

Jobs that miss at once wait for the one that computes (:meth:`Store.claim`). Locks save time and
nothing else: where a file system has none, all compute, and all but the first one's work is
dropped. A good entry is never moved or replaced: all that is done to an entry's path is a rename
onto it, which fails while anything is inside, and a removal, which fails likewise. While a result
is being made its parts can be kept in ``.<key>.partial/`` (:class:`Partial`), so that a job that
was killed goes on where it stopped.

:mod:`corrsteer.store.listing` says what is there, and deletes what is old.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from corrsteer.config import canonical
from corrsteer.errors import ConfigError, CorrSteerError
from corrsteer.store.locks import holder, lock, unlock

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
DAY = 86400.0  # seconds without a sign of life after which a writer counts as dead
BEAT = 600.0  # seconds between two signs of life
CLOCK = 2.0  # seconds: the coarsest time stamps of a file system
POLL = 1.0  # seconds between two looks at a lock that another job holds

# Temporary folders of writers, as their names are made in Store.get.
LEFTOVER = re.compile(r"\.[0-9a-f]{32}-[0-9a-f]{32}")
# The second is NumPy's.
_NO_SPACE = re.compile(f"{os.strerror(errno.ENOSPC)}|requested and [0-9]+ written")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
# Files that were as their manifest says when this process last looked: entry -> _stamps.
_verified: dict[Path, dict[str, tuple[int, ...]]] = {}

Name = TypeVar("Name", bound=Hashable)


def key(stage: str, schema: int, settings: Mapping[str, Any]) -> str:
    """32 hex digits that stand for a stage's result. ``schema`` numbers the form of its files.

    The same in every process and for ``1`` and ``1.0``. TypeError for settings that have no
    canonical form (:func:`corrsteer.config.canonical`).
    """
    content = {"stage": stage, "schema": schema, "settings": canonical(settings)}
    text = json.dumps(content, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


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
        for work in _leftovers(root):
            if time.time() - weigh(work)[1] > DAY:
                shutil.rmtree(work, ignore_errors=True)
        for file in root.glob("*/.*.lock"):
            with contextlib.suppress(OSError):
                if time.time() - file.stat().st_mtime > DAY and (taken := lock(file)):
                    unlock(taken)

    def check_writable(self) -> None:
        with _one_line("write", self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass

    def has(self, stage: str, settings: Mapping[str, Any], schema: int = 1) -> bool:
        """Whether the entry is there and unharmed."""
        with _one_line("read", self.root):
            entry = self._entry(stage, settings, schema)
            return _flaw(entry) is None and _touch(entry)

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
        with _one_line("read", self.root):
            ready = _ready(entry) and _touch(entry)
        if ready:
            self._count("hit", entry)
            return entry
        with self.claim(stage, {None: settings}, schema):
            with _one_line("read", self.root):
                if _ready(entry):  # the job that was waited for has made it
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
        with _one_line("write", self.root):
            work.mkdir(parents=True)
        try:
            with _signs_of_life(work):
                with _one_line("write", self.root, only=_FULL):
                    make(work)
                with _one_line("write", self.root):
                    _write_manifest(work, stage, settings, schema)
                    while not _renamed(work, entry):
                        if _ready(entry):
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
                if mine := missing(held):
                    make(mine)
                    made.update(mine)
            lacking = missing(lacking)
        for name in settings:
            if name not in made:
                self._count("hit", self._entry(stage, settings[name], schema))

    def read(self, stage: str, settings: Mapping[str, Any], schema: int = 1) -> Path:
        """The folder of a result that is there, after :meth:`fill`."""
        entry = self._entry(stage, settings, schema)
        with _one_line("read", self.root):
            if _ready(entry) and _touch(entry):
                return entry
        raise ConfigError(f"{entry} was changed while it was read: type it again")

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
        said = False
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
                if not said:
                    log.warning("waiting for %s, which computes the same (%s)", holder(file), stage)
                    said = True
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
        return self.root / stage / key(stage, schema, settings)

    def _count(self, event: str, entry: Path) -> None:
        self.log[f"{event} {entry.parent.name}"] += 1
        log.info("cache %s %s %s", event, entry.parent.name, entry.name[:8])


class Partial:
    """Parts of a result, each a name and its bytes. They belong to one result only: its settings
    are in the folder's name. Several jobs may write the same parts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, name: str, content: bytes) -> None:
        """Keep a part, in place of an earlier one of this name."""
        file = self._folder / f"{name}-{hashlib.sha256(content).hexdigest()}"
        work = self._folder / f".{uuid.uuid4().hex}"
        with _one_line("write", self._folder.parents[1]):
            for attempt in range(10):
                try:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    work.write_bytes(content)
                    work.rename(file)
                    break
                except FileNotFoundError:  # another job has the result, and cleared the folder
                    if attempt == 9:
                        raise
                except OSError:
                    work.unlink(missing_ok=True)
                    raise
        for old in self._folder.glob(f"{name}-*"):
            if old != file:
                old.unlink(missing_ok=True)

    def load(self) -> dict[str, bytes]:
        """All parts that are what was written, by name."""
        found = {}
        for file in sorted(self._folder.glob("[!.]*")):
            name, _, digest = file.name.rpartition("-")
            try:
                content = file.read_bytes()
            except FileNotFoundError:  # another job put a later one in its place
                continue
            if hashlib.sha256(content).hexdigest() == digest:
                found[name] = content
        return found

    def clear(self) -> None:
        """Forget all parts: the result is in the store."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _write_manifest(folder: Path, stage: str, settings: Mapping[str, Any], schema: int) -> None:
    """Last of all files, after the others have reached the disk: it vouches for them."""
    files = {}
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        _sync(file)
        files[file.relative_to(folder).as_posix()] = _measure(file)
    manifest = {
        "stage": stage,
        "schema": schema,
        "settings": canonical(settings),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": files,
    }
    path = folder / MANIFEST
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    _sync(path)
    _sync(folder)


def _ready(entry: Path) -> bool:
    """Whether an entry can be used. A harmed one's files are moved aside.

    Other jobs may be doing the same, or may have put a good entry there since it was judged.
    So its files are taken out of the folder that was judged, whatever the path says by now, and
    the path is given up only where it is an empty folder.
    """
    while True:
        try:
            folder = os.open(entry, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        except NotADirectoryError:
            log.warning("%s is no cache entry: removed", entry)
            entry.unlink(missing_ok=True)
            return False
        try:
            flaw = _flaw(entry)
            if flaw is None:
                return True
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(entry), os.fstat(folder)):
                    log.warning("cache entry %s is harmed (%s): computed again", entry, flaw)
                    _move_aside(folder, entry)
                    return False
        finally:
            os.close(folder)


def _move_aside(folder: int, entry: Path) -> None:
    """Empty the open ``folder``, which ``entry`` was the path of, and give up the path."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    aside = entry.with_name(f"{entry.name}.corrupt-{stamp}")
    aside.mkdir(exist_ok=True)
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # another job moved it first
            os.rename(name, aside / name, src_dir_fd=folder)
    with contextlib.suppress(OSError):  # something is in it, as it should be
        aside.rmdir()
    try:
        entry.rmdir()
    except NotADirectoryError:  # a link to the folder
        entry.unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
            raise


def _renamed(work: Path, entry: Path) -> bool:
    """Make a finished folder the entry, unless there is one."""
    try:
        work.rename(entry)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        return False
    _sync(entry.parent)
    return True


def _flaw(entry: Path) -> str | None:
    """What is wrong with an entry, or None. OSError where that cannot be found out."""
    now = time.time_ns()
    try:
        stamps = _stamps(entry)
        if stamps and _verified.get(entry) == stamps:
            return None
        flaw = _difference(entry, stamps)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ESTALE, errno.EIO):
            raise
        return f"{error.filename or 'it'} cannot be read"
    # A change within the clock's grain of the last one would leave the stamps as they are.
    newest = max((max(mtime, ctime) for _, mtime, ctime, _ in stamps.values()), default=0)
    if flaw is None and newest < now - CLOCK * 1e9:
        _verified[entry] = stamps
    return flaw


def _stamps(entry: Path) -> dict[str, tuple[int, ...]]:
    """What tells without reading whether a file was touched: name -> size, times, inode."""
    found: dict[str, tuple[int, ...]] = {}
    for file in entry.rglob("*"):
        if file.is_file():
            s = file.stat()
            found[file.relative_to(entry).as_posix()] = (
                s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino,
            )  # fmt: skip
    return found


def _difference(entry: Path, there: Mapping[str, tuple[int, ...]]) -> str | None:
    """What an entry and its manifest disagree about."""
    try:
        manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
        named = key(manifest["stage"], manifest["schema"], manifest["settings"])
        files = dict(manifest["files"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return "no readable manifest"
    if named != entry.name:
        return "its manifest belongs to another entry"
    if set(there) != {MANIFEST, *files}:
        wrong = sorted(set(there) ^ {MANIFEST, *files})
        return f"files were added or removed: {', '.join(wrong)}"
    for name, measured in files.items():
        # The size first: it is free, and tells a truncated file from a changed one.
        if there[name][0] != measured["bytes"]:
            return f"{name} has another size"
        if _measure(entry / name) != measured:
            return f"{name} has another content"
    return None


def _measure(file: Path) -> dict[str, Any]:
    with file.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}


@contextlib.contextmanager
def _one_line(verb: str, root: Path, only: set[int] | None = None) -> Iterator[None]:
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


@contextlib.contextmanager
def _signs_of_life(work: Path) -> Iterator[None]:
    """Touch a temporary folder now and then: its maker may compute for days before it writes."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT):
            _touch(work)

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _touch(folder: Path) -> bool:
    """Note that a folder is in use."""
    with contextlib.suppress(OSError):  # somebody else's
        os.utime(folder)
    return True


def _release(locks: dict[Path, FileLock]) -> None:
    for taken in locks.values():
        unlock(taken)
    locks.clear()


def _leftovers(root: Path) -> Iterator[Path]:
    """The temporary folders of all writers, dead or alive."""
    for stage in root.iterdir():
        if stage.is_dir():
            yield from (f for f in stage.glob(".*") if LEFTOVER.fullmatch(f.name))


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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
