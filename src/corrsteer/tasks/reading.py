"""Reads benchmark files: jsonl, csv and parquet, the first two plain or gzipped, in UTF-8.

Every error names the file, and for a malformed row its line and field. The line is that of the
file; of a csv row with line breaks inside quotes it is the last. Parquet has no lines, so its rows
are counted, from 1. A text that cannot be shown to a model is refused here, before one is loaded:
half a surrogate pair, a NUL. Numbers of single or half precision are read as they were written.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corrsteer.errors import DataError

log = logging.getLogger(__name__)

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


def _give(task: str) -> str:
    bundled = "data=bundled or " if (BUNDLED / task).exists() else ""
    return f"give {bundled}the folder with the original {task} files"


def data_files(data: str, task: str, patterns: Sequence[str]) -> list[Path]:
    """The files of a task: bundled, one file, or those in a folder that match ``patterns``."""
    root = BUNDLED / task if data == "bundled" else Path(data).expanduser()
    if not root.exists():
        raise DataError(f"no data at '{data}': the path does not exist; {_give(task)}")
    if root.is_file():
        return [root]
    found = {f for pattern in patterns for f in root.rglob(pattern)}
    files = sorted(f for f in found if f.is_file() and is_data(f.relative_to(root)))
    linked = {f for f in root.rglob("*") if f.is_symlink() and f.is_dir()}
    named = sorted(
        str(f.relative_to(root))
        for f in linked | {f for f in found if not f.exists() or not (f.is_file() or f.is_dir())}
        if is_data(f.relative_to(root))
    )
    if named:
        log.warning(
            "%s: not read, for they are no files: %s (links to folders, links that lead nowhere, "
            "pipes); put the files themselves there",
            *(data, ", ".join(named[:5]) + (f" and {len(named) - 5} more" if named[5:] else "")),
        )
    if not files:
        raise DataError(
            f"no {task} files in '{data}': expected {' or '.join(patterns)}; {_give(task)}"
        )
    return files


def is_data(file: Path) -> bool:
    """Whether a file of a folder, by its path in there, is data: not hidden, nor in a cache, nor a
    copy that a program left (``.ipynb_checkpoints``, ``.cache``, ``__MACOSX``, ``x.csv~``)."""
    hidden = any(p.startswith(".") or p in ("__pycache__", "__MACOSX") for p in file.parts)
    return not hidden and not file.name.endswith("~")


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
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}, line {line}: cannot be read as UTF-8 text: {error}; is it complete, and was"
            " it saved as UTF-8?"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
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
                values = json.loads(line, object_pairs_hook=_named_once)
            except KeyError as error:
                raise DataError(
                    f"{file}, line {number}: field {error.args[0]!r} stands there twice; keep one"
                ) from error
            except json.JSONDecodeError as error:
                raise DataError(f"{file}, line {number}: not JSON ({error.msg})") from error
            except ValueError as error:
                raise DataError(f"{file}, line {number}: a number too long to read") from error
            except RecursionError as error:
                raise DataError(f"{file}, line {number}: JSON nested too deeply") from error
            if not isinstance(values, dict):
                raise DataError(f"{file}, line {number}: a row should be a JSON object")
            row = Row(file, number, values)
            if _ESCAPED_FLAW.search(line):
                _check_texts(row)
            yield row


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises KeyError for a name that it has twice: Python would take the last."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise KeyError(next(name for name in names if names.count(name) > 1))
    return values


def read_csv(files: Iterable[Path], columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Rows of csv files with a header, or with ``columns`` where the format has none."""
    csv.field_size_limit(_LONGEST)
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
        field = ""
        try:
            with pq.ParquetFile(file) as opened:
                table = opened.read()
            columns: dict[str, list[Any]] = {}
            for field, column in zip(table.column_names, table.columns, strict=True):
                values = column.to_pylist()
                # Only where there are such numbers: it takes longer than reading.
                narrow = "float" in str(column.type)
                columns[field] = [_as_written(v, column.type) for v in values] if narrow else values
        except (OSError, ValueError, ArrowException) as error:
            problem = " ".join(str(error).split())
            where = f", field '{field}'" if field else ""
            raise DataError(f"{file}{where} cannot be read as parquet: {problem}") from error
        if len(columns) < len(table.column_names):
            names = ", ".join(table.column_names)
            raise DataError(f"{file}: two columns have the same name ({names})")
        for number in range(table.num_rows):
            row = Row(file, number + 1, {name: column[number] for name, column in columns.items()})
            _check_texts(row)
            yield row


def _as_written(value: Any, kind: Any) -> Any:
    """A value of an Arrow type, its numbers of 16 and 32 bits with the digits that make them: 0.2,
    where Python would go on with 0.20000000298."""
    import pyarrow.types as of

    if value is None:
        return None
    if of.is_dictionary(kind):
        return _as_written(value, kind.value_type)
    if of.is_float16(kind) or of.is_float32(kind):
        narrow = np.float16 if of.is_float16(kind) else np.float32
        # A whole number is exact; the fewest digits that tell 65504 from its neighbours are 65500.
        return float(value) if float(value).is_integer() else float(str(narrow(value)))
    if of.is_list(kind) or of.is_large_list(kind) or of.is_fixed_size_list(kind):
        return [_as_written(v, kind.value_type) for v in value]
    if of.is_struct(kind):
        return {f.name: _as_written(value.get(f.name), f.type) for f in kind}
    return value


_LONGEST = 2**31 - 1
"""Characters of a csv field, in place of Python's 131,072."""
_ESCAPED_FLAW = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_FLAW = re.compile("[\0\ud800-\udfff]")


def _check_texts(row: Row) -> None:
    """Raises DataError, naming the field, for a text that cannot be shown to a model."""
    for field, value in row.values.items():
        if flaw := _flaw(field) or _flaw(value):
            what = "a NUL character" if flaw == "\0" else "half a surrogate pair"
            name = field.encode(errors="backslashreplace").decode().replace("\0", "\\0")
            raise row.fail(
                name, f"holds {what} (\\u{ord(flaw):04x}), which no text has; correct the row"
            )


def _flaw(value: Any) -> str:
    """A character in a value that is in no text; empty if there is none."""
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, str):
            if found := _FLAW.search(part):
                return found[0]
        elif isinstance(part, Mapping):
            left += [*part, *part.values()]
        elif isinstance(part, list | tuple):
            left += part
    return ""
