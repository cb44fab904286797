"""Reads benchmark files: jsonl, csv and parquet, the first two plain or gzipped, in UTF-8.

Every error names the file, and for a malformed row its line and field. The line is that of the
file; of a csv row with line breaks inside quotes it is the last. Parquet has no lines, so its rows
are counted, from 1.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corrsteer.errors import DataError

_PART_NAMES = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_PART_NAMES |= {"dev": "shots"}

BUNDLED = Path(__file__).resolve().parent.parent / "bundled" / "data"


@dataclass(frozen=True)
class Row:
    """One row and where it stands, so that an error can say so."""

    file: Path
    line: int
    values: Mapping[str, Any]

    @property
    def where(self) -> str:
        return f"{self.file}, {'row' if self.file.suffix == '.parquet' else 'line'} {self.line}"

    def get(self, field: str, kind: type = str) -> Any:
        """The field's value. Raises DataError when it is missing, null or of another type."""
        if field not in self.values:
            raise DataError(
                f"{self.where}: field '{field}' is missing; "
                f"fields found: {', '.join(map(str, self.values))}"
            )
        value = self.values[field]
        if value is None:
            raise self.fail(field, "is null")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.fail(
                field,
                f"should be {kind.__name__}, got {type(value).__name__} {str(value)[:40]!r}",
            )
        return value

    def text(self, field: str) -> str:
        """A text with something in it: a question or an answer that is blank is a mistake."""
        value: str = self.get(field)
        if not value.strip():
            raise self.fail(field, "is empty")
        return value

    def texts(self, field: str) -> tuple[str, ...]:
        """A list of texts. Some may be empty: an option without text still has its letter."""
        values = self.get(field, list)
        for value in values:
            if not isinstance(value, str):
                raise self.fail(
                    field, f"should hold texts, got {type(value).__name__} {str(value)[:40]!r}"
                )
        return tuple(values)

    def fail(self, field: str, problem: str) -> DataError:
        return DataError(f"{self.where}: field '{field}' {problem}")


def data_files(data: str, task: str, patterns: Sequence[str]) -> list[Path]:
    """The files of a task: bundled, one file, or those in a folder that match ``patterns``."""
    root = BUNDLED / task if data == "bundled" else Path(data).expanduser()
    if not root.exists():
        raise DataError(
            f"no data at '{data}': the path does not exist; "
            f"give data=bundled or the folder with the original {task} files"
        )
    if root.is_file():
        return [root]
    files = sorted({f for pattern in patterns for f in root.rglob(pattern) if f.is_file()})
    if not files:
        raise DataError(
            f"no {task} files in '{data}': expected {' or '.join(patterns)}; "
            f"give data=bundled or the folder with the original {task} files"
        )
    return files


def official_part(file: Path) -> str:
    """The official split that a file's name speaks of, as in ``anatomy_val.csv``; "" for none."""
    words = re.split(r"[^a-z]+", file.name.lower())
    parts = [part for word, part in _PART_NAMES.items() if word in words]
    return parts[0] if len(parts) == 1 else ""


def read_rows(files: Iterable[Path]) -> Iterator[Row]:
    """Rows of files of any kind, by their names: csv with a header, jsonl or parquet."""
    readers = {".csv": read_csv, ".jsonl": read_jsonl, ".parquet": read_parquet}
    for file in files:
        kind = file.with_suffix("").suffix if file.suffix == ".gz" else file.suffix
        if kind not in readers:
            raise DataError(
                f"{file}: rows are read from csv, jsonl and parquet files; rename it so that its "
                "ending says which"
            )
        yield from readers[kind]([file])


def read_text(file: Path) -> str:
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        text = raw.decode("utf-8-sig")  # Excel begins a file with a byte order mark
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as UTF-8 text: {error}; is it complete?") from error
    if not text.strip():
        raise DataError(f"{file} is empty")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{file}, line {line}: a NUL byte, which text never has; is it complete?")
    return text


def read_jsonl(files: Iterable[Path]) -> Iterator[Row]:
    for file in files:
        # Not splitlines(): U+2028 and the like may stand inside a JSON string.
        for number, line in enumerate(read_text(file).split("\n"), start=1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{file}, line {number}: not JSON ({error.msg})") from error
            except RecursionError as error:
                raise DataError(f"{file}, line {number}: JSON nested too deeply") from error
            if not isinstance(values, dict):
                raise DataError(f"{file}, line {number}: a row should be a JSON object")
            yield Row(file, number, values)


def read_csv(files: Iterable[Path], columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Rows of csv files with a header, or with ``columns`` where the format has none."""
    for file in files:
        reader = csv.reader(io.StringIO(read_text(file)), strict=True)
        header = list(columns or ())
        try:
            for cells in reader:
                if not cells:
                    continue
                if not header:
                    header = cells
                    if len(set(header)) < len(header):
                        raise DataError(
                            f"{file}, line {reader.line_num}: two columns have the same name "
                            f"({', '.join(header)})"
                        )
                    continue
                if len(cells) != len(header):
                    raise DataError(
                        f"{file}, line {reader.line_num}: {len(cells)} fields, "
                        f"expected {len(header)} ({', '.join(header)})"
                    )
                yield Row(file, reader.line_num, dict(zip(header, cells, strict=True)))
        except csv.Error as error:
            raise DataError(f"{file}, line {reader.line_num}: not CSV ({error})") from error


def read_parquet(files: Iterable[Path]) -> Iterator[Row]:
    import pyarrow.parquet as pq
    from pyarrow.lib import ArrowException

    for file in files:
        try:
            rows = pq.read_table(file).to_pylist()
        except (OSError, ValueError, ArrowException) as error:
            problem = " ".join(str(error).split())
            raise DataError(f"{file} cannot be read as parquet: {problem}") from error
        for number, values in enumerate(rows, start=1):
            yield Row(file, number, values)
