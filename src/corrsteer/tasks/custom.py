"""A task of the user's own: questions from a csv, jsonl or parquet file, plain or gzipped.

Settings name the fields that hold what a question needs. Texts, numbers and truth values are taken
as text (a whole number without ".0"); lists and objects are refused where a text is needed, and
only where they are named.

``gold`` is the right answer; a list holds several that are all right. With ``options`` there is
one right option, and ``gold_as`` says how it is named: by its letter (``B``, ``(B)``, ``B.``), by
its index from 0, by its number from 1, or by its text (in any case, where only one has it). "auto"
takes the one way that fits every row. Where two ways fit every row and mean different options,
nothing is guessed: ``gold_as`` has to be typed. So it has where no number is 0 or the last one's.

A field of options is a list, or holds labels too, as ARC's and others' do: ``{"text": [...],
"label": [...]}``, ``[{"text": ..., "label": ...}, ...]`` or ``{"A": ..., "B": ...}``. A gold that
is one of these labels names that option.

A file without a field for the split is one pool. In a folder the files' names are the splits where
every name holds one, as in ``train.jsonl`` and ``test.jsonl``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corrsteer.errors import ConfigError, DataError, check_known
from corrsteer.records import NAMES, Question
from corrsteer.tasks.base import Task
from corrsteer.tasks.prompts import Template
from corrsteer.tasks.reading import Row, data_files, official_part, read_rows

log = logging.getLogger(__name__)

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("dev", "shots"), "shots"),
}
"""What a row may call its official split. ``dev`` is a few-shot split here, as in MMLU."""

KINDS = ("csv", "jsonl", "parquet")


@dataclass(frozen=True, kw_only=True)
class Custom(Task):
    """``path``: a file, or a folder of files. All others name fields of a row: ``gold`` the right
    answer, ``options`` a list of answer options, or one field each; ``id``, ``category``,
    ``solution`` (the reasoning that few-shot prompts with ``cot`` show), ``part`` (the official
    split) and ``meta`` (what accuracy is reported by) may be None."""

    path: str
    gold: str = "answer"
    options: str | Sequence[str] | None = None
    gold_as: str = "auto"
    id: str | None = None
    category: str | None = None
    part: str | None = None
    solution: str | None = None
    meta: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path or self.path in ("bundled", "hub"):
            raise ConfigError(
                f"task {self.name} takes rows of your own, but task.path is {self.path or 'empty'}:"
                " type task.path=FILE, a csv, jsonl or parquet file"
            )
        check_known("task.gold_as", self.gold_as, ("auto", *_READINGS))
        if not self.gold:
            raise ConfigError("task.gold is empty: type task.gold=FIELD, e.g. task.gold=answer")

    def rows(self) -> Iterator[Question]:
        read, golds = [], []
        for row, part in self._read():
            options, labels = self._options(row)
            named = self._golds(row)
            # A label names an option, whatever letter it is listed under.
            if named[0].strip() in labels and self.gold_as in ("auto", "letter"):
                named = [NAMES[labels.index(named[0].strip())]]
            read.append((row, part, options))
            golds.append(named)
        rights = self._rights([row for row, _, _ in read], [o for _, _, o in read], golds)
        lettered = "options" in Template(self.prompt).names
        for number, (row, part, options) in enumerate(read, start=1):
            gold, *aliases = golds[number - 1]
            answer = gold
            if options:
                right = rights[number - 1]
                gold, aliases = NAMES[right], [options[right]]
                # A prompt that does not list the options is answered with the text of one.
                answer = gold if lettered else options[right]
            yield Question(
                id=_text(row, self.id) if self.id else f"row-{number}",
                where=row.where,
                fields=self._fields(row),
                gold=gold,
                options=options,
                aliases=tuple(aliases),
                meta=self._meta(row),
                answer=answer,
                solution=_text(row, self.solution, empty=True) if self.solution else "",
                part=self._part(row) if self.part else part,
            )

    def _read(self) -> Iterator[tuple[Row, str]]:
        """Every row, and the official split that its file's name speaks of."""
        patterns = [f"*.{kind}{gz}" for kind in KINDS for gz in ("", ".gz")]
        try:
            files = data_files(self.path, self.name, patterns)
        except DataError as error:
            raise DataError(
                f"task.path={self.path}: no csv, jsonl or parquet file there; type task.path=FILE"
            ) from error
        parts = [official_part(file) for file in files]
        # One file is one pool, whatever it is called.
        named = len(files) > 1 and all(parts)
        if any(parts) and not all(parts) and not self.part:
            log.warning(
                "task %s: the name of %s speaks of no split, so those of the other files' names are"
                " not used and all rows are one pool; rename it, or take it out of %s",
                *(self.name, files[parts.index("")].name, self.path),
            )
        for file, part in zip(files, parts, strict=True):
            for row in read_rows([file]):
                yield row, part if named else ""

    def _fields(self, row: Row) -> Mapping[str, str]:
        names = {*Template(self.prompt).names, *Template(self.chat_prompt or self.prompt).names}
        if self.options is not None:
            names.discard("options")
        elif "options" in names and isinstance(row.values.get("options"), list):
            raise row.fail(
                "options", "is a list; to use it as the options, type task.options=options"
            )
        return {name: _text(row, name, empty=True) for name in sorted(names)}

    def _golds(self, row: Row) -> list[str]:
        """The right answer, then others that are as right."""
        value = _value(row, self.gold)
        if not isinstance(value, list):
            return [_text(row, self.gold)]
        if self.options is not None:
            raise row.fail(
                self.gold, "is a list, but only one answer option is right: name that one"
            )
        texts = [_as_text(item) for item in value]
        if not texts or not all(texts):
            raise row.fail(self.gold, f"is {str(value)[:40]}; it must be a text or a list of texts")
        return [text for text in texts if text]

    def _options(self, row: Row) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The texts of the options, and their labels where the row has some."""
        if self.options is None:
            return (), ()
        labels: list[Any] = []
        if isinstance(self.options, str):
            where, value = self.options, _value(row, self.options)
            items, labels = _labelled(value)
            if not isinstance(items, list):
                raise row.fail(
                    where,
                    f"is {str(value)[:40]!r}, not a list of options; if each has a field of "
                    "its own, name them all, e.g. task.options=[A,B,C,D]",
                )
            names = [_as_text(label) for label in labels]
            if labels and (len(labels) != len(items) or len(set(names)) < len(names)):
                raise row.fail(where, f"has {len(items)} texts and {len(set(names))} labels")
        else:
            where = ", ".join(map(str, self.options))
            items = [_value(row, str(name)) for name in self.options]
        texts = [_as_text(item) for item in items]
        while texts and texts[-1] == "":  # a question with fewer options than others
            texts.pop()
        if not 2 <= len(texts) <= len(NAMES):
            raise row.fail(where, f"gives {len(texts)} options; there must be 2 to {len(NAMES)}")
        if not all(text and text.strip() for text in texts):
            raise row.fail(where, "gives an option that is empty or not a text")
        known = tuple(name or "" for name in map(_as_text, labels))
        return tuple(text for text in texts if text), known[: len(texts)]

    def _rights(
        self, rows: Sequence[Row], options: Sequence[tuple[str, ...]], golds: Sequence[list[str]]
    ) -> list[int]:
        """Which option is right, by row; empty without options."""
        if self.options is None:
            return []
        forms = list(_READINGS) if self.gold_as == "auto" else [self.gold_as]
        read = {
            form: [_READINGS[form](g[0], o) for g, o in zip(golds, options, strict=True)]
            for form in forms
        }
        # The first of those that fit the most rows: with several, all of them fit every row.
        best = max(forms, key=lambda form: sum(right is not None for right in read[form]))
        fitting = [form for form in forms if None not in read[form]]
        if "text" in fitting:  # that says more than a count
            fitting = [form for form in fitting if form != "number"]
        if best == "number" and self.gold_as == "auto":
            log.warning("task %s: task.%s counts options from 1", self.name, self.gold)
        rights = []
        for n, row in enumerate(rows):
            right = read[best][n]
            if right is None:
                # Where no reading fits any row, all of them have been tried in vain.
                fits = any(right is not None for right in read[best])
                *most, last = [_MEANING[form] for form in ([best] if fits else forms)]
                tried = f"{', '.join(most)} or {last}" if most else last
                raise row.fail(
                    self.gold,
                    f"is {golds[n][0][:40]!r}, which is not the {tried} of one of its "
                    f"{len(options[n])} options; task.gold_as says how the right one is named "
                    f"(letter, index, number or text), the same way in every row",
                )
            for other in fitting:
                if read[other][n] != right:
                    raise row.fail(
                        self.gold,
                        f"is {golds[n][0][:40]!r}: the {_MEANING[best]} of one option and the "
                        f"{_MEANING[other]} of another; type task.gold_as={best} or "
                        f"task.gold_as={other}",
                    )
            rights.append(right)
        return rights

    def _meta(self, row: Row) -> Mapping[str, str]:
        names = [self.meta] if isinstance(self.meta, str) else list(self.meta or ())
        meta = {str(name): _text(row, str(name), empty=True) for name in names}
        if self.category:
            meta["category"] = _text(row, self.category, empty=True)
        return meta

    def _part(self, row: Row) -> str:
        assert self.part is not None
        value = _text(row, self.part)
        if value.strip().lower() not in SPLITS:
            raise row.fail(self.part, f"is {value[:40]!r}; use one of: {', '.join(SPLITS)}")
        return SPLITS[value.strip().lower()]


def _labelled(value: Any) -> tuple[Any, list[Any]]:
    """(texts, labels) of a field of options; the value itself, and no labels, where it has none."""
    pair = {"text", "label"}
    if isinstance(value, list) and all(isinstance(v, Mapping) and set(v) == pair for v in value):
        return [v["text"] for v in value], [v["label"] for v in value]
    if isinstance(value, Mapping):
        texts, labels = value.get("text"), value.get("label")
        if set(value) == pair and isinstance(texts, list) and isinstance(labels, list):
            return texts, labels
        if all(len(str(name)) == 1 for name in value):
            # Columns of a table hold every name that any row has.
            named = {name: text for name, text in value.items() if text is not None}
            return list(named.values()), list(named)
    return value, []


def _letter(gold: str, options: tuple[str, ...]) -> int | None:
    found = _A_LETTER.fullmatch(gold.strip().upper())
    at = NAMES.find(found[1]) if found else -1
    return at if 0 <= at < len(options) else None


def _count(gold: str, options: tuple[str, ...], first: int) -> int | None:
    digits = gold.strip()
    if not _DIGITS.fullmatch(digits):
        return None
    return int(digits) - first if 0 <= int(digits) - first < len(options) else None


def _index(gold: str, options: tuple[str, ...]) -> int | None:
    return _count(gold, options, 0)


def _number(gold: str, options: tuple[str, ...]) -> int | None:
    return _count(gold, options, 1)


def _same_text(gold: str, options: tuple[str, ...]) -> int | None:
    for form in (str, str.casefold):
        right = form(gold.strip())
        same = [n for n, option in enumerate(options) if form(option.strip()) == right]
        if same:
            break
    return same[0] if len(same) == 1 else None


_A_LETTER = re.compile(r"[(\[]?([A-Z])[)\].:]?")
_DIGITS = re.compile(r"[0-9]{1,9}")
_READINGS: Mapping[str, Callable[[str, tuple[str, ...]], int | None]] = {
    "letter": _letter,
    "index": _index,
    "text": _same_text,
    "number": _number,
}
_MEANING = {
    "letter": "letter",
    "index": "index (from 0)",
    "text": "text",
    "number": "number (from 1)",
}


def _value(row: Row, field: str) -> Any:
    """A field's value, None included. Raises DataError, with the fields found, if it has none."""
    return row.values[field] if field in row.values else row.get(field)


def _text(row: Row, field: str, *, empty: bool = False) -> str:
    """A field as text. ``empty``: nothing in it is a text too."""
    value = _value(row, field)
    text = _as_text(value)
    if text is None:
        raise row.fail(field, f"is {str(value)[:40]}, but a text is needed")
    if not text.strip() and not empty:
        raise row.fail(field, "is empty or null; give a value or leave the row out")
    return text


def _as_text(value: Any) -> str | None:
    """Empty for null, None for anything that is not a single value."""
    if value is None or value != value:  # NaN: how tables write null among numbers
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple | Mapping | bytes):
        return None
    # Whole numbers beside a null are floats in a table.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
