"""Scores a sum: the number that the answer comes to.

Where it stands, the first of these that the answer has:

1. after the last ``####``: the first number (GSM8K's own form);
2. in the last ``\\boxed{}``: the first number;
3. after the last "answer is", "answer:" or "answer =": the number that follows at once;
4. the last number, but for one that is set against another: "8, not 7" is 8.

A sum in place of a number counts for what it comes to: ``3 + 4 = 7`` is 7, and so are "3 plus 4
equals 7" and "3 + 4, which is 7"; "2 hours and 30 minutes, i.e. 150 minutes" is 150. A place named
by 1 or 2 that holds no number makes the answer invalid. Only the reply is read (``reply``).

What a number is: ASCII digits in English notation, ``1,234.50``, with sign (``-5``, ``−5``),
currency (``$18``, ``-$3``, ``18 €``), per cent (``50%`` is 50), unit (``5kg``, ``30^\\circ``),
exponent (``1e3``), thousands (``70k``; with currency in front also ``$3M`` and ``$2B``; and
``70 million``); whole fractions ``3/4`` and ``1 1/2``, also as ½, ``\\frac{3}{4}`` or
``\\frac34``. Spaces of any kind (``70 000``) and LaTeX's ``{,}`` separate thousands; ``1.234`` is
a decimal.

Not numbers, and passed over: digits glued to letters (``B12``, ``x_1``), exponents of units
(``m^2``), digits of other scripts, number words.

Not guessed at, so invalid where they are the answer: other notations (``1.234,50``, ``3,50``,
``12,34,567``), times, dates and ratios (``3:30``, ``2024-05-01``, ``1/2/3``), ranges (``3-5``),
powers (``10^3``, ``10²``), ``n/0``, "not 5", "5 or 6", and what has more than 50 digits or an
exponent beyond 50.

What prose says around the last number is not read: "I cannot say it is 18" is 18.

Numbers are compared as fractions, so exactly; the report shows them as decimals where they end.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

from corrsteer.records import Example, Score
from corrsteer.scorers.folding import last_of, rights
from corrsteer.scorers.reply import reply

_MOST = 50
"""Digits of a number and size of its exponent: beyond it nobody counts, and memory is safe."""

# Digits with every mark that can join them; whether they form a number is decided afterwards.
_RUN = r"(?:[0-9]+ (?=[0-9]+/))?\.?[0-9]+(?:[.,:/^−–-]+[0-9]+)*+"
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_^])(?<![A-Za-z0-9_][.,:/])(?<!\^\{)(?<!\^[-−–])(?<!\^\{[-−–])"
    r"(?P<sign>(?<![-+−–)\]])[-+−–])?\\?[$£€¥₹]?(?P<inner>(?<=[$£€¥₹])[-+−–])?"
    rf"(?P<run>(?>{_RUN}))(?P<exponent>(?>[eE][-+−]?[0-9]+)(?![A-Za-z0-9_]))?"
    r"(?![A-Za-z_]+[0-9])"
)
_ENGLISH = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?")
_FRACTION = re.compile(r"(?:([0-9]+) )?([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)/([0-9]+)")
_STATED = re.compile(
    r"\banswer\b[*_\"”]{0,3}[ \t]{0,2}(?:(?:is|was)\b|[:=])[^\w\n.+−–$£€¥₹\\-]{0,12}"
    r"(?:[a-z][ \t]?=[ \t]?)?(?=[.+−–$£€¥₹\\-]{0,4}[0-9])",
    re.IGNORECASE,
)
_BOX = re.compile(r"\\boxed\s{0,2}\{")
# Denied, one of two, or what is taken from another number.
_UNSURE_BEFORE = re.compile(
    r"(?:(?:\bnot|n't|\bnever)\s{1,3}|[0-9]\sor\s\W{0,3}|[0-9][-−–])\Z", re.IGNORECASE
)
_UNSURE_AFTER = re.compile(r"\^|\s(?:or|to)\s[^\w\n]{0,3}[0-9]", re.IGNORECASE)
# What stands before a number that the writer sets against the one that is meant.
_AGAINST = re.compile(
    r"(?:[,;(–—-]\s?|\band\s|\bbut\s)(?:and\s|but\s)?not\s(?:the\s)?\Z"
    r"|\b(?:rather\sthan|instead\sof|as\sopposed\sto)\s(?:the\s)?\Z",
    re.IGNORECASE,
)
_SIGN_WORDS = r"plus|minus|times|multiplied\sby|divided\sby"
_EQUAL_WORDS = r"is|equals|makes|gives|comes\sto|is\sequal\sto"
# A sum up to the last of its equals signs; what it comes to follows.
_TERM = (
    r"(?>[-+−–({\\$£€¥₹ ]{0,4}(?:[0-9]{1,9} (?=[0-9]{1,9}/))?[0-9][0-9.,/]{0,40}[!%)}]{0,2}"
    rf"(?: ?(?!(?:x|of|and|{_SIGN_WORDS}|which|that|{_EQUAL_WORDS})\b)"
    r"[A-Za-z]{1,12}(?:/[A-Za-z]{1,12})?)?)"
)
_SIGN = rf"(?> ?(?:[-+−–*/×÷·x^]|\\(?:times|cdot|div)|of|{_SIGN_WORDS}) ?)"
_EQUALS = r"(?> ?(?:[=≈≃≅]|\\approx) ?)"
_IN_WORDS = rf"(?>,?\s(?:which\s|that\s)?(?:{_EQUAL_WORDS})\s)"
_SUM = re.compile(
    rf"(?:(?:{_TERM}(?:{_SIGN}{_TERM}){{1,20}}|[0-9]{{1,9}}!)(?:{_EQUALS}|{_IN_WORDS})"
    rf"|{_TERM}(?:\sand\s{_TERM}){{1,5}}(?:{_EQUALS}|,?\s\(?(?:i\.e\.|that\sis),?\s))++"
    r"(?=[-+−–$£€¥₹\\(]{0,4}[.]?[0-9])"
)
_TEX_PART = r"\s?(?:\{([0-9,]{1,60})\}|([0-9]))"
_TEX_FRACTION = re.compile(rf"([0-9]?)\s?\\[dt]?frac{_TEX_PART}{_TEX_PART}(?![0-9])")
_TEX_GROUP = re.compile(r"(?<=[0-9])(?:\{,\}|\\,|[\u00a0\u2009\u202f])(?=[0-9]{3})")
_SPACE_GROUP = re.compile(r"(?<![\w.,/^])[0-9]{1,3}(?: [0-9]{3}){1,16}+(?![0-9_/^])")
_DEGREES = re.compile(r"\^\s?(?:\{\s?)?(?:\\circ\b|°)\s?\}?|\\degrees?\b")
_SPACED = re.compile(r"(?<=[0-9]) / (?=[0-9])")
_CURRENCY = "$£€¥₹"
_SCALE = re.compile(r"(?:[kKmMB]|\s(?i:thousand|million|billion|trillion))(?![A-Za-z0-9_])")
_SCALES = {"k": 10**3, "m": 10**6, "b": 10**9}
_SCALES |= {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_VULGAR = {c: unicodedata.normalize("NFKC", c).replace("\u2044", "/") for c in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"}
_VULGAR_FRACTION = re.compile(f"([0-9]?)[ ]?([{''.join(_VULGAR)}])")


@dataclass(frozen=True)
class Numeric:
    version: int = 3

    def __call__(self, example: Example, text: str) -> Score:
        number = read(reply(text))
        if number is None:
            return Score(0.0, None)
        return Score(float(any(number == read(r) for r in rights(example))), _written(number))


def read(text: str) -> Fraction | None:
    """The number that a text comes to; None where there is none, or none that is certain."""
    text = _DEGREES.sub("°", _TEX_GROUP.sub(",", text))
    text = _SPACE_GROUP.sub(lambda m: m[0].replace(" ", ","), text)
    text = _TEX_FRACTION.sub(lambda m: f"{_apart(m[1])}{m[2] or m[3]}/{m[4] or m[5]}", text)
    text = _VULGAR_FRACTION.sub(lambda m: f"{_apart(m[1])}{_VULGAR[m[2]]}", text)
    text = _SPACED.sub("/", text.replace("\u2044", "/").replace("’", "'"))
    place = _place(text)
    if place is not None:
        return _value(_first(place, 0))
    stated = last_of(_STATED.finditer(text))
    if stated is not None:
        return _value(_first(text, stated.end()))
    last = deque(_NUMBER.finditer(text), maxlen=8)
    while len(last) > 1 and _AGAINST.search(text[max(0, last[-1].start() - 24) : last[-1].start()]):
        last.pop()
    return _value(last[-1] if last else None)


def _first(text: str, start: int) -> re.Match[str] | None:
    """The first number from a place on, or what the sum comes to that begins with it."""
    first = _NUMBER.search(text, start)
    if first is None:
        return None
    total = _SUM.match(text, first.start())
    return _NUMBER.search(text, total.end()) if total else first


def _apart(digit: str) -> str:
    """The last digit of a whole number before its fraction, with the space of ``1 1/2``."""
    return f"{digit} " if digit else ""


def _place(text: str) -> str | None:
    """The part of the text that is marked as its answer."""
    if "####" in text:
        return text.rsplit("####", 1)[1]
    box = last_of(_BOX.finditer(text))
    if box is None:
        return None
    depth, start = 1, box.end()
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start:end]
    return text[start:]  # cut off


def _value(match: re.Match[str] | None) -> Fraction | None:
    if match is None:
        return None
    scale = _SCALE.match(match.string, match.end())
    if scale and not (
        len(scale[0]) > 1 or scale[0] in "kK" or any(c in _CURRENCY for c in match[0])
    ):
        scale = None  # metres
    if len(match["run"]) > 3 * _MOST or _is_part(match, (scale or match).end()):
        return None
    run, exponent = match["run"], (match["exponent"] or "e0")[1:].replace("−", "-")
    whole, over, under = run, "0", "1"
    if "/" in run:
        fraction = _FRACTION.fullmatch(run)
        if fraction is None or match["exponent"]:
            return None
        whole, over, under = (part.replace(",", "") for part in fraction.groups(default="0"))
    elif _ENGLISH.fullmatch(run):
        whole = run.replace(",", "")
    else:
        return None
    sizes = [len(part.replace(".", "")) for part in (whole, over, under)]
    if max(sizes) > _MOST or len(exponent) > 4 or abs(int(exponent)) > _MOST or not int(under):
        return None
    signs = ((match["sign"] or "") + (match["inner"] or "")).replace("+", "")
    value = (Fraction(whole) + Fraction(int(over), int(under))) * Fraction(10) ** int(exponent)
    if scale:
        value *= _SCALES[scale[0].strip().lower()]
    return -value if len(signs) == 1 else value


def _is_part(match: re.Match[str], end: int) -> bool:
    """Whether the number, which goes on to ``end``, is one of two, one end of a range, the base of
    a power, or denied."""
    text, start = match.string, match.start()
    after = text[end : end + 1]
    superscript = after.isdigit() and not after.isascii()
    before = _UNSURE_BEFORE.search(text[max(0, start - 12) : start])
    return superscript or before is not None or _UNSURE_AFTER.match(text, end) is not None


def _written(number: Fraction) -> str:
    """``18``, ``-0.75`` or, where the decimal does not end, ``1/3``."""
    places = next((k for k in range(2 * _MOST + 1) if 10**k % number.denominator == 0), None)
    if not places:
        return str(number)
    digits = str(abs(number.numerator) * 10**places // number.denominator).zfill(places + 1)
    return f"{'-' if number < 0 else ''}{digits[:-places]}.{digits[-places:]}"
