"""A model that writes token by token, against ``plan.steer`` with transformers' own generate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from corrsteer.errors import ConfigError
from corrsteer.saes.folder import Folder
from corrsteer.serve.chance import Chance
from corrsteer.serve.stepper import Pane, Sampling, Stepper, Turned
from tests.steering.test_hooks import PLANS, plan_of

PROMPT = [1, *range(30, 50)]
NEW = 10


@pytest.fixture(scope="module")
def modules(tiny_model):
    """Family -> (a model, the same with a stepper's hooks)."""
    made = {}

    def both(family: str):
        if family not in made:
            one, other = (
                AutoModelForCausalLM.from_pretrained(tiny_model(family)).eval() for _ in range(2)
            )
            made[family] = one, Stepper(other)
        return made[family]

    return both


def usual(plan) -> Turned:
    return Turned(plan.coef, {}, plan.positions)


def written(stepper, plan, turned, new=NEW, prompt=PROMPT) -> list[int]:
    pane = Pane(stepper, prompt, plan, Sampling())
    return [pane.step(turned) for _ in range(new)]


def generated(module, plan, prompt=PROMPT) -> list[int]:
    ids = torch.tensor([prompt])
    settings = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with plan.for_any_model().steer(module):
        return module.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)[
            0, len(prompt) :
        ].tolist()


@pytest.mark.parametrize(
    ("family", "name"),
    [*(("llama", name) for name in PLANS), ("gemma2", "add"), ("gpt2", "add"), ("gemma2", "all")],
)
def test_the_tokens_are_those_of_generate(modules, family, name):
    module, stepper = modules(family)
    plan = PLANS[name]
    assert written(stepper, plan, usual(plan)) == generated(module, plan)


@pytest.mark.parametrize("positions", ["generation", "all", "prompt", "decode", "first_2"])
def test_positions_are_those_of_a_plan_that_has_them(modules, positions):
    module, stepper = modules("llama")
    plan = plan_of(coef=1.5)
    found = written(stepper, plan, Turned(1.5, {}, positions))
    assert found == generated(module, replace(plan, positions=positions))
    one = written(stepper, plan, Turned(1.5, {}, positions), prompt=[7])
    assert one == generated(module, replace(plan, positions=positions), [7])


def test_plans_are_told_apart_by_their_tokens(modules):
    _, stepper = modules("llama")
    unsteered = written(stepper, None, usual(PLANS["add"]))
    acting = [p for p in PLANS.values() if not (p.does_nothing or p.is_off)]
    assert len(acting) > 10
    assert all(written(stepper, p, usual(p)) != unsteered for p in acting)


@pytest.mark.parametrize("name", PLANS)
def test_at_dial_0_nothing_happens(modules, name):
    _, stepper = modules("llama")
    off = Turned(0.0, {}, PLANS[name].positions)
    assert written(stepper, PLANS[name], off) == written(stepper, None, off)


def test_a_layer_is_scaled_and_switched_off_alone(modules):
    module, stepper = modules("llama")
    plan = plan_of(coef=1.5)
    first, second, third = plan.entries
    half = replace(third, vector=np.float32(0.5) * third.vector)
    found = written(stepper, plan, Turned(1.5, {1: 0.0, 2: 0.5}, plan.positions))
    assert found == generated(module, plan.with_entries((first, half)))
    assert found != written(stepper, plan, usual(plan))


def test_a_turn_is_heard_at_the_next_token(modules):
    """Each token is that of one pass, under the dial as it was then, over the same cache."""
    module, stepper = modules("llama")
    plan = plan_of()
    dials = [0.0, 0.0, 1.5, 1.5, -2.0, 0.0, 3.0, 1.0]
    pane = Pane(stepper, PROMPT, plan, Sampling())
    found = [pane.step(Turned(dial, {}, plan.positions)) for dial in dials]
    wanted, new, cache = [], PROMPT, None
    for dial in dials:
        with torch.no_grad(), plan.turned_to(dial).steer(module):
            output = module(torch.tensor([new]), past_key_values=cache, use_cache=True)
        cache, new = output.past_key_values, [int(output.logits[0, -1].argmax())]
        wanted += new
    assert found == wanted
    assert found[:2] == written(stepper, None, usual(plan), 2)
    assert len({tuple(written(stepper, plan, Turned(d, {}, plan.positions))) for d in dials}) > 3


def test_panes_that_take_turns_do_not_mix(modules):
    _, stepper = modules("llama")
    names = ["add", "all", "set where active", "one layer"]
    panes = {n: Pane(stepper, PROMPT, PLANS[n], Sampling()) for n in names}
    for _ in range(NEW):
        for name, pane in panes.items():
            pane.step(usual(PLANS[name]))
    for name, pane in panes.items():
        assert pane.tokens == written(stepper, PLANS[name], usual(PLANS[name]))


def test_sampling_repeats_with_a_seed_and_narrows_to_the_likeliest(modules):
    _, stepper = modules("llama")
    plan = PLANS["add"]

    def sampled(*how) -> list[int]:
        pane = Pane(stepper, PROMPT, plan, Sampling(*how))
        return [pane.step(usual(plan)) for _ in range(NEW)]

    greedy = written(stepper, plan, usual(plan))
    assert sampled(2.0, 1.0, 3) == sampled(2.0, 1.0, 3) != sampled(2.0, 1.0, 4)
    assert sampled(2.0, 1e-6, 3) == greedy != sampled(2.0, 1.0, 3)


@pytest.mark.parametrize("dial", [float("nan"), float("inf"), 101.0, -1e9])
def test_a_dial_out_of_range_is_refused(dial):
    with pytest.raises(ConfigError, match="use a number from -100 to 100"):
        Turned(dial, {}, "generation")
    with pytest.raises(ConfigError, match="use a number from -100 to 100"):
        Turned(1.0, {0: dial}, "generation")


def test_random_features_are_live_others_and_as_long(modules, tiny_saes):
    _, stepper = modules("llama")
    plan, saes = plan_of(), Folder(str(tiny_saes))
    chance = Chance(plan, saes)
    seen = [stepper.residuals(ids) for ids in (PROMPT, [1, 60, 61])]
    assert chance.plan(1) is None
    chance.start(seen)
    chance.join()
    plans = [chance.plan(n) for n in range(1, 6)]
    assert chance.what == "features"
    for own in plans:
        for entry, mine in zip(plan.entries, own.entries, strict=True):
            assert mine.norm == pytest.approx(entry.norm, rel=1e-5)
            assert mine.feature != entry.feature
            sae = saes.load(entry.layer)
            row = sae.directions([mine.feature])[0]
            assert mine.vector / mine.norm == pytest.approx(row / np.linalg.norm(row), abs=1e-5)
            acts = torch.cat([sae.encode(x[entry.layer][None]) for x in seen])[:, mine.feature]
            assert (acts > 0).any()
    features = [tuple(e.feature for e in own.entries) for own in plans]
    assert len(set(features)) > 1
    assert [e.feature for e in chance.plan(2).entries] == list(features[1])


def test_without_saes_directions_are_drawn_and_that_is_said(tmp_path):
    plan = plan_of()
    for chance in (Chance(plan, None, "none here"), Chance(plan, Folder(str(tmp_path)))):
        chance.start()
        chance.join()
        own = chance.plan(1)
        assert chance.what == "directions" and chance.why
        norms = [e.norm for e in own.entries]
        assert norms == pytest.approx([e.norm for e in plan.entries], rel=1e-5)
        assert {e.feature for e in own.entries} == {-1}
