"""The numbers of an evaluation, on answers made by hand; their sentences are tested in
tests/report/test_verdict.py."""

import json

import pytest
from scipy.stats import binomtest

from corrsteer.records import Example
from corrsteer.report.record import SideEffects
from corrsteer.stages.evaluate import arm_summary, chance_level, evaluate, transfer_summary
from corrsteer.steering.arms import Arm
from tests.report.answers import BASE, BETTER, RANDOM, examples, frame, measured


def test_accuracies_flips_and_gain():
    m = measured(BASE, BETTER, RANDOM, constrained="r" * 60 + "w" * 40)
    assert m.arms["baseline"].model_dump() == {
        "kind": "baseline",
        "n": 100, "accuracy": 0.5, "ci": pytest.approx((0.4038, 0.5962), abs=1e-4),
        "right": 50, "wrong": 40, "invalid": 10, "invalid_rate": 0.1,
        "degenerate": 0,
    }  # fmt: skip
    assert m.arms["steered"].accuracy == pytest.approx(0.73)
    assert m.gain == pytest.approx(0.23)
    assert (m.flips.fixed, m.flips.broken) == (25, 2)
    assert m.flips.counts == [[48, 2, 0], [20, 20, 0], [5, 0, 5]]
    assert m.flips.ser == pytest.approx(2 / 27)
    assert m.flips.mcnemar_p == pytest.approx(binomtest(2, 27).pvalue)
    assert m.gain_ci[0] < 0.23 < m.gain_ci[1]
    assert m.controls["random"].gains == pytest.approx([0, -0.01, 0.01, 0, 0])
    assert m.controls["random"].beats_all
    assert m.chance == pytest.approx(1 / 3)
    assert m.task_metrics["steered"] == {"rate": pytest.approx(0.73)}
    assert set(m.task_metrics) == set(m.arms)
    json.dumps(m.model_dump(), allow_nan=False)


def test_kinds_are_those_of_the_arms_whatever_their_names():
    """``layers_1`` of kind instruction, and a control called after two kinds."""
    arms = [
        Arm("baseline", "baseline"), Arm("steered", "steered"), Arm("layers_1", "instruction"),
        Arm("random_direction", "direction"), Arm("random_2", "direction"),
        Arm("not asked", "random"),
    ]  # fmt: skip
    states = (BASE, BETTER, "r" * 60 + "w" * 40, *RANDOM[:2])
    test = {arm.name: frame(s) for arm, s in zip(arms, states, strict=False)}
    results = evaluate(test, arms, examples(100), [], task_metrics=lambda e, a: {})
    assert {kind: c.gains for kind, c in results.controls.items()} == {
        "instruction": [pytest.approx(0.1)],
        "direction": pytest.approx([0, -0.01]),
    }
    assert {name: arm.kind for name, arm in results.arms.items()} == {
        "baseline": "baseline", "steered": "steered", "layers_1": "instruction",
        "random_direction": "direction", "random_2": "direction",
    }  # fmt: skip


def test_degenerate_answers_are_counted():
    m = measured(BASE, BETTER[:97] + "ggg", RANDOM)
    assert (m.arms["baseline"].degenerate, m.arms["steered"].degenerate) == (0, 3)


def test_every_published_ratio_and_what_changed_beside_the_outcome():
    m = measured(BASE, BETTER, RANDOM)
    # 50 right before, 2 of them broken; 27 flips, and what is parsed changes with each of them.
    assert m.changes.model_dump() == {"text": 27, "text_same_outcome": 0, "answer": 27}
    assert m.ser.model_dump() == {
        "flips": pytest.approx(2 / 27), "changed": pytest.approx(2 / 27), "right": 2 / 50,
        "negative_flip_rate": 2 / 100, "relative_negative_flip_rate": pytest.approx(0.02 / 0.135),
        "off_target": None,
    }  # fmt: skip
    assert m.side_effects is None


def test_one_flip_of_a_hundred_has_no_detectable_gain():
    assert measured(BASE, "w" + BASE[1:], RANDOM).detectable_gain is None


def unrelated(changed, n):
    arm = {"changed": changed, "rate": changed / n, "ci": (0.0, 1.0)}
    off = {"n": n, "source": "everyday", "arms": {"steered": arm}, "text": {"arms": {}}}
    nothing = {"neutral": None, "text": None, "activity": None}
    return SideEffects.model_validate({"off_target": off, **nothing})


def test_the_off_target_ratio_needs_unrelated_answers_and_a_fixed_one():
    # 120 of 1,000 prompts changed, 25 of 100 questions fixed.
    effects = unrelated(120, 1000)
    assert measured(BASE, BETTER, RANDOM, effects=effects).ser.off_target == pytest.approx(
        0.12 / 0.25
    )
    assert measured(BASE, BASE, RANDOM, effects=effects).ser.off_target is None
    only = effects.model_copy(update={"off_target": None})
    assert measured(BASE, BETTER, RANDOM, effects=only).ser.off_target is None


def test_transfer_is_summed_up_like_the_test_split():
    arms = [Arm("baseline", "baseline"), Arm("steered", "steered")]
    arms += [Arm("random_1", "random"), Arm("random_2", "random")]
    states = (BASE, BETTER, *RANDOM[:2])
    answers = {arm.name: frame(s) for arm, s in zip(arms, states, strict=True)}
    tested = transfer_summary(answers, arms, examples(100))
    own = measured(BASE, BETTER, RANDOM)
    assert (tested.gain, tested.gain_ci, tested.flips) == (own.gain, own.gain_ci, own.flips)
    assert tested.random_gains == pytest.approx([0, -0.01])
    assert (tested.n, tested.chance) == (100, pytest.approx(1 / 3))
    assert tested.arms["random_2"].kind == "random"


def test_groups_only_where_a_field_has_several_values():
    m = measured(
        BASE, BETTER, RANDOM, meta=lambda i: {"category": "ab"[i >= 50], "context": "ambig"}
    )
    assert list(m.groups) == ["category=a", "category=b"]
    assert m.groups["category=a"].model_dump() == {"n": 50, "baseline": 1.0, "steered": 0.96}
    assert m.groups["category=b"].steered == 0.5


def test_chance_is_undefined_for_free_text():
    assert chance_level([Example("a", "p", "A", ("x", "y")), Example("b", "p", "A")]) is None
    mixed = [Example("a", "p", "A", ("x", "y")), Example("b", "p", "A", tuple("wxyz"))]
    assert chance_level(mixed) == pytest.approx(0.375)


def test_arm_summary_counts_fractional_scores_from_one_half_as_right():
    part = frame("rww").assign(score=[0.5, 0.49, 1.0])
    assert arm_summary(part, "steered").right == 2
