"""Scores a multiple-choice answer: the letter first, then the option's text.

An answer that names no option, or more than one, is invalid: a state of its own, because much
of a steering gain on multiple choice can be "emits a letter at all".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from corrsteer.records import LETTERS, Example, Score

# A letter on its own or followed by a mark. "A potter" is an article, not a choice.
_LEADING = re.compile(r"^\W*([A-J])(?:\s*$|\s*\n|\s*[.):,;\]*])")
_STATED = re.compile(r"\banswer(?:\s+is)?\s*:?\s*[(\[*]*([A-J])\b(?!['’])", re.IGNORECASE)


@dataclass(frozen=True)
class Choice:
    version: int = 1

    def __call__(self, example: Example, text: str) -> Score:
        letters = LETTERS[: len(example.options)]
        letter = _letter(text, letters) or _by_option_text(text, example.options)
        return Score(float(letter == example.gold), letter)


def _letter(text: str, letters: str) -> str | None:
    leading = _LEADING.match(text)
    if leading and leading[1] in letters:
        return leading[1]
    stated = {m[1] for m in _STATED.finditer(text) if m[1] in letters}
    return stated.pop() if len(stated) == 1 else None


def _by_option_text(text: str, options: tuple[str, ...]) -> str | None:
    """The letter of the one option whose text stands in the answer."""
    folded = _fold(text)
    found = [i for i, option in enumerate(options) if f" {_fold(option)} " in f" {folded} "]
    # "not the guard" contains "the guard": the longer option is the one that was named.
    named = [
        i
        for i in found
        if not any(j != i and f" {_fold(options[i])} " in f" {_fold(options[j])} " for j in found)
    ]
    return LETTERS[named[0]] if len(named) == 1 else None


def _fold(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
