"""GSM8K: worded sums with a worked answer that ends in ``#### n``.

Cobbe et al. 2021, github.com/openai/grade-school-math, MIT. ``test.jsonl``, one row:
{"question": "...", "answer": "... #### 42"}.
"""

from __future__ import annotations

from dataclasses import dataclass

from corrsteer.records import Example
from corrsteer.tasks.base import Task
from corrsteer.tasks.prompts import sum_prompt
from corrsteer.tasks.reading import data_files, read_jsonl


@dataclass(frozen=True, kw_only=True)
class GSM8K(Task):
    def examples(self) -> list[Example]:
        examples = []
        for row in read_jsonl(data_files(self.data, "gsm8k", ["test.jsonl", "test.jsonl.gz"])):
            answer = row.get("answer")
            if "####" not in answer:
                raise row.fail("answer", "has no '#### n' at its end")
            examples.append(
                Example(
                    id=f"test-{row.line}",
                    prompt=sum_prompt(row.get("question")),
                    gold=answer.rsplit("####", 1)[1].strip(),
                )
            )
        return examples
