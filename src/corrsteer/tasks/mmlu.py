"""MMLU: four-option questions in 57 subjects.

Hendrycks et al. 2021, github.com/hendrycks/test, MIT. One csv file without header per subject,
``test/<subject>_test.csv``, one row: question, four options, the letter of the right one. The
few-shot rows of ``dev/`` are not questions of the test and are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from corrsteer.records import LETTERS, Example
from corrsteer.tasks.base import Task
from corrsteer.tasks.prompts import multiple_choice
from corrsteer.tasks.reading import data_files, read_csv

COLUMNS = ("question", "A", "B", "C", "D", "answer")


@dataclass(frozen=True, kw_only=True)
class MMLU(Task):
    def examples(self) -> list[Example]:
        files = data_files(self.data, "mmlu", ["*_test.csv", "*_test.csv.gz"])
        examples = []
        for file in files:
            subject = file.name.split("_test.csv")[0]
            for number, row in enumerate(read_csv([file], COLUMNS)):
                options = tuple(row.get(letter) for letter in LETTERS[:4])
                answer = row.get("answer")
                if answer not in LETTERS[:4]:
                    raise row.fail("answer", f"is {answer!r}, not A, B, C or D")
                examples.append(
                    Example(
                        id=f"{subject}-{number}",
                        prompt=multiple_choice(row.get("question"), options),
                        gold=answer,
                        options=options,
                        meta={"category": subject},
                    )
                )
        return examples
