"""MMLU-Pro: questions with up to ten options.

Wang et al. 2024, TIGER-AI-Lab/MMLU-Pro, Apache-2.0. Parquet files ``test*.parquet`` and
``validation*.parquet``; one row: question_id, question, options (list), answer (letter),
answer_index, cot_content, category. The five validation rows of each category are meant for
few-shot prompts: cot_content is their reasoning and ends in "The answer is (X)."
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from corrsteer.records import LETTERS, Question
from corrsteer.tasks.base import Task
from corrsteer.tasks.prompts import REASON
from corrsteer.tasks.reading import official_part, read_rows

_CONCLUSION = re.compile(r"\s*The answer is \(?[A-J]\)?\.?\s*$")


@dataclass(frozen=True, kw_only=True)
class MMLUPro(Task):
    def rows(self) -> Iterator[Question]:
        for row in read_rows(self.files("test*.parquet", "validation*.parquet")):
            options = row.texts("options")
            right = row.get("answer_index", int)
            if not (0 <= right < len(options) <= len(LETTERS)):
                raise row.fail("answer_index", f"is {right}, but there are {len(options)} options")
            worked = str(row.values.get("cot_content") or "")
            yield Question(
                id=str(row.get("question_id", int)),
                where=row.where,
                fields={"question": row.text("question")},
                gold=LETTERS[right],
                options=options,
                answer=LETTERS[right],
                solution=_CONCLUSION.sub("", worked).removeprefix(f"A:{REASON}").strip(),
                meta={"category": row.text("category")},
                part="shots" if official_part(row.file) == "validation" else "test",
            )
