"""What a study's jobs measure besides, against the slow way: one prompt at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from corrsteer.methods.corrsteer import CorrSteer
from corrsteer.run.measures import tables
from corrsteer.stages.answers import answers
from corrsteer.stages.norms import norm_ratios
from corrsteer.steering.arms import baseline, steered
from tests.stages.made import bench, tokens

__all__ = ["bench"]  # a fixture


def test_the_auroc_of_a_feature_is_the_share_of_pairs_it_puts_in_order(bench):
    fitted = CorrSteer().fit(bench)
    base = answers(bench, bench.asking, "test", [baseline()])["baseline"]
    made = tables(bench, ["held_out"], fitted, [], base)["held_out"]
    assert len(made) == len(fitted.chosen)
    f, right = fitted.chosen[1], base["score"].to_numpy() >= 1
    sae, found = bench.sae.load(f.layer), []
    for example, written in zip(bench.asking.splits["test"], tokens(base), strict=True):
        x = bench.model.replay([example.prompt], [written], [f.layer], bench.collect.token_source)
        found.append(float(sae.encode(x.layers[f.layer])[:, f.feature].max()))
    z = np.array(found)
    above = np.sign(z[right][:, None] - z[~right][None])
    row = made[made["layer"] == f.layer].iloc[0]
    assert row["feature"] == f.feature
    assert row["auroc"] == pytest.approx(float((above + 1).mean() / 2), abs=0.02)
    lowered = replace(fitted, chosen=[replace(one, sign=-1) for one in fitted.chosen])
    other = tables(bench, ["held_out"], lowered, [], base)["held_out"]
    np.testing.assert_allclose(other["auroc"], 1 - made["auroc"])


def test_residuals_are_longer_by_what_is_added(bench):
    plan = CorrSteer(coef=5.0).fit(bench).plan
    base = answers(bench, bench.asking, "test", [baseline()])["baseline"]
    off = norm_ratios(bench, steered(plan.turned_to(0.0)), base)
    assert [row["ratio"] for row in off] == [1.0] * len(bench.layers)
    first = replace(plan, entries=plan.entries[:1])
    layer, vector = first.entries[0].layer, first.vectors()[first.entries[0].layer]
    before = after = 0.0
    for example, written in zip(bench.asking.splits["test"], tokens(base), strict=True):
        read = bench.model.replay([example.prompt], [written], [layer], "generated")
        x = read.layers[layer].numpy()
        before += float(np.linalg.norm(x, axis=1).sum())
        after += float(np.linalg.norm(x + vector, axis=1).sum())
    made = {row["layer"]: row["ratio"] for row in norm_ratios(bench, steered(first), base)}
    assert made[layer] == pytest.approx(after / before, rel=1e-4)
    assert len(made) == len(bench.layers)
