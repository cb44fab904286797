"""Parts of a result that is still being made, so that a job that was killed goes on."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from pathlib import Path

from corrsteer.store.files import one_line


class Partial:
    """Parts of a result, each a name and its bytes. They belong to one result only: its settings
    are in the folder's name. Several jobs may write the same parts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, name: str, content: bytes) -> None:
        """Keep a part, in place of an earlier one of this name."""
        file = self._folder / f"{name}-{hashlib.sha256(content).hexdigest()}"
        work = self._folder / f".{uuid.uuid4().hex}"
        with one_line("write", self._folder.parents[1]):
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
        parts = {}
        for file in sorted(self._folder.glob("[!.]*")):
            name, _, written = file.name.rpartition("-")
            try:
                content = file.read_bytes()
            except FileNotFoundError:  # another job put a later one in its place
                continue
            if hashlib.sha256(content).hexdigest() == written:
                parts[name] = content
        return parts

    def clear(self) -> None:
        """Forget all parts: the result is in the store."""
        shutil.rmtree(self._folder, ignore_errors=True)
