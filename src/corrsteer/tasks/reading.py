"""Reads benchmark files: jsonl, csv and parquet, plain or gzipped.

Every error names the file, and for a malformed row its line and field.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corrsteer.errors import DataError

BUNDLED = Path(__file__).resolve().parent.parent / "bundled" / "data"


@dataclass(frozen=True)
class Row:
    """One row and where it stands, so that an error can say so."""

    file: Path
    line: int
    values: Mapping[str, Any]

    def get(self, field: str, kind: type = str) -> Any:
        """The field's value. Raises DataError when it is missing or of another type."""
        if field not in self.values:
            raise DataError(
                f"{self.file}, line {self.line}: field '{field}' is missing; "
                f"fields found: {', '.join(map(str, self.values))}"
            )
        value = self.values[field]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise DataError(
                f"{self.file}, line {self.line}: field '{field}' should be {kind.__name__}, "
                f"got {type(value).__name__} {str(value)[:40]!r}"
            )
        return value

    def fail(self, field: str, problem: str) -> DataError:
        return DataError(f"{self.file}, line {self.line}: field '{field}' {problem}")


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


def read_text(file: Path) -> str:
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        return raw.decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}; is the file whole?") from error


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
            if not isinstance(values, dict):
                raise DataError(f"{file}, line {number}: a row should be a JSON object")
            yield Row(file, number, values)


def read_csv(files: Iterable[Path], columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Rows of csv files with a header, or with ``columns`` where the format has none."""
    for file in files:
        reader = csv.reader(io.StringIO(read_text(file)), strict=True)
        header = list(columns) if columns else next(reader, [])
        try:
            for cells in reader:
                if not cells:
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

    for file in files:
        try:
            rows = pq.read_table(file).to_pylist()
        except (OSError, ValueError) as error:
            raise DataError(f"{file} cannot be read as parquet: {error}") from error
        for number, values in enumerate(rows, start=1):
            yield Row(file, number, values)
