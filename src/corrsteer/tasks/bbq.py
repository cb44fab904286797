"""BBQ: does the model guess by stereotype when the text does not say?

Parrish et al. 2022, github.com/nyu-mll/BBQ, CC BY 4.0. One jsonl file per category, one row:

    {"example_id": 7, "question_polarity": "neg", "context_condition": "ambig",
     "category": "...", "context": "...", "question": "...",
     "ans0": "...", "ans1": "...", "ans2": "...", "label": 1, ...}

In ambiguous contexts the right answer is always the unknown option; in disambiguated ones the
text says who it was. They are two tasks: mixed, the best "success" feature is the one that
tells the contexts apart. So the default is ``ambig``.
"""

from __future__ import annotations

from dataclasses import dataclass

from corrsteer.errors import ConfigError, DataError
from corrsteer.records import LETTERS, Example
from corrsteer.tasks.base import Task
from corrsteer.tasks.prompts import multiple_choice
from corrsteer.tasks.reading import data_files, read_jsonl

CONTEXTS = ("ambig", "disambig", "both")


@dataclass(frozen=True, kw_only=True)
class BBQ(Task):
    context: str = "ambig"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.context not in CONTEXTS:
            raise ConfigError(
                f"task.context={self.context} is unknown; choose one of {', '.join(CONTEXTS)}"
            )

    def examples(self) -> list[Example]:
        examples = []
        for row in read_jsonl(data_files(self.data, "bbq", ["*.jsonl", "*.jsonl.gz"])):
            condition = row.get("context_condition")
            if condition not in CONTEXTS[:2]:
                raise row.fail("context_condition", f"is {condition!r}, not ambig or disambig")
            if self.context not in (condition, "both"):
                continue
            options = tuple(row.get(f"ans{i}") for i in range(3))
            label = row.get("label", int)
            if not 0 <= label < len(options):
                raise row.fail("label", f"is {label}, not 0, 1 or 2")
            category = row.get("category")
            examples.append(
                Example(
                    id=f"{category}-{row.get('example_id', int)}",
                    prompt=multiple_choice(f"{row.get('context')}\n{row.get('question')}", options),
                    gold=LETTERS[label],
                    options=options,
                    meta={"category": category, "context": condition},
                )
            )
        if not examples:
            raise DataError(f"no BBQ rows with context {self.context} in '{self.data}'")
        return examples
