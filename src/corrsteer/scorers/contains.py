"""Scores an answer that may be a sentence: right where the right answer stands in it.

"The capital of Chile is Santiago." holds "Santiago". Whole words are looked for, in their order and
without others between, folded as ``exact`` folds them (``folding``): articles and marks do not
count, so "the U.S. and" holds "US". Within numbers marks do count, but for the commas between
thousands: 5 is not in "-5", nor 5.5 or 5/5 in "55". All of the reply is searched, but for what is
thought before it and what runs on after it. Nothing left of it is invalid.

What is said about the words is not read: "not Santiago" holds it, and so does an answer that names
ten cities. Where that matters, take ``exact`` or a judge. Scripts without spaces between words have
no whole words here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from corrsteer.records import Example, Score
from corrsteer.scorers.folding import FORMS, comparable, fold, rights
from corrsteer.scorers.reply import reply

_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_NUMBER_MARK = re.compile(
    r"(?<=[0-9])[.,:/^−‐‑–—-](?=[0-9])"
    r"|(?<![\w)\]−‐‑–—-])[−‐‑–-](?=[$£€¥₹]?\.?[0-9])|(?<![A-Za-z.])\.(?=[0-9])"
)
# Characters that folding keeps, in place of marks that it would delete.
_KEPT = {ord(mark): 0xE000 + n for n, mark in enumerate("-.,:/^")}
_KEPT |= dict.fromkeys(map(ord, "−‐‑–—"), _KEPT[ord("-")])
_BACK = {kept: mark for mark, kept in reversed(_KEPT.items())}


@dataclass(frozen=True)
class Contains:
    version: int = 1

    def __call__(self, example: Example, text: str) -> Score:
        said = _guarded(reply(text))
        for right in map(_guarded, rights(example)):
            # As folded as the right answer can be: "The" and "+" are nothing but what is dropped.
            form = next((form for form in FORMS if form(right)), None)
            if form and f" {form(right)} " in f" {form(said)} ":
                return Score(1.0, form(right).translate(_BACK))
        bare = any(not fold(right) for right in rights(example))
        return Score(0.0, (comparable if bare else fold)(said).translate(_BACK) or None)


def _guarded(text: str) -> str:
    """The marks of numbers as characters that are not folded away."""
    return _NUMBER_MARK.sub(lambda m: m[0].translate(_KEPT), _THOUSANDS.sub("", text))
