"""Gates and operators that read a probe: their equations, against plain numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from corrsteer.errors import ConfigError
from corrsteer.methods.corrsteer import CorrSteer
from corrsteer.steering.confidence import Confidence
from corrsteer.steering.hooks import changed
from corrsteer.steering.operators import Add
from corrsteer.steering.plan import Plan, PlanEntry, load_plan
from corrsteer.steering.probe import Probe as ProbeOf
from corrsteer.steering.probe import candidates, check_chosen
from corrsteer.steering.probe_gates import Probe, Prompt, PromptCosine
from corrsteer.steering.probe_operators import Mera, Scaled

WIDTH = 8


def probe(seed=1, auroc=0.7):
    row, condition = np.random.default_rng(seed).normal(size=(2, WIDTH)).astype(np.float32)
    return ProbeOf(row, 0.3, condition, np.array([-0.2, 0.1, 0.4], np.float32), auroc)


def entry(layer=1, **how):
    vector = np.random.default_rng(layer).normal(size=WIDTH).astype(np.float32)
    return PlanEntry(layer, 5, 0.5, 1.0, vector, probe=probe(layer, **how))


def residuals(n=40):
    return torch.tensor(np.random.default_rng(4).normal(size=(n, WIDTH)), dtype=torch.float32)


def p_wrong(h, told) -> float:
    z = sum(float(a) * float(b) for a, b in zip(h, told.row, strict=True)) + told.offset
    return 1 / (1 + math.exp(-z))


def read(part, e):
    return {n: torch.tensor(np.asarray(a, np.float32)) for n, a in part.parts(e).items()}


@pytest.mark.parametrize("above", [0.1, 0.5, 0.8])
def test_a_gate_is_open_where_its_signal_is_above_the_threshold(above):
    x, e = residuals(), entry()
    expected = [p_wrong(h, e.probe) > above for h in x.tolist()]
    for gate in (Probe(above), Prompt(above)):
        found = gate.open(x, read(gate, e), 1.0)
        assert found.tolist() == expected and 0 < sum(expected) < len(x)
        assert gate.open(x.reshape(2, 20, WIDTH), read(gate, e), 1.0).flatten().equal(found)
    cosines = torch.nn.functional.cosine_similarity(x, torch.tensor(e.probe.condition), dim=-1)
    gate = PromptCosine(above - 0.5)
    found = gate.open(x, read(gate, e), 1.0)
    assert found.equal(cosines > above - 0.5) and 0 < found.sum() < len(x)


@pytest.mark.parametrize("dial", [1.0, 0.5, 0.0, -2.0])
def test_an_operator_is_its_equation(dial):
    x, e = residuals(), entry()
    w, v = (a.astype(float) for a in (e.probe.row, e.vector))
    for alpha in (0.2, 0.5):
        scaled, mera = [], []
        for h in x.double().numpy():
            p = p_wrong(h, e.probe)
            scaled.append(h + dial * p * v)
            z = w @ h + e.probe.offset
            level = math.log(alpha / (1 - alpha))
            mera.append(h + dial * (level - z) * w / (w @ w) if z > level else h)
        for operator, expected in ((Scaled(), scaled), (Mera(alpha), mera)):
            found = operator.apply(x, read(operator, e), dial)
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)
            half = operator.apply(x.bfloat16(), read(operator, e), dial)
            assert half.dtype == torch.bfloat16 and not operator.additive
    lowered = Mera(0.2).apply(x, read(Mera(0.2), e), 1.0)
    assert max(p_wrong(h, e.probe) for h in lowered.tolist()) < 0.2 + 1e-5


@pytest.mark.parametrize("dial", [1.0, -2.0])
def test_mera_that_abstains_changes_no_bit(dial):
    x, e = 1e4 * residuals(), entry()
    assert Mera(1.0).abstains and not Mera(0.9).abstains
    assert Mera(1.0).apply(x, read(Mera(1.0), e), dial).equal(x)
    assert not Mera(0.9).apply(x, read(Mera(0.9), e), dial).equal(x)
    with pytest.raises(ConfigError, match="at most 1, which never acts"):
        Mera(1.1)


@pytest.mark.parametrize("gate", [Probe(), Confidence()])
def test_of_what_a_threshold_is_chosen_from_the_last_acts_least(gate):
    e = [entry()]
    up, down = (candidates(one, e) for one in (gate, gate.inverse()))
    assert [one.above for one in up] == [one.above for one in down][::-1]
    signal = torch.full((1,), 0.6) if isinstance(gate, Confidence) else residuals()[:8]
    for some in (up, down):
        acts = [one.open(signal, read(one, e[0]), 1.0).sum().item() for one in some]
        assert acts == sorted(acts, reverse=True) and acts[0] > acts[-1]


def test_a_gate_reads_the_stream_before_the_operator_writes():
    """A push along the probe's row opens no gate that was closed, and closes none."""
    x, e = residuals(), entry()
    e = replace(e, vector=(10 * e.probe.row).astype(np.float32))
    plan = Plan((e,), gate=Probe(0.5))
    (arrays,) = plan.parts().values()
    parts = {name: torch.tensor(a) for name, a in arrays.items()}
    found = changed(x, parts, plan.dial, plan.operator.apply, plan.gate.open)
    wrong = torch.tensor([p_wrong(h, e.probe) > 0.5 for h in x.tolist()])
    assert found.equal(torch.where(wrong[:, None], x + torch.tensor(e.vector), x))


def test_a_plan_keeps_its_probes(tmp_path):
    plan = Plan((entry(1), entry(3)), operator=Mera(0.4), gate=Probe(0.6))
    plan.save(tmp_path)
    again = load_plan(tmp_path)
    assert again.key() == plan.key() and again.gate == Probe(0.6)
    for one, other in zip(plan.entries, again.entries, strict=True):
        for name, array in one.probe.arrays().items():
            np.testing.assert_array_equal(array, other.probe.arrays()[name])


def test_no_two_settings_share_a_key():
    pair = (entry(1), entry(3))
    how = [{"gate": g} for g in (Probe(0.5), Probe(0.6), Prompt(0.5), PromptCosine(0.5))]
    how += [{"operator": o} for o in (Add(), Scaled(), Mera(0.5), Mera(0.6))]
    plans = [Plan(pair, **h) for h in how]
    plans += [Plan((entry(1), replace(pair[1], probe=probe(9))), gate=Probe(0.5))]
    # Which layer decides for a whole answer is told by how good its probe is.
    plans += [Plan((entry(1), entry(3, auroc=0.8)), gate=Prompt(0.5))]
    assert len({str(plan.key()) for plan in plans}) == len(plans)
    assert [plan.asked_at for plan in (plans[2], plans[-1], plans[0])] == [1, 3, None]


def test_what_cannot_be_is_refused_in_a_line():
    bare = replace(entry(), probe=None)
    for part in (Probe(0.5), PromptCosine(0.1), Scaled(), Mera(0.5)):
        with pytest.raises(ConfigError, match="reads a probe of layer 1"):
            part.parts(bare)
    for part in (Probe(), PromptCosine(), Mera()):
        assert part.is_open_ended
        with pytest.raises(ConfigError, match="=null is chosen on validation"):
            part.parts(entry())
    for kind, value in ((Probe, 1.0), (Prompt, math.nan), (PromptCosine, -1.0), (Mera, 0.0)):
        with pytest.raises(ConfigError, match="it must be a"):
            kind(value)
    with pytest.raises(ConfigError, match="read probes of other positions"):
        CorrSteer(operator=Scaled(), gate=Prompt())
    check_chosen(Mera(), Probe(), CorrSteer())
    check_chosen(Mera(0.5), Probe(0.5), 0)
    for operator, gate, setting in (
        (Add(), Prompt(), "gate.above"),
        (Mera(), Probe(0.5), "operator.alpha"),
    ):
        with pytest.raises(ConfigError, match=f"int does not: type a number.*{setting}=0.5"):
            check_chosen(operator, gate, 0)
