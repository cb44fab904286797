"""The folder that an export is written into: whole or not at all, and over nothing else."""

from __future__ import annotations

import filecmp
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corrsteer.errors import ConfigError, DataError
from corrsteer.store.files import errno_of, is_file, is_folder, read_plain

CARD = "card.md"
"""Of an export that was measured."""
BEGINS = "# A steering plan, exported"


@contextmanager
def written(out: Path) -> Iterator[Path]:
    """Yields an empty folder that becomes ``out`` when the block ends without an error.

    A folder that holds the very same files stays as it is. Raises DataError where ``out`` is
    something else, ConfigError where it cannot be written.
    """
    check_free(out)
    out = Path(os.path.abspath(out))  # "." has no name
    work = out.with_name(f".{out.name}-{uuid.uuid4().hex}")
    try:
        with _one_line(out):
            work.mkdir(parents=True)
        with _one_line(out):
            yield work
            if not _same(work, out):
                _move(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_free(out: Path) -> None:
    """Refuse what is no folder, before anything is computed."""
    if os.path.lexists(out) and not is_folder(out):
        raise DataError(f"{out} is there and is no folder: type --out FOLDER to use another")
    if not Path(os.path.abspath(out)).name:
        raise DataError(f"{out} is no place for an export: type --out FOLDER to use another")


def _move(work: Path, out: Path) -> None:
    if is_folder(out) and any(out.iterdir()):
        raise DataError(
            f"{out} holds other files than this export would write: delete it, or type --out FOLDER"
            " to use another"
        )
    work.rename(out)  # fails while anything is inside


def _same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files, to the byte; links are not followed."""
    if not is_folder(other):
        return False
    names, there = _names(one), _names(other)
    if names != there:
        return False
    if any((other / name).is_symlink() for name in names):
        return False
    same, _, _ = filecmp.cmpfiles(one, other, names, shallow=False)
    return sorted(same) == names


def _names(folder: Path) -> list[str]:
    """What is in it, but for the card of what was measured, and what Python leaves where a module
    was imported from."""
    return sorted(path.name for path in folder.iterdir() if path.name not in ("__pycache__", CARD))


def lay_card(out: Path, text: str) -> Path:
    """Write the card into an export, over an earlier one. ``text`` begins with BEGINS.

    Raises DataError where another's file has its name, ConfigError where it cannot be written.
    """
    card = out / CARD
    with _one_line(card):
        if os.path.lexists(card):
            try:
                ours = is_file(card) and read_plain(card).startswith(BEGINS.encode())
            except OSError:
                ours = False
            if not ours:
                raise DataError(f"{card} is not a card of this program: type --out FOLDER")
        work = out / f".{CARD}-{uuid.uuid4().hex}"
        try:
            work.write_text(text, encoding="utf-8")
            work.replace(card)
        finally:
            work.unlink(missing_ok=True)
    return card


@contextmanager
def _one_line(out: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        number = errno_of(error)
        if number is None:
            raise
        raise ConfigError(
            f"cannot write {out}: {os.strerror(number)}; type --out FOLDER to use another"
        ) from error
