"""Scores an answer that may be a sentence: right where the right answer stands in it.

"The capital of Chile is Santiago." holds "Santiago". Whole words are looked for, in their order and
without others between, folded as ``exact`` folds them (``folding``): articles and marks do not
count, so "the U.S. and" holds "US". All of the reply is searched, but for what is thought before it
and what runs on after it. Nothing left of it is invalid.

What is said about the words is not read: "not Santiago" holds it, and so does an answer that names
ten cities. Where that matters, take ``exact`` or a judge. Scripts without spaces between words have
no whole words here.
"""

from __future__ import annotations

from dataclasses import dataclass

from corrsteer.records import Example, Score
from corrsteer.scorers.folding import FORMS, comparable, fold, rights
from corrsteer.scorers.reply import reply


@dataclass(frozen=True)
class Contains:
    version: int = 1

    def __call__(self, example: Example, text: str) -> Score:
        said = reply(text)
        for right in rights(example):
            # As folded as the right answer can be: "The" and "+" are nothing but what is dropped.
            form = next((form for form in FORMS if form(right)), None)
            if form and f" {form(right)} " in f" {form(said)} ":
                return Score(1.0, form(right))
        bare = any(not fold(right) for right in rights(example))
        return Score(0.0, (comparable if bare else fold)(said) or None)
