"""Flip tables of hand-made answers."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from corrsteer.stats.flips import (
    FlipTable,
    changes,
    flip_table,
    off_target_ratio,
    side_effect_ratios,
    state,
)

RIGHT, WRONG, INVALID = (1.0, False), (0.0, False), (0.0, True)


def arm(**answers):
    return pd.DataFrame(
        {
            "id": list(answers),
            "score": [score for score, _ in answers.values()],
            "invalid": [invalid for _, invalid in answers.values()],
        }
    )


@pytest.mark.parametrize(
    ("score", "invalid", "expected"),
    [
        (1.0, False, "right"),
        (0.5, False, "right"),
        (0.49, False, "wrong"),
        (0.0, False, "wrong"),
        (0.0, True, "invalid"),
        (1.0, True, "invalid"),
    ],
)
def test_state(score, invalid, expected):
    assert state(score, invalid) == expected


def test_every_cell_once_or_more():
    """Cell (i, j) holds 3 * i + j + 1 answers; the steered arm comes in another order."""
    kinds = (RIGHT, WRONG, INVALID)
    base, steered = {}, {}
    for i, old in enumerate(kinds):
        for j, new in enumerate(kinds):
            for k in range(3 * i + j + 1):
                base[f"q{i}{j}{k}"], steered[f"q{i}{j}{k}"] = old, new
    table = flip_table(arm(**base), arm(**steered).iloc[::-1])
    assert table.counts == ((1, 2, 3), (4, 5, 6), (7, 8, 9))
    assert table.n == 45
    assert table.fixed == 4 + 7
    assert table.broken == 2 + 3
    assert table.changed == 2 + 3 + 4 + 6 + 7 + 8
    assert table.ser == 5 / 16
    assert table.mcnemar_p == pytest.approx(0.2101135, abs=1e-7)  # 2 P(X <= 5), X ~ B(16, 1/2)
    assert json.loads(json.dumps(table.as_dict())) == {
        "states": ["right", "wrong", "invalid"],
        "counts": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        "n": 45,
        "fixed": 11,
        "broken": 5,
        "changed": 29 + 1,
        "ser": 0.3125,
        "mcnemar_p": table.mcnemar_p,
    }


def test_nothing_flipped_has_no_ser():
    table = flip_table(arm(a=RIGHT, b=WRONG), arm(a=RIGHT, b=INVALID))
    assert (table.fixed, table.broken, table.changed) == (0, 0, 1)
    assert table.ser is None and table.mcnemar_p == 1.0
    assert json.loads(json.dumps(table.as_dict()))["ser"] is None


def test_only_broken():
    assert flip_table(arm(a=RIGHT), arm(a=WRONG)).ser == 1.0


def test_other_samples_are_refused():
    with pytest.raises(ValueError, match=r"2 ids are in only one of the arms, e\.g\. 'b'"):
        flip_table(arm(a=RIGHT, b=WRONG), arm(a=RIGHT, c=WRONG))
    with pytest.raises(ValueError, match="1 ids"):
        flip_table(arm(a=RIGHT), arm(a=RIGHT, c=WRONG))


@pytest.mark.parametrize("which", ["baseline", "steered"])
def test_a_repeated_id_is_refused(which):
    once = arm(a=RIGHT, b=WRONG)
    twice = pd.concat([once, arm(b=RIGHT)])
    arms = (twice, once) if which == "baseline" else (once, twice)
    with pytest.raises(ValueError, match=f"id 'b' repeats in the {which} arm"):
        flip_table(*arms)


def test_counts_are_three_by_three():
    with pytest.raises(AssertionError):
        FlipTable(((1, 2), (3, 4)))


def test_every_published_ratio_by_hand():
    """45 answers: 6 right before (5 of them broken), 12 right after (11 of them fixed)."""
    table = FlipTable(((1, 2, 3), (4, 5, 6), (7, 8, 9)))
    found = side_effect_ratios(table, answers_changed=40)
    assert found == {
        "flips": pytest.approx(5 / 16),
        "changed": pytest.approx(5 / 40),
        "right": pytest.approx(5 / 6),
        "negative_flip_rate": pytest.approx(5 / 45),
        "relative_negative_flip_rate": pytest.approx((5 / 45) / ((6 / 45) * (33 / 45))),
    }
    assert found["flips"] == table.ser
    assert json.loads(json.dumps(found)) == found


def test_independent_answers_have_a_relative_negative_flip_rate_of_one():
    """Yan et al. (2021) divide by what two classifiers of these error rates would give if they
    erred independently: 60 % right before, 70 % after."""
    table = FlipTable(((420, 180, 0), (280, 120, 0), (0, 0, 0)))
    assert side_effect_ratios(table, 500)["relative_negative_flip_rate"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("counts", "answers_changed", "undefined"),
    [
        (((2, 0, 0), (0, 2, 0), (0, 0, 0)), 0, {"flips", "changed"}),
        (((0, 0, 0), (3, 2, 0), (0, 0, 0)), 3, {"right", "relative_negative_flip_rate"}),
        (((2, 0, 0), (3, 0, 0), (0, 0, 0)), 3, {"relative_negative_flip_rate"}),
        (((2, 1, 0), (0, 0, 0), (0, 0, 0)), 1, set()),
    ],
)
def test_a_ratio_over_nothing_is_undefined(counts, answers_changed, undefined):
    found = side_effect_ratios(FlipTable(counts), answers_changed)
    assert {name for name, value in found.items() if value is None} == undefined


def test_off_target():
    """30 of 1,000 unrelated prompts, 60 of 2,000 questions: as many here as there."""
    assert off_target_ratio(30, 1_000, 60, 2_000) == pytest.approx(1)
    assert off_target_ratio(15, 500, 120, 2_000) == pytest.approx(0.5)
    assert off_target_ratio(0, 500, 120, 2_000) == 0
    assert off_target_ratio(5, 500, 0, 2_000) is None


def answered(rows, order=None):
    frame = pd.DataFrame(rows, columns=["id", "answer", "parsed", "score", "invalid"])
    frame["parsed"] = pd.array(frame["parsed"], dtype="string")
    return frame if order is None else frame.iloc[order]


BEFORE = [
    ("same", " A", "A", 1.0, False),
    ("text only", " A", "A", 1.0, False),
    ("other wrong", " B", "B", 0.0, False),
    ("fixed", " B", "B", 0.0, False),
    ("read now", "hm", None, 0.0, True),
    ("never read", "hm", None, 0.0, True),
    ("lost", " A", "A", 1.0, False),
    ("still unread", "hm", None, 0.0, True),
]
AFTER = [
    ("same", " A", "A", 1.0, False),
    ("text only", " A.", "A", 1.0, False),
    ("other wrong", " C", "C", 0.0, False),
    ("fixed", " A", "A", 1.0, False),
    ("read now", " C", "C", 0.0, False),
    ("never read", "hum", None, 0.0, True),
    ("lost", "hm", None, 0.0, True),
    ("still unread", "hm", None, 0.0, True),
]


@pytest.mark.parametrize("order", [range(8), range(7, -1, -1)])
def test_what_changed_in_eight_answers(order):
    found = changes(answered(BEFORE), answered(AFTER, list(order)))
    # text only, other wrong and never read keep their outcome; two of the texts read the same
    assert found == {"text": 6, "text_same_outcome": 3, "answer": 4}
    assert {type(count) for count in found.values()} == {int}


@pytest.mark.parametrize("kind", ["string", "object", "str"])
def test_answers_that_are_all_unread_are_the_same_answer(kind):
    """Whatever the column has become on its way through a file."""
    unread = answered([("a", "x", None, 0.0, True), ("b", "y", None, 0.0, True)])
    other = answered([("a", "x", None, 0.0, True), ("b", "z", "B", 0.0, False)])
    unread["parsed"], other["parsed"] = (f["parsed"].astype(kind) for f in (unread, other))
    assert changes(unread, unread) == {"text": 0, "text_same_outcome": 0, "answer": 0}
    assert changes(unread, other) == {"text": 1, "text_same_outcome": 0, "answer": 1}


def test_changes_are_of_pairs():
    with pytest.raises(ValueError, match="1 ids are in only one"):
        changes(answered(BEFORE), answered(AFTER[1:]))
