"""Tells text that no reader would take for an answer: loops and noise, as too much steering writes.

Pure Python without a model, about a millisecond for an answer of 200 words. Of a long text the end
is read. It is a repetition where loops, units repeated back to back, make up half of it, or where
most of its word triples have stood before; it is gibberish where too many neighbouring characters
never stand side by side in any language: "qx", "vK", "z#".

Not seen: fluent nonsense, a salad of real words, loops that vary in every round. Text in other
scripts than Latin can be a repetition, but is gibberish only where it mixes scripts.

Measured: flagged are 25 of 280,000 pieces of real text (5 to 200 words of novels, stories,
questions, answers, options and code; formulas and lists of one repeated word); 556 of 601 answers
of two small models that a person would call broken, under random vectors of 0.5 to 50 times the
residual's length, nearly all of them loops; every loop of up to 12 words in a text of 64 words,
none of 8 or more in 24; random characters, 25 % of texts of 24, 60 % of 50, 92 % of 100; random
tokens, 15 to 42 % where the vocabulary is mostly whole words, 99 % where it is fragments.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

_READ = 20_000
"""Characters that are read, from the end: a loop goes on to the end."""

_HALF = 0.5
"""Share of the text, in words or characters, that loops have to make up."""
_UNIT = 40
"""The longest unit that is looked for, in words."""
_LONG_UNIT = 12
_COPIES = (4, 3, 16)
"""Copies that make a loop: of a unit of under 12 words, of a longer one, of numbers or signs
alone. A refusal said twice and "no, no, no" are answers."""
_WITHIN = re.compile(r"(.{1,40}?)\1{5,}", re.DOTALL)
_WITHIN_CHARS, _WITHIN_DIGITS = 12, 40
"""A loop within words ("hahahahahaha") has 6 copies and this many characters, one of digits more:
1,000,000,000,000 and 0.3333333333333333 are numbers."""
_RULE = 0.8
"""Loops of signs without letters must make up this much instead: tables and headings have rules."""
_TRIPLES = 32
_SEEN = 0.6
"""Share of the word triples that stood in the text before, from this many words on."""

_NOISE = 0.1
_CHANCE = 3
"""Neighbouring characters that do not belong together: more than this share of all, and this
many on top, which a formula or a name can have."""

# After each letter, those that hardly ever follow it in a language with Latin letters: 155 of the
# 676 pairs, under 0.1 % of English.
_RARE_LETTERS = (
    "b-fgkmpqxz c-bdgjpvx d-bcpqx f-cdghknpvwxz g-fqvz h-cghpqxz i-w j-bcghmpqrvx k-bcpqxz "
    "l-xz m-kqxz o-q p-bgnqvxz q-bcdfghjklmnpqrtvwxyz r-jqx s-x t-g u-qv v-bcdfgjmqtwx "
    "w-bcfjkmpquvxz x-bdfgjklmoqrsvwxyz y-fghjkqvxz z-fjpqvx"
)
_RARE = {row[0] + letter for row in _RARE_LETTERS.split() for letter in row[2:]}
_CAPITAL = re.compile(r"[a-z][A-Z](?![a-z])")  # "vK", but neither "iPhone" nor "getItem"
# Hardly ever within a word. Signs of mathematics, LaTeX and code are left out.
_ODD = frozenset("#%&@;?!~")
_ENDS = frozenset(";?!")
_SIGNS = _ODD | frozenset("$^`\\|<>")
_BROKEN = frozenset("\ufffd") | {chr(code) for code in range(32)}
_LATEX = re.compile(r"\\[A-Za-z]+")

# Scripts without spaces between words: each character counts as a word.
_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_CHUNK = re.compile(rf"[{_SPACELESS}]|[^\s{_SPACELESS}]+")
_EDGE = re.compile(r"^[\W_]+|[\W_]+$")
_LETTER = re.compile(r"[^\W\d_]")


@lru_cache(2**16)  # most arms give most questions the same answer
def degenerate(text: str) -> str | None:
    """``repetition``, ``gibberish``, or None for everything else, the empty text included."""
    text = text[-_READ:]
    words = [word for word in map(_bare, _CHUNK.findall(text)) if word]
    triples = list(zip(words, words[1:], words[2:], strict=False))
    seen = len(triples) - len(set(triples))
    # Loops over half of the words repeat a triple for every 4 of them at least.
    if seen >= len(words) / 8 and _looping(words):
        return "repetition"
    if len(words) >= _TRIPLES and seen >= _SEEN * len(triples):
        return "repetition"
    if _looping_within(" ".join(text.split())):
        return "repetition"
    return "gibberish" if _noisy(_LATEX.sub(" ", text).split()) else None


def _bare(chunk: str) -> str:
    """In lower case and without marks around it, but signs alone stay as they are."""
    return _EDGE.sub("", chunk.casefold()) or chunk


def _looping(words: Sequence[str]) -> bool:
    looped = bytearray(len(words))
    for size in range(1, min(_UNIT, len(words) // min(_COPIES)) + 1):
        for start, end in _runs(words, size):
            short, long, numbers = _COPIES
            least = long if size >= _LONG_UNIT else short
            if not any(map(_LETTER.search, words[start : start + size])):
                least = numbers
            if end - start >= least * size:
                looped[start:end] = b"\1" * (end - start)
    return any(looped) and sum(looped) >= _HALF * len(words)


def _runs(words: Sequence[str], size: int) -> Iterator[tuple[int, int]]:
    """Where every word is the one ``size`` places before it; from the first copy on."""
    start = None
    for at in range(size, len(words) + 1):
        same = at < len(words) and words[at] == words[at - size]
        if same and start is None:
            start = at - size
        elif not same and start is not None:
            yield start, at
            start = None


def _looping_within(text: str) -> bool:
    looped = rules = 0
    for match in _WITHIN.finditer(text):
        length = match.end() - match.start()
        letters = _LETTER.search(match[1])
        digits = not letters and any(map(str.isdigit, match[1]))
        if length < (_WITHIN_DIGITS if digits else _WITHIN_CHARS):
            continue
        if letters:
            looped += length
        else:
            rules += length
    size = max(len(text), 1)
    return looped >= _HALF * size or looped + rules >= _RULE * size


def _noisy(chunks: Sequence[str]) -> bool:
    pairs: Counter[tuple[str, str]] = Counter()
    for chunk in chunks:
        pairs.update(zip(chunk, chunk[1:], strict=False))
    noisy = sum(count for pair, count in pairs.items() if _strange(*pair))
    noisy += sum(len(_CAPITAL.findall(chunk)) for chunk in chunks)
    return noisy >= _CHANCE + _NOISE * pairs.total()


@lru_cache(maxsize=1 << 16)
def _strange(left: str, right: str) -> bool:
    if left.isalpha() and right.isalpha():
        if left.lower() + right in _RARE:  # two capitals may be an abbreviation
            return True
        scripts = {_script(left), _script(right)}
        return len(scripts) == 2 and None not in scripts and scripts != {"latin", "east"}
    if left in _BROKEN or right in _BROKEN:
        return True
    if left in _SIGNS and right in _SIGNS:
        return left != right and bool({left, right} & _ODD)
    return (left in _ODD and right.isalpha()) or (right in _ODD - _ENDS and left.isalpha())


_SCRIPTS = (
    (0x0250, "latin"), (0x0400, None), (0x0530, "cyrillic"), (0x0590, None), (0x0600, "hebrew"),
    (0x0780, "arabic"), (0x0900, None), (0x0E00, "indic"), (0x0F00, "thai"), (0x1E00, None),
    (0x1F00, "latin"), (0x2E80, None), (0xD7B0, "east"),
)  # fmt: skip


def _script(letter: str) -> str | None:
    """Latin, East Asian, ...; None for Greek, which formulas mix with Latin, and rarer ones."""
    return next((name for end, name in _SCRIPTS if ord(letter) < end), None)
