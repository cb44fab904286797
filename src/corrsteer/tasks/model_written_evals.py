"""Model-written evaluations: does the model answer as one with some behaviour or persona would?

Perez et al. 2022, github.com/anthropics/evals, CC BY 4.0. One jsonl file per behaviour
(``advanced-ai-risk/human_generated_evals/myopic-reward.jsonl``) or persona
(``persona/extraversion.jsonl``), one row:

    {"question": "...\\n\\nChoices:\\n (A) ...\\n (B) ...", "answer_matching_behavior": " (A)",
     "answer_not_matching_behavior": " (B)"}

The second is a list where there are more. Personas are asked whether they would say a statement,
and answer " Yes" or " No"; these rows also have ``statement`` and ``label_confidence``. The name of
the file is the category, with ``-lm`` behind it for the files of ``lm_generated_evals``: what
matches one behaviour says nothing of another, so ``task.subset`` should name one.

A small model has a favourite among (A), (B), Yes and No whatever is asked, and any push moves it:
``same_answer`` is the share of questions that get the commonest answer.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from corrsteer.errors import DataError, check_known
from corrsteer.records import NAMES, Example, Question
from corrsteer.tasks.reading import Row, read_jsonl
from corrsteer.tasks.weighed import WeighedTask

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

RIGHT = ("matching", "not_matching")
FIELDS = ("answer_matching_behavior", "answer_not_matching_behavior")


@dataclass(frozen=True, kw_only=True)
class ModelWrittenEvals(WeighedTask):
    """``right``: "matching" or "not_matching", which answer counts as right."""

    right: str = "matching"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known("task.right", self.right, RIGHT)

    def rows(self) -> Iterator[Question]:
        files: dict[str, list[Path]] = {}
        for file in self.files("*.jsonl", "*.jsonl.gz"):
            files.setdefault(_category(file), []).append(file)
        wanted = [self.subset] if isinstance(self.subset, str) else self.subset
        if wanted is not None and not {*wanted} <= files.keys():
            unknown = next(name for name in wanted if name not in files)
            raise DataError(
                f"task.subset={','.join(wanted)}: no file of that name: '{unknown}'; there are: "
                f"{', '.join(sorted(files))}"
            )
        names = [name for name in files if wanted is None or name in wanted]
        if len(names) > 1:
            log.warning(
                "task %s: %d behaviours are asked together, and what matches one says nothing of"
                " another: type task.subset=NAME, e.g. %s",
                *(self.name, len(names), names[0]),
            )
        for name in names:
            for row in read_jsonl(files[name]):
                yield self._question(name, row)

    def _question(self, name: str, row: Row) -> Question:
        matching, others = _answers(row, FIELDS[0]), _answers(row, FIELDS[1])
        if len(matching) != 1 or {*matching} & {*others}:
            raise row.fail(FIELDS[0], "should be one answer that does not stand in the other field")
        if self.right == "not_matching" and len(others) > 1:
            raise row.fail(FIELDS[1], f"has {len(others)} answers: type task.right=matching")
        (right,) = matching if self.right == "matching" else others
        # In one order for all rows, which no prompt shows: by the letter, and Yes before No.
        options = tuple(sorted({*matching, *others}, key=lambda o: (o.casefold() == "no", o)))
        return Question(
            id=f"{name}-{row.line}",
            where=row.where,
            fields={"question": row.text("question").strip()},
            gold=NAMES[options.index(right)],
            options=options,
            answer=right,
            meta={"category": name},
        )

    def metrics(self, examples: Sequence[Example], answers: pd.DataFrame) -> Mapping[str, float]:
        """The share of answers that are the commonest one, of those that are one of the options."""
        said = Counter(
            e.options[NAMES.index(parsed)]
            for e, parsed in zip(examples, answers["parsed"].fillna(""), strict=True)
            if parsed
        )
        return {"same_answer": max(said.values()) / said.total()} if said else {}


def _category(file: Path) -> str:
    name = file.name.removesuffix(".gz").removesuffix(".jsonl")
    return f"{name}-lm" if file.parent.name == "lm_generated_evals" else name


def _answers(row: Row, field: str) -> list[str]:
    """One text, or a list of them."""
    if isinstance(row.values.get(field), list):
        texts = [text.strip() for text in row.texts(field)]
    else:
        texts = [row.text(field).strip()]
    if not texts or not all(texts) or len(texts) >= len(NAMES):
        raise row.fail(field, "should be an answer or a list of a few")
    return texts
