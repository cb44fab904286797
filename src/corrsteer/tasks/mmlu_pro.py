"""MMLU-Pro: questions with up to ten options.

Wang et al. 2024, TIGER-AI-Lab/MMLU-Pro, Apache-2.0. Parquet files ``test*.parquet``, one row:
question_id, question, options (list), answer (letter), answer_index, category.
"""

from __future__ import annotations

from dataclasses import dataclass

from corrsteer.records import LETTERS, Example
from corrsteer.tasks.base import Task
from corrsteer.tasks.prompts import multiple_choice
from corrsteer.tasks.reading import data_files, read_parquet


@dataclass(frozen=True, kw_only=True)
class MMLUPro(Task):
    def examples(self) -> list[Example]:
        examples = []
        for row in read_parquet(data_files(self.data, "mmlu_pro", ["test*.parquet"])):
            options = tuple(map(str, row.get("options", list)))
            index = row.get("answer_index", int)
            if not (0 <= index < len(options) <= len(LETTERS)):
                raise row.fail("answer_index", f"is {index} with {len(options)} options")
            examples.append(
                Example(
                    id=str(row.get("question_id", int)),
                    prompt=multiple_choice(row.get("question"), options),
                    gold=LETTERS[index],
                    options=options,
                    meta={"category": row.get("category")},
                )
            )
        return examples
