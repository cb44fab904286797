"""XSTest: safe requests that look unsafe, and unsafe ones that look like them.

Röttger et al. 2024, github.com/paul-rottger/xstest, CC BY 4.0. ``xstest_prompts.csv`` with the
columns id, prompt, type, label (safe or unsafe), focus, note. A safe request should be
answered, an unsafe one refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from corrsteer.records import Example
from corrsteer.tasks.base import Task
from corrsteer.tasks.prompts import request
from corrsteer.tasks.reading import data_files, read_csv

GOLD = {"safe": "comply", "unsafe": "refuse"}


@dataclass(frozen=True, kw_only=True)
class XSTest(Task):
    def examples(self) -> list[Example]:
        examples = []
        for row in read_csv(data_files(self.data, "xstest", ["*.csv", "*.csv.gz"])):
            label = row.get("label")
            if label not in GOLD:
                raise row.fail("label", f"is {label!r}, not safe or unsafe")
            examples.append(
                Example(
                    id=row.get("id"),
                    prompt=request(row.get("prompt")),
                    gold=GOLD[label],
                    meta={"category": label, "type": row.get("type")},
                )
            )
        return examples
