"""GSM8K: worded sums with a worked answer that ends in ``#### n``.

Cobbe et al. 2021, github.com/openai/grade-school-math, MIT. ``train.jsonl`` and ``test.jsonl``,
one row: {"question": "...", "answer": "... = <<6*7=42>>42 ...\\n#### 42"}. The sums in double angle
brackets were meant for a calculator and are not text that a model should write. On the Hub the
same rows are parquet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from corrsteer.records import Question
from corrsteer.tasks.base import Task
from corrsteer.tasks.reading import official_part, read_rows

_CALCULATOR = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True, kw_only=True)
class GSM8K(Task):
    def rows(self) -> Iterator[Question]:
        numbers: dict[str, int] = {}
        patterns = [f"{part}.jsonl{gz}" for part in ("train", "test") for gz in ("", ".gz")]
        for row in read_rows(self.files(*patterns)):
            worked, marked, gold = row.get("answer").rpartition("####")
            if not marked or not gold.strip():
                raise row.fail("answer", "has no '#### n' at its end")
            part = official_part(row.file) or "test"
            numbers[part] = numbers.get(part, 0) + 1
            yield Question(
                id=f"{part}-{numbers[part]}",
                where=row.where,
                fields={"question": row.text("question")},
                gold=gold.strip(),
                answer=gold.strip(),
                solution=_CALCULATOR.sub("", worked).strip(),
                part=part,
            )
