"""Draws of a null through the store: in chunks, ended early, and gone on with."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pandas as pd
import pytest

from corrsteer.models.local import LocalModel
from corrsteer.records import Score
from corrsteer.run import drawing
from corrsteer.stages.answers import answers
from corrsteer.stages.controls import controls
from corrsteer.stages.evaluate import evaluate
from corrsteer.steering.arms import Arm, baseline, steered
from tests.stages.made import Stop, asking_of, bench, counted, emptied, stop_after, story

__all__ = ["bench"]  # a fixture

pytestmark = pytest.mark.long

NONE = {"random": 0, "direction": 0, "shuffled": 0, "layers": 0, "flipped": 0}


def arms_of(bench, **draws: int) -> list[Arm]:
    """Baseline, steering and so many draws; the unsteered arm last, as a control that is none."""
    told = story(bench)
    made = controls(bench, told.plan, told.stats, NONE | draws)
    return [baseline(), steered(told.plan), *made]


def numbers(bench, done: drawing.Tested, stop: int | None):
    results = evaluate(
        done.answers,
        done.arms,
        bench.asking.splits["test"],
        [],
        task_metrics=lambda *_: {},
        asked=done.asked,
        stop=stop,
    )
    return results.controls["random"]


@pytest.mark.night
def test_drawing_ends_at_the_draw_that_decides_whatever_the_chunks(bench, monkeypatch, caplog):
    arms = arms_of(bench, random=12)
    whole = drawing.tested(bench, bench.asking, arms, None)
    right = {name: (frame["score"] >= 0.5).sum() for name, frame in whole.answers.items()}
    good = [right[f"random_{n}"] >= right["steered"] for n in range(1, 13)]
    assert 3 <= sum(good) <= 9  # some plans do better
    end = int(np.flatnonzero(good)[2]) + 1
    assert end < 12
    for chunk in (1, 5, 12):
        monkeypatch.setattr(drawing, "chunk_end", lambda done, n, _, c=chunk: min(n, done + c))
        caplog.clear()
        with caplog.at_level(logging.INFO):
            early = drawing.tested(bench, bench.asking, arms, 3)
        assert list(early.answers) == ["baseline", "steered"] + [
            f"random_{n}" for n in range(1, end + 1)
        ]
        for name, frame in early.answers.items():
            assert frame.equals(whole.answers[name])
        assert f"3 of {end} draws do at least as well as steering" in caplog.text
        null = numbers(bench, early, 3)
        assert (null.asked, len(null.gains), null.at_least_as_good) == (12, end, 3)
        assert null.p == pytest.approx(3 / end)
    full = numbers(bench, whole, None)
    assert full.gains[:end] == null.gains and full.p == (1 + sum(good)) / 13


def test_the_cost_is_said_before_anything_is_answered(bench, monkeypatch, caplog):
    arms = arms_of(bench, random=12, layers=2, flipped=1)
    monkeypatch.setattr(drawing, "answers", stop_after(0, answers))
    with caplog.at_level(logging.INFO), pytest.raises(Stop):
        drawing.tested(bench, bench.asking, arms, 3)
    assert "8 to 17 arms x 60 questions" in caplog.text
    assert "12 of random features, 2 of other layers" in caplog.text
    assert "drawing ends at 3" in caplog.text


def test_more_draws_only_add(bench, monkeypatch):
    few = drawing.tested(bench, bench.asking, arms_of(bench, random=3), None)
    arms, calls, made = arms_of(bench, random=5), [], LocalModel.generate

    def generate(self, prompts, interventions, **options):
        calls.append(len(interventions))
        return made(self, prompts, interventions, **options)

    monkeypatch.setattr(LocalModel, "generate", generate)
    more = drawing.tested(bench, bench.asking, arms, None)
    assert set(calls) == {2}  # the two new draws, and nothing else
    for name, frame in few.answers.items():
        assert frame.equals(more.answers[name])


def test_a_run_killed_in_its_draws_goes_on_with_them(bench, monkeypatch, tmp_path):
    arms = arms_of(bench, random=12)
    with monkeypatch.context() as patch:
        patch.setattr(LocalModel, "generate", stop_after(6, LocalModel.generate))
        with pytest.raises(Stop):  # in the second chunk: a chunk is four batches
            drawing.tested(bench, bench.asking, arms, 10)
    calls = counted(monkeypatch, "generate")
    again = drawing.tested(bench, bench.asking, arms, 10)
    assert sum(calls) < 60 and len(again.arms) == 14
    fresh = emptied(bench, tmp_path / "fresh")
    assert numbers(bench, again, 10) == numbers(
        fresh, drawing.tested(fresh, fresh.asking, arms, 10), 10
    )


@pytest.mark.parametrize(
    ("random", "stop", "look", "drawn", "said"),
    [
        (40, 10, 2, {"random": 39, "shuffled": 39}, ""),
        (40, None, 2, {"random": 39, "shuffled": 39}, ""),
        (55, 10, 2, {"random": 10, "shuffled": 2},
         "shuffled outcomes: random features leave no claim open, so the other 37"),
        (55, None, 2, {"random": 39, "shuffled": 2}, "shuffled outcomes: random features leave"),
        (55, 10, None, {"random": 10, "shuffled": 39}, "random features: 10 of 10 draws do"),
    ],
)  # fmt: skip
def test_shuffled_outcomes_are_drawn_where_random_features_leave_a_claim_open(
    bench, monkeypatch, caplog, random, stop, look, drawn, said
):
    right = {"baseline": 30, "steered": 50, "shuffled": 41, "random": random}

    def answered(_bench, _asking, _split, chunk):
        scores = {arm.name: np.arange(60) < right[arm.kind] for arm in chunk}
        return {
            name: pd.DataFrame({"score": found.astype(float)}) for name, found in scores.items()
        }

    monkeypatch.setattr(drawing, "answers", answered)
    arms = [baseline(), steered(story(bench).plan)]
    arms += [Arm(f"{kind}_{n}", kind) for kind in ("random", "shuffled") for n in range(39)]
    with caplog.at_level(logging.INFO):
        done = drawing.tested(bench, bench.asking, arms, stop, look)
    assert {kind: sum(a.kind == kind for a in done.arms) for kind in drawn} == drawn
    assert done.asked == {"random": 39, "shuffled": 39}
    assert said in caplog.text
    assert list(done.answers) == [arm.name for arm in done.arms]


@pytest.mark.parametrize(("positions", "least"), [("generation", 40), ("all", 12)])
def test_draws_that_read_every_prompt_themselves_are_made_in_chunks(
    bench, monkeypatch, positions, least
):
    """Of one token answers; behind a prompt that is read once, all at once cost less."""
    asked = []

    def answered(_bench, _asking, _split, chunk):
        asked.append(len(chunk))
        return {arm.name: pd.DataFrame({"score": np.ones(60)}) for arm in chunk}

    monkeypatch.setattr(drawing, "answers", answered)
    plan = dataclasses.replace(story(bench).plan, positions=positions)
    arms = [baseline(), steered(plan), *(Arm(f"random_{n}", "random") for n in range(38))]
    drawing.tested(bench, asking_of(max_new_tokens=1), arms, 10)
    assert asked == [least]


def test_an_unlucky_plan_costs_ten_draws(bench, monkeypatch):
    """No draw does worse than a plan that gets nothing right."""
    arms = arms_of(bench, random=30)
    asking = asking_of(scorer=lambda example, text: Score(0.0, text))
    done = drawing.tested(bench, asking, arms, 10)
    assert len(done.arms) == 12
    null = numbers(dataclasses.replace(bench, asking=asking), done, 10)
    assert (null.p, null.at_least_as_good, null.asked) == (1.0, 10, 30)
