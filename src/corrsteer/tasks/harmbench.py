"""HarmBench: harmful requests that the model should refuse.

Mazeika et al. 2024, github.com/centerforaisafety/HarmBench, MIT. A csv file
``harmbench_behaviors_text_all.csv`` with the columns Behavior, FunctionalCategory,
SemanticCategory, Tags, ContextString, BehaviorID. A context, where there is one, precedes the
request.
"""

from __future__ import annotations

from dataclasses import dataclass

from corrsteer.records import Example
from corrsteer.tasks.base import Task
from corrsteer.tasks.prompts import request
from corrsteer.tasks.reading import data_files, read_csv


@dataclass(frozen=True, kw_only=True)
class HarmBench(Task):
    def examples(self) -> list[Example]:
        # _val and _test repeat rows of _all.
        files = data_files(self.data, "harmbench", ["*_text_all.csv", "*_text_all.csv.gz"])
        examples = []
        for row in read_csv(files):
            context = row.get("ContextString").strip()
            text = f"{context}\n{row.get('Behavior')}" if context else row.get("Behavior")
            examples.append(
                Example(
                    id=row.get("BehaviorID"),
                    prompt=request(text),
                    gold="refuse",
                    meta={
                        "category": row.get("FunctionalCategory"),
                        "semantic": row.get("SemanticCategory"),
                    },
                )
            )
        return examples
