"""Training behind the store: killed and begun again, and what it learns of answers that are
nobody's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from corrsteer.methods.finetuned import LoRA
from corrsteer.models import training
from corrsteer.models.recipe import Recipe
from corrsteer.records import Question
from corrsteer.scorers.choice import Choice
from corrsteer.stages.bench import Asking
from corrsteer.stages.evaluate import outcomes
from corrsteer.stages.finetune import Lesson, checkpoints, drop, held
from corrsteer.stats.intervals import better_p
from corrsteer.steering.arms import baseline
from corrsteer.tasks.base import Task
from tests.stages.made import Stop, asked, bench, emptied, stop_after

__all__ = ["bench"]  # a fixture

LORA = Recipe("lora", 0.0, 4, 0, rank=2, alpha=4)
FULL = Recipe("full", 0.0, 4, 0)


def lesson(bench):
    return Lesson(bench.selection[:6], ["A", "B", "A", "B", "A", "B"])


def files(bench):
    """By what it is of, the bytes of each file of weights."""
    found = {}
    for made in checkpoints(bench, lesson(bench), LORA, [0.01, 0.02], 2):
        for file in made.intervention.files:
            found[made.lr, made.epoch, file.name] = file.read_bytes()
    return found


def test_training_that_is_killed_goes_on_and_ends_at_the_same_bytes(bench, tmp_path, monkeypatch):
    whole = files(emptied(bench, tmp_path / "whole"))
    assert len(whole) == 8 and len(set(whole.values())) == 5  # 4 of weights, 1 of settings
    trained = training._epoch
    monkeypatch.setattr(training, "_epoch", stop_after(1, trained))
    with pytest.raises(Stop):
        files(bench)
    calls = []
    monkeypatch.setattr(training, "_epoch", lambda *a: calls.append(a) or trained(*a))
    assert files(bench) == whole and len(calls) == 3  # the first epoch is not trained again
    calls.clear()
    assert files(bench) == whole and calls == []
    assert not list((bench.store.root / "finetune").glob(".*.partial"))


def test_weights_that_were_dropped_are_made_again_byte_for_byte(bench, monkeypatch):
    told, home = lesson(bench), bench.store.root / "weights"
    made = checkpoints(bench, told, FULL, [0.01], 3)
    (kept,) = made[1].intervention.files
    content = kept.read_bytes()
    drop(bench, FULL, made)
    assert not list(home.glob("[!.]*")) and checkpoints(bench, told, FULL, [0.01], 3) == made
    trained = training._epoch
    monkeypatch.setattr(training, "_epoch", stop_after(1, trained))
    with pytest.raises(Stop):
        held(bench, told, FULL, made[1:2])
    calls = []
    monkeypatch.setattr(training, "_epoch", lambda *a: calls.append(a) or trained(*a))
    (again,) = held(bench, told, FULL, made[1:2])
    assert len(calls) == 1  # the first epoch is not trained again, and the third not at all
    assert again == made[1] and kept.read_bytes() == content
    assert held(bench, told, FULL, made[1:2]) == [again] and len(calls) == 1
    assert kept.parent in home.glob("[!.]*")
    calls.clear()
    assert held(bench, told, FULL, made) == made and len(calls) == 3  # once for all of them
    assert not list(bench.store.root.glob("*/.*.partial"))


class Words(Task):
    """Which letter is right depends on one word."""

    def rows(self):
        rng = np.random.default_rng(0)
        for n in range(240):
            word = ["cat", "dog"][n % 2]
            rest = " ".join(rng.choice(["the", "a", "saw", "over"], size=2))
            fields = {"text": f"{rest} {word}"}
            yield Question(f"w{n}", fields, "AB"[n % 2], ("x", "y"), answer="AB"[n % 2])


@pytest.mark.night
def test_gold_answers_teach_and_answers_dealt_at_random_do_not(bench):
    task = Words(name="words", prompt="{text}\n{options}\n:", scorer=Choice(), max_new_tokens=1)
    every = task.examples()
    splits = {"selection": every[:64], "validation": every[64:128], "test": every[128:]}
    bench = replace(bench, asking=Asking(task, splits, "constrained"))
    method = LoRA(1.0, "gold", [0.003, 0.01], 4, 8, None, rank=4, alpha=8)
    gains = {}
    for data in ("gold", "shuffled"):
        fitted = replace(method, data=data).fit(bench)
        answered = asked(bench, baseline(), fitted.arm)
        change = outcomes(answered["baseline"], answered["steered"])
        gains[data] = int((change > 0).sum()), int((change < 0).sum())
        table = fitted.tables["training"]
        assert len(table) == 9 and table["chosen"].sum() == 1
    assert better_p(*gains["gold"]) < 1e-4, gains
    assert better_p(*gains["shuffled"]) > 0.05, gains
