"""Parts of a result that is still being made, so that a job that was killed goes on."""

from __future__ import annotations

import hashlib
import re
import shutil
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path

from corrsteer.store.files import clear_way, is_folder, make_folder, one_line, read_plain, share

PART = re.compile(r"(?P<name>[^.].*)-(?P<written>[0-9a-f]{64})", re.DOTALL)


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
                    clear_way(self._folder)
                    make_folder(self._folder, self._folder.parents[1])
                    work.write_bytes(content)
                    share(work, self._folder.parents[1])
                    work.rename(file)
                    break
                except FileNotFoundError:  # another job has the result, and cleared the folder
                    if attempt == 9:
                        raise
                except OSError:
                    work.unlink(missing_ok=True)
                    raise
            for old, part in self._files():
                if part["name"] == name and old != file:
                    old.unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Of all parts."""
        return [part["name"] for _, part in self._files()]

    def load(self, names: Collection[str] | None = None) -> dict[str, bytes]:
        """All parts that are what was written, by name, or some of them."""
        parts = {}
        for file, part in self._files():
            if names is not None and part["name"] not in names:
                continue
            try:
                content = read_plain(file)
            except OSError:  # another job put a later one in its place, or it is none of ours
                continue
            if hashlib.sha256(content).hexdigest() == part["written"]:
                parts[part["name"]] = content
        return parts

    def _files(self) -> Iterator[tuple[Path, re.Match[str]]]:
        """What has the name of a part, in order; nothing where a link leads elsewhere."""
        for file in sorted(self._folder.iterdir()) if is_folder(self._folder) else ():
            if part := PART.fullmatch(file.name):
                yield file, part

    def clear(self) -> None:
        """Forget all parts: the result is in the store."""
        shutil.rmtree(self._folder, ignore_errors=True)
