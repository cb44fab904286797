"""The sentences of a verdict, on answers made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from corrsteer.report.record import Control, SideEffects
from corrsteer.report.verdict import comparison, verdict
from corrsteer.stats.intervals import detectable_gain
from tests.report.answers import BASE, BETTER, RANDOM, feature, measured
from tests.report.fabricated_run import control


def text_of(*answers, **more) -> str:
    return "\n".join(verdict(measured(*answers, **more)))


def test_degenerate_answers_are_said():
    sentences = verdict(measured(BASE, BETTER[:97] + "ggg", RANDOM))
    expected = (
        "Degenerate text (loops or gibberish): 0 answers without and 3 with steering, of 100."
    )
    assert expected in sentences
    assert "Degenerate" not in text_of(BASE, BETTER[:99] + "g", RANDOM)


def test_verdict_of_a_success_names_price_and_controls():
    record = measured(BASE, BETTER, RANDOM, constrained="r" * 60 + "w" * 40)
    text = "\n".join(verdict(record))
    assert "Steering raises accuracy by 23.0 points, from 50.0 % to 73.0 %" in text
    low, high = (f"{100 * bound:+.1f}" for bound in record.gain_ci)
    assert f"(95 % interval {low} to {high} points; exact McNemar p = 5.6e-06)" in text
    assert record.ser_ci is not None
    low, high = record.ser_ci
    ratio = f"side effect ratio 0.07 (95 % interval {low:.2f} to {high:.2f})."
    assert f"fixed 25 answers and broke 2: {ratio}" in text and low < 0.07 < high
    assert "power to detect" not in text
    assert (
        "Random features of the same norm (5 draws): -1.0 to +1.0 points, all below steering."
        in text
    )
    assert "Constrained decoding does worse than steering (+10.0 against +23.0 points)." in text
    assert "restricted to the option letters reaches 60.0 % (+10.0 points)" in text
    assert "Invalid answers: 10.0 % without and 5.0 % with steering" in text
    assert "chance" not in text
    assert "noise ceiling" not in text


def test_a_verdict_without_effect_says_what_would_have_been_detected():
    as_many_each_way = BASE[:45] + "w" * 5 + "r" * 5 + BASE[55:]
    text = text_of(BASE * 10, as_many_each_way * 10, [BASE * 10])
    assert "Steering does not detectably change accuracy" in text
    least = detectable_gain(1000, 0.1)
    assert least is not None
    test = "At this flip rate and N = 1,000 the test has 80 % power to detect"
    assert f"{test} {100 * least:.1f} points." in text


@pytest.mark.parametrize(
    ("random", "words"),
    [
        ([BASE], "(1 draw): +0.0 points, below steering."),
        ([BASE, BETTER], "(2 draws): +0.0 to +23.0 points, 1 of them at least as good as"),
        ([BETTER, "r" * 100], "(2 draws): +23.0 to +50.0 points, all at least as good as"),
        (["r" * 100], "(1 draw): +50.0 points, at least as good as steering."),
    ],
)
def test_random_features_are_ranked(random, words):
    assert f"Random features of the same norm {words}" in text_of(BASE, BETTER, random)


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ({"instruction": [0.268], "flipped": [-0.6], "direction": [0.01, 0.05]},
         "The instruction does better than steering (+26.8 against +8.8 points); the other controls"
         " do worse."),
        ({"instruction": [0.205], "layers": [0.221], "flipped": [-0.1]},
         "Other layers and the instruction do better than steering (+22.1 and +20.5 against +8.8"
         " points); the flipped sign does worse."),
        ({"direction": [0.01, 0.2], "layers": [0.0]},
         "Random directions do better than steering (+20.0 at best against +8.8 points); other"
         " layers do worse."),
        ({"direction": [0.01], "layers": [0.0], "flipped": [-0.6]},
         "All controls do worse than steering (at most +1.0 against +8.8 points)."),
        ({"constrained": [0.088], "layers": [0.0]},
         "Constrained decoding does as well as steering (+8.8 points); other layers do worse."),
        ({"instruction": [0.1], "constrained": [0.088]},
         "The instruction does better than steering (+10.0 against +8.8 points); constrained"
         " decoding does as well."),
        ({"direction": [0.1], "layers": [0.2], "flipped": [0.3]},
         "All controls do better than steering (+10.0 to +30.0 against +8.8 points)."),
    ],
)  # fmt: skip
def test_controls_are_compared_in_one_sentence(gains, words):
    controls = {kind: Control.model_validate(control(0.088, g, kind)) for kind, g in gains.items()}
    assert comparison(0.088, controls) == words


def test_the_other_controls_are_those_besides_random_features():
    more = {"flipped": BASE, "direction": BASE}
    assert "All other controls do worse than steering (at most +0.0 against +23.0 points)." in (
        text_of(BASE, BETTER, RANDOM, **more)
    )
    assert "All controls do worse than" in text_of(BASE, BETTER, [], **more)
    alone = text_of(BASE, BETTER, [])
    assert "control" not in alone and "andom features" not in alone


EFFECTS = SideEffects.model_validate(
    {
        "off_target": {
            "n": 1000,
            "source": "everyday",
            "arms": {
                "steered": {"changed": 120, "rate": 0.12, "ci": (0.1, 0.14)},
                "random_1": {"changed": 300, "rate": 0.3, "ci": (0.27, 0.33)},
                "random_2": {"changed": 50, "rate": 0.05, "ci": (0.04, 0.06)},
            },
            "text": {"arms": {}},
        },
        "neutral": {
            "n_texts": 64,
            "n_positions": 2048,
            "source": "everyday",
            "arms": {
                "steered": {"kl": 0.0212, "kl_ci": (0.02, 0.03), "top1_changed": 0.1},
                "random_1": {"kl": 0.1, "kl_ci": (0.09, 0.11), "top1_changed": 0.1},
            },
        },
        "text": None,
        "activity": None,
    }
)


def test_side_effects_are_said_beside_random_draws():
    sentences = verdict(measured(BASE, BETTER, RANDOM, effects=EFFECTS))
    assert (
        "Side effects: 120 of 1,000 unrelated answers change (exact string comparison), an "
        "off-target side effect ratio of 0.48; random features change 50 to 300."
    ) in sentences
    assert (
        "On neutral text the KL divergence to the unsteered model is 0.021 nats per token (random "
        "features: 0.1)."
    ) in sentences
    assert "off-target" not in text_of(BASE, BASE, RANDOM, effects=EFFECTS)
    only = EFFECTS.model_copy(update={"off_target": None})
    text = text_of(BASE, BETTER, RANDOM, effects=only)
    assert "On neutral text the KL" in text and "unrelated" not in text


def test_an_unstable_choice_is_said():
    shaky = replace(feature(1, 0.3, 0.2), stability=0.48)
    text = text_of(BASE, BETTER, RANDOM, chosen=[feature(0, 0.4, 0.1), shaky])
    assert (
        "1 of 2 chosen features is the best of its layer in fewer than half of 50 bootstrap "
        "resamples"
    ) in text
    assert "resamples" not in text_of(BASE, BETTER, RANDOM)


def test_verdict_of_nothing_flipped():
    text = text_of(BASE, BASE, RANDOM)
    assert "does not detectably change accuracy" in text
    assert "power to detect" not in text  # nothing flipped, so nothing can be said
    assert "side effect ratio is undefined" in text
    assert "-1.0 to +1.0 points, 4 of them at least as good as steering." in text


def test_verdict_of_harm_noise_chance_and_length():
    worse = "w" * 30 + BASE[30:]
    text = text_of(
        "r" * 34 + "w" * 66, worse[:34] + "w" * 66, ["r" * 40 + "w" * 60] * 5,
        constrained="r" * 40 + "w" * 60, chosen=[feature(0, 0.1, 0.2), feature(1, 0.3, 0.2)],
        length_r=-0.4,
    )  # fmt: skip
    assert "Steering lowers accuracy by 30.0 points" in text
    assert "(5 draws): +6.0 points, all at least as good as steering." in text
    assert "Constrained decoding does better than steering (+6.0 against -30.0 points)." in text
    assert "not above chance (33.3 %)" in text
    assert "1 of 2 chosen features is at or below the noise ceiling of its layer" in text
    assert "r = -0.40" in text


def test_below_chance_is_called_below():
    assert "below chance" in text_of("r" * 5 + "w" * 95, BASE, RANDOM)
