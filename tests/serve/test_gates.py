"""Gates that a dial chooses, the lamps they light, and the activations around a steered position,
against ``plan.steer`` and plain hooks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from corrsteer.errors import ConfigError
from corrsteer.saes.folder import Folder
from corrsteer.serve.chance import Chance
from corrsteer.serve.gates import GATES, Gates, NotYet
from corrsteer.serve.stepper import Pane, Sampling, Turned
from corrsteer.serve.together import answered
from corrsteer.steering.confidence import Confidence
from corrsteer.steering.encoder import activation
from corrsteer.steering.gates import Always, FeatureActive, FeatureInactive
from corrsteer.steering.probe import Probe
from corrsteer.steering.probe_gates import Prompt
from tests.conftest import WIDTH
from tests.serve.test_stepper import NEW, PROMPT, generated, modules  # noqa: F401 - a fixture
from tests.steering.test_hooks import plan_of

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def gates(tiny_saes):
    """Of a plan whose features the SAEs tell of, each of another threshold."""
    saes, plan = Folder(str(tiny_saes)), plan_of(coef=1.5)
    entries = tuple(
        replace(e, feature=n, vector=2 * saes.load(e.layer).directions([n])[0])
        for n, e in zip((3, 17, 40), plan.entries, strict=True)
    )
    chance = Chance(plan.with_entries(entries), saes)
    found = Gates(plan.with_entries(entries), chance)
    chance.start()
    chance.join()
    return found


def pane(stepper, gates, name, positions="generation"):
    own = Pane(stepper, PROMPT, gates.plan, Sampling(), gates.under_and_watched)
    readings = []
    for _ in range(NEW):
        own.step(Turned(gates.plan.coef, {}, positions, name))
        readings.append(dict(own.readings))
    return own.tokens, readings


def test_a_gate_writes_the_tokens_of_a_plan_that_has_it(modules, gates):  # noqa: F811
    module, stepper = modules("llama")
    own = {"plan": Always(), "active": FeatureActive(), "inactive": FeatureInactive()}
    assert gates.names == list(own)
    found = {name: pane(stepper, gates, name)[0] for name in own}
    for name, gate in own.items():
        plan = replace(gates.watched(gates.plan), gate=gate)
        assert found[name] == generated(module, plan)
    assert len(set(map(tuple, found.values()))) > 1


def test_lamps_are_lit_where_a_gate_is_open_and_activations_are_those_around_it(
    modules,  # noqa: F811
    gates,
):
    _, stepper = modules("llama")
    tokens, readings = pane(stepper, gates, "active")
    _, closed = pane(stepper, gates, "inactive")
    plan = gates.watched(gates.plan)
    lit = [[one.on for one in each.values()] for each in readings]
    assert {True, False} == {on for some in lit for on in some}
    for each in (*readings, *closed):
        for one in each.values():
            assert one.on or one.after == one.before
    assert all(one.on == (one.before > 0) for each in readings for one in each.values())
    assert all(one.on == (one.before == 0) for each in closed for one in each.values())
    # By plain hooks, at the position that chose the first token.
    seen: dict[int, tuple] = {}
    hooks = []
    for entry in plan.entries:

        def hook(module, inputs, output, entry=entry):
            hidden = output[0] if isinstance(output, tuple) else output
            before = hidden[0, -1].clone()
            parts = {n: torch.tensor(a) for n, a in entry.encoder.parts().items()}
            if float(activation(before, parts)) > 0:
                hidden[0, -1] += torch.tensor(np.float32(plan.coef) * entry.vector)
            seen[entry.layer] = tuple(float(activation(x, parts)) for x in (before, hidden[0, -1]))

        hooks.append(stepper.layers[entry.layer].register_forward_hook(hook))
    try:
        with torch.no_grad():
            stepper.module(torch.tensor([PROMPT]))
    finally:
        for handle in hooks:
            handle.remove()
    for layer, (before, after) in seen.items():
        assert (readings[0][layer].before, readings[0][layer].after) == pytest.approx(
            (before, after), rel=1e-4, abs=1e-4
        )
    assert len(tokens) == NEW


def test_where_positions_begin_behind_the_prompt_the_first_lamp_is_out(modules, gates):  # noqa: F811
    _, stepper = modules("llama")
    for positions, wanted in (("decode", [False, True]), ("generation", [True, True])):
        _, readings = pane(stepper, gates, "plan", positions)
        assert [all(one.on for one in each.values()) for each in readings[:2]] == wanted
    off = Pane(stepper, PROMPT, gates.plan, Sampling(), gates.under_and_watched)
    off.step(Turned(2.0, {1: 0.0}, "generation"))
    assert [n for n, one in off.readings.items() if one.on] == [0, 2]
    assert off.readings[1].before == off.readings[1].after


def probed(above: float):
    """A plan whose gate decides for whole answers."""
    rng = np.random.default_rng(1)
    row = rng.normal(size=WIDTH).astype(np.float32)
    plan = plan_of(coef=1.5)
    told = Probe(row, 0.0, row, np.zeros(1, np.float32), 0.9)
    entries = tuple(replace(e, probe=told if e.layer == 1 else replace(told, auroc=0.6))
                    for e in plan.entries)  # fmt: skip
    return replace(plan, entries=entries, gate=Prompt(above))


ROWS = [PROMPT, [1, *range(60, 75)], [1, 9, 8, 7], [1, 100, 101]]


def test_a_gate_on_confidence_is_asked_of_the_unsteered_next_token(modules):  # noqa: F811
    module, stepper = modules("llama")
    with torch.no_grad():
        logits = [module(torch.tensor([row])).logits[0, -1] for row in ROWS]
    nats = [float(torch.distributions.Categorical(logits=x).entropy()) for x in logits]
    level = (sorted(nats)[1] + sorted(nats)[2]) / 2
    plan = replace(plan_of(coef=1.5), gate=Confidence(level))
    assert [stepper.decides(plan, row) for row in ROWS] == [x >= level for x in nats]


def test_a_gate_for_whole_answers_is_asked_once_of_the_unsteered_prompt(modules):  # noqa: F811
    module, stepper = modules("llama")
    odds = []
    with torch.no_grad():
        for row in ROWS:
            x = module(torch.tensor([row]), output_hidden_states=True).hidden_states[2][0, -1]
            odds.append(float(torch.sigmoid(x @ torch.tensor(probed(0.5).entries[1].probe.row))))
    level = (sorted(odds)[1] + sorted(odds)[2]) / 2
    plan = probed(level)
    chance = Chance(plan, None, "none")
    chance.start()
    own = Gates(plan, chance)
    assert own.names == ["plan", "always", "inverse"]

    def tokens(row, name):
        one = Pane(stepper, row, plan, Sampling(), own.under)
        return [one.step(Turned(plan.coef, {}, plan.positions, name)) for _ in range(NEW)]

    always = replace(plan, gate=Always())
    for row, odd in zip(ROWS, odds, strict=True):
        both = {
            True: generated(module, always, row),
            False: generated(module, plan_of(coef=0.0), row),
        }
        assert both[True] != both[False]
        assert tokens(row, "plan") == both[odd > level] == answered_alone(stepper, plan, row)
        assert tokens(row, "inverse") == both[odd <= level]
        assert tokens(row, "always") == both[True]
    assert answered(stepper, plan, ROWS, NEW, Sampling(), []) == [tokens(r, "plan") for r in ROWS]


def answered_alone(stepper, plan, row):
    (found,) = answered(stepper, plan, [row], NEW, Sampling(), [])
    return found


def test_rows_that_are_answered_together_are_those_that_are_stepped(modules):  # noqa: F811
    _, stepper = modules("llama")
    for plan in (plan_of(coef=1.5), replace(plan_of(coef=1.5), positions="all"), plan_of(coef=0.0)):
        wanted = []
        for row in ROWS:
            one = Pane(stepper, row, plan, Sampling())
            turned = Turned(plan.coef, {}, plan.positions)
            wanted.append([one.step(turned) for _ in range(NEW)])
        assert answered(stepper, plan, ROWS, NEW, Sampling(), []) == wanted
    ends = [wanted[0][3]]
    cut = answered(stepper, plan, ROWS, NEW, Sampling(), ends)
    assert cut[0] == wanted[0][: wanted[0].index(ends[0]) + 1]
    again = [answered(stepper, plan, ROWS, NEW, Sampling(2.0, 1.0, 7), []) for _ in range(2)]
    assert again[0] == again[1] != wanted
    alone = [answered(stepper, plan, [row], NEW, Sampling(2.0, 1.0, 7), [])[0] for row in ROWS]
    assert again[0] == alone  # whoever rides along
    after = []
    for _ in range(2):
        answered(stepper, plan, ROWS, NEW, Sampling(2.0, 1.0, 7), [])
        after.append(answered(stepper, plan, ROWS, NEW, Sampling(2.0), []))
    assert after[0] != after[1]  # or came before


def test_gates_that_a_plan_cannot_have_are_refused(tiny_saes, tmp_path):
    plan = plan_of()
    for chance, words in (
        (Chance(plan, None, "none here"), "is none of plan$"),
        (Chance(plan, Folder(str(tmp_path))), "needs the SAEs"),
    ):
        gates = Gates(plan, chance)
        chance.start()
        chance.join()
        with pytest.raises(ConfigError, match=words):
            gates.check("active")
        with pytest.raises(ConfigError, match="is none of plan"):
            gates.check(["plan"])
        gates.check("plan")
    chance = Chance(plan, Folder(str(tiny_saes)))
    gates = Gates(plan, chance)
    assert chance.is_reading
    with pytest.raises(NotYet, match="in a moment"):
        gates.check("inactive")
    assert set(gates.names) <= set(GATES)
