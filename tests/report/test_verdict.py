"""What is said of a run follows what was decided, and nothing else says it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import corrsteer
from corrsteer.report.judgement import claim_of_seeds, joint_nulls, judge, other_p, own_nulls
from corrsteer.report.notes import chance, edge
from corrsteer.report.verdict import (
    compared,
    constrained,
    elsewhere,
    form,
    headline,
    headline_of_seeds,
    headline_of_table,
    one_answer,
    verdict,
    why_not,
)
from corrsteer.stats.claims import Claim, beats_all, decide
from corrsteer.stats.intervals import detectable_gain, holm
from tests.report.made_up import NULL, made_up, summary

PACKAGE = Path(corrsteer.__file__).parent
WORSE = {
    "gains": [0.01], "paired_p": 1e-6, "ahead_p": 1.0,
    "paired_gain": 0.11, "paired_ci": [0.09, 0.13],
}  # fmt: skip
LEVEL = {
    "gains": [0.1], "paired_p": 0.2, "ahead_p": 0.9,
    "paired_gain": 0.02, "paired_ci": [-0.01, 0.05],
}  # fmt: skip
BETTER = {
    "gains": [0.268], "paired_p": 1.0, "ahead_p": 1e-6,
    "paired_gain": -0.148, "paired_ci": [-0.17, -0.12],
}  # fmt: skip
BROKEN = ((480, 140, 0), (20, 360, 0), (0, 0, 0))


@pytest.mark.parametrize(
    ("record", "claim", "said"),
    [
        (made_up(), Claim.RAISES,
         "Steering helps (+12.0 points), more than random features of the same norm."),
        (made_up(controls={"layers": WORSE, "flipped": WORSE}), Claim.RAISES,
         "Steering helps (+12.0 points), more than every control."),
        (made_up(controls={"instruction": BETTER, "layers": LEVEL}), Claim.RAISES,
         "Steering helps (+12.0 points), but an instruction in the prompt helps more (+26.8) and"
         " other layers may help as much (+10.0)."),
        (made_up(controls={"layers": BETTER}), Claim.RAISES,
         "Steering helps (+12.0 points), but other layers help more (+26.8)."),
        (made_up(controls={"instruction": LEVEL, "flipped": WORSE}), Claim.RAISES,
         "Steering helps (+12.0 points), but an instruction in the prompt may help as much"
         " (+10.0)."),
        (made_up(controls={"instruction": BETTER, "layers": LEVEL, "shuffled": LEVEL,
                           "flipped": LEVEL}), Claim.RAISES,
         "Steering helps (+12.0 points), but an instruction in the prompt helps more (+26.8) and"
         " shuffled outcomes may help as much (+10.0), and 2 other controls."),
        (made_up(counts=((500, 24, 0), (20, 456, 0), (0, 0, 0))), Claim.UNDECIDED,
         "Undecided (−0.4 points): the smallest loss that these data could have shown is"
         f" {100 * detectable_gain(1000, 0.044):.1f} points."),
        (made_up(counts=((500, 0, 0), (5, 495, 0), (0, 0, 0)), gain_ci=[0.001, 0.011]),
         Claim.UNDECIDED,
         "Undecided (+0.5 points): the interval excludes 0, but the exact McNemar test is stricter"
         " (p\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}0.062); too few answers flipped to show any"
         " change."),
        (made_up(counts=BROKEN), Claim.LOWERS, "Steering lowers accuracy (−12.0 points)."),
        (made_up(random=[*NULL, 0.12, 0.2]), Claim.NO_BETTER,
         "Steering is no better than random features of the same norm (+12.0 points; 2 of 41 of"
         " their plans do as well, the best +20.0)."),
        (made_up(random=None), Claim.UNTESTED,
         "Accuracy rises (+12.0 points), but whether steering is the cause is untested: there are"
         " no random features of the same norm to compare with."),
        (made_up(random=[0.0] * 5), Claim.UNTESTED,
         "Accuracy rises (+12.0 points), but whether steering is the cause is untested: 5 plans of"
         " random features cannot tell, 19 can."),
        (made_up(counts=((500, 20, 0), (24, 456, 0), (0, 0, 0))), Claim.UNDECIDED,
         "Undecided (+0.4 points): the smallest gain that these data could have shown is"
         f" {100 * detectable_gain(1000, 0.044):.1f} points."),
        (made_up(counts=((500, 1, 0), (1, 498, 0), (0, 0, 0))), Claim.UNDECIDED,
         "Undecided (+0.0 points): too few answers flipped to show any change."),
        (made_up(counts=((500, 0, 0), (0, 500, 0), (0, 0, 0))), Claim.UNDECIDED,
         "Undecided (+0.0 points): no answer flipped."),
    ],
)  # fmt: skip
def test_the_first_sentence_is_the_verdict(record, claim, said):
    assert judge(record).claim is claim
    assert verdict(record)[0] == said


def test_correction_for_a_table_changes_what_is_said():
    record = made_up(controls={"layers": WORSE})
    alone = judge(record)
    assert alone.claim is Claim.RAISES and alone.beats_all
    many = judge(record, nulls={"random": 0.15}, questions=7)
    assert many.claim is Claim.NO_BETTER and not many.beats_all
    assert headline(many) == (
        "Steering is not shown to be better than random features of the same norm (+12.0 points; "
        "p\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}0.15 among 7 questions)."
    )
    flipped = judge(record, p=0.06, jobs=21)
    assert flipped.claim is Claim.UNDECIDED
    assert flipped.least == detectable_gain(1000, 0.16, level=0.05 / 21) > alone.least
    level = judge(record, others={"layers": 0.2})
    assert level.level == ("layers",) and level.claim is Claim.RAISES and not level.beats_all


kinds = st.sampled_from(["direction", "shuffled", "layers", "flipped", "instruction"])
gains = st.floats(-0.3, 0.3)


@st.composite
def records(draw):
    fixed, broken = draw(st.integers(0, 200)), draw(st.integers(0, 200))
    unread = draw(st.integers(0, fixed))
    lost = draw(st.integers(0, broken))
    counts = (
        (300 - broken, broken - lost, lost),
        (fixed - unread, 300 - fixed + unread, 0),
        (unread, 0, 400 - unread),
    )
    controls = {}
    for kind in draw(st.sets(kinds)):
        low, high = sorted((draw(gains), draw(gains)))
        controls[kind] = {
            "gains": [draw(gains)], "paired_p": (p := draw(st.floats(0, 1))), "ahead_p": 1 - p,
            "paired_gain": (low + high) / 2, "paired_ci": [low, high],
        }  # fmt: skip
    random = draw(st.none() | st.lists(gains, min_size=1, max_size=45))
    return made_up(counts=counts, random=random, controls=controls)


WORDS = {
    Claim.RAISES: "Steering helps",
    Claim.LOWERS: "Steering lowers accuracy",
    Claim.NO_BETTER: "Steering is no better than random features",
    Claim.UNTESTED: "Accuracy rises",
    Claim.UNDECIDED: "Undecided",
}


@pytest.mark.long
@given(records())
def test_sentences_follow_what_was_decided(record):
    judged = judge(record)
    nulls = own_nulls(record)
    null = max(nulls.values()) if "random" in nulls else None
    assert judged.claim is decide(record.gain, record.flips.mcnemar_p, null)
    first, *more = verdict(record)
    assert first.startswith(WORDS[judged.claim])
    assert ("elps" in first or "help " in first) == (judged.claim is Claim.RAISES)
    others = [c.paired_p for kind, c in record.controls.items() if kind != "random"]
    assert judged.beats_all == beats_all(judged.claim, others)
    assert ("more than every control" in first) == judged.beats_all
    if judged.claim is Claim.RAISES:
        assert record.controls["random"].p <= 0.05 and record.flips.mcnemar_p < 0.05
    assert len(more) <= 5 and all(len(sentence) < 300 for sentence in more)
    assert not any("teering helps" in sentence for sentence in more)
    corrected = dict(zip([k for k in record.controls if k != "random"], holm(others), strict=True))
    assert set(judged.worse) == {kind for kind, p in corrected.items() if p < 0.05}
    assert {*judged.worse, *judged.better, *judged.level} == set(corrected)


@pytest.mark.long
@given(st.lists(records(), min_size=2, max_size=4))
def test_the_verdict_of_a_setting_counts_its_seeds(found):
    judged = [judge(record) for record in found]
    said = headline_of_seeds(judged, 0.05, 0.01)
    helped = sum(j.claim is Claim.RAISES for j in judged)
    assert (f"helps in {helped}" in said) == (helped > 0)
    assert f"of {len(found)} seeds (mean gain +5.0 points, standard deviation 1.0)" in said
    claim = claim_of_seeds(judged)
    assert claim is Claim.UNDECIDED or 2 * sum(j.claim is claim for j in judged) > len(judged)
    assert (why_not(judged) == "") == (2 * sum(j.beats_all for j in judged) > len(judged))


def test_seeds_are_told_by_their_claims():
    helped, lowered = judge(made_up(controls={"layers": WORSE})), judge(made_up(counts=BROKEN))
    assert headline_of_seeds([helped, helped, lowered], 0.04, 0.138) == (
        "Steering helps in 2 and lowers accuracy in 1 of 3 seeds (mean gain +4.0 points, standard "
        "deviation 13.8); it beats every control in 2."
    )
    assert headline_of_seeds([helped], 0.12, None) == headline(helped)
    assert headline_of_table([[helped, helped, lowered], [lowered], [lowered, helped]]) == (
        "Of 3 settings, steering helps in 1, lowers accuracy in 1 and is undecided in 1; it beats "
        "every control in 1."
    )


@pytest.mark.parametrize(
    ("best", "chosen", "said"),
    [
        ([1, 2], 1, ""),
        ([2], 1, "Validation is most accurate at the largest dial that was tried (2): add"
         " coef=4,8."),
        ([2], 2, "Validation chooses the largest dial that was tried (2): add coef=4,8."),
        ([0.5, 1, 2], 0.5, ""),
    ],
)  # fmt: skip
def test_the_edge_is_that_of_the_best_dial_and_no_dial_is_best_in_a_tie(
    best: list[float], chosen: float, said: str
) -> None:
    assert edge([0.5, 1, 2], best, chosen) == said


def test_random_features_alone_are_not_every_control():
    alone, lowered = judge(made_up()), judge(made_up(counts=BROKEN))
    assert alone.claim is Claim.RAISES and not alone.beats_all
    assert headline(alone) == (
        "Steering helps (+12.0 points), more than random features of the same norm."
    )
    assert why_not([alone]) == "helps, random features are its only control"
    only = "; random features are its only control."
    assert headline_of_seeds([alone, lowered], 0.0, None).endswith(only)
    assert headline_of_table([[alone], [lowered]]).endswith(only)
    beside = judge(made_up(controls={"layers": WORSE}))
    assert headline_of_table([[alone], [beside]]).endswith("it beats every control in 1.")


@pytest.mark.parametrize(
    ("controls", "said"),
    [
        ({}, ""),
        ({"layers": WORSE, "flipped": WORSE | {"gains": [-0.6]}},
         "Other layers come closest (+1.0)."),
        ({"instruction": BETTER, "layers": LEVEL, "flipped": WORSE},
         "The instruction (+26.8) does better than steering; other layers (+10.0) are not told"
         " apart from it; the flipped sign (+1.0) does worse than it."),
        ({kind: WORSE for kind in ("layers", "flipped", "shuffled", "direction")}
         | {"instruction": LEVEL},
         "The instruction (+10.0) is not told apart from steering; 4 controls (at most +1.0) do"
         " worse than it."),
    ],
)  # fmt: skip
def test_controls_are_compared_by_paired_tests(controls, said):
    assert compared(judge(made_up(controls=controls))) == said


def test_paired_tests_are_corrected_over_all_controls_of_a_table():
    weak = WORSE | {"paired_p": 0.02}
    one, two = made_up(controls={"layers": weak}), made_up(controls={"flipped": weak})
    assert other_p([one]) == [{"layers": 0.02}]
    assert other_p([one, two]) == [{"layers": 0.04}, {"flipped": 0.04}]
    three = other_p([one, two, made_up(controls={"layers": weak})])
    assert [p for found in three for p in found.values()] == pytest.approx([0.06] * 3)


def test_features_chosen_on_shuffled_outcomes_are_a_second_null():
    above = {"shuffled": {"gains": [0.01] * 39}}
    alone = judge(made_up(controls=above))
    assert (alone.claim, alone.worse, alone.beats_all) == (Claim.RAISES, (), False)
    assert headline(alone) == (
        "Steering helps (+12.0 points), more than random features and features chosen on shuffled"
        " outcomes of the same norm."
    )
    both = judge(made_up(controls={**above, "layers": WORSE}))
    assert both.beats_all and headline(both) == (
        "Steering helps (+12.0 points), more than every control."
    )
    level = judge(made_up(controls={"shuffled": {"gains": [0.01] * 37 + [0.12, 0.2]}}))
    assert level.claim is Claim.NO_BETTER and level.unbeaten == ["shuffled"]
    assert headline(level) == (
        "Steering is no better than features chosen on shuffled outcomes of the same norm (+12.0"
        " points; 2 of 39 of their plans do as well, the best +20.0)."
    )
    assert why_not([level]) == "no better than features chosen on shuffled outcomes"
    only = "random features and features chosen on shuffled outcomes are its only controls"
    assert why_not([alone]) == f"helps, {only}"
    assert headline_of_table([[alone], [level]]) == (
        "Of 2 settings, steering helps in 1 and is no better than random features or shuffled"
        f" outcomes in 1; {only}."
    )
    # Each p-value stands beside its own null, and random features come first.
    p = {"random": 0.075, "shuffled": 0.4}
    said = headline(judge(made_up(controls=above), nulls=p, questions=7))
    nbsp = "\N{NO-BREAK SPACE}"
    assert f"random features of the same norm (+12.0 points; p{nbsp}={nbsp}0.075 among 7" in said
    assert why_not([judge(made_up(controls=above), nulls=p)]) == (
        "not shown to be better than random features"
    )
    untested = judge(made_up(random=[0.0] * 5, controls={"shuffled": {"gains": [0.2] * 39}}))
    assert "5 plans of random features cannot tell, 19 can" in headline(untested)
    # Of two draws nothing is known: they are compared as other controls are.
    few = judge(made_up(controls={"shuffled": WORSE | {"gains": [0.01, 0.02]}}))
    assert few.claim is Claim.RAISES and few.worse == ("shuffled",)


def test_a_second_null_is_corrected_for_all_questions_of_a_table():
    """Also for those whose claim random features ruled out, so that it was not drawn for them."""
    gains = [0.11 - 0.005 * n for n in range(39)]
    open_ = made_up(random=gains, controls={"shuffled": {"gains": gains}})
    shut = made_up(
        random=[0.12 + 0.001 * n for n in range(38)] + [0.9],
        controls={"shuffled": {"gains": [0.5, 0.6], "asked": 39}},
    )
    lost = made_up(
        counts=BROKEN, random=[-0.3] * 39, controls={"shuffled": {"gains": [0.5, 0.6], "asked": 39}}
    )
    assert own_nulls(lost) == {"random": 1 / 40}  # its two draws of the second decided nothing
    assert joint_nulls([open_]) == [{"random": 1 / 40, "shuffled": 1 / 40}]
    found = joint_nulls([open_, *[shut] * 3])
    assert [sorted(one) for one in found] == [["random", "shuffled"], *[["random"]] * 3]
    assert found[0]["shuffled"] > 1 / 40
    assert judge(shut).claim is Claim.NO_BETTER
    assert headline(judge(shut)).startswith("Steering is no better than random features")
    assert judge(shut).better == ("shuffled",)  # its two draws are compared as other controls are


def test_a_control_is_ahead_only_after_correction_too():
    ahead = LEVEL | {"paired_p": 0.98, "ahead_p": 0.03}
    assert judge(made_up(controls={"layers": ahead})).better == ("layers",)
    two = judge(made_up(controls={"layers": ahead, "flipped": ahead}))
    assert (two.better, two.level) == ((), ("layers", "flipped"))


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (((480, 5, 0), (26, 300, 0), (131, 0, 58)),
         "Of 157 fixed answers 131 were no readable answer before."),
        (((480, 0, 5), (0, 300, 0), (1, 0, 214)),
         "The one fixed answer was no readable answer before; of 5 broken answers all 5 can no "
         "longer be read."),
        (((480, 5, 0), (26, 300, 0), (0, 0, 189)), ""),
    ],
)  # fmt: skip
def test_flips_from_and_to_unreadable_answers_are_told(counts, said):
    assert form(made_up(counts=counts)) == said


@pytest.mark.parametrize(
    ("difference", "ci", "how"),
    [
        (-0.064, [-0.08, -0.05], "6.4 points fewer than in free answers"),
        (0.03, [0.01, 0.05], "3.0 points more than in free answers"),
        (-0.01, [-0.03, 0.01], "not told apart from that of free answers"),
    ],
)
def test_the_gain_under_constrained_decoding_is_compared(difference, ci, how):
    both = {"gain": 0.012, "ci": [0.002, 0.022], "difference": difference, "difference_ci": ci}
    said = "Where both may answer with option letters only, the gain is +1.2 points [+0.2, +2.2], "
    assert constrained(made_up(constrained_gain=both)) == f"{said}{how}."


def test_one_answer_that_is_always_right_is_told_with_its_other_half():
    half = {
        "name": "disambig", "n": 2000, "baseline": 0.503, "steered": 0.508, "gain": 0.005,
        "ci": [-0.001, 0.011],
    }  # fmt: skip
    said = one_answer(made_up(one_answer={"answer": "unknown", "half": half}))
    assert said.replace("\N{NO-BREAK SPACE}", " ") == (
        "“unknown” is right in every test question, so accuracy is the rate of that answer; where "
        "it is wrong (disambig, 2,000 questions) accuracy goes from 50.3 % to 50.8 % (+0.5 [−0.1, "
        "+1.1])."
    )
    alone = one_answer(made_up(one_answer={"answer": "unknown", "half": None}))
    assert alone.endswith(", and a mere push towards it would look the same.")


def beside_the_task(kl: float, perplexity: float | None) -> dict[str, object]:
    moved = {"kl": kl, "kl_ci": [0.97 * kl, 1.03 * kl], "top1_changed": 0.5}
    read = {"n": 9, "n_tokens": 90, "repetition": None, "repetition_n": 0, "degenerate": 0}
    texts = {"baseline": read | {"perplexity": 2.15}, "steered": read | {"perplexity": perplexity}}
    changed = {"steered": {"changed": 3, "rate": 1 / 3, "ci": [0.1, 0.6]}}
    return {
        "neutral": {"n_texts": 9, "n_positions": 90, "source": "world", "arms": {"steered": moved}},
        "off_target": {"n": 9, "source": "world", "arms": changed, "text": {"arms": texts}},
        "text": None,
        "activity": None,
    }


@pytest.mark.parametrize(
    ("kl", "perplexity", "said"),
    [
        (0.101, 20.0, ""),
        (3.4645, 20.0, "Outside its task this plan changes the model: 3.46 nats per token on"
         " neutral text, where 0.1 is a usual limit."),
        (0.05, None, ""),
        (0.05, 10545.0, "Outside its task this plan changes the model: the perplexity of answers to"
         " unrelated prompts goes from 2.15 to 10,545."),
    ],
)  # fmt: skip
def test_a_model_that_is_broken_elsewhere_is_told_at_once(kl, perplexity, said):
    record = made_up(side_effects=beside_the_task(kl, perplexity))
    assert elsewhere(record) == said
    assert elsewhere(made_up()) == ""
    assert verdict(record)[1:2] == ([said] if said else verdict(made_up())[1:2])


@pytest.mark.parametrize(
    ("right", "n", "level", "said"),
    [
        (221, 578, 0.5, "The unsteered model is below chance (38.2 % against 50.0 %): it prefers"
         " wrong options, which is a finding of its own."),
        (9, 20, 0.5, "With 20 questions the unsteered model (45.0 %) cannot be told apart from"
         " chance (50.0 %)."),
        (85, 150, 0.5, "With 150 questions the unsteered model (56.7 %) cannot be told apart from"
         " chance (50.0 %)."),
        (120, 150, 0.5, ""),
        (1, 20, None, ""),
    ],
)  # fmt: skip
def test_a_model_at_chance_is_never_said_to_fail(right, n, level, said):
    record = made_up()
    arms = record.model_dump()["arms"] | {"baseline": summary("baseline", n, right)}
    record = made_up(arms=arms, chance=level)
    assert chance(record).replace("\N{NO-BREAK SPACE}", " ") == said
    assert (chance(record) in verdict(record)) == bool(said)


def test_a_search_that_ends_at_its_range_is_told_first():
    trial = {
        "number": 5, "coef": 2.99, "pooling": "max", "accuracy": 0.8, "broken": 0,
        "broken_share": 0.0, "fixed": 9, "ser": 0.0, "norm": 1.0, "on_front": True, "chosen": True,
    }  # fmt: skip
    search = {
        "trials": 8, "batch": 8, "coef": [0.0, 3.0], "start": 1.0, "layers": "none",
        "pooling": ["max"], "n": 100, "right": 50, "standard_error": 0.02, "unsteered": trial,
        "plain": [trial], "front": [trial], "chosen": trial, "note": "",
    }  # fmt: skip
    said = verdict(made_up(search=search))
    assert said[1] == (
        "The search chooses the largest dial that it may (2.99): type search.coef=[0,6]."
    )
    inside = search | {"chosen": trial | {"coef": 2.0}}
    assert "search" not in " ".join(verdict(made_up(search=inside)))


# -- nothing else says it ----------------------------------------------------------------------

EFFECT = re.compile(
    r"\b(raises|lowers|improves|increases|boosts|reduces|worsens) (the )?accuracy"
    r"|\baccuracy (rises|falls|improves|drops)"
    r"|\b[Ss]teering (helps|hurts|works|raises|lowers|improves|fails|gains)"
    r"|\b[Ss]teering is (no |not )?(better|worse)"
    r"|\b(do|does|help|helps|performs?) (better|worse|more)\b"
    r"|\b(due to|thanks to|because of) (the )?steering"
    r"|\bno better than random|\bmore than (every|any) control|\bhelps? (in|more|most)\b"
)


def written(file: Path) -> list[str]:
    """The texts of a file that a user may see: string constants but docstrings, or a template."""
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        return [text]
    tree = ast.parse(text)
    silent = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in silent
    ]


FILES = sorted(
    file
    for file in [*PACKAGE.rglob("*.py"), *(PACKAGE / "report" / "templates").iterdir()]
    if file.name != "report.js" and "bundled" not in file.parts
)


def test_only_the_verdict_says_what_steering_did():
    said = {}
    for file in FILES:
        found = [match[0] for text in written(file) for match in EFFECT.finditer(text)]
        said[file.relative_to(PACKAGE).as_posix()] = found
    assert len(said.pop("report/verdict.py")) > 8  # the pattern knows its sentences
    assert said.pop("stats/claims.py") == ["no better than random"]  # what it decides is called so
    said.pop("claims/asked.py")  # claims, of which each is answered by an experiment
    assert {file: words for file, words in said.items() if words} == {}
