"""Plain text from files, to train SAEs on: any UTF-8 file, ``.gz``, or the field ``text`` of jsonl.

Files are read side by side, a piece of each in turn, so that the beginning of the stream has
something of all of them and no more is read than is needed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from corrsteer.errors import DataError

PIECE = 2**16  # characters; a piece ends at the end of a line
FIELD = "text"


def text_files(places: Sequence[str], setting: str) -> list[Path]:
    """The files that the places name, each a file or a folder with files (hidden ones and README
    left out). Raises DataError for a place that is not there or holds none."""
    files: list[Path] = []
    for place in places:
        path = Path(place).expanduser()
        if not path.exists():
            raise DataError(f"{setting}={place!r}: no such file or folder; give files with text.")
        found = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
        if path.is_dir():
            hidden = [f for f in found if any(p.startswith(".") for p in f.relative_to(path).parts)]
            found = [f for f in found if f not in hidden and not f.name.startswith("README")]
        if not found:
            raise DataError(f"{setting}={place!r} holds no files: give files with text.")
        files += found
    return files


def texts_digest(files: Sequence[Path]) -> str:
    """sha256 over the contents, in their order; names do not count."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


def texts(files: Sequence[Path]) -> Iterator[str]:
    """Pieces of at most about PIECE characters, from each file in turn. A row of jsonl is a piece.

    Raises DataError for a file that is not UTF-8 text or has a row without ``text``.
    """
    streams = [_pieces(file) for file in files]
    while streams:
        for stream in list(streams):
            piece = next(stream, None)
            if piece is None:
                streams.remove(stream)
            elif piece.strip():
                yield piece


def _pieces(file: Path) -> Iterator[str]:
    rows = file.name.removesuffix(".gz").endswith(".jsonl")
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rt", encoding="utf-8") as handle:
            if not rows:
                while lines := handle.readlines(PIECE):
                    yield "".join(lines)
                return
            for number, line in enumerate(handle, start=1):
                if line.strip():
                    yield _row(file, number, line)
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{file} is not text in UTF-8 ({error}): leave it out.") from error


def _row(file: Path, number: int, line: str) -> str:
    try:
        text = json.loads(line)[FIELD]
    except (ValueError, KeyError, TypeError):
        text = None
    if not isinstance(text, str):
        raise DataError(f"{file}, line {number}: no field {FIELD!r} with a text in it.")
    return text
