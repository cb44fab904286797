"""MMLU: four-option questions in 57 subjects.

Hendrycks et al. 2021, github.com/hendrycks/test, MIT. One csv file without header per subject and
part, ``test/<subject>_test.csv``, ``val/<subject>_val.csv``, ``dev/<subject>_dev.csv``; one row:
question, four options, the letter of the right one. ``dev`` holds five questions per subject for
few-shot prompts. On the Hub the rows are parquet: question, subject, choices, answer (0 to 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from corrsteer.records import LETTERS, Question
from corrsteer.tasks.base import Task
from corrsteer.tasks.reading import Row, official_part, read_csv, read_parquet

COLUMNS = ("question", "A", "B", "C", "D", "answer")


@dataclass(frozen=True, kw_only=True)
class MMLU(Task):
    def rows(self) -> Iterator[Question]:
        patterns = [f"*_{part}.csv{gz}" for part in ("test", "val", "dev") for gz in ("", ".gz")]
        counts: dict[str, int] = {}
        for file in self.files(*patterns):
            for subject, row, options, right in _rows(file):
                part = official_part(file) or "test"
                group = subject if part == "test" else f"{subject}-{part}"
                number = counts[group] = counts.get(group, -1) + 1
                yield Question(
                    id=f"{group}-{number}",
                    where=row.where,
                    fields={"question": row.text("question")},
                    gold=LETTERS[right],
                    options=options,
                    answer=LETTERS[right],
                    meta={"category": subject},
                    part=part,
                )


def _rows(file: Path) -> Iterator[tuple[str, Row, tuple[str, ...], int]]:
    """(subject, row, options, index of the right one) of either form."""
    if file.suffix == ".parquet":
        for row in read_parquet([file]):
            options = row.texts("choices")
            right = row.get("answer", int)
            if not (0 <= right < len(options) <= len(LETTERS)):
                raise row.fail("answer", f"is {right}, but there are {len(options)} choices")
            yield row.text("subject"), row, options, right
        return
    name = file.name.split(".csv")[0]
    subject = name.rpartition("_")[0] if official_part(file) else name
    for row in read_csv([file], COLUMNS):
        answer = row.get("answer")
        if answer == "answer":
            raise row.fail("answer", "names a column; MMLU's csv files have no header: delete it")
        if answer not in tuple("ABCD"):
            raise row.fail("answer", f"is {answer!r}, not A, B, C or D")
        yield subject, row, tuple(row.get(letter) for letter in "ABCD"), "ABCD".index(answer)
