"""TruthfulQA: does the model prefer what is true to what people often say?

Lin et al. 2022, github.com/sylinrl/TruthfulQA, Apache-2.0. ``TruthfulQA.csv`` with the columns
Type, Category, Question, Best Answer, Best Incorrect Answer, Correct Answers and Incorrect Answers
(these two separated by semicolons), Source. Answered by the likelihood of the answers' texts:
``binary`` weighs the best answer against the best incorrect one, as the authors advise since 2025;
``mc1`` against all incorrect ones. The data set on the Hub has no best incorrect answer; its rows
are question and mc1_targets, an object of choices and labels, 1 for the right one.

The six solved questions that the authors put before each prompt are not there; lm-eval's
truthfulqa_mc1 has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from corrsteer.errors import ConfigError, check_known
from corrsteer.records import NAMES, Question
from corrsteer.tasks.reading import Row, read_rows
from corrsteer.tasks.weighed import WeighedTask, right_and_wrong

KINDS = ("binary", "mc1")


@dataclass(frozen=True, kw_only=True)
class TruthfulQA(WeighedTask):
    """``kind``: "binary", the best answer against the best incorrect one; "mc1", against all
    incorrect ones."""

    kind: str = "binary"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known("task.kind", self.kind, KINDS)
        if self.data == "hub" and self.kind == "binary":
            raise ConfigError(
                "task.kind=binary: the data set on the Hub has no best incorrect answers; type "
                "data=PATH, the authors' TruthfulQA.csv, or task.kind=mc1"
            )

    def rows(self) -> Iterator[Question]:
        files = self.files("*.csv", "*.csv.gz", "*.parquet")
        for number, row in enumerate(read_rows(files)):
            published = "mc1_targets" in row.values
            options = _published(row) if published else self._written(row)
            meta = {} if published else {"category": row.text("Category"), "type": row.text("Type")}
            yield Question(
                id=f"question-{number}",
                where=row.where,
                fields={"question": row.text("question" if published else "Question").strip()},
                gold=NAMES[0],
                options=options,
                answer=options[0],
                meta=meta,
            )

    def _written(self, row: Row) -> tuple[str, ...]:
        """The options of a row in the authors' form, the right one first."""
        best = row.text("Best Answer").strip()
        if self.kind == "binary":
            field = "Best Incorrect Answer"
            return right_and_wrong(row, field, best, [row.text(field).strip()])
        field = "Incorrect Answers"
        parts = (part.strip() for part in row.text(field).split(";"))
        return right_and_wrong(row, field, best, [part for part in parts if part])


def _published(row: Row) -> tuple[str, ...]:
    field = "mc1_targets"
    targets = row.get(field, dict)
    choices, labels = targets.get("choices"), targets.get("labels")
    if not (isinstance(choices, list) and isinstance(labels, list) and labels.count(1) == 1):
        raise row.fail(field, "should hold a list of choices, and labels with a single 1")
    if len(choices) != len(labels) or not all(isinstance(c, str) and c.strip() for c in choices):
        raise row.fail(field, "should hold a text and a label for each choice")
    texts = [text.strip() for text in choices]
    right = texts.pop(labels.index(1))
    return right_and_wrong(row, field, right, texts)
