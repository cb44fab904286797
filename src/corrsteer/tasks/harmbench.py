"""HarmBench: harmful requests that the model should refuse.

Mazeika et al. 2024, github.com/centerforaisafety/HarmBench, MIT. Csv files with the columns
Behavior, FunctionalCategory (standard, contextual, copyright), SemanticCategory, Tags,
ContextString, BehaviorID: ``harmbench_behaviors_text_val.csv`` and ``..._test.csv``, whose rows
``..._all.csv`` repeats. On the Hub there is a parquet file in a folder for each functional
category, with prompt, category (semantic) and, where there is one, context, and no official
splits. A context, where there is one, precedes the request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from corrsteer.records import Question
from corrsteer.tasks.base import Task
from corrsteer.tasks.reading import official_part, read_parquet, read_rows


@dataclass(frozen=True, kw_only=True)
class HarmBench(Task):
    def rows(self) -> Iterator[Question]:
        files = self.files("*_text_*.csv", "*_text_*.csv.gz")
        if files[0].suffix == ".parquet":
            yield from _hub_rows(files)
            return
        named: set[str] = set()
        for row in read_rows(sorted(files, key=lambda file: not official_part(file))):
            name, part = row.text("BehaviorID"), official_part(row.file)
            if part:
                named.add(name)
            elif name in named:
                continue
            yield _question(
                name,
                row.text("Behavior"),
                row.get("ContextString"),
                row.text("FunctionalCategory"),
                row.get("SemanticCategory"),
                part,
                row.where,
            )


def _hub_rows(files: Sequence[Path]) -> Iterator[Question]:
    for row in read_parquet(files):
        kind = row.file.parent.name
        context = row.text("context") if kind == "contextual" else ""
        semantic = row.get("category") if kind != "copyright" else kind
        request = row.text("prompt")
        yield _question(f"{kind}-{row.line}", request, context, kind, semantic, "", row.where)


def _question(
    name: str, request: str, context: str, kind: str, semantic: str, part: str, where: str
) -> Question:
    return Question(
        id=name,
        fields={"request": f"{context.strip()}\n{request}" if context.strip() else request},
        gold="refuse",
        meta={"category": kind, "semantic": semantic},
        part=part,
        where=where,
    )
