"""Scores a short answer: equal to the right one, or to an alias of it, after SQuAD's folding.

What is folded stands in ``folding``. Only the first line of the reply counts, or as many lines as
the right answer has. Nothing left of it is invalid, unless a right answer is itself made of
articles or punctuation ("The", "+"): then those are compared.
"""

from __future__ import annotations

from dataclasses import dataclass

from corrsteer.records import Example, Score
from corrsteer.scorers.folding import comparable, first_lines, fold, rights
from corrsteer.scorers.reply import reply


@dataclass(frozen=True)
class Exact:
    version: int = 3

    def __call__(self, example: Example, text: str) -> Score:
        return compare(example, reply(text))


def compare(example: Example, text: str) -> Score:
    for right in rights(example):
        parsed = comparable(first_lines(text, right))
        if parsed and parsed == comparable(right):
            return Score(1.0, parsed)
    bare = any(not fold(right) for right in rights(example))
    parsed = (comparable if bare else fold)(first_lines(text))
    return Score(0.0, parsed or None)
