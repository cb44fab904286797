"""Answers in a form in which they can be compared: the folding of SQuAD, in one place.

Rajpurkar et al. 2016: case is folded, punctuation is deleted (``U.S.`` is ``us``), the words a, an
and the are dropped, white space is one space. On ASCII text it is theirs to the letter. Beyond
ASCII it also deletes Unicode punctuation, so that a curly quote or an en dash does not make another
answer than a plain one, and control and format characters (null bytes, direction marks), which
nobody sees. Accents stay, spelled in one way (NFC). Compatibility forms stay too: NFKC would make
10² and 102 one answer.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable

from corrsteer.records import Example

_ARTICLES = {"a", "an", "the"}
_UNSEEN = {"Cc", "Cf"}


def fold(text: str) -> str:
    """The words of a text; empty where nothing but articles and punctuation stands."""
    return " ".join(word for word in _words(text) if word not in _ARTICLES)


def comparable(text: str) -> str:
    """As :func:`fold`, but an answer such as "The" or "+" keeps what it consists of."""
    return next((folded for form in FORMS if (folded := form(text))), "")


def rights(example: Example) -> tuple[str, ...]:
    return (example.gold, *example.aliases)


def first_lines(text: str, like: str = "") -> str:
    """As many lines from the start of an answer as the right answer has, mostly one: what a base
    model writes after its answer is the next question."""
    return "\n".join(text.strip().split("\n")[: like.strip().count("\n") + 1])


def seen(text: str) -> str:
    """Without what nobody sees: null bytes, direction marks, zero-width characters."""
    return "".join(
        c for c in text if c.isprintable() or c.isspace() or unicodedata.category(c) not in _UNSEEN
    )


def last_of(matches: Iterable[re.Match[str]]) -> re.Match[str] | None:
    """The last match, without keeping the others."""
    return next(iter(deque(matches, maxlen=1)), None)


def _unmarked(text: str) -> str:
    return " ".join(_words(text))


def _bare(text: str) -> str:
    return " ".join(_caseless(text).split())


FORMS: tuple[Callable[[str], str], ...] = (fold, _unmarked, _bare)
"""From the most folded to the least: without articles and marks, without marks, caseless."""


def _words(text: str) -> list[str]:
    return "".join(c for c in _caseless(seen(text)) if not _is_mark(c)).split()


def _is_mark(char: str) -> bool:
    return char in string.punctuation if char.isascii() else unicodedata.category(char)[0] == "P"


def _caseless(text: str) -> str:
    decomposed = unicodedata.normalize("NFD", text).casefold()
    return unicodedata.normalize("NFC", decomposed)
