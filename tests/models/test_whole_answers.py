"""A gate that decides for a whole answer: every answer is the steered or the unsteered one, as the
residual at its last prompt token says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from corrsteer.errors import ConfigError, ModelError
from corrsteer.steering.confidence import GRID, Confidence
from corrsteer.steering.plan import load_plan
from corrsteer.steering.probe import Probe as ProbeOf
from corrsteer.steering.probe_gates import Probe, Prompt
from tests.conftest import WIDTH
from tests.models.test_local import PROMPTS, load, plan_of


def probed(seed=0, offset=0.0, gate=Prompt, layer=1):
    """A plan whose layer ``layer`` decides."""
    plan = plan_of(coef=2.0)
    entries = []
    for e in plan.entries:
        row = np.random.default_rng((seed, e.layer)).normal(size=WIDTH).astype(np.float32)
        auroc = 0.9 if e.layer == layer else 0.6
        told = ProbeOf(row, offset, row, np.zeros(1, np.float32), auroc)
        entries.append(replace(e, probe=told))
    return replace(plan, entries=tuple(entries), gate=gate(0.5))


@pytest.fixture(scope="module")
def model(tiny_llama):
    return load(tiny_llama)


def test_an_answer_is_the_steered_or_the_unsteered_one(model):
    plan = probed()
    always = replace(plan, gate=plan_of().gate)
    (decided, base, steered) = model.generate(PROMPTS, [plan, None, always], max_new_tokens=4)
    row = torch.tensor({e.layer: e for e in plan.entries}[1].probe.row)
    x = model.replay(PROMPTS, [[]] * len(PROMPTS), [1], "last_prompt").layers[1]
    is_open = ((x @ row) > 0).tolist()
    assert model.decide(PROMPTS, plan) == is_open and 0 < sum(is_open) < len(is_open)
    assert decided == [s if on else b for s, b, on in zip(steered, base, is_open, strict=True)]
    assert decided not in (base, steered)
    # alone, with letters, and where options are weighed
    assert model.generate(PROMPTS, [plan], max_new_tokens=4) == [decided]
    options = [["yes", "no and no"]] * len(PROMPTS)
    weighed = model.choose(PROMPTS, [plan, None, always], options)
    assert weighed[0] == [s if on else b for b, s, on in zip(*weighed[1:], is_open, strict=True)]


def test_hooks_refuse_what_they_cannot_decide(model):
    with (
        pytest.raises(ModelError, match="decides for a whole answer"),
        probed().steer(model._module),
    ):
        pass


@pytest.mark.parametrize(("offset", "same"), [(1e4, "always"), (-1e4, "unsteered")])
def test_always_open_is_static_and_never_open_is_the_baseline(model, offset, same):
    for gate in (Prompt, Probe):
        plan = probed(offset=offset, gate=gate)
        other = replace(plan, gate=plan_of().gate) if same == "always" else None
        found, expected = model.generate(PROMPTS, [plan, other], max_new_tokens=4)
        assert [a.tokens for a in found] == [a.tokens for a in expected]
        tokens = [list(a.tokens) for a in expected]
        for source in ("generated", "all"):
            reads = [
                model.replay(PROMPTS, tokens, [0, 2], source, intervention=how)
                for how in (plan, other)
            ]
            for layer in (0, 2):
                assert reads[0].layers[layer].equal(reads[1].layers[layer])
        moved = model.divergence(PROMPTS, [plan, other])
        assert [d.kl for d in moved[0]] == pytest.approx([d.kl for d in moved[1]], abs=1e-9)


def test_what_a_gate_reads_is_the_stream_before_the_operator_writes(model):
    plan = replace(probed(), gate=plan_of().gate)
    tokens = [list(a.tokens) for a in model.generate(PROMPTS, [plan], max_new_tokens=3)[0]]
    read = {
        before: model.replay(
            PROMPTS, tokens, [0, 1, 2], "generated", intervention=plan, before=before
        )
        for before in (True, False)
    }
    for layer, vector in plan.vectors().items():
        pushed = read[True].layers[layer] + torch.tensor(vector)
        torch.testing.assert_close(read[False].layers[layer], pushed)


def entropy(model, prompt) -> float:
    """Of the unsteered next token, by a plain pass."""
    ids = torch.tensor(model._encode([prompt]))
    with torch.no_grad():
        p = model._module(input_ids=ids).logits[0, -1].double().softmax(-1).tolist()
    return -sum(x * math.log(x) for x in p if x)


def test_a_gate_on_confidence_steers_where_the_entropy_is_high(model, monkeypatch):
    nats = [entropy(model, prompt) for prompt in PROMPTS]
    np.testing.assert_allclose(model.entropies(PROMPTS), nats, rtol=1e-4)
    level = float(np.mean(sorted(nats)[len(nats) // 2 - 1 : len(nats) // 2 + 1]))
    plan = replace(plan_of(coef=2.0), gate=Confidence(level))
    inverse = replace(plan, gate=Confidence(level).inverse())
    always = replace(plan, gate=plan_of().gate)
    is_open = [x >= level for x in nats]
    assert model.decide(PROMPTS, plan) == is_open and 0 < sum(is_open) < len(is_open)
    assert model.decide(PROMPTS, inverse) == [not on for on in is_open]
    everywhere, nowhere = (replace(plan, gate=Confidence(x)) for x in (0, 1e9))
    arms = [plan, inverse, None, always, everywhere, nowhere]
    found = [model.generate(PROMPTS, [arm], max_new_tokens=4)[0] for arm in arms]
    asked = []
    told = model._entropies
    monkeypatch.setattr(model, "_entropies", lambda inputs: (asked.append(1), told(inputs))[1])
    together = model.generate(PROMPTS, arms, max_new_tokens=4)
    assert [[a.tokens for a in column] for column in together] == [
        [a.tokens for a in column] for column in found
    ]
    assert len(asked) == len(model.batches(PROMPTS))  # not of each arm
    on, off, base, steered, static, none = ([a.tokens for a in column] for column in found)
    assert static == steered and none == base and steered != base
    for i, is_on in enumerate(is_open):
        assert (on[i], off[i]) == ((steered[i], base[i]) if is_on else (base[i], steered[i]))


def test_a_threshold_of_confidence_is_of_the_plan_and_may_not_be_infinite(tmp_path):
    plan = replace(plan_of(), gate=Confidence(0.3, inverted=True))
    plan.save(tmp_path)
    again = load_plan(tmp_path)
    assert again.gate == plan.gate and again.key() == plan.key()
    assert again.key() != replace(plan, gate=Confidence(0.3)).key()
    x = torch.tensor([0.0, 0.29, 0.3, 2.0])
    for gate, want in (
        (Confidence(0.3), [0, 0, 1, 1]),
        (Confidence(0), [1, 1, 1, 1]),
        (plan.gate, [1, 1, 0, 0]),
    ):
        parts = {n: torch.tensor(a) for n, a in gate.parts(plan.entries[0]).items()}
        assert gate.open(x, parts, 1.0).tolist() == [bool(on) for on in want]
    assert [gate.above for gate in Confidence().candidates(plan.entries)] == sorted(GRID)
    for value in (-0.1, math.inf, math.nan):
        with pytest.raises(ConfigError, match="it must be an entropy in nats"):
            Confidence(value)
    with pytest.raises(ConfigError, match="gate.above=null is chosen on validation"):
        Confidence().parts(plan.entries[0])
