"""OpenBookQA: elementary science, four ways to go on.

Mihaylov et al. 2018, github.com/allenai/OpenBookQA, Apache-2.0. ``train.jsonl``, ``dev.jsonl`` and
``test.jsonl``, one row:

    {"id": "7-980", "question": {"stem": "...", "choices": [{"text": "...", "label": "A"}, ...]},
     "answerKey": "A"}

On the Hub the rows are parquet: id, question_stem, choices (an object of texts and labels),
answerKey. The stem is the prompt and an option goes on with it; compared per character, what
lm-eval calls acc_norm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corrsteer.records import LETTERS, Question
from corrsteer.tasks.reading import Row, official_part, read_rows
from corrsteer.tasks.weighed import WeighedTask


@dataclass(frozen=True, kw_only=True)
class OpenBookQA(WeighedTask):
    def rows(self) -> Iterator[Question]:
        for file in self.files("*.jsonl", "*.jsonl.gz", "*.parquet"):
            # Its dev split is a validation split, not one for few-shot prompts.
            part = official_part(file).replace("shots", "validation")
            for row in read_rows([file]):
                stem, options, labels = _asked(row)
                key = row.text("answerKey").strip()
                if key not in labels:
                    raise row.fail("answerKey", f"is {key!r}, not one of {', '.join(labels)}")
                right = labels.index(key)
                yield Question(
                    id=row.text("id"),
                    where=row.where,
                    fields={"question": stem},
                    gold=LETTERS[right],
                    options=options,
                    answer=options[right],
                    part=part,
                )


def _asked(row: Row) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Stem, texts and labels of either form."""
    if "question_stem" in row.values:
        choices = row.get("choices", dict)
        pairs = _pairs(row, "choices", choices.get("text"), choices.get("label"))
        return row.text("question_stem").strip(), *pairs
    question = row.get("question", dict)
    stem, listed = question.get("stem"), question.get("choices")
    if not isinstance(stem, str) or not stem.strip():
        raise row.fail("question", "should hold a text called 'stem'")
    if not isinstance(listed, list) or not all(isinstance(c, Mapping) for c in listed):
        raise row.fail("question", "should hold a list of objects called 'choices'")
    pairs = _pairs(row, "question", *([c.get(name) for c in listed] for name in ("text", "label")))
    return stem.strip(), *pairs


def _pairs(
    row: Row, field: str, texts: Any, labels: Any
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    for values in (texts, labels):
        if not isinstance(values, Sequence) or not all(
            isinstance(value, str) and value.strip() for value in values
        ):
            raise row.fail(field, "should hold a text and a label for each choice")
    if len(texts) != len(labels) or not 2 <= len(texts) <= len(LETTERS):
        raise row.fail(field, f"has {len(texts)} texts and {len(labels)} labels")
    return tuple(text.strip() for text in texts), tuple(label.strip() for label in labels)
