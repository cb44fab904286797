"""Scores a multiple-choice answer: the letter first, then the option's text.

An answer that names no option, or more than one, is invalid: a state of its own, because much
of a steering gain on multiple choice can be "emits a letter at all". An answer that is a letter and
the whole text of its option, "B. its text", names that option, whatever the text says: so an option
is written that was chosen by its likelihood. Else the rules, in this order:

1. A letter at the start, alone on its line or with a mark: ``B``, ``(B)``, ``**B**``, ``B.``,
   ``b)``, ``Option B``. A letter followed by prose is a word ("A potter").
2. A first line that is nothing but an option's text. To the letter it even outranks rule 1
   ("A and B only", "B. subtilis"), unless it is a letter alone.
3. What is stated anywhere: "the answer is B", "I choose B", ``\\boxed{B}``, "B is correct", or
   "the answer is" and an option's text. Two different statements are ambiguous. "answer: b" and
   "the option is b" name a letter where it ends its line.
4. Where nothing is stated so, a letter that is said in plain words and ends its clause: "It is B.",
   "Therefore, B.", "I'd say B because ...". What is only supposed ("if it is B") is not said.
5. The one option whose text stands in the answer as whole words; within a longer option's text a
   shorter one does not count.
6. A lower-case letter that is all of the reply: "b", "option b"; but "a" alone is an article.

What stands before "no wait" or "scratch that" is taken back, whatever it names.

Ambiguous, so invalid: two letters ("A or B"); a letter labelling another option's text ("B. <text
of C>", a letter that is another option's text, a first line that starts with one letter and states
another); options with equal texts; a letter that is not on offer. What the answer takes back in
the same clause is not named: "not B", "I can't say that it was the guard". What it says about an
option *after* naming it is not read: "the guard is innocent" names the guard.

With ``reasoning`` the answer is a chain of thought: its start means nothing, and the last stated
answer counts, be it a statement as in 3, else one as in 4, or a last line that is only a letter or
only an option's text. Without one it is invalid, however often options are mentioned.

Only the reply is read: not what is thought in ``<think>`` before it, nor the next question that a
base model goes on with (``reply``).

Only A to J are letters, not their look-alikes in other scripts. Every pattern is bounded, so that
time grows with the length of the answer and no faster.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from corrsteer.records import LETTERS, Example, Score, chosen
from corrsteer.scorers.folding import last_of, seen
from corrsteer.scorers.reply import reply

_NOUN = r"(?i:(?:option|choice|letter|answer)\s{1,3})"
# Marks before a letter; ~B, !B and ¬B are not B.
_MARKS = r"(?:[^\w~!¬≠]|_)"
_LETTER = r"([A-J]|[a-hj](?=[)\]}]))"
_END = r"(?=\s*\Z|[ \t]*\n|[.):;,\]}*`$>\"”]|__?(?![^\W_])|['’](?!\w)|\s?[–—]|\s-\s)"
# A and I are words: prose may follow them only where it cannot be their noun or verb.
_PROSE = r"(?=\s(?:because|since|as|for|due|given|and|or|but)\b)|(?<![AI])(?=\s)"

_LEAD = re.compile(rf"\A{_MARKS}*+(?:{_NOUN}{_MARKS}{{0,4}})?{_LETTER}{_END}")
_BARE = re.compile(rf"\A{_MARKS}*+([B-HJ])\s")  # "A guard" may name the option "guard"
_ALONE = re.compile(rf"\A{_MARKS}*+(?:{_NOUN}{_MARKS}{{0,4}})?{_LETTER}[\s.):;,\]}}*_`$>\"”'’]*\Z")
_AT = re.compile(rf"{_MARKS}{{0,16}}(?:{_NOUN}{_MARKS}{{0,4}})?{_LETTER}(?:{_END}|{_PROSE})")
_SECOND = re.compile(
    r"[^\w\n]{0,6}(?:(?:and|or|nor|vs)\b[^\w\n]{1,6}(?:option\s)?([A-J])\b(?!['’]\w)"
    r"|([A-J])(?=\s*\Z|\s*\n|[.):,;\]}*/]|\s(?:and|or)\b))"
)
_LABEL_END = re.compile(r"[\])*_]{0,4}[.):][*_]{0,2}|[\])*_]{0,4}\s[-–—](?=\s)|[\])*_\s]{1,4}")

_STATING = re.compile(
    r"\b(?:answer|option|choice|ans)\b[*_\"”]{0,3}\s{0,2}"
    r"(?:(?:is|was|(?:would|will|must|should|has\sto)\sbe)\b[*_\s]{0,4}:?|[:=])[*_]{0,3}"
    r"(?:\s{1,2}(?:therefore|thus|clearly|definitely|probably|most\slikely|likely|indeed|simply)\b)?"
    r"|\b(?:choose|chose|pick|select|go\swith|going\swith|answer|guess)\b"
    r"|\\boxed\s{0,2}(?=\{)",
    re.IGNORECASE,
)
# At the end of a line a lower-case letter is one, where a word that was cut off is unlikely: behind
# a colon, or where "option" is the noun. "The answer is b" may be cut off.
_SMALL = re.compile(
    r"(?:\b(?i:answer|option|choice|ans)\b[*_\"”]{0,3}\s{0,2}[:=][*_]{0,3}[ \t]{0,3}[*_]{0,3}"
    r"|\b(?i:option|choice)\sis\s[*_]{0,3}(?!a))([a-hj])"
    r"(?=[.*_]{0,3}[ \t]*(?:\n|\Z))"
)
_ONLY_SMALL = re.compile(
    rf"{_MARKS}{{0,8}}(?:{_NOUN}[*_]{{0,2}}|(?!a\s*\Z))([a-hj])[\s.:*_]{{0,8}}"
)
_CORRECTED = re.compile(r"\b(?:no,?\swait|wait,?\sno|scratch\sthat)\b\W{0,8}", re.IGNORECASE)
_CUE = (
    r"(?:(?:it|that|this)(?:\s|'\s?)(?:is|s|was|would\sbe|must\sbe|has\sto\sbe)"
    r"|therefore|thus|hence|so|consequently|probably|definitely|certainly|surely|clearly"
    r"|(?:i|i'd|i'll|i\swould|i\swill)\s(?:have\sto\s)?say|i\s(?:think|believe)|must\sbe"
    r"|(?:guess|pick|choice|vote|bet)\s(?:is|would\sbe))"
)
_SAID = re.compile(
    rf"(?<![\w'])(?i:{_CUE})[,:]?\s{{1,2}}(?i:(?:probably|likely|clearly|definitely)\s)?"
    rf"(?:{_NOUN})?[*_(\"“]{{0,4}}([A-HJ])"
    rf"(?:{_END}|(?=\s(?:because|since|as|due|given|or|and)\b))"
)
_SUPPOSED = re.compile(
    r"\b(?:if|whether|unless|suppose|supposing|assuming|assume|let's|might|could|why|when)\b",
    re.IGNORECASE,
)
_VERDICT = re.compile(
    rf"(?<![\w'’-]){_LETTER}[)\]*_\"”]{{0,4}}\s(?i:(?:is|would\sbe|must\sbe|seems)\s"
    r"(?:the\s|my\s)?(?:most\s|only\s)?(?:correct|right|best|answer|choice|appropriate)\b)"
)
_BEFORE_VERDICT = re.compile(r"([A-J])\W{1,3}(?:and|or)\W{1,8}(?:option\s)?\Z")

_CLAUSE = re.compile(r"[.!?;:,\n]|\b(?:but|so|however|therefore)\b", re.IGNORECASE)
_DENIED = re.compile(
    r"\bi\s(?:can(?:not|'t|\snot)|could(?:n't|\snot)|won't|will\snot|would(?:n't|\snot)"
    r"|do(?:n't|\snot)|did(?:n't|\snot)|am\s(?:not|unable)|must\snot|refuse|decline|never"
    r"|(?:really\s|strongly\s)?doubt)\b|\b(?:nobody|no\sone)\s(?:would|could|can|will|should)\b"
    r"|\bi'm\s(?:not|unable)\b|\bi'd\srather\snot\b|\b(?:not\strue|false|wrong)\sthat\b"
    r"|(?:\bnot|n't|\bnever|\bneither|\bnor|\bthan|\bexcept|\binstead\sof)\W{1,4}"
    r"(?:(?:the|a|an|option|choice|answer)\W{1,3}){0,2}\Z",
    re.IGNORECASE,
)
_TEX_FONT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf)\s?(?=\{)")

Named = set[str]
"""The letters an answer names at some place: none, one, or more where it is ambiguous."""


@dataclass(frozen=True)
class Choice:
    reasoning: bool = False
    version: int = 4

    def __call__(self, example: Example, text: str) -> Score:
        weighed = None if self.reasoning else chosen(text, example.options)
        if weighed is not None:
            return Score(float(weighed == example.gold), weighed)
        read = _reasoned if self.reasoning else _answered
        said, options = _normal(reply(text)).strip(), _normal_options(example.options)
        corrected = last_of(_CORRECTED.finditer(said))
        named = read(said[corrected.end() :] if corrected else said, options)
        small = _ONLY_SMALL.fullmatch(said)
        if small and not named:
            named = {small[1].upper()}
        letter = named.pop() if len(named) == 1 else ""
        parsed = letter if letter in LETTERS[: len(example.options)] else None
        return Score(float(parsed == example.gold), parsed or None)


def _normal(text: str) -> str:
    return _TEX_FONT.sub("", seen(text).replace("’", "'"))


@functools.lru_cache(maxsize=1024)
def _normal_options(options: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(_normal, options))


def _answered(text: str, options: tuple[str, ...]) -> Named:
    line = text.split("\n", 1)[0]
    lead = _LEAD.match(text)
    if lead and (lead[1] != "I" or len(options) > LETTERS.index("I")):
        # To the letter: "C" is not the text of an option "c".
        texts = _plainly(text, options) or _plainly(line, options)
        if texts and not _ALONE.match(line):
            return texts  # an option that begins with a letter: "A and B", "B. subtilis"
        named = _labelled(text, lead, options)
        if texts:
            return named & texts or named | texts
        return named.union(*(stated for _, stated in _statements(line, options)))
    bare = _BARE.match(line)
    labelled = _whole(line[bare.end() :], options) if bare else set()
    if bare and labelled:
        return {bare[1]} | labelled
    texts = _whole(text, options) or _whole(line, options)
    stated = [named for _, named in _statements(text, options)]
    said = [named for _, named in _plain_words(text, options)]
    named = texts or set().union(*stated) or set().union(*said)
    return named or _mentioned(text, options)


def _reasoned(text: str, options: tuple[str, ...]) -> Named:
    line = text.rsplit("\n", 1)[-1].strip()
    alone, lead = _ALONE.match(line), _LEAD.match(line)
    texts = _plainly(line, options)
    if alone:
        named = {alone[1].upper()}
        return named & texts or named | texts
    if lead and not texts and _label_of(line[lead.end(1) :], options):
        return _labelled(line, lead, options)
    stated = sorted(_statements(text, options), key=lambda place: place[0])
    stated = stated or list(_plain_words(text, options))
    return _whole(text, options) or _whole(line, options) or (stated[-1][1] if stated else set())


def _labelled(text: str, match: re.Match[str], options: tuple[str, ...]) -> Named:
    """The letter of a match, with another that stands beside it or whose text it labels."""
    letter = match[1].upper()
    rest = _line(text, match.end(1), options)
    labelled = _label_of(rest, options)
    if letter in labelled:
        return {letter}
    second = _SECOND.match(rest)
    others = labelled | {s for s in (second.groups() if second else ()) if s}
    return {letter} | others


def _label_of(rest: str, options: tuple[str, ...]) -> Named:
    """The letters of the options whose text is what stands after a letter, or its mark."""
    label = _LABEL_END.match(rest)
    return _whole(rest[label.end() :], options) if label else set()


def _whole(text: str, options: tuple[str, ...]) -> Named:
    """The letters of the options that the text is nothing but: to the letter, else folded."""
    return _plainly(text, options) or set(_forms(options, _loose).get(_loose(text), ()))


def _plainly(text: str, options: tuple[str, ...]) -> Named:
    return set(_forms(options, _plain).get(_plain(text), ()))


@functools.lru_cache(maxsize=2048)
def _forms(options: tuple[str, ...], form: Callable[[str], str]) -> dict[str, str]:
    """Form -> the letters of the options that have it."""
    letters: dict[str, str] = {}
    for letter, option in zip(LETTERS, options, strict=False):
        letters[form(option)] = letters.get(form(option), "") + letter
    letters.pop("", None)
    return letters


def _plain(text: str) -> str:
    return " ".join(text.split())


def _loose(text: str) -> str:
    return _plain(text).casefold().strip(" .!;,:*_`\"'“”‘")


def _statements(text: str, options: tuple[str, ...]) -> Iterator[tuple[int, Named]]:
    """(place, letters) of everything that the text states to be the answer."""
    for match in _STATING.finditer(text):
        line = _line(text, match.end(), options).lstrip(" \t*_:")
        inner = line.lstrip("\"'“({[$\\")
        texts = _whole(line, options) or _whole(inner, options)
        at = _AT.match(text, match.end())
        if at and (not texts or _ALONE.match(line)):
            named = _labelled(text, at, options)
            named = named & texts or named | _plainly(line.rstrip(". "), options)
        else:
            named = texts or _begun(inner, options)
        if named and not _denied(text, match.start()):
            yield match.start(), named
    for match in _SMALL.finditer(text):
        if not _denied(text, match.start()):
            yield match.start(), _plainly(match[1], options) or {match[1].upper()}
    for match in _VERDICT.finditer(text):
        if not _denied(text, match.start()):
            before = _BEFORE_VERDICT.search(text[max(0, match.start() - 24) : match.start()])
            yield match.start(), {match[1].upper()} | ({before[1]} if before else set())


def _plain_words(text: str, options: tuple[str, ...]) -> Iterator[tuple[int, Named]]:
    """(place, letters) of what is said in plain words to be the answer."""
    for match in _SAID.finditer(text):
        clause = _CLAUSE.split(text[max(0, match.start() - 120) : match.start()])[-1]
        if not _SUPPOSED.search(clause) and not _denied(text, match.start()):
            yield match.start(), _labelled(text, match, options)


def _line(text: str, start: int, options: tuple[str, ...]) -> str:
    """The rest of a line, no more of it than the longest option and some marks need."""
    return text[start : start + max(map(len, options), default=0) + 40].split("\n", 1)[0]


def _begun(text: str, options: tuple[str, ...]) -> Named:
    """The letters of the longest option that a text begins with."""
    for pattern, letters in _patterns(options):
        if pattern.match(text):
            return set(letters)
    return set()


def _mentioned(text: str, options: tuple[str, ...]) -> Named:
    """The letters of all options whose words stand in the text, outside of longer options."""
    named: Named = set()
    taken = bytearray(len(text))
    word = re.search(r"\w", text)
    first = word.start() if word else 0
    for pattern, letters in _patterns(options):
        for match in pattern.finditer(text):
            start, end = match.span()
            if taken[start] or taken[end - 1]:
                continue
            taken[start:end] = b"\1" * (end - start)
            # "no" is an option only where it starts the answer, not in "no idea".
            if end - start <= 3 and match[0].isalpha() and start > first:
                continue
            if not letters <= named and not _denied(text, start):
                named |= letters
    return named


@functools.lru_cache(maxsize=1024)
def _patterns(options: tuple[str, ...]) -> list[tuple[re.Pattern[str], frozenset[str]]]:
    """A pattern for the words of each option, longest first; equal words share one."""
    letters: dict[tuple[str, ...], set[str]] = {}
    for letter, option in zip(LETTERS, options, strict=False):
        words = tuple(re.findall(r"\w+", option.casefold()))
        if words:
            letters.setdefault(words, set()).add(letter)
    longest = sorted(letters, key=lambda words: -len(" ".join(words)))
    return [(_pattern(words), frozenset(letters[words])) for words in longest]


def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    # 1 is neither in 1.5 nor in -1.
    before = r"(?<![\w.,/−-])" if words[0][0].isdigit() else r"(?<!\w)"
    after = r"(?!\w|[.,/]\d)" if words[-1][-1].isdigit() else r"(?!\w)"
    return re.compile(before + r"\W{1,8}".join(words) + after, re.IGNORECASE)


def _denied(text: str, start: int) -> bool:
    """Whether the clause before a place takes back what stands there."""
    return bool(_DENIED.search(_CLAUSE.split(text[max(0, start - 120) : start])[-1]))
