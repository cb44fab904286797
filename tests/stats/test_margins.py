"""Margins of weighed options and their shift, against NumPy and SciPy on the same numbers."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp, ttest_rel

from corrsteer.records import Example
from corrsteer.stages.evaluate import evaluate
from corrsteer.stats.intervals import t_ci
from corrsteer.stats.margins import margins, shift
from corrsteer.steering.arms import Arm

OPTIONS = ("yes", "no, never", "so")
LOGS, CHARACTERS, TOKENS = [-6.0, -9.0, -4.0], [3, 9, 2], [1, 3, 2]


def weighed(*rows, **more):
    """Answers whose options weigh the rows of logs."""
    n = len(rows)
    columns = {
        "id": [f"q{i}" for i in range(n)],
        "option_log": [np.array(row) for row in rows],
        "option_characters": [np.array(CHARACTERS[: len(row)]) for row in rows],
        "option_tokens": [np.array(TOKENS[: len(row)]) for row in rows],
    }
    return pd.DataFrame(columns | more)


def example(gold="A", aliases=(), options=OPTIONS):
    return Example("q0", "p", gold, options, {}, aliases)


@pytest.mark.parametrize(
    ("likelihood", "gold", "expected"),
    [
        ("sum", "A", -6 - -4),
        ("sum", "C", -4 - -6),
        ("per_character", "A", -6 / 3 - -9 / 9),
        ("per_character", "B", -9 / 9 - -6 / 3),
        ("per_token", "C", -4 / 2 - -9 / 3),
    ],
)
def test_the_right_option_against_the_best_wrong_one_as_compared(likelihood, gold, expected):
    assert margins(weighed(LOGS), [example(gold)], likelihood)[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("gold", "aliases", "options", "expected"),
    [
        ("A", ("C",), OPTIONS, -4 - -9),  # two are right: the likelier one counts
        ("A", ("yes",), OPTIONS, -6 - -4),  # an alias in words is the option itself
        ("A", ("C",), ("C", "no", "so"), -6 - -4),  # and may look like a letter
        ("A", ("B", "C"), OPTIONS, math.nan),  # none is wrong
        ("wanted", (), OPTIONS, math.nan),  # no option is right
        ("D", (), OPTIONS, math.nan),
        ("", (), OPTIONS, math.nan),
    ],
)
def test_which_options_are_right(gold, aliases, options, expected):
    found = margins(weighed(LOGS), [example(gold, aliases, options)], "sum")[0]
    assert found == pytest.approx(expected, nan_ok=True)


def test_without_weighed_options_there_is_no_margin():
    assert np.isnan(margins(pd.DataFrame({"id": ["q0"]}), [example()], "sum")).all()
    nothing = pd.DataFrame({"id": ["q0"], "margin": [math.nan]})
    assert shift(nothing, nothing) is None
    assert shift(nothing[["id"]], nothing) is None


def test_the_shift_is_paired_by_question():
    rng = np.random.default_rng(0)
    before, change = rng.normal(size=40), rng.normal(0.3, 1.0, size=40)
    ids = [f"q{i}" for i in range(40)]
    base = pd.DataFrame({"id": ids, "margin": before})
    other = pd.DataFrame({"id": ids, "margin": before + change}).sample(frac=1, random_state=1)
    found = shift(base, other)
    expected = ttest_rel(before + change, before).confidence_interval()
    assert found is not None and found.n == 40
    assert found.ci == pytest.approx((expected.low, expected.high))
    assert found.shift == pytest.approx(change.mean())
    assert found.after - found.before == pytest.approx(found.shift)
    # An infinite one says nothing of how far; its question is left out of all numbers.
    base.loc[3, "margin"] = -math.inf
    fewer = shift(base, other)
    assert fewer is not None and fewer.n == 39
    assert fewer.shift == pytest.approx(np.delete(change, 3).mean())


def test_an_interval_of_a_mean():
    x = [0.1, 0.4, -0.2, 0.9]
    expected = ttest_1samp(x, 0).confidence_interval()
    assert t_ci(x) == pytest.approx((expected.low, expected.high))
    assert t_ci([2.0]) is None
    assert t_ci([0.5, 0.5]) == (0.5, 0.5)


def test_a_run_reports_the_shift_beside_that_of_its_controls():
    rng = np.random.default_rng(1)
    n = 30
    examples = [Example(f"q{i}", "p", "A", OPTIONS) for i in range(n)]
    arms = [Arm("baseline", "baseline"), Arm("steered", "steered"), Arm("random_1", "random"),
            Arm("random_2", "random"), Arm("instruction", "instruction")]  # fmt: skip
    logs = {arm.name: rng.normal(-8, 2, size=(n, 3)) for arm in arms}
    test = {}
    for name, rows in logs.items():
        right = rows[:, 0] > rows[:, 1:].max(axis=1)
        frame = weighed(*rows, answer="x", parsed=pd.array(["A"] * n, dtype="string"),
                        score=right.astype(float), invalid=False,
                        degenerate=pd.array([None] * n, dtype="string"))  # fmt: skip
        test[name] = frame.assign(margin=margins(frame, examples, "sum"))
    results = evaluate(
        test, arms, examples, [], task_metrics=lambda e, a: {}, likelihood="per_token"
    )
    m = results.margin
    means = {name: (x[:, 0] - x[:, 1:].max(axis=1)).mean() for name, x in logs.items()}
    assert m is not None
    assert (m.likelihood, m.n) == ("per_token", n)
    assert (m.baseline, m.steered) == pytest.approx((means["baseline"], means["steered"]))
    assert m.shift == pytest.approx(means["steered"] - means["baseline"])
    assert m.ci[0] < m.shift < m.ci[1]
    assert {kind: len(x) for kind, x in m.controls.items()} == {"random": 2, "instruction": 1}
    for k, drawn in enumerate(m.controls["random"], start=1):
        assert drawn == pytest.approx(means[f"random_{k}"] - means["baseline"])
    json.dumps(results.model_dump(), allow_nan=False)
