"""Scores the end of a text by words of feeling: does a story, say, end happily or sadly?

The rules, in this order:

1. The text is case-folded and cut into sentences at ``.``, ``!``, ``?`` and line breaks. Only the
   last ``sentences`` of those that hold a word count; one that was cut off counts too.
2. Words are compared whole: neither "unhappy" nor "happ" is "happy".
3. A listed word is negated where one of the three words before it, in the same sentence, is
   not, no, never, nor, without, cannot or ends in n't. A negated wanted word counts as an
   unwanted one ("not happy"); a negated unwanted one does not count ("not sad" is not happy).
4. The last word that counts decides: ``wanted`` or ``unwanted``. No such word: invalid.

Right is what the example's gold says, ``wanted`` or ``unwanted``.

A list knows words, not who feels what: "Why are you sad?", "he wanted to be happy" and "the bad
cat was glad" count like any other, and what is told by deeds alone is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from corrsteer.errors import ConfigError
from corrsteer.records import Example, Score
from corrsteer.scorers.reply import reply

_SENTENCE_END = re.compile(r"[.!?\n]+")
# Letters of any script, with apostrophes inside.
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_NEGATIONS = {"not", "no", "never", "nor", "without", "cannot"}
_REACH = 3  # "not a very happy" is negated, "did not see that he was happy" is not


@dataclass(frozen=True)
class Words:
    """``wanted``, ``unwanted``: single words in lower case. ``sentences``: how many of the last
    sentences are looked at."""

    wanted: Sequence[str]
    unwanted: Sequence[str]
    sentences: int = 6
    version: int = 2

    def __post_init__(self) -> None:
        for name, words in (("wanted", self.wanted), ("unwanted", self.unwanted)):
            wrong = [w for w in words if not _WORD.fullmatch(w) or w != w.casefold()]
            if wrong or not words:
                raise ConfigError(
                    f"task.scorer.{name} must hold single words in lower case, "
                    f"e.g. [happy,glad], not {repr(wrong[0]) if wrong else 'nothing'}"
                )
        both = sorted(set(self.wanted) & set(self.unwanted))
        if both:
            raise ConfigError(
                f"task.scorer.wanted and task.scorer.unwanted both hold {', '.join(both)}: "
                "keep each word in one of them"
            )
        if self.sentences < 1:
            raise ConfigError(
                f"task.scorer.sentences={self.sentences} must be at least 1, "
                "e.g. task.scorer.sentences=6"
            )

    def __call__(self, example: Example, text: str) -> Score:
        folded = reply(text).casefold().replace("’", "'")
        sentences = [_WORD.findall(part) for part in _SENTENCE_END.split(folded)]
        for words in reversed([s for s in sentences if s][-self.sentences :]):
            for at in reversed(range(len(words))):
                parsed = self._feeling(words, at)
                if parsed is not None:
                    return Score(float(parsed == example.gold), parsed)
        return Score(0.0, None)

    def _feeling(self, words: Sequence[str], at: int) -> str | None:
        """What the word at a place of its sentence counts as; None when it does not count."""
        negated = any(map(_negates, words[max(0, at - _REACH) : at]))
        if words[at] in self.wanted:
            return "unwanted" if negated else "wanted"
        return "unwanted" if words[at] in self.unwanted and not negated else None


def _negates(word: str) -> bool:
    return word in _NEGATIONS or word.endswith("n't")
