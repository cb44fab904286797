"""Answers side by side, without and with steering, for readers to look at.

Every flip is listed, and of the more frequent changes a fixed random sample. Cost: a few
microseconds per listed answer; their texts make up most of a page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import pandas as pd

from corrsteer.report.pages import visible
from corrsteer.stats.flips import state
from corrsteer.steering.arms import BASELINE, STEERED

if TYPE_CHECKING:
    from collections.abc import Iterable

LIMITS = {"moved": 300, "text": 300, "unrelated": 200, "same": 50}
"""Most examples of a category; fixed and broken answers are all listed."""

CATEGORIES = {
    "fixed": "fixed",
    "broken": "broken",
    "moved": "between wrong and invalid",
    "text": "text changed, same outcome",
    "unrelated": "unrelated prompt changed",
    "same": "unchanged",
}

Example = dict[str, str]
"""``kind`` (of ``CATEGORIES``), ``from`` and ``to`` (states; empty for an unrelated prompt, which
has no right answer), and as printable text ``id``, ``prompt``, ``baseline``, ``steered`` and
``gold``."""


class _Pair(NamedTuple):
    """One question with both answers; ``kind``: of ``CATEGORIES``."""

    id: str
    prompt: str
    gold: str
    answer: str
    score: float
    invalid: bool
    answer_after: str
    score_after: float
    invalid_after: bool
    kind: str


_AFTER = ["id", "answer", "score", "invalid"]


def examples(answers: pd.DataFrame) -> tuple[list[Example], dict[str, int]]:
    """The listed examples, and how many there are of each category, in the order of ``CATEGORIES``.

    ``answers``: rows of a run's ``answers.parquet`` with the arms baseline and steered of the
    splits test and unrelated.
    """
    tested, unrelated = (_paired(answers, split) for split in ("test", "unrelated"))
    changed = unrelated[unrelated["answer"] != unrelated["answer_after"]]
    both = pd.concat([tested.assign(kind=_kinds(tested)), changed.assign(kind="unrelated")])
    listed, totals = [], {}
    for kind in CATEGORIES:
        rows = both[both["kind"] == kind]
        totals[kind] = len(rows)
        if len(rows) > LIMITS.get(kind, len(rows)):
            rows = rows.sample(LIMITS[kind], random_state=0).sort_index()
        listed += [_example(pair) for pair in _pairs(rows)]
    return listed, totals


def flipped_answers(baseline: pd.DataFrame, steered: pd.DataFrame) -> list[Example]:
    """Every answer whose outcome changed, fixed ones first."""
    both = baseline.merge(steered[_AFTER], on="id", suffixes=("", "_after"))
    both["kind"] = _kinds(both)
    flips = [both[both["kind"] == kind] for kind in ("fixed", "broken")]
    return [_example(pair) for part in flips for pair in _pairs(part)]


def _paired(answers: pd.DataFrame, split: str) -> pd.DataFrame:
    rows = answers[answers["split"] == split]
    before, after = (rows[rows["arm"] == arm] for arm in (BASELINE, STEERED))
    return before.merge(after[_AFTER], on="id", suffixes=("", "_after"))


def _pairs(rows: pd.DataFrame) -> Iterable[_Pair]:
    return cast("Iterable[_Pair]", rows.itertuples())


def _kinds(both: pd.DataFrame) -> list[str]:
    kinds = []
    for pair in _pairs(both):
        before, after = _states(pair)
        if (before == "right") != (after == "right"):
            kinds.append("broken" if before == "right" else "fixed")
        elif before != after:
            kinds.append("moved")
        else:
            kinds.append("same" if pair.answer == pair.answer_after else "text")
    return kinds


def _states(pair: _Pair) -> tuple[str, str]:
    before = state(pair.score, pair.invalid)
    return before, state(pair.score_after, pair.invalid_after)


def _example(pair: _Pair) -> Example:
    before, after = ("", "") if pair.kind == "unrelated" else _states(pair)
    texts = {
        "id": str(pair.id),
        "prompt": pair.prompt,
        "baseline": pair.answer,
        "steered": pair.answer_after,
        "gold": pair.gold,
    }
    shown = {name: visible(text) for name, text in texts.items()}
    return {"kind": pair.kind, "from": before, "to": after, **shown}
