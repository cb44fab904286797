"""The output score (Arad et al. 2025) against its definition, one direction after the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from corrsteer.errors import ConfigError
from corrsteer.methods.corrsteer import CorrSteer
from corrsteer.models import outputs
from corrsteer.models.outputs import NEUTRAL, TOP, neutral_residual, output_scores
from corrsteer.models.remote import NDIF
from corrsteer.run.fitted import check_selector
from corrsteer.selectors.output_score import OutputScore
from corrsteer.stages import outputs as stage
from corrsteer.steering.operators import Add
from tests.stages.made import bench, counted

__all__ = ["bench"]  # a fixture


def plain(model, layer, direction):
    """Residual [M] and next-token probabilities [V] with ``direction`` added, by a hook."""
    module, seen = model._module, []

    def hook(block, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        seen.append(hidden[0, -1].clone())
        hidden[0, -1] += torch.from_numpy(direction)

    handle = module.model.layers[layer].register_forward_hook(hook)
    ids = model._tokenizer(NEUTRAL, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        p = module(input_ids=ids).logits[0, -1].double().softmax(-1)
    handle.remove()
    return seen[0].numpy(), p.numpy()


@pytest.mark.parametrize("layer", [0, 2])
def test_it_is_the_rank_weighted_probability_of_what_the_lens_says(bench, layer, monkeypatch):
    model = bench.model
    module = model._module
    sae = bench.sae.load(layer)
    x, _ = plain(model, layer, np.zeros(model.d_model, np.float32))
    np.testing.assert_allclose(neutral_residual(model, layer)[0], x, atol=1e-5)
    strongest = max(float(z) for z in sae.encode(torch.from_numpy(x)[None])[0])
    unembed = module.get_output_embeddings().weight.detach().double().numpy()
    gains = module.model.norm.weight.detach().double().numpy()
    want, ranks = {}, []
    for factor in (10, 1e-3):
        want[factor] = []
        for d in sae.directions(range(7)):
            added = (factor * strongest * d).astype(np.float32)
            tokens = np.argsort(unembed @ (gains * added))[::-1][:TOP]
            _, p = plain(model, layer, added)
            order = np.argsort(-p, kind="stable").tolist()
            ranks.append(min(order.index(t) for t in tokens))
            want[factor].append((1 - ranks[-1] / len(p)) * max(p[t] for t in tokens))
        with monkeypatch.context() as few:
            few.setattr(outputs, "BATCH", 3)
            rows = np.float32(factor * strongest) * sae.directions(range(7))
            found = output_scores(model, layer, rows)
        np.testing.assert_allclose(found, want[factor], rtol=1e-4)
    assert strongest > 0 and len({round(x, 6) for x in want[10]}) == 7 and max(ranks) > 5
    np.testing.assert_allclose(stage.scores(model, layer, sae)[:7], want[10], rtol=1e-4)


def test_the_selector_takes_the_highest_of_those_that_are_active_and_collects_nothing(
    bench, monkeypatch
):
    bench = replace(bench, layers=(1,))
    r = CorrSteer().fit(bench)
    replays, generated = counted(monkeypatch, "replay"), counted(monkeypatch, "generate")
    fitted = CorrSteer().fit(replace(bench, selector=OutputScore()))
    assert replays == generated == []
    for s, by_r, f in zip(fitted.observed.stats, r.observed.stats, fitted.chosen, strict=True):
        score = s.others["output_score"].value
        fits = np.rint(s.freq_right * s.n_right) >= 2
        assert f.feature == np.flatnonzero(fits)[score[fits].argmax()]
        assert f.by == f.score == score[f.feature] > 0
        assert np.isnan(f.ceiling) and np.isnan(f.q) and not f.is_noise
        assert (s.shuffled_best == by_r.shuffled_best).all()  # no null of its own: that of r
    monkeypatch.setattr(stage, "scores", None)  # in the store
    again = CorrSteer().fit(replace(bench, selector=OutputScore()))
    assert [(f.feature, f.by) for f in again.ranked] == [(f.feature, f.by) for f in fitted.ranked]


def test_a_backend_that_cannot_predict_is_refused_before_anything_is_computed():
    with pytest.raises(ConfigError, match=r"OutputScore needs next-token dist.*backend NDIF does"):
        check_selector(OutputScore(), Add(), NDIF("http://localhost:1"))
    with pytest.raises(ConfigError, match="no noise ceiling is known for output score"):
        OutputScore(reject_noise=True)
    with pytest.raises(ConfigError, match="output score has no sign"):
        OutputScore(sign="both")
