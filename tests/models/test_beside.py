"""Arms beside each other are what each is alone, for every architecture, and where they cannot be
they answer one after the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from corrsteer.errors import ModelError
from corrsteer.models import beside
from corrsteer.models.local import Local, LocalModel
from corrsteer.models.spec import Model
from corrsteer.steering.plan import Plan, PlanEntry
from tests.conftest import FAMILIES, byte_tokenizer
from tests.models.test_local import PROMPTS, load, plan_of
from tests.operators import Clamp, Side

ARMS = [
    None,
    plan_of(),
    replace(plan_of(coef=1.5), operator=Clamp(2.0)),
    Plan(()),
    replace(plan_of([1], seed=2), gate=Side(3)),
    plan_of([0, 2], seed=1),
    plan_of(coef=0.0),
]
SHORT = ["One?", "xy", "Is it so?", "A B", "Yes and no?"]
"""Shorter than the windows of the tiny models."""


@pytest.fixture(scope="module", params=list(FAMILIES))
def model(request, tiny_model):
    return load(tiny_model(request.param))


def alone(model, prompts, arms, **settings):
    return [model.generate(prompts, [arm], **settings)[0] for arm in arms]


@pytest.mark.parametrize("prompts", [SHORT, PROMPTS], ids=["short", "long"])
@pytest.mark.parametrize(
    "settings",
    [{"max_new_tokens": 9}, {"max_new_tokens": 1}, {"max_new_tokens": 1, "allowed": [" A", " B"]}],
    ids=["text", "token", "letters"],
)
def test_arms_together_answer_as_each_alone(model, prompts, settings):
    together = model.generate(prompts, ARMS, **settings)
    assert together == alone(model, prompts, ARMS, **settings)
    assert (
        len({tuple(a.tokens for a in answers) for answers in together}) > 1 or "allowed" in settings
    )


def test_what_options_weigh_does_not_depend_on_how_many_arms_there_are(model):
    options = [["yes", "no and no"]] * len(PROMPTS)
    together = model.choose(PROMPTS, ARMS, options)
    assert together == [model.choose(PROMPTS, [arm], options)[0] for arm in ARMS]


@pytest.fixture
def passes(monkeypatch):
    """How many arms there were in every pass, and whether beside each other."""
    seen = []
    columns, go_on = LocalModel._columns, LocalModel._continue

    def together(self, inputs, *rest):
        seen.append(inputs["input_ids"].shape[1])
        return columns(self, inputs, *rest)

    def one(self, *rest):
        seen.append("alone")
        return go_on(self, *rest)

    monkeypatch.setattr(LocalModel, "_columns", together)
    monkeypatch.setattr(LocalModel, "_continue", one)
    return seen


@pytest.mark.parametrize("family", list(FAMILIES))
def test_which_architectures_take_columns(tiny_model, family, passes):
    load(tiny_model(family)).generate(SHORT, ARMS, max_new_tokens=1)
    # Linear attention has a state and no keys.
    assert passes == (["alone"] * len(ARMS) if family == "qwen3_5" else [len(ARMS)])


def test_a_window_that_would_slide_is_left_to_one_arm_at_a_time(tiny_gemma2, passes):
    model = load(tiny_gemma2)
    model.generate(PROMPTS, ARMS, max_new_tokens=2)
    assert set(passes) == {"alone"}
    passes.clear()  # prompts that were too long to tell do not count against the model
    model.generate(SHORT, ARMS, max_new_tokens=2)
    assert "alone" not in passes


def test_a_model_that_counts_positions_by_itself_answers_one_arm_at_a_time(tmp_path, passes):
    """ALiBi: how far back a token is follows from the mask, not from its position."""
    from transformers import BloomConfig, BloomForCausalLM

    tokenizer = byte_tokenizer(bos=True)
    torch.manual_seed(0)
    config = BloomConfig(
        vocab_size=len(tokenizer), hidden_size=32, n_layer=3, n_head=4, pad_token_id=0,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    BloomForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load(tmp_path)
    together = model.generate(SHORT, ARMS, max_new_tokens=4)
    assert set(passes) == {"alone"}
    assert together == alone(model, SHORT, ARMS, max_new_tokens=4)


def test_what_rounding_could_decide_is_answered_alone(tiny_llama, passes, monkeypatch):
    model = load(tiny_llama)
    usual = model.generate(SHORT, ARMS, max_new_tokens=4)
    assert "alone" not in passes
    monkeypatch.setattr(beside, "ROUNDING", 1e9)
    passes.clear()
    assert model.generate(SHORT, ARMS, max_new_tokens=4) == usual
    assert passes.count("alone") == len(ARMS)


def test_two_tokens_that_are_equally_likely_are_a_choice_of_rounding():
    logits = torch.tensor([[[1.0, 3.0, 3.0], [1.0, 2.0, 3.0]]])
    tokens, sure = beside.greedy(lambda *a: logits, torch.zeros(1, 2).long(), 1, [])
    assert sure.tolist() == [False, True]
    assert tokens[0, 1].tolist() == [2]
    # Behind an end it does not matter: the tokens are not looked at.
    first = torch.tensor([[[0.0, 9.0, 3.0], [1.0, 2.0, 3.0]]])
    _, sure = beside.greedy(
        lambda *a: logits[:, a[2]] if a[3] else first, torch.zeros(1, 2).long(), 2, [1]
    )
    assert sure.tolist() == [True, True]


def test_arms_and_rows_that_have_ended_are_not_computed():
    """Row r of arm a ends after r + a tokens."""
    asked = []

    def step(ids, rows, arms, n):
        asked.append((rows.tolist(), arms.tolist(), ids.shape))
        ends = (rows[:, None] + arms == n).long()
        return torch.nn.functional.one_hot(ends, 3).float()

    tokens, sure = beside.greedy(step, torch.full((4, 2), 2), 9, [1])
    assert sure.all()
    ended = [[row.index(1) for row in arm] for arm in tokens.permute(1, 0, 2).tolist()]
    assert ended == [[0, 1, 2, 3], [1, 2, 3, 4]]
    assert [rows for rows, _, _ in asked] == [[0, 1, 2, 3]] * 3 + [[2, 3], [3]]
    assert [arms for _, arms, _ in asked] == [[0, 1]] * 4 + [[1]]
    assert all(shape == (len(rows), len(arms)) for rows, arms, shape in asked)


@pytest.mark.parametrize("limit", ["cells", "logits"])
def test_many_arms_come_in_groups(tiny_llama, passes, monkeypatch, limit):
    model = load(tiny_llama)
    expected = alone(model, SHORT, ARMS, max_new_tokens=3)
    if limit == "cells":
        monkeypatch.setattr(beside, "CELLS", 0)
        most = max(map(model.n_tokens, SHORT)) // 3
    else:
        most = 2
        logits = 2 * len(SHORT) * model._vocabulary * 4
        monkeypatch.setattr("corrsteer.models.local.LOGITS_BYTES", logits)
    passes.clear()
    assert model.generate(SHORT, ARMS, max_new_tokens=3) == expected
    assert max(passes) == passes[0] == most < len(ARMS)


def test_logits_that_are_not_finite_name_steering_only_where_it_is(tiny_llama):
    model = load(tiny_llama)
    huge = replace(plan_of(), operator=Clamp(1e39))
    with pytest.raises(ModelError, match="lower coef"):
        model.generate(SHORT, [None, plan_of(), huge], max_new_tokens=2)
    assert len(model.generate(SHORT, [None, plan_of()], max_new_tokens=2)) == 2


def test_an_arm_of_huge_vectors_moves_no_other(tiny_llama):
    model = load(tiny_llama)
    arms = [None, plan_of(), plan_of([1], seed=2)]
    huge = Plan((PlanEntry(0, 0, 0.0, 1.0, np.full(32, 1e12, np.float32)),))
    with_it = model.generate(SHORT, [*arms, huge], max_new_tokens=4)
    assert with_it[:3] == model.generate(SHORT, arms, max_new_tokens=4)


def test_half_precision_answers_beside_each_other(tiny_llama, passes):
    model = Local(device="cpu").load(Model("tiny", str(tiny_llama), dtype="bfloat16"))
    answers = model.generate(SHORT, ARMS, max_new_tokens=2)
    assert passes.count("alone") == sum(arm is None or arm.does_nothing for arm in ARMS)
    assert [a.steered for a in answers[1]] == [len(a.tokens) for a in answers[1]]


def test_dial_0_is_the_unsteered_model_in_half_precision_whoever_answers_beside(tiny_llama):
    model = Local(device="cpu").load(Model("tiny", str(tiny_llama), dtype="bfloat16"))
    prompts = [f"{n} or {n * n}?" for n in range(40)]
    (unsteered,) = model.generate(prompts, [None], max_new_tokens=8)
    for arms in ([plan_of(), plan_of([1], seed=2)], [plan_of()]):
        some = [*arms, plan_of(coef=0.0), None, Plan(())]
        found = model.generate(prompts, some, max_new_tokens=8)
        tokens = [[answer.tokens for answer in answers] for answers in found]
        for n in range(len(arms), len(some)):
            assert tokens[n] == [answer.tokens for answer in unsteered]
        assert tokens[0] != tokens[-1]


def test_an_arm_that_misses_a_layer_is_an_error(tiny_llama, monkeypatch):
    model = load(tiny_llama)
    columns = type(model)._columns

    def forgetful(*args):
        logits, fired = columns(model, *args)
        return logits, fired - torch.tensor([0, 1])

    monkeypatch.setattr(model, "_columns", forgetful)
    with pytest.raises(ModelError, match="the plan fired at 0 of"):
        model.generate(SHORT, [None, plan_of()], max_new_tokens=3)
