"""Flip tables of hand-made answers."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from corrsteer.stats.flips import FlipTable, flip_table, state

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
