"""Scores a short answer: equal to the right one after folding case, articles and punctuation.

The folding is SQuAD's (Rajpurkar et al. 2016). Only the first line of the answer counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from corrsteer.records import Example, Score

_ARTICLES = {"a", "an", "the"}


@dataclass(frozen=True)
class Exact:
    version: int = 1

    def __call__(self, example: Example, text: str) -> Score:
        parsed = _fold(text.strip().split("\n")[0])
        if not parsed:
            return Score(0.0, None)
        return Score(float(parsed == _fold(example.gold)), parsed)


def _fold(text: str) -> str:
    return " ".join(w for w in re.findall(r"\w+", text.casefold()) if w not in _ARTICLES)
