"""What fine-tuning learns from, which checkpoint it takes, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from corrsteer.errors import ConfigError, DataError
from corrsteer.methods.finetuned import AllWeights, BiasOnly, LoRA, chosen, lesson_of
from corrsteer.models.local import Local
from corrsteer.models.remote import NDIF
from corrsteer.steering.arms import baseline
from corrsteer.steering.plan import Plan
from tests.stages.made import asked, bench

__all__ = ["bench"]  # a fixture

PLAIN = {"coef": 1.0, "data": "gold", "lr": [0.01], "epochs": 1, "batch": 20, "match": None}
METHODS: dict[str, Any] = {
    "lora": LoRA(**PLAIN, rank=2, alpha=4),
    "full": AllWeights(**PLAIN),
    "bias": BiasOnly(**PLAIN, positions="all"),
}


def test_the_best_checkpoint_is_taken_and_of_equal_ones_the_least_trained():
    assert chosen([5, 7, 9, 9], 10, None) == 2
    assert chosen([9, 7, 9], 10, None) == 0
    assert chosen([5, 6, 8, 8], 10, 0.75) == 2
    assert chosen([5, 6, 8, 8], 10, 0.0) == 0
    assert chosen([7, 8, 7], 10, 0.7) == 2  # of equally near ones one that was trained


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "silver"}, "gold, own_right, shuffled"),
        ({"lr": []}, r"strategy\.lr=\[1e-4,1e-3\]"),
        ({"lr": [0.0]}, "above 0"),
        ({"epochs": -1}, r"strategy\.epochs=-1"),
        ({"batch": 0}, "at least 1"),
        ({"match": 80}, r"strategy\.match=0\.8"),
    ],
)
@pytest.mark.parametrize("kind", METHODS)
def test_settings_without_a_meaning_are_refused(kind, changes, words):
    with pytest.raises(ConfigError, match=words) as caught:
        replace(METHODS[kind], **changes)
    assert "\n" not in str(caught.value)


def test_a_lora_needs_a_rank_and_a_bias_known_positions():
    with pytest.raises(ConfigError, match=r"strategy\.rank=16"):
        replace(METHODS["lora"], rank=0)
    with pytest.raises(ConfigError, match=r"strategy\.alpha=0"):
        replace(METHODS["lora"], alpha=0)
    with pytest.raises(ConfigError, match="positions='nowhere' is unknown"):
        replace(METHODS["bias"], positions="nowhere")


@pytest.mark.parametrize("kind", METHODS)
def test_only_a_backend_with_the_weights_at_hand_trains(kind):
    lacking = {b: METHODS[kind].needs - b.supports() for b in (Local(), NDIF())}
    assert lacking[Local()] == set() and "training" in lacking[NDIF()]
    assert METHODS[kind].needs - Local(device_map="auto").supports()


def test_what_is_learnt(bench):
    answered = asked(bench, split="selection")["baseline"]
    own = lesson_of(bench, "own_right")
    right = answered[answered["score"] >= 0.5]
    assert 0 < len(right) < len(answered)
    assert [e.id for e in own.examples] == list(right["id"])
    assert [list(a) for a in own.answers] == [list(t) for t in right["tokens"]]
    with pytest.raises(DataError, match="type strategy.data=own_right"):
        lesson_of(bench, "gold")  # this task has none to show
    gold = with_gold(bench)
    lesson, dealt = (lesson_of(gold, data) for data in ("gold", "shuffled"))
    assert list(lesson.answers) == [e.id for e in gold.selection] and lesson.ends
    assert sorted(dealt.answers) == sorted(lesson.answers) and dealt.answers != lesson.answers
    weighed = replace(gold, asking=replace(gold.asking, decoding="loglikelihood"))
    texts = lesson_of(weighed, "gold")
    assert set(texts.answers) == {"second"} and not texts.ends


def with_gold(bench):
    examples = [
        replace(e, answer=e.id, gold="B", options=("first", "second")) for e in bench.selection
    ]
    splits = dict.fromkeys(("selection", "validation", "test"), examples)
    return replace(bench, asking=replace(bench.asking, splits=splits))


def test_of_all_weights_those_that_answer_are_kept(bench):
    gold, home = with_gold(bench), bench.store.root / "weights"
    method = replace(METHODS["full"], lr=[0.001, 0.01])

    def kept():
        return {*home.glob("[!.]*")}

    first = method.fit(gold)
    table = first.tables["training"]
    assert len(table) == 3
    assert kept() == {p for p in [first.arm.intervention.folder] if p is not None}
    accuracy = table["accuracy"].iloc[1:]  # of a checkpoint that was dropped
    other = float(accuracy[~table["chosen"].iloc[1:]].iloc[0])
    matched = replace(method, match=other).fit(gold)
    (row,) = matched.tables["training"].query("chosen").itertuples()
    assert row.accuracy == other and row.epoch > 0
    assert kept() >= {matched.arm.intervention.folder}
    assert method.fit(gold).arm.key() == first.arm.key()


@pytest.mark.parametrize("kind", METHODS)
def test_no_training_is_the_baseline_token_for_token(bench, kind):
    method = replace(METHODS[kind], epochs=0)
    if kind == "bias":
        plan = method.untrained(bench)
        assert isinstance(plan, Plan) and plan.does_nothing and plan.changes_prompt
        arm = method.tried(with_gold(bench))[0].arm
    else:
        arm = method.fit(with_gold(bench)).arm
    made = asked(with_gold(bench), baseline(), replace(arm, name="steered"))
    base, steered = (made[name] for name in ("baseline", "steered"))
    assert [list(t) for t in base["tokens"]] == [list(t) for t in steered["tokens"]]
    assert (base["answer"] == steered["answer"]).all()
