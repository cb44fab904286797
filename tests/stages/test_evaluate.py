"""The numbers and sentences of an evaluation, on answers made by hand."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from scipy.stats import binomtest

from corrsteer.records import Example, RankedFeature
from corrsteer.stages.evaluate import (
    arm_summary,
    chance_level,
    evaluate,
    transfer_summary,
    verdict,
    with_side_effects,
)
from corrsteer.stats.intervals import detectable_gain


def frame(states):
    """r right, w wrong, x invalid, g wrong and gibberish."""
    return pd.DataFrame(
        {
            "id": [f"s{i}" for i in range(len(states))],
            "answer": list(states),
            "parsed": pd.array([None if s == "x" else s for s in states], dtype="string"),
            "score": [float(s == "r") for s in states],
            "invalid": [s == "x" for s in states],
            "degenerate": pd.array([{"g": "gibberish"}.get(s) for s in states], dtype="string"),
        }
    )


def feature(layer, r, ceiling):
    return RankedFeature(layer, 1, 7, r, ceiling, 0.5, 0.3, 0.4, 0.2, 1.0, 0.5, 0.0, r, 0.01, 1.0)


def examples(n, meta=lambda i: {}):
    return [Example(f"s{i}", "p", "A", ("x", "y", "z"), meta(i)) for i in range(n)]


def measured(
    base, steered, random, constrained=None, chosen=None, length_r=0.0, meta=None, effects=None
):
    test = {"baseline": frame(base), "steered": frame(steered)}
    test |= {f"random_{n}": frame(s) for n, s in enumerate(random, start=1)}
    if constrained:
        test["constrained"] = frame(constrained)
    chosen = chosen or [feature(0, 0.4, 0.1)]
    asked = examples(len(base), meta) if meta else examples(len(base))
    counted = evaluate(
        test, asked, chosen, task_metrics=lambda e, a: {"rate": a["score"].mean()}, seed=0
    )
    metrics = {"selection": {"length_r": length_r}, "stability": {"resamples": 50}}
    metrics |= with_side_effects(counted, effects)
    json.dumps(metrics, allow_nan=False)
    return metrics


BASE = "r" * 50 + "w" * 40 + "x" * 10
BETTER = "r" * 48 + "w" * 2 + "r" * 20 + "w" * 20 + "r" * 5 + "x" * 5  # 25 fixed, 2 broken
RANDOM = [BASE, "w" + BASE[1:], BASE[:-1] + "r", BASE, BASE]


def test_accuracies_flips_and_gain():
    m = measured(BASE, BETTER, RANDOM, constrained="r" * 60 + "w" * 40)
    assert m["arms"]["baseline"] == {
        "n": 100, "accuracy": 0.5, "ci": pytest.approx([0.4038, 0.5962], abs=1e-4),
        "right": 50, "wrong": 40, "invalid": 10, "invalid_rate": 0.1,
        "degenerate": 0,
    }  # fmt: skip
    assert m["arms"]["steered"]["accuracy"] == pytest.approx(0.73)
    assert m["gain"] == pytest.approx(0.23)
    assert (m["flips"]["fixed"], m["flips"]["broken"]) == (25, 2)
    assert m["flips"]["counts"] == [[48, 2, 0], [20, 20, 0], [5, 0, 5]]
    assert m["flips"]["ser"] == pytest.approx(2 / 27)
    assert m["flips"]["mcnemar_p"] == pytest.approx(binomtest(2, 27).pvalue)
    assert m["gain_ci"][0] < 0.23 < m["gain_ci"][1]
    assert m["controls"]["random"]["gains"] == pytest.approx([0, -0.01, 0.01, 0, 0])
    assert m["controls"]["random"]["beats_all"]
    assert m["chance"] == pytest.approx(1 / 3)
    assert m["task_metrics"]["steered"] == {"rate": pytest.approx(0.73)}
    assert set(m["task_metrics"]) == set(m["arms"])


def test_degenerate_answers_are_counted_and_said():
    m = measured(BASE, BETTER[:97] + "ggg", RANDOM)
    assert (m["arms"]["baseline"]["degenerate"], m["arms"]["steered"]["degenerate"]) == (0, 3)
    said = "Degenerate text (loops or gibberish): 0 answers without and 3 with steering, of 100."
    assert said in verdict(m)
    assert "Degenerate" not in "".join(verdict(measured(BASE, BETTER[:99] + "g", RANDOM)))


def test_verdict_of_a_success_names_price_and_controls():
    text = "\n".join(verdict(measured(BASE, BETTER, RANDOM, constrained="r" * 60 + "w" * 40)))
    assert "Steering raises accuracy by 23.0 points, from 50.0 % to 73.0 %" in text
    low, high = measured(BASE, BETTER, RANDOM)["ser_ci"]
    ratio = f"side effect ratio 0.07 (95 % interval {low:.2f} to {high:.2f})."
    assert f"fixed 25 answers and broke 2: {ratio}" in text and low < 0.07 < high
    assert "would find a gain" not in text
    assert "-1.0 to +1.0 points; steering beats all of them: yes" in text
    assert "changes accuracy by +10.0 points, to 60.0 %; steering beats it: yes" in text
    assert "Invalid answers: 10.0 % without and 5.0 % with steering" in text
    assert "chance" not in text
    assert "noise ceiling" not in text


def test_a_verdict_without_effect_says_what_would_have_been_found():
    assert measured(BASE, "w" + BASE[1:], RANDOM)["detectable_gain"] is None  # one flip of 100
    as_many_each_way = BASE[:45] + "w" * 5 + "r" * 5 + BASE[55:]
    text = "\n".join(verdict(measured(BASE * 10, as_many_each_way * 10, [BASE * 10])))
    assert "Steering does not detectably change accuracy" in text
    least = detectable_gain(1000, 0.1)
    assert least is not None
    said = "With as many flips on 1000 questions, four of five such tests would find a gain of"
    assert f"{said} {100 * least:.1f} points." in text


def test_every_published_ratio_and_what_changed_beside_the_outcome():
    m = measured(BASE, BETTER, RANDOM)
    # 50 right before, 2 of them broken; 27 flips, and what is parsed changes with each of them.
    assert m["changes"] == {"text": 27, "text_same_outcome": 0, "answer": 27}
    assert m["ser"] == {
        "flips": pytest.approx(2 / 27), "changed": pytest.approx(2 / 27), "right": 2 / 50,
        "negative_flip_rate": 2 / 100, "relative_negative_flip_rate": pytest.approx(0.02 / 0.135),
        "off_target": None,
    }  # fmt: skip
    assert m["side_effects"] is None


EFFECTS = {
    "off_target": {
        "n": 1000,
        "source": "everyday",
        "arms": {
            "steered": {"changed": 120, "rate": 0.12},
            "random_1": {"changed": 300, "rate": 0.3},
            "random_2": {"changed": 50, "rate": 0.05},
        },
    },
    "neutral": {"arms": {"steered": {"kl": 0.0212}, "random_1": {"kl": 0.1}}},
    "text": None,
    "activity": None,
}


def test_side_effects_are_said_beside_random_draws():
    m = measured(BASE, BETTER, RANDOM, effects=EFFECTS)
    # 120 of 1,000 prompts changed, 25 of 100 questions fixed.
    assert m["ser"]["off_target"] == pytest.approx(0.12 / 0.25)
    (said,) = (text for text in verdict(m) if text.startswith("Side effects"))
    assert said == (
        "Side effects: on prompts that are no part of the task it changes 120 of 1,000 answers, "
        "0.48 for each answer fixed (random draws: 50 to 300); on neutral text the KL divergence "
        "to the unsteered model is 0.021 nats per token (random draws: 0.1)."
    )
    nothing_fixed = measured(BASE, BASE, RANDOM, effects=EFFECTS)
    assert nothing_fixed["ser"]["off_target"] is None
    assert "for each answer" not in " ".join(verdict(nothing_fixed))
    only = measured(BASE, BETTER, RANDOM, effects=EFFECTS | {"off_target": None})
    assert "Side effects: on neutral text the KL" in " ".join(verdict(only))


def test_an_unstable_choice_is_said():
    shaky = replace(feature(1, 0.3, 0.2), stability=0.48)
    m = measured(BASE, BETTER, RANDOM, chosen=[feature(0, 0.4, 0.1), shaky])
    said = "1 of 2 chosen features win their layer in fewer than half of 50 bootstrap resamples"
    assert said in "\n".join(verdict(m))
    assert "resamples" not in "\n".join(verdict(measured(BASE, BETTER, RANDOM)))


def test_transfer_is_summed_up_like_the_test_split():
    answers = {"baseline": frame(BASE), "steered": frame(BETTER)}
    answers |= {f"random_{n}": frame(s) for n, s in enumerate(RANDOM[:2], start=1)}
    found = transfer_summary(answers, examples(100), seed=0)
    own = measured(BASE, BETTER, RANDOM)
    assert {k: found[k] for k in ("gain", "gain_ci", "flips")} == {
        k: own[k] for k in ("gain", "gain_ci", "flips")
    }
    assert found["random_gains"] == pytest.approx([0, -0.01])
    assert (found["n"], found["chance"]) == (100, pytest.approx(1 / 3))


def test_verdict_of_nothing_flipped():
    text = "\n".join(verdict(measured(BASE, BASE, RANDOM)))
    assert "does not detectably change accuracy" in text
    assert "would find a gain" not in text  # nothing flipped, so nothing can be said
    assert "side effect ratio is undefined" in text
    assert "steering beats all of them: no" in text


def test_verdict_of_harm_noise_chance_and_length():
    worse = "w" * 30 + BASE[30:]
    m = measured(
        "r" * 34 + "w" * 66, worse[:34] + "w" * 66, ["r" * 40 + "w" * 60] * 5,
        constrained="r" * 40 + "w" * 60, chosen=[feature(0, 0.1, 0.2), feature(1, 0.3, 0.2)],
        length_r=-0.4,
    )  # fmt: skip
    text = "\n".join(verdict(m))
    assert "Steering lowers accuracy by 30.0 points" in text
    assert "steering beats all of them: no" in text
    assert "steering beats it: no" in text
    assert "not above chance (33.3 %)" in text
    assert "1 of 2 chosen features are at or below their layer's noise ceiling" in text
    assert "r = -0.40" in text


def test_below_chance_is_called_below():
    text = "\n".join(verdict(measured("r" * 5 + "w" * 95, BASE, RANDOM)))
    assert "below chance" in text


def test_groups_only_where_a_field_has_several_values():
    m = measured(
        BASE, BETTER, RANDOM, meta=lambda i: {"category": "ab"[i >= 50], "context": "ambig"}
    )
    assert list(m["groups"]) == ["category=a", "category=b"]
    assert m["groups"]["category=a"] == {"n": 50, "baseline": 1.0, "steered": 0.96}
    assert m["groups"]["category=b"]["steered"] == 0.5


def test_chance_is_undefined_for_free_text():
    assert chance_level([Example("a", "p", "A", ("x", "y")), Example("b", "p", "A")]) is None
    mixed = [Example("a", "p", "A", ("x", "y")), Example("b", "p", "A", tuple("wxyz"))]
    assert chance_level(mixed) == pytest.approx(0.375)


def test_arm_summary_counts_fractional_scores_from_one_half_as_right():
    part = frame("rww").assign(score=[0.5, 0.49, 1.0])
    assert arm_summary(part)["right"] == 2
