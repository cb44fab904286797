"""Gates on a tiny model: how often they are open, what they add, and their controls."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from corrsteer.errors import DataError
from corrsteer.methods.corrsteer import CorrSteer, calibrated
from corrsteer.models.local import LocalModel
from corrsteer.stages.answers import answers
from corrsteer.stages.gating import gate_use, measured
from corrsteer.stages.probes import probes, residual_means
from corrsteer.stats.flips import flip_table
from corrsteer.stats.logistic import auroc
from corrsteer.steering.arms import BASELINE, STEERED, Arm, baseline, steered
from corrsteer.steering.confidence import Confidence
from corrsteer.steering.gate_controls import DRAWS, gate_controls
from corrsteer.steering.gates import Always, FeatureActive
from corrsteer.steering.operators import NormPreserving
from corrsteer.steering.plan import Plan
from corrsteer.steering.probe_gates import GRID, Probe, Prompt, PromptCosine
from corrsteer.steering.probe_operators import Mera
from tests.operators import Side
from tests.stages.made import bench, counted, tokens, unsteered

__all__ = ["bench"]  # a fixture


def fitted(bench, **how):
    return CorrSteer(coef=20.0, **how).fit(bench).plan


def test_a_gate_its_inverse_and_their_controls(bench):
    """Open and closed positions make up all; no answer changes where nothing is done."""
    examples = bench.asking.splits["test"]
    ids = [e.id for e in examples]
    for gate in (Probe(0.5), PromptCosine()):
        plan = fitted(bench, gate=gate)
        base, now = answers(bench, bench.asking, "test", [baseline(), steered(plan)]).values()
        use = gate_use(bench, plan, examples, base, now)
        assert 0 < use.duty < 1 and use.dose > 0
        special = int(now["n_tokens"].sum()) - use.n_positions  # written within an answer
        assert 0 <= special < 3
        assert len(use.layers) == 3 and all(0 <= row.auroc <= 1 for row in use.layers)
        wrong = set(base["id"][base["score"] < 1])
        duties = {row.layer: row.duty for row in use.layers}
        arms = gate_controls(plan, duties, ids, wrong, bench.seed)
        test = answers(bench, bench.asking, "test", [baseline(), steered(plan), *arms])
        assert list(test) == [BASELINE, STEERED, *(arm.name for arm in arms)]
        assert flip_table(base, test["oracle"]).broken == 0
        static = replace(plan, gate=Always())
        alone = answers(bench, bench.asking, "test", [Arm("alone", "static", static)])["alone"]
        assert tokens(test["static"]) == tokens(alone)
        drawn = [arm for arm in arms if arm.kind == "dealt"]
        assert len(drawn) == DRAWS and len({arm.among for arm in drawn}) == DRAWS
        for arm in drawn:
            assert len(arm.among) == round(use.duty * len(ids))
            expected = [
                s if i in arm.among else b
                for i, b, s in zip(ids, tokens(base), tokens(alone), strict=True)
            ]
            assert tokens(test[arm.name]) == expected and list(test[arm.name]["id"]) == ids
        # Of whole answers each is steered under the gate or under its inverse.
        if plan.asked_at is not None:
            pairs = zip(
                tokens(now), tokens(test["inverse"]), tokens(base), tokens(alone), strict=True
            )
            assert all(sorted([a, b]) == sorted([c, d]) for a, b, c, d in pairs)
        # An equal dose is what the gate was measured to add, in every layer.
        assert plan.asked_at is not None or len({round(d, 3) for d in duties.values()}) > 1
        vectors = {arm.name: arm.intervention for arm in arms}["dosed"].vectors()
        for row in use.layers:
            assert np.linalg.norm(vectors[row.layer]) == pytest.approx(row.dose, rel=1e-3)
        other = replace(plan, operator=NormPreserving())  # its dose is no sum of lengths
        dosed = gate_controls(other, duties, ids, wrong, bench.seed)[1].intervention
        assert dosed.coef == use.duty * plan.coef


def test_what_is_measured_is_what_hooks_see(bench):
    """Duty, dose and signal of one layer, answer by answer."""
    plan = fitted(bench, gate=Probe(0.5), positions="first_2")
    one = plan.with_entries(plan.entries[1:2])
    prompts = [e.prompt for e in bench.asking.splits["test"]][:12]
    model, (layer,) = bench.model, [e.layer for e in one.entries]
    base, now = (
        [list(a.tokens) for a in column]
        for column in model.generate(prompts, [None, one], max_new_tokens=4)
    )
    wrong = np.arange(12) % 3 == 0
    use = measured(model, one, prompts, base, now, wrong)
    told = one.entries[0].probe
    opened, total, signals = 0, 0, []
    for prompt, answer, before in zip(prompts, now, base, strict=True):
        x = model.replay([prompt], [answer], [layer], "generated").layers[layer][:2]
        total += len(x)
        opened += int((x @ torch.tensor(told.row) + told.offset > 0).sum())
        plain = model.replay([prompt], [before], [layer], "generated").layers[layer]
        signals.append(float((plain @ torch.tensor(told.row) + told.offset).mean()))
    assert use.prompt_passes == 0
    assert use.n_positions == total and use.duty == pytest.approx(opened / total)
    norm = float(np.linalg.norm(one.vectors()[layer]))
    assert use.dose == pytest.approx(norm * use.duty, rel=1e-4)
    assert use.auroc == pytest.approx(auroc(np.array(signals), wrong))
    # always open is static, closed is nothing; a gate of one's own need not have a signal
    for above, duty in ((1e-30, 1.0), (1 - 1e-16, 0.0)):
        gated = replace(one, gate=Probe(above))
        assert measured(model, gated, prompts, base, now, wrong).duty == duty
    assert measured(model, replace(one, gate=Side(1)), prompts, base, now, wrong).auroc is None


def test_of_a_gate_on_confidence_the_signal_is_the_entropy_and_its_pass_is_counted(bench):
    prompts = [e.prompt for e in bench.asking.splits["test"]][:12]
    nats = np.array(bench.model.entropies(prompts))
    plan = fitted(bench, gate=Confidence(float(np.median(nats))))
    base, now = (
        [list(a.tokens) for a in column]
        for column in bench.model.generate(prompts, [None, plan], max_new_tokens=4)
    )
    wrong = np.arange(12) % 3 == 0
    use = measured(bench.model, plan, prompts, base, now, wrong)
    positions = np.array([len(answer) for answer in now])
    is_open = nats >= np.median(nats)
    assert use.duty == pytest.approx(positions[is_open].sum() / positions.sum(), abs=0.05)
    assert {row.auroc for row in use.layers} == {use.auroc} == {auroc(nats, wrong)}
    assert use.prompt_passes == 1
    everywhere = replace(plan, gate=Confidence(0))
    assert measured(bench.model, everywhere, prompts, base, now, wrong).duty == 1


def test_mera_abstains_where_no_alpha_leaves_more_answers_right(bench, monkeypatch):
    """``right``: by alpha, beside 30 without steering."""
    for right, alpha in (({}, 1.0), ({0.3: 29, 0.5: 30}, 1.0), ({0.3: 31, 0.5: 31, 0.7: 12}, 0.5)):

        def made(bench, asking, split, arms, right=right):
            assert split == "validation"
            counts = [right.get(arm.intervention.operator.alpha, 30) for arm in arms]
            scores = [np.arange(60) < n for n in counts]
            return {a.name: pd.DataFrame({"score": s}) for a, s in zip(arms, scores, strict=True)}

        monkeypatch.setattr("corrsteer.methods.corrsteer.answers", made)
        plan = calibrated(bench, Plan((), operator=Mera()))
        assert plan.operator == Mera(alpha) and plan.operator.abstains is (alpha == 1.0)


def test_a_probe_is_fitted_once_on_the_selection_split(bench, monkeypatch):
    observed = unsteered(bench)
    prompts = [e.prompt for e in bench.selection]
    means = residual_means(bench.model, prompts, tokens(observed), [1], "generated")[1]
    for i in (0, 7):
        x = bench.model.replay([prompts[i]], [tokens(observed)[i]], [1], "generated").layers[1]
        np.testing.assert_allclose(means[i], x.mean(0).numpy(), rtol=1e-4, atol=1e-5)
    made = probes(bench, observed, [0, 1], "generated")
    read = counted(monkeypatch, "replay")
    again = probes(bench, observed, [1], "generated")
    assert not read and np.array_equal(again[1].row, made[1].row)
    wrong = (observed["score"] < 1).to_numpy()
    difference = means[wrong].mean(0) - means[~wrong].mean(0)
    np.testing.assert_allclose(made[1].condition, difference, atol=1e-5)


def test_a_gate_on_a_last_prompt_token_that_is_special_is_refused(bench, monkeypatch):
    """It is never read, so the gate would see nothing but zeros."""
    prompts = [e.prompt for e in bench.selection][:4]
    answers, model = [[5, 6]] * 4, bench.model
    residual_means(model, prompts, answers, [1], "last_prompt")
    monkeypatch.setattr(model, "_special", {*model._special, model._encode(prompts)[2][-1]})
    assert residual_means(model, prompts, answers, [1], "generated")[1].any(axis=1).all()
    with pytest.raises(DataError, match="a special token, which is never read: type gate=probe"):
        residual_means(model, prompts, answers, [1], "last_prompt")


@pytest.mark.parametrize(
    "how",
    [
        {"gate": PromptCosine()},
        pytest.param({"gate": Prompt()}, marks=pytest.mark.night),
        pytest.param({"gate": Confidence()}, marks=pytest.mark.night),
        pytest.param({"operator": Mera()}, marks=pytest.mark.night),
    ],
)
def test_a_threshold_is_the_best_on_validation(bench, how):
    plan = CorrSteer(coef=20.0, **how).plain(bench, "max").plan.turned_to(20.0)
    found = calibrated(bench, plan)
    (name,) = how
    part = getattr(found, name)
    tried = getattr(plan, name).candidates(plan.entries)
    lengths = {Prompt: len(GRID), Confidence: 11, Mera: len(GRID) + 1}  # one of these abstains
    assert part in tried and len(tried) == lengths.get(type(part), len(tried))
    scores = [
        answers(bench, bench.asking, "validation", [steered(replace(plan, **{name: one}))])
        for one in tried
    ]
    right = [int(frame[STEERED]["score"].sum()) for frame in scores]
    assert right[list(tried).index(part)] == max(right)
    assert calibrated(bench, found) is found


def test_another_gate_collects_nothing_again(bench, monkeypatch):
    CorrSteer().fit(bench)
    read = counted(monkeypatch, "generate")
    monkeypatch.setattr(LocalModel, "promoted", None)
    for gate in (FeatureActive(), Probe(0.5)):
        CorrSteer(gate=gate).fit(bench)
    assert not read
