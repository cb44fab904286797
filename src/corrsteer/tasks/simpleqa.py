"""SimpleQA: short questions with one short answer.

Wei et al. 2024, github.com/openai/simple-evals, MIT. A csv file with the columns metadata (a
Python-literal dict), question and true_answer; ``problem`` and ``answer`` in other copies.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from corrsteer.records import Question
from corrsteer.tasks.base import Task
from corrsteer.tasks.reading import Row, read_rows

_NOT_A_DICT = (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError)


@dataclass(frozen=True, kw_only=True)
class SimpleQA(Task):
    def rows(self) -> Iterator[Question]:
        for row in read_rows(self.files("*.csv", "*.csv.gz")):
            topic = _topic(row)
            copy = "problem" in row.values
            gold = row.text("answer" if copy else "true_answer")
            yield Question(
                id=f"row-{row.line}",
                where=row.where,
                fields={"question": row.text("problem" if copy else "question")},
                gold=gold,
                answer=gold,
                meta={"category": topic},
            )


def _topic(row: Row) -> str:
    try:
        topic = ast.literal_eval(row.get("metadata"))["topic"]
    except _NOT_A_DICT as error:
        raise row.fail("metadata", "is not a dict with a 'topic'") from error
    if not isinstance(topic, str) or not topic.strip():
        raise row.fail("metadata", f"has the topic {str(topic)[:40]!r}, which is not a text")
    return topic
