"""The stage cache: a result is computed once for all runs with the same relevant settings.

``<root>/<stage>/<key>/`` holds a stage's files and ``manifest.json``; the key is a hash of the
settings that can change the result, so an entry is never out of date. Every read checks the
files against the manifest: about 1 s per GB. Nothing is ever deleted: ``make clean-cache``.

No locks: two jobs that miss at once both compute, and the second one's work is dropped. While a
result is being made its parts can be kept in ``.<key>.partial/`` (:class:`Partial`), so that a
job that was killed goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from corrsteer.config import canonical
from corrsteer.errors import ConfigError

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"


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

    Raises ConfigError at once when the folder cannot be written: better than after an hour.
    ``log`` counts what happened, as in ``store.log["miss collect"]``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log: Counter[str] = Counter()
        self.check_writable()

    def check_writable(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise ConfigError(
                f"cannot write the cache folder {self.root}: {error.strerror};"
                " type cache=FOLDER to use another"
            ) from None

    def has(self, stage: str, settings: Mapping[str, Any], schema: int = 1) -> bool:
        """Whether the entry is there and unharmed."""
        return _flaw(self._entry(stage, settings, schema)) is None

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
        and leaves no entry. A harmed entry is moved to ``<key>.corrupt-<time>`` first.
        """
        entry = self._entry(stage, settings, schema)
        flaw = _flaw(entry)
        if flaw is None:
            self._count("hit", entry)
            return entry
        if entry.exists():
            log.warning("cache entry %s is harmed (%s): computed again", entry, flaw)
            _move_aside(entry)
        self._count("miss", entry)
        entry.parent.mkdir(parents=True, exist_ok=True)
        # Not mkdtemp: its 0700 would lock a cluster's other users out of a shared cache.
        work = entry.with_name(f".{entry.name}-{uuid.uuid4().hex}")
        work.mkdir()
        try:
            make(work)
            _write_manifest(work, stage, settings, schema)
            try:
                work.rename(entry)
            except OSError:
                if _flaw(entry) is not None:
                    raise
                log.info("cache entry %s was written by another job meanwhile", entry)
            else:
                _sync(entry.parent)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return entry

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
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"{name}-{hashlib.sha256(content).hexdigest()}"
        work = self._folder / f".{uuid.uuid4().hex}"
        work.write_bytes(content)
        work.rename(file)
        for old in self._folder.glob(f"{name}-*"):
            if old != file:
                old.unlink(missing_ok=True)

    def load(self) -> dict[str, bytes]:
        """All parts that are what was written, by name."""
        found = {}
        for file in sorted(self._folder.glob("[!.]*")):
            name, _, digest = file.name.rpartition("-")
            content = file.read_bytes()
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


def _flaw(entry: Path) -> str | None:
    """What is wrong with an entry, or None."""
    try:
        manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
        named = key(manifest["stage"], manifest["schema"], manifest["settings"])
        files = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return "no readable manifest"
    if named != entry.name:
        return "its manifest belongs to another entry"
    there = {f.relative_to(entry).as_posix() for f in entry.rglob("*") if f.is_file()}
    if there != {MANIFEST, *files}:
        return f"files were added or removed: {', '.join(sorted(there ^ {MANIFEST, *files}))}"
    for name, measured in files.items():
        # The size first: it is free, and tells a truncated file from a changed one.
        if (entry / name).stat().st_size != measured["bytes"]:
            return f"{name} has another size"
        if _measure(entry / name) != measured:
            return f"{name} has another content"
    return None


def _measure(file: Path) -> dict[str, Any]:
    with file.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}


def _move_aside(entry: Path) -> None:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    with contextlib.suppress(FileNotFoundError):  # another job moved it first
        entry.rename(entry.with_name(f"{entry.name}.corrupt-{stamp}"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
