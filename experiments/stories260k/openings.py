"""Openings of children's stories, frozen with the SAEs that were trained on their continuations.

The first ``OPENINGS`` are those that the task ``stories`` asks; everything here uses later ones, so
that nothing is measured on what an SAE was trained on. One: "Mia was a little girl who lived by the
sea. One day, Mia lost her red ball in the park. She was sad."
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

GIRLS = (
    "Mia", "Anna", "Sue", "Amy", "Jane", "Kate", "Rose", "Ella", "Zoe", "Nina", "Eve", "Mary",
    "Lucy", "Emma", "Molly", "Sara",
)  # fmt: skip
BOYS = (
    "Tom", "Ben", "Sam", "Max", "Jack", "Tim", "Leo", "Dan", "Bob", "Joe", "Fred", "Nick",
    "Mark", "Pete", "Billy", "Andy",
)  # fmt: skip
KINDS = (
    "little {child}", "kind {child}", "small cat", "brown dog", "young bear", "little bird",
    "funny rabbit", "happy {child}",
)  # fmt: skip
HOMES = (
    "by the sea", "near a big hill", "on a farm", "in a small house", "next to the woods",
    "in a big town", "near a lake", "at the end of a long road",
)  # fmt: skip
THINGS = (
    "red ball", "toy car", "blue hat", "big book", "kite", "doll", "toy boat", "bag of nuts",
    "big cake", "new bag", "little drum", "shiny bell", "pink cup", "toy train", "warm coat",
    "pear",
)  # fmt: skip
PLACES = (
    "in the park", "in the garden", "at the beach", "at school", "in the woods", "at the shop",
    "on the hill", "by the river",
)  # fmt: skip
TROUBLES = {
    "lost": "{name} lost {their} {thing} {place}",
    "broken": "{name} fell {place} and {their} {thing} broke",
    "taken": "a big boy took {name}'s {thing} {place}",
    "refused": "{name} saw a {thing} {place}, but {their} mom said no",
    "fight": "{name} and a friend had a fight over a {thing} {place}",
    "rain": "{name} played with {their} {thing} {place}, but it began to rain",
    "hurt": "{name} ran to get {their} {thing} {place} and hurt {their} leg",
    "alone": "{name} had a {thing}, but no one came to play {place}",
    "scared": "{name} heard a loud noise {place} and dropped {their} {thing}",
    "stuck": "{name} saw that {their} {thing} was stuck in a tree {place}",
}
MOODS = (
    "{They} was sad.", "{They} did not know what to do.", "{They} began to cry.",
    "{They} was angry.", "{They} sat down to think.", "{They} went home.",
    "{They} looked for help.", "{They} wanted to try again.",
)  # fmt: skip

OPENINGS = 3600
"""How many the task asks. The stream goes on after them."""


def openings() -> Iterator[tuple[str, str]]:
    """(opening, kind of trouble), without end and none twice, always in the same order."""
    seen: set[str] = set()
    number = 0
    while True:
        text, trouble = _opening(hashlib.sha256(f"story {number}".encode()).digest())
        number += 1
        if text not in seen:
            seen.add(text)
            yield text, trouble


def _opening(dice: bytes) -> tuple[str, str]:
    """The opening, and its kind of trouble, that 32 random bytes choose."""

    def pick(n: int, items: tuple[str, ...]) -> str:
        # Two bytes, so that a list of any length is drawn from almost evenly.
        return items[int.from_bytes(dice[2 * n : 2 * n + 2], "big") % len(items)]

    girl = dice[-1] % 2 == 0
    words = {
        "name": pick(0, GIRLS if girl else BOYS),
        "child": "girl" if girl else "boy",
        "their": "her" if girl else "his",
        "They": "She" if girl else "He",
        "thing": pick(1, THINGS),
        "place": pick(2, PLACES),
    }
    trouble = pick(3, tuple(TROUBLES))
    text = (
        f"{{name}} was a {pick(4, KINDS)} who lived {pick(5, HOMES)}. "
        f"One day, {TROUBLES[trouble]}. {pick(6, MOODS)}"
    )
    return text.format(**words), trouble
