"""Answers side by side, without and with steering, for a reader to look at.

Every flip is listed; of what is more common and says less, a sample that is the same each time.
Cost: a few microseconds per answer that is listed, and their texts are a page's size.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from corrsteer.report.pages import visible
from corrsteer.stats.flips import state

LIMITS = {"moved": 300, "text": 300, "unrelated": 200, "same": 50}
"""At most so many examples of a kind; fixed and broken answers are all listed."""

KINDS = {
    "fixed": "fixed",
    "broken": "broken",
    "moved": "between wrong and invalid",
    "text": "text changed, same outcome",
    "unrelated": "unrelated prompt changed",
    "same": "unchanged",
}


def examples(answers: pd.DataFrame) -> tuple[list[dict[str, str]], dict[str, int]]:
    """What to list, by kind in the order of ``KINDS``, and how many of each kind there are.

    ``answers``: rows of a run's ``answers.parquet`` with the arms baseline and steered of the
    splits test and unrelated. A listed answer has ``kind``, ``from`` and ``to`` (states), and as
    printable text ``id``, ``prompt``, ``baseline``, ``steered`` and ``gold``.
    """
    tested, unrelated = (_paired(answers, split) for split in ("test", "unrelated"))
    changed = unrelated[unrelated["answer"] != unrelated["answer_after"]]
    both = pd.concat([tested.assign(kind=_kinds(tested)), changed.assign(kind="unrelated")])
    listed, totals = [], {}
    for kind in KINDS:
        mine = both[both["kind"] == kind]
        totals[kind] = len(mine)
        if len(mine) > LIMITS.get(kind, len(mine)):
            mine = mine.sample(LIMITS[kind], random_state=0).sort_index()
        listed += [_example(row) for row in mine.itertuples()]
    return listed, totals


def flipped_answers(baseline: pd.DataFrame, steered: pd.DataFrame) -> list[dict[str, str]]:
    """Every answer whose outcome changed, fixed ones first, with both answers as text."""
    both = baseline.merge(steered[_AFTER], on="id", suffixes=("", "_after"))
    both["kind"] = _kinds(both)
    flips = [both[both["kind"] == kind] for kind in ("fixed", "broken")]
    return [_example(row) for part in flips for row in part.itertuples()]


_AFTER = ["id", "answer", "score", "invalid"]


def _paired(answers: pd.DataFrame, split: str) -> pd.DataFrame:
    mine = answers[answers["split"] == split]
    before, after = (mine[mine["arm"] == arm] for arm in ("baseline", "steered"))
    return before.merge(after[_AFTER], on="id", suffixes=("", "_after"))


def _kinds(both: pd.DataFrame) -> list[str]:
    kinds = []
    for row in both.itertuples():
        was, is_now = state(row.score, row.invalid), state(row.score_after, row.invalid_after)
        if (was == "right") != (is_now == "right"):
            kinds.append("broken" if was == "right" else "fixed")
        elif was != is_now:
            kinds.append("moved")
        else:
            kinds.append("same" if row.answer == row.answer_after else "text")
    return kinds


def _example(row: Any) -> dict[str, str]:
    texts = {
        "id": str(row.id),
        "prompt": row.prompt,
        "baseline": row.answer,
        "steered": row.answer_after,
        "gold": row.gold,
    }
    # An unrelated prompt has no right answer.
    states = {"from": "", "to": ""}
    if row.kind != "unrelated":
        states["from"] = state(row.score, row.invalid)
        states["to"] = state(row.score_after, row.invalid_after)
    return {"kind": row.kind, **states, **{name: visible(text) for name, text in texts.items()}}
