"""What kind of thing a feature reacts to: form, meaning, or neither clearly.

A heuristic over the tokens of a feature's strongest contexts, those tokens that were pooled when it
was chosen, not a finding: it sees words, never what they are about, and says nothing about what the
feature does when it is added. Whoever has looked at a feature overrules it with a file
(:func:`read_classes`). The constants below are all there is to it.

- *structural*: ``DOMINANT`` of the activation is on form: white space, punctuation, digits, single
  letters, special tokens, or fixed places: those of the prompt template, and of what every answer
  begins with, are recognised by neighbours that nearly all texts share ("Answer" before ":").
- *semantic*: ``DOMINANT`` is on content words, and one of them holds ``ONE_WORD`` of it, or
  ``FEW_WORDS`` hold ``DOMINANT``, or the same rare word stands before nearly all of them.
- *unclear*: anything else. Articles, prepositions and auxiliaries are neither form nor content.

Cost: some string work per context.
"""

from __future__ import annotations

import csv
import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from corrsteer.errors import DataError
from corrsteer.records import CLASSES, RankedFeature

STRONG = 0.5  # of a context's strongest activation: from here on a position counts
DOMINANT = 0.8  # share of the activation that has to be of one kind
ONE_WORD = 0.5  # share on one word that makes the feature that word's
FEW_WORDS = 3  # words that may hold the dominant share together
MIN_CONTEXTS = 5  # samples that activate a feature; with fewer, nothing is said
FIXED = 0.9  # share of the sampled texts that have a pair of neighbours which is called fixed
RARE = 0.25  # share of the sampled texts up to which a token before the peak says something
NEAR = 8  # tokens before the peak that are looked at for it
STEM = 5  # letters of a word that count: careful, carefully and careless are one

DEFAULT_FILE = "classes.csv"
COLUMNS = ("sae", "feature", "class")

# Closed-class words. Negations, personal pronouns and question words mean something.
_CLOSED = """
a an the this that these those and or but nor so yet if as than then because while of in on at to
for with by from into onto upon about over under between through during before after near is are
was were be been being am has have had having do does did doing will would shall should can could
may might must it its there here also just such
"""
_FUNCTION_WORDS = frozenset(_CLOSED.split())
_SPECIAL = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True)
class Shared(Generic[T]):
    """What the sampled texts have in common, by token."""

    places: Collection[tuple[T, T]]
    """Neighbours that ``FIXED`` of the texts contain."""
    common: Collection[T]
    """Tokens that more than ``RARE`` of the texts contain."""


class Verdict(NamedTuple):
    kind: str
    """One of ``CLASSES``."""
    why: str


class Hand(NamedTuple):
    """A class that somebody gave a feature."""

    kind: str
    note: str


Hands = Mapping[tuple[str, int], Hand]
"""(SAE id, feature) -> its class by hand."""


# -- by rule -----------------------------------------------------------------------------------


def shared(texts: Sequence[Sequence[T]]) -> Shared[T]:
    """What texts, each a sequence of tokens, have in common."""
    pairs: Counter[tuple[T, T]] = Counter()
    tokens: Counter[T] = Counter()
    for text in texts:
        pairs.update(set(zip(text, text[1:], strict=False)))
        tokens.update(set(text))
    n = len(texts)
    return Shared(
        frozenset(pair for pair, count in pairs.items() if count >= FIXED * n),
        frozenset(token for token, count in tokens.items() if count > RARE * n),
    )


IN_PLACE = " in a fixed place"


def classify(contexts: Sequence[Mapping[str, Any]], texts: Shared[str]) -> Verdict:
    """The class of a feature, and why.

    ``contexts``: each with ``tokens`` (texts), their ``activations``, whether each is ``within``
    the token source, and the ``peak``, the index of the strongest that is. ``texts``: what the
    texts they are from share. A context weighs as much as its peak, divided among its positions
    within the source that have at least ``STRONG`` of that; the others are what stands around.
    """
    if len(contexts) < MIN_CONTEXTS:
        return Verdict("unclear", f"only {len(contexts)} samples activate it")
    kinds: Counter[str] = Counter()
    names: dict[str, Counter[str]] = {
        "form": Counter(),
        "content": Counter(),
        "function": Counter(),
    }
    stems: Counter[str] = Counter()
    for context in contexts:
        peak = context["activations"][context["peak"]]
        words, places = _words(context["tokens"]), _places(context["tokens"], texts)
        acts = zip(context["activations"], context["within"], strict=True)
        at = [i for i, (a, pooled) in enumerate(acts) if pooled and a >= STRONG * peak]
        total = sum(context["activations"][i] for i in at)
        for i in at:
            token, weight = context["tokens"][i], peak * context["activations"][i] / total
            kind, name = _kind(token, words[i], places[i])
            kinds[kind] += weight
            names[kind][name] += weight
            if kind == "content":
                stems[_stem(words[i])] += weight
    whole = kinds.total()
    form, content = (kinds[kind] / whole for kind in ("form", "content"))
    if form >= DOMINANT:
        return Verdict("structural", f"{_percent(form)} on form: {_most(names['form'], whole)}")
    if content >= DOMINANT:
        reason = f"{_percent(content)} on content words"
        first, few = (sum(w for _, w in stems.most_common(n)) / whole for n in (1, FEW_WORDS))
        if first >= ONE_WORD or few >= DOMINANT:
            return Verdict("semantic", f"{reason}: {_most(names['content'], whole)}")
        word, share = _before(contexts, texts)
        if share >= DOMINANT:
            return Verdict("semantic", f"{reason}, {_percent(share)} of them soon after {word!r}")
        return Verdict("unclear", f"{reason}, but different ones: {_most(names['content'], whole)}")
    parts = [
        f"{_percent(kinds[kind] / whole)} on {label} ({_most(names[kind], whole)})"
        for kind, label in (
            ("form", "form"), ("content", "content words"), ("function", "function words"),
        )
        if kinds[kind] > 0
    ]  # fmt: skip
    return Verdict("unclear", "; ".join(parts))


def _kind(token: str, word: str, place: bool) -> tuple[str, str]:
    """form, content or function; and what the token is called in a reason."""
    bare = token.strip()
    if place:
        return "form", f"{_shown(token)}{IN_PLACE}"
    if not word or _SPECIAL.fullmatch(bare) or word.isdigit() or _is_letter(word):
        return "form", _shown(token)
    return ("function" if word in _FUNCTION_WORDS else "content"), word[:20]


def _is_letter(word: str) -> bool:
    """One letter of a script that has capitals: where there are none, one sign can be a word."""
    return len(word) == 1 and unicodedata.category(word) in ("Ll", "Lu", "Lt")


def _words(tokens: Sequence[str]) -> list[str]:
    """The word that each token is part of, in lower case: "carefully" for "care" and "fully".

    Empty for a token without letters or digits. A script without capitals may write without
    spaces, so a token of one is its own word.
    """
    text, starts = "".join(tokens), [0]
    for token in tokens:
        starts.append(starts[-1] + len(token))
    matches = list(_WORD.finditer(text))
    words, k = [], 0
    for token, start, end in zip(tokens, starts, starts[1:], strict=False):
        while k < len(matches) and matches[k].end() <= start:
            k += 1
        best, size, n = "", 0, k
        while n < len(matches) and matches[n].start() < end:
            overlap = min(end, matches[n].end()) - max(start, matches[n].start())
            if overlap > size:
                best, size = matches[n][0], overlap
            n += 1
        if any(unicodedata.category(c) == "Lo" for c in best):
            best = token.strip()
        words.append("" if _SPECIAL.fullmatch(token.strip()) else best.lower())
    return words


def _places(tokens: Sequence[str], texts: Shared[str]) -> list[bool]:
    """Which positions are fixed places, by their neighbours on either side."""
    pairs = [pair in texts.places for pair in zip(tokens, tokens[1:], strict=False)]
    return [left or right for left, right in zip([False, *pairs], [*pairs, False], strict=True)]


def _stem(word: str) -> str:
    return word.removesuffix("s")[:STEM] if len(word) > 3 else word


def _before(contexts: Sequence[Mapping[str, Any]], texts: Shared[str]) -> tuple[str, float]:
    """The rare content word that most often stands shortly before a peak, and the share of the
    contexts, by weight, in which it does."""
    weights: Counter[str] = Counter()
    names: dict[str, str] = {}
    whole = 0.0
    for context in contexts:
        tokens, peak = context["tokens"], context["peak"]
        words, places = _words(tokens), _places(tokens, texts)
        near = range(max(0, peak - NEAR), peak)
        by_stem = {
            _stem(words[i]): words[i]
            for i in near
            if tokens[i] not in texts.common
            and words[i] != words[peak]
            and _kind(tokens[i], words[i], places[i])[0] == "content"
        }
        weight = context["activations"][peak]
        whole += weight
        weights.update(dict.fromkeys(by_stem, weight))
        names |= by_stem
    if not weights:
        return "", 0.0
    ((stem, weight),) = weights.most_common(1)
    return names[stem], weight / whole


def _most(names: Counter[str], whole: float) -> str:
    """The three that weigh most, each token once: where it also stands elsewhere than in a fixed
    place, it is called after where it weighs more."""
    merged: Counter[str] = Counter()
    called: dict[str, str] = {}
    for name, weight in names.most_common():
        token = name.removesuffix(IN_PLACE)
        merged[token] += weight
        called.setdefault(token, name)
    return ", ".join(f"{called[t]} {_percent(w / whole)}" for t, w in merged.most_common(3))


def _shown(token: str) -> str:
    return repr(token if len(token) <= 20 else f"{token[:20]}…")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


# -- by hand -----------------------------------------------------------------------------------


def read_classes(path: str | None) -> dict[tuple[str, int], Hand]:
    """(SAE id, feature) -> its class by hand, from a CSV file with the columns ``COLUMNS`` and, if
    wanted, note; others are not read. None: no file. ``DEFAULT_FILE`` may be missing.

    Raises DataError, with file and line, for a file that is not of this form.
    """
    if path is None:
        return {}
    file = Path(path).expanduser()
    if not file.is_file():
        if path == DEFAULT_FILE and not file.exists():
            return {}
        raise DataError(
            f"classes={path}: no such file; give a CSV file with the columns {', '.join(COLUMNS)},"
            " such as the classes.csv of a run, or type classes=null"
        )
    hands: dict[tuple[str, int], Hand] = {}
    lines: dict[tuple[str, int], int] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, strict=True)
            names = reader.fieldnames or []
            if lacking := [name for name in COLUMNS if name not in names]:
                raise DataError(
                    f"{path}, line 1: no column {', '.join(lacking)}; the columns must be"
                    f" {', '.join(COLUMNS)}, separated by commas (or type classes=null)"
                )
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                feature, hand = _hand(row, where)
                if hands.get(feature, hand).kind != hand.kind:
                    raise DataError(
                        f"{where}: feature {feature[1]} of {feature[0]} is {hand.kind} here and"
                        f" {hands[feature].kind} in line {lines[feature]}; remove one of them"
                    )
                hands[feature], lines[feature] = hand, reader.line_num
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} is not a CSV file ({' '.join(str(error).split())}); save it as CSV in UTF-8,"
            " or type classes=null"
        ) from error
    return hands


def _hand(row: Mapping[Any, Any], where: str) -> tuple[tuple[str, int], Hand]:
    if None in row or None in row.values():
        cells = len([v for k, v in row.items() if k is not None and v is not None])
        cells += len(row.get(None, ()))
        names = [k for k in row if k is not None]
        raise DataError(
            f"{where}: {cells} cells under {len(names)} columns; put a cell with a comma in it"
            " between double quotes"
        )
    sae, feature, kind = (row[name].strip() for name in COLUMNS)
    if not sae:
        raise DataError(
            f"{where}: the column sae is empty; give the SAE's id as in a run's classes.csv"
        )
    if not (feature.isascii() and feature.isdigit()):
        raise DataError(f"{where}: the feature must be a whole number such as 505, not {feature!r}")
    if kind not in CLASSES:
        near = difflib.get_close_matches(kind.lower(), CLASSES, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise DataError(f"{where}: class {kind!r} is unknown{hint}; use {', '.join(CLASSES)}")
    return (sae, int(feature)), Hand(kind, (row.get("note") or "").strip())


def overruled(rule: Verdict, hand: Hand | None) -> dict[str, str]:
    """``class``, ``class_by`` and ``class_why`` of a feature's card."""
    if hand is None:
        return {"class": rule.kind, "class_by": "rule", "class_why": rule.why}
    why = f"{hand.note or 'by hand'} (the rule: {rule.kind}, {rule.why})"
    return {"class": hand.kind, "class_by": "hand", "class_why": why}


# -- as a filter -------------------------------------------------------------------------------


def named(
    features: Iterable[RankedFeature], cards: Iterable[Mapping[str, Any]]
) -> tuple[RankedFeature, ...]:
    """The features with the classes of their cards; those without a card as they are."""
    kinds = {(c["layer"], c["feature"]): c["class"] for c in cards}
    return tuple(replace(f, kind=kinds.get((f.layer, f.feature), f.kind)) for f in features)


def of_classes(
    ranked: Sequence[RankedFeature], classes: Collection[str]
) -> tuple[RankedFeature, ...]:
    """The ranked features of some classes, ranks counted anew within each layer.

    Their stability stays what it was among all eligible features. Raises DataError where none is
    left.
    """
    kept: list[RankedFeature] = []
    ranks: Counter[int] = Counter()
    for f in ranked:
        if f.kind in classes:
            ranks[f.layer] += 1
            kept.append(replace(f, rank=ranks[f.layer]))
    if not kept:
        others = [kind for kind in CLASSES if kind not in classes]
        raise DataError(
            f"selector.classes=[{','.join(classes)}]: none of the {len(ranked)} ranked features is"
            f" left ({counts(ranked)}); type selector.classes=[{','.join(others)}], a larger"
            f" selector.top_k, or your own classes in {DEFAULT_FILE}"
        )
    return tuple(kept)


def counts(features: Iterable[RankedFeature]) -> str:
    """``80 structural, 30 unclear``."""
    by_kind = Counter(f.kind for f in features)
    return ", ".join(f"{by_kind[kind]} {kind}" for kind in CLASSES if by_kind[kind]) or "0"
