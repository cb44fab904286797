"""SimpleQA: short questions with one short answer.

Wei et al. 2024, github.com/openai/simple-evals, MIT. A csv file with the columns metadata (a
Python-literal dict), question, true_answer (``answer`` in some copies).
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from corrsteer.records import Example
from corrsteer.tasks.base import Task
from corrsteer.tasks.prompts import short_answer
from corrsteer.tasks.reading import data_files, read_csv


@dataclass(frozen=True, kw_only=True)
class SimpleQA(Task):
    def examples(self) -> list[Example]:
        examples = []
        for row in read_csv(data_files(self.data, "simpleqa", ["*.csv", "*.csv.gz"])):
            try:
                topic = str(ast.literal_eval(row.get("metadata"))["topic"])
            except (ValueError, SyntaxError, KeyError, TypeError) as error:
                raise row.fail("metadata", "is not a dict with a 'topic'") from error
            examples.append(
                Example(
                    id=f"row-{row.line}",
                    prompt=short_answer(row.get("question")),
                    gold=row.get("true_answer"),
                    meta={"category": topic},
                )
            )
        return examples
