"""Scores a short answer by the words that it shares with the right one: SQuAD's F1.

Rajpurkar et al. 2016, section 6.1: 2PR / (P + R), where P is the share of the answer's words that
are in the right answer, and R the share of the right answer's words that are in the answer, a word
counted as often as it stands in both. Best over the right answer and its aliases. What a word is
stands in ``folding``; only as many lines count as the right answer has.

An answer counts as right from 0.5 on, so "not in Lisbon" is right where "Lisbon" is; where that
matters, take ``exact`` or a judge.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from corrsteer.records import Example, Score
from corrsteer.scorers.folding import comparable, first_lines, fold, rights
from corrsteer.scorers.reply import reply


@dataclass(frozen=True)
class TokenF1:
    version: int = 2

    def __call__(self, example: Example, text: str) -> Score:
        text = reply(text)
        best = 0.0
        for right in rights(example):
            answer = comparable(first_lines(text, right))
            best = max(best, _f1(answer.split(), comparable(right).split()))
        bare = any(not fold(right) for right in rights(example))
        parsed = (comparable if bare or best else fold)(first_lines(text))
        return Score(best, parsed or None)


def _f1(answer: list[str], right: list[str]) -> float:
    shared = (Counter(answer) & Counter(right)).total()
    return 2 * shared / (len(answer) + len(right)) if shared else 0.0
