"""In what order options are listed, and what is told where that order, or its absence, decides.

Where one letter is right more often than the others, "always A" beats a model that thinks, and
steering towards a letter looks like skill.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from corrsteer.records import LETTERS, NAMES, Example, Question

UNLIKELY = 0.001
MUCH = 1.5
"""A letter is told of where chance makes it right so often less than once in 1,000 times, and it is
right this many times as often as by chance."""


def shuffled(question: Question, seed: int, lettered: bool = True) -> Question:
    """The question with its options in an order that its id and the seed decide.

    Whatever names an option by its letter follows: the gold, the notes and, where prompts are
    answered with letters (``lettered``), the answer of a solved question.
    """

    def place(index: int) -> bytes:
        return hashlib.sha256(f"{seed}\0options\0{question.id}\0{index}".encode()).digest()

    order = sorted(range(len(question.options)), key=place)
    letters = {NAMES[old]: NAMES[new] for new, old in enumerate(order)}
    answer = question.answer
    if lettered and answer is not None:
        answer = letters.get(answer, answer)
    return replace(
        question,
        options=tuple(question.options[old] for old in order),
        gold=letters.get(question.gold, question.gold),
        answer=answer,
        notes={name: letters.get(value, value) for name, value in question.notes.items()},
    )


def one_sided(questions: Iterable[Question]) -> str:
    """How often each letter is right, in words, where one is right more often than by chance;
    else empty."""
    rows = [q for q in questions if q.options and q.gold in LETTERS]
    right = Counter(q.gold for q in rows)
    told = []
    skewed = False
    for n, letter in enumerate(LETTERS):
        chances = [1 / len(q.options) for q in rows if len(q.options) > n]
        if not chances:
            break
        chance = sum(chances) / len(chances)
        share = right[letter] / len(chances)
        told.append(f"{letter} in {100 * share:.0f} %")
        if share > MUCH * chance and _at_least(right[letter], len(chances), chance) < UNLIKELY:
            skewed = True
    return f"of {len(rows)} rows {', '.join(told)}" if skewed else ""


def unlisted(examples: Sequence[Example]) -> bool:
    """Whether the questions have options that no prompt shows."""
    asked = [e for e in examples if e.options]
    return bool(asked) and not any(
        all(option in e.prompt for option in e.options if option) for e in asked
    )


def _at_least(hits: int, n: int, chance: float) -> float:
    """The probability of as many hits or more in n tries: the binomial distribution's tail."""
    if not 0 < chance < 1:
        return 1.0
    logs = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        + k * math.log(chance) + (n - k) * math.log1p(-chance)
        for k in range(hits, n + 1)
    )  # fmt: skip
    return min(1.0, math.fsum(map(math.exp, logs)))
