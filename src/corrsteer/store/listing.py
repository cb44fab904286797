"""What the stage cache holds, and from where: ``python -m corrsteer cache``, or ``make cache``.

Reads names, sizes and manifests; it deletes only if told to, and nothing that was used within the
last day.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corrsteer.errors import DataError
from corrsteer.store.entries import DAY, LEFTOVER, LOCK
from corrsteer.store.files import discard, is_file, is_folder, read_plain, weigh
from corrsteer.store.verify import MANIFEST

_ENTRY, _UNFINISHED, _TEMPORARY, _ASIDE = "entry", "unfinished", "temporary", "damaged"
_KINDS = {
    re.compile(r"[0-9a-f]{32}"): _ENTRY,
    re.compile(r"\.[0-9a-f]{32}\.partial"): _UNFINISHED,
    LEFTOVER: _TEMPORARY,
    re.compile(r"[0-9a-f]{32}\.corrupt-.*"): _ASIDE,
}


@dataclass(frozen=True)
class Item:
    """One folder of the cache. ``used``: when it was last read (an entry) or written (others)."""

    path: Path
    kind: str
    bytes: int
    used: float
    origin: str

    @property
    def key(self) -> str:
        return self.path.name.lstrip(".")[:8]


def items(root: Path) -> list[Item]:
    """All that is in a cache and was put there by this module, by stage, the oldest first."""
    listed = []
    for stage in sorted(filter(is_folder, root.iterdir())):
        here = []
        for path in stage.iterdir():
            kind = next((k for p, k in _KINDS.items() if p.fullmatch(path.name)), None)
            if kind is not None and (is_folder(path) or kind == _ASIDE):
                parts = sum(1 for _ in path.glob("[!.]*")) if kind == _UNFINISHED else 0
                origin = f"{parts} parts" if kind == _UNFINISHED else _origin(path)
                here.append(Item(path, kind, *weigh(path), origin))
        listed += sorted(here, key=lambda item: item.used)
    return listed


def _origin(path: Path) -> str:
    try:
        return describe(json.loads(read_plain(path / MANIFEST).decode())["settings"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "no readable manifest"


def describe(settings: Mapping[str, Any]) -> str:
    """Settings in a few words: values first, then how many of what, then beginnings of hashes."""
    values: list[str] = []
    counts: list[str] = []
    hashes: list[str] = []

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping) and not all(k.isdecimal() for k in value):
            for inner, leaf in value.items():
                add(inner, leaf)
        elif isinstance(value, Mapping | list):
            if value:
                counts.append(f"{name} x{len(value)}")
        elif isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32,}", value):
            hashes.append(f"{name} {value[:6]}")
        elif value is True:
            values.append(name)
        elif isinstance(value, int | float | str) and value is not False and value != "":
            text = str(value)
            values.append(f"{name}={text if len(text) <= 32 else '...' + text[-29:]}")

    add("", settings)
    return ", ".join(values + counts + hashes)


def _delete(item: Item, before: float) -> bool:
    """Remove what was not used since; False if it was by now, or is no longer there."""
    if weigh(item.path)[1] >= before:
        return False
    doomed = item.path.with_name(f".{item.path.name.lstrip('.')[:32]}-{uuid.uuid4().hex}")
    try:
        item.path.rename(doomed)  # whoever stops this leaves no half of an entry
    except FileNotFoundError:
        return False
    with contextlib.suppress(FileNotFoundError):  # a job took it for a leftover
        discard(doomed)
    return True


def clear(root: Path) -> None:
    """Delete all that a cache has put into its folder, and the folder if that was all. No run may
    be working with it. Raises DataError for what cannot be deleted."""
    files = [LOCK, *(name for name, kind in _KINDS.items() if kind == _ASIDE)]
    try:
        for stage in filter(is_folder, root.iterdir() if root.is_dir() else ()):
            for path in stage.iterdir():
                own = files if is_file(path) else (*files, *_KINDS)
                if any(name.fullmatch(path.name) for name in own):
                    discard(path)
            with contextlib.suppress(OSError):
                stage.rmdir()
        with contextlib.suppress(OSError):
            root.rmdir()
        left = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    except OSError as error:
        raise DataError(f"cannot delete {error.filename}: {error.strerror}") from error
    if left:
        print(
            f"left in {root}, since the cache did not put it there: {', '.join(map(ascii, left))}"
        )


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _summary(listed: Sequence[Item]) -> list[list[str]]:
    """A row for each stage, and one for all."""
    rows = []
    stages = sorted({item.path.parent.name for item in listed})
    for stage in [*stages, None]:
        here = [item for item in listed if stage in (item.path.parent.name, None)]
        row = [stage or "total"]
        for kind in (_ENTRY, _UNFINISHED, _TEMPORARY, _ASIDE):
            some = [item.bytes for item in here if item.kind == kind]
            row.append(f"{len(some)} ({_size(sum(some))})" if some else "0")
        rows.append([*row, _size(sum(item.bytes for item in here))])
    return rows


def _print_table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]
) -> None:
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
        for row in (titles, *rows):
            cells = [
                cell.rjust(width) if title in right else cell.ljust(width)
                for cell, width, title in zip(row, widths, titles, strict=True)
            ]
            print("  ".join(cells).rstrip())
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_edge=False, padding=(0, 1, 0, 0))
    for title, *column in zip(titles, *rows, strict=True):
        table.add_column(
            title,
            justify="right" if title in right else "left",
            no_wrap=title != "from",  # the one that gives way on a narrow terminal
            min_width=None if title == "from" else max(map(len, column), default=0),
        )
    for row in rows:
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row))
    Console().print(table)


def show(folder: Path, *, entries: bool, older_than: float | None, delete: bool) -> None:
    """Print what a cache holds, by stage and with ``entries`` one by one; ``older_than`` days: only
    what was not used since, which ``delete`` deletes. Raises CorrSteerError."""
    if not folder.is_dir():
        raise DataError(
            f"there is no cache folder {folder}; a run makes one, outputs/cache unless cache=FOLDER"
            " says another"
        )
    try:
        listed = items(folder)
        inside = folder / "cache" if (folder / "cache").is_dir() else folder / "outputs" / "cache"
        # A cache that was emptied has folders of stages, and no file beside them.
        foreign = not listed and (inside.is_dir() or not all(p.is_dir() for p in folder.iterdir()))
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from error
    if foreign:
        such_as = f", such as {inside}" if inside.is_dir() else ", the setting cache of its runs"
        raise DataError(f"{folder} is no stage cache: give the folder of one{such_as}")
    before = time.time() - DAY * (older_than or 0)
    if older_than is not None:
        listed = [item for item in listed if item.used < before]
    if delete:
        assert older_than is not None and older_than >= 1  # a running job may need the rest
        try:
            listed = [item for item in listed if _delete(item, before)]
        except OSError as error:
            raise DataError(f"cannot delete {error.filename}: {error.strerror}") from error
        print("deleted:")
    if entries:
        rows = [
            [
                item.path.parent.name,
                item.key,
                item.kind,
                _size(item.bytes),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(item.used)),
                item.origin,
            ]
            for item in listed
        ]
        _print_table(("stage", "key", "what", "size", "last used", "from"), rows, ("size",))
    titles = ("stage", "entries", "unfinished", "temporary", "damaged", "size")
    _print_table(titles, _summary(listed), titles[1:])
