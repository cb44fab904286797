"""IFEval: requests with instructions whose keeping a program can check.

Zhou et al. 2023, github.com/google-research/google-research (instruction_following_eval),
Apache-2.0. ``input_data.jsonl``, on the Hub ``ifeval_input_data.jsonl``, one row:
{"key": 1, "prompt": "Write ... without commas.", "instruction_id_list": ["punctuation:no_comma"],
"kwargs": [{}]}; ``kwargs`` go with the instructions by place, and an argument that is null is none.
The prompt is asked as it is, as the authors do. The right answer is the instructions, which the
scorer ``instructions`` reads. There is no text to show as solved, so no few-shot.

Replies need room: rows ask for up to 1,200 words, and what is cut off follows no lower bound and no
ending. Published numbers leave 1,280 tokens (``task.max_new_tokens``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from corrsteer.errors import DataError
from corrsteer.records import Example, Question
from corrsteer.tasks.base import Task
from corrsteer.tasks.reading import Row, read_rows

if TYPE_CHECKING:
    import pandas as pd


@runtime_checkable
class Checking(Protocol):
    """A scorer that knows instructions (corrsteer.scorers.instructions)."""

    def check(self, gold: str) -> None: ...

    def followed(self, gold: str, text: str, *, loose: bool) -> tuple[bool, ...]: ...


@dataclass(frozen=True, kw_only=True)
class IFEval(Task):
    def rows(self) -> Iterator[Question]:
        for row in read_rows(self.files("*input_data.jsonl", "*input_data.jsonl.gz")):
            names = row.texts("instruction_id_list")
            gold = json.dumps(_instructions(row, names), ensure_ascii=False)
            if isinstance(self.scorer, Checking):
                try:
                    self.scorer.check(gold)
                except DataError as error:
                    raise row.fail("kwargs", f"does not fit: {error}") from error
            families = sorted({name.partition(":")[0] for name in names})
            key = row.values.get("key")
            yield Question(
                id=str(key) if isinstance(key, int) else row.text("key"),
                where=row.where,
                fields={"prompt": row.text("prompt")},
                gold=gold,
                meta={
                    "category": families[0] if len(families) == 1 else "several",
                    "instructions": str(len(names)),
                },
            )

    def metrics(self, examples: Sequence[Example], answers: pd.DataFrame) -> Mapping[str, float]:
        """The authors' four numbers: the share of prompts whose instructions are all followed, and
        of instructions that are, strict and loose. None under another scorer."""
        if not isinstance(self.scorer, Checking):
            return {}
        found = {}
        for name, loose in (("strict", False), ("loose", True)):
            kept = [
                self.scorer.followed(example.gold, text, loose=loose)
                for example, text in zip(examples, answers["answer"], strict=True)
            ]
            each = [good for some in kept for good in some]
            found[f"{name}_prompt"] = sum(map(all, kept)) / len(kept)
            found[f"{name}_instruction"] = sum(each) / len(each)
        return found


def _instructions(row: Row, names: Sequence[str]) -> list[dict[str, Any]]:
    """What the scorer reads: every instruction with its arguments."""
    given = row.get("kwargs", list)
    if not names:
        raise row.fail("instruction_id_list", "is empty")
    if len(given) != len(names):
        raise row.fail("kwargs", f"has {len(given)} entries for {len(names)} instructions")
    listed = []
    for name, arguments in zip(names, given, strict=True):
        if arguments is not None and not isinstance(arguments, Mapping):
            raise row.fail("kwargs", f"should hold objects, got {arguments!r:.40}")
        kept = {key: _whole(v) for key, v in (arguments or {}).items() if v is not None}
        if "instruction" in kept:
            raise row.fail("kwargs", "names an instruction itself: instruction_id_list does that")
        listed.append({"instruction": name, **dict(sorted(kept.items()))})
    return listed


def _whole(value: Any) -> Any:
    """A whole number, where a column with gaps has made it 3.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
