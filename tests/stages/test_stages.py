"""The stages together on a tiny random model, with its cache.

The scorer reads a hash of the answer, so about half of the answers are "right" and whatever
the random model writes decides which.
"""

import dataclasses
import hashlib
import json
import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import pearsonr

from corrsteer.errors import DegenerateOutcomesError
from corrsteer.models.local import Local, LocalModel
from corrsteer.models.spec import Model
from corrsteer.records import Question, Score
from corrsteer.saes.folder import Folder
from corrsteer.selectors.correlation import Correlation
from corrsteer.stages import bench as cached
from corrsteer.stages.bench import Cached
from corrsteer.steering.operators import Add
from corrsteer.steering.planfile import load_plan, save_plan
from corrsteer.store.entries import Store
from corrsteer.tasks.base import Task

RANDOM = {"random": 5, "direction": 0, "shuffled": 0, "layers": 0, "flipped": 0}
COLLECT = {"token_source": "generated", "pooling": "max", "shuffles": 20, "resamples": 20}


class HashTask(Task):
    def rows(self):
        rng = np.random.default_rng(0)
        words = ["the", "cat", "saw", "a", "dog", "run", "over", "there"]
        return [
            Question(f"e{i}", {"text": " ".join(rng.choice(words, size=rng.integers(2, 9)))}, "x")
            for i in range(60)
        ]


def by_hash(example, text):
    bit = hashlib.sha256(f"{example.id}{text}".encode()).digest()[0] & 1
    return Score(float(bit), text)


@pytest.fixture
def stages(tiny_llama, tiny_saes, tmp_path):
    return Cached(
        store=Store(tmp_path / "cache"),
        backend=Local(device="cpu", batch_size=16),
        model_spec=Model("tiny", str(tiny_llama)),
        sae=Folder(str(tiny_saes)),
        task=HashTask(name="hash", prompt="{text}", scorer=by_hash, max_new_tokens=5),
        strategy=Add("A"),
        selector=Correlation(),
        seed=0,
    )


def by_sae_lens(stages, layer):
    from sae_lens import SAE

    return SAE.load_from_disk(f"{stages.sae.path}/layer_{layer}").requires_grad_(False)


def story(stages, layers=(0, 1, 2), coef=1.0, **collect):
    examples = stages.task.examples()
    base = stages.answers(examples, {"baseline": None}, "selection")["baseline"]
    stats = stages.statistics(examples, base, layers, **{**COLLECT, **collect})
    ranked, chosen, plan = stages.plan(stats)
    plan = plan.turned_to(coef)
    random = list(stages.controls(plan, stats, RANDOM).values())
    arms = stages.answers(examples, {"baseline": None, "steered": plan}, "test")
    return base, stats, chosen, plan, random, arms


@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.parametrize("source", ["generated", "all"])
def test_r_and_coefficients_agree_with_scipy_on_the_same_activations(stages, source, pooling):
    base, stats, *_ = story(stages, token_source=source, pooling=pooling)
    examples, y = stages.task.examples(), base["score"].to_numpy()
    assert 10 < y.sum() < 50
    model = stages.model
    for s in stats:
        weights = by_sae_lens(stages, s.layer)
        z = []
        for example, tokens in zip(examples, base["tokens"], strict=True):  # one by one, plainly
            x = model.replay([example.prompt], [tokens], [s.layer], source).layers[s.layer]
            pre = (x - weights.b_dec * weights.cfg.apply_b_dec_to_input) @ weights.W_enc
            pre = pre + weights.b_enc
            active = torch.where(pre > weights.threshold, pre.relu(), 0)
            z.append(active.amax(0) if pooling == "max" else active.mean(0))
        z = torch.stack(z).double().numpy()
        varies = z.std(0) > 0
        assert varies.sum() > 20
        expected = [pearsonr(z[:, f], y).statistic for f in np.flatnonzero(varies)]
        np.testing.assert_allclose(s.r[varies], expected, atol=1e-6)
        assert not s.r[~varies].any()
        np.testing.assert_allclose(s.mean_right, z[y == 1].mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(s.freq_wrong, (z[y == 0] > 0).mean(0), atol=1e-9)


def test_the_plan_adds_the_coefficient_times_the_decoder_row(stages):
    _, stats, chosen, plan, random, _ = story(stages, coef=2.0)
    assert [f.layer for f in chosen] == [0, 1, 2]
    for f, s in zip(chosen, stats, strict=True):
        assert f.r == s.r.max()
        row = by_sae_lens(stages, f.layer).W_dec[f.feature].numpy()
        np.testing.assert_allclose(plan.vectors()[f.layer], 2 * f.coefficient * row, rtol=1e-6)
    for draw in random:
        for entry, mine in zip(draw.entries, plan.entries, strict=True):
            assert entry.feature != mine.feature
            assert np.linalg.norm(entry.vector) == pytest.approx(
                np.linalg.norm(mine.vector), rel=1e-5
            )
    assert len({tuple(e.feature for e in draw.entries) for draw in random}) > 1


def tokens(answers):
    return [list(row) for row in answers["tokens"]]


def test_coef_0_is_the_baseline_token_for_token_and_coef_1_is_not(stages):
    *_, arms = story(stages, coef=0.0)
    assert tokens(arms["steered"]) == tokens(arms["baseline"])
    assert (arms["steered"]["n_steered"] == arms["steered"]["n_tokens"]).all()
    assert (arms["baseline"]["n_steered"] == 0).all()
    *_, arms = story(stages, coef=1.0)
    assert tokens(arms["steered"]) != tokens(arms["baseline"])


def test_a_sweep_over_the_dial_collects_once(stages):
    for coef in (0.5, 1.0, 2.0):
        story(stages, coef=coef)
    log = stages.store.log
    assert (log["miss collect"], log["hit collect"]) == (3, 6)  # one entry per layer
    assert log["miss select"] == 1
    assert log["miss generate"] == 4  # the baseline once, and one arm per dial


def test_some_layers_reuse_what_all_layers_collected(stages):
    all_layers = story(stages)[1]
    before = stages.store.log["miss collect"]
    (one,) = story(stages, layers=(1,))[1]
    assert stages.store.log["miss collect"] == before
    np.testing.assert_array_equal(one.r, all_layers[1].r)


def test_what_changes_the_statistics_changes_their_key(stages):
    story(stages)
    others = {"pooling": "mean", "token_source": "all", "shuffles": 21, "resamples": 21}
    for change in ({name: value} for name, value in others.items()):
        before = stages.store.log["miss collect"]
        story(stages, **change)
        assert stages.store.log["miss collect"] == before + 3, change


def test_a_run_that_finds_everything_loads_no_model(stages, monkeypatch):
    first = story(stages)

    def fail(*_):
        raise AssertionError("loaded")

    monkeypatch.setattr(cached, "load_model", fail)
    monkeypatch.setattr(Folder, "load", fail)
    again = story(stages)
    assert tokens(again[-1]["steered"]) == tokens(first[-1]["steered"])


def test_another_seed_shuffles_anew_but_generates_nothing(stages):
    stats = story(stages)[1]
    other = dataclasses.replace(stages, seed=1)
    before = stages.store.log["miss generate"]
    base = other.answers(other.task.examples(), {"baseline": None}, "x")["baseline"]
    again = other.statistics(other.task.examples(), base, (0,), **COLLECT)
    assert stages.store.log["miss generate"] == before
    np.testing.assert_array_equal(again[0].r, stats[0].r)
    assert (again[0].max_shuffled_r != stats[0].max_shuffled_r).any()


@pytest.mark.parametrize(("value", "message"), [(0.0, "no answer is right"), (1.0, "all answers")])
def test_outcomes_that_do_not_vary_are_refused_with_counts(stages, value, message):
    stages = dataclasses.replace(
        stages,
        task=HashTask(
            name="h", prompt="{text}", scorer=lambda e, t: Score(value, t), max_new_tokens=5
        ),
    )
    with pytest.raises(DegenerateOutcomesError, match=message) as error:
        story(stages)
    assert f"({int(60 * value)} of 60)" in str(error.value)
    assert stages.store.log["miss collect"] == 0


def test_contexts_show_the_tokens_that_activate_a_feature_most(stages):
    base, _, chosen, *_ = story(stages)
    examples = stages.task.examples()
    found = stages.contexts(examples, base, chosen)
    for feature, shown in zip(chosen, found, strict=True):
        assert (shown["layer"], shown["feature"]) == (feature.layer, feature.feature)
        sae, peaks = stages.sae.load(feature.layer), []
        for example, tokens in zip(examples, base["tokens"], strict=True):
            x = stages.model.replay([example.prompt], [tokens], [feature.layer], "all")
            peaks.append(float(sae.encode(x.layers[feature.layer])[:, feature.feature].max()))
        best = sorted(peaks, reverse=True)[: len(shown["contexts"])]
        for context, peak in zip(shown["contexts"], best, strict=True):
            assert max(context["activations"]) == pytest.approx(peak, abs=1e-3)
            assert context["activations"][context["peak"]] == max(context["activations"])
            assert len(context["tokens"]) == len(context["activations"])


def test_a_plan_survives_the_disk(stages, tmp_path):
    *_, plan, _, _ = story(stages, coef=0.5)
    about, facts = {"model": {"name": "tiny"}}, {1: {"class": "unclear", "noise": True}}
    save_plan(plan, tmp_path / "plan", about, facts)
    kept = json.loads((tmp_path / "plan" / "plan.json").read_text())
    assert kept["model"] == about["model"]
    assert [e.get("class") for e in kept["entries"]] == [None, "unclear", None]
    loaded = load_plan(tmp_path / "plan")
    assert loaded.coef == 0.5
    for a, b in zip(loaded.entries, plan.entries, strict=True):
        assert (a.layer, a.feature, a.r, a.coefficient) == (b.layer, b.feature, b.r, b.coefficient)
        np.testing.assert_array_equal(a.vector, b.vector)


# -- what was done is never lost -------------------------------------------------------------


class Stop(Exception):
    pass


def stop_after(calls: int, method):
    """``method``, but its call number ``calls + 1`` is interrupted."""
    left = [calls]

    def limited(*args, **kwargs):
        if not left[0]:
            raise Stop
        left[0] -= 1
        return method(*args, **kwargs)

    return limited


def counted(monkeypatch, name):
    calls = []
    method = getattr(LocalModel, name)

    def count(self, prompts, *args, **kwargs):
        calls.append(len(prompts))
        return method(self, prompts, *args, **kwargs)

    monkeypatch.setattr(LocalModel, name, count)
    return calls


def test_interrupted_generation_goes_on_where_it_stopped(stages, tmp_path, monkeypatch):
    examples, arms = stages.task.examples(), {"baseline": None}
    undisturbed = dataclasses.replace(stages, store=Store(tmp_path / "other"))
    expected = undisturbed.answers(examples, arms, "x")["baseline"]
    with monkeypatch.context() as patch:
        patch.setattr(LocalModel, "generate", stop_after(2, LocalModel.generate))
        with pytest.raises(Stop):
            stages.answers(examples, arms, "x")
    calls = counted(monkeypatch, "generate")
    found = stages.answers(examples, arms, "x")["baseline"]
    assert calls == [16, 12]  # of 60 in batches of 16, two were kept
    pd.testing.assert_frame_equal(found, expected)
    assert not list(stages.store.root.rglob(".*"))


def test_a_new_arm_does_not_repeat_what_another_has(stages, monkeypatch):
    examples, plan = stages.task.examples(), story(stages)[3]
    seen = []
    method = LocalModel.generate

    def watch(self, prompts, plans, **kwargs):
        seen.append(len(plans))
        return method(self, prompts, plans, **kwargs)

    fresh = dataclasses.replace(stages, store=Store(stages.store.root.parent / "fresh"))
    with monkeypatch.context() as patch:
        patch.setattr(LocalModel, "generate", stop_after(1, method))
        with pytest.raises(Stop):
            fresh.answers(examples, {"baseline": None}, "x")
    monkeypatch.setattr(LocalModel, "generate", watch)
    fresh.answers(examples, {"baseline": None, "steered": plan}, "x")
    assert seen == [1, 2, 2, 2]


def test_a_harmed_part_is_made_again(stages, monkeypatch):
    examples, arms = stages.task.examples(), {"baseline": None}
    with monkeypatch.context() as patch:
        patch.setattr(LocalModel, "generate", stop_after(3, LocalModel.generate))
        with pytest.raises(Stop):
            stages.answers(examples, arms, "x")
    (folder,) = (stages.store.root / "generate").glob(".*.partial")
    first, second, third = sorted(folder.iterdir())
    first.write_bytes(first.read_bytes()[:-9])  # truncated
    second.write_bytes(second.read_bytes().replace(b"[", b"{", 1))
    calls = counted(monkeypatch, "generate")
    stages.answers(examples, arms, "x")
    assert calls == [16, 16, 12]


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_interrupted_collection_ends_with_the_same_statistics(
    stages, tmp_path, monkeypatch, batches
):
    examples = stages.task.examples()
    base = stages.answers(examples, {"baseline": None}, "x")["baseline"]
    undisturbed = dataclasses.replace(stages, store=Store(tmp_path / "other"))
    expected = undisturbed.statistics(examples, base, (0, 2), **COLLECT)
    with monkeypatch.context() as patch:
        patch.setattr(LocalModel, "replay", stop_after(batches, LocalModel.replay))
        with pytest.raises(Stop):
            stages.statistics(examples, base, (0, 2), **COLLECT)
    calls = counted(monkeypatch, "replay")
    found = stages.statistics(examples, base, (0, 2), **COLLECT)
    assert calls == [16, 16, 16, 12][batches:]
    for one, other in zip(found, expected, strict=True):
        for field in dataclasses.fields(one):
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))
    assert not list(stages.store.root.rglob(".*"))


def test_statistics_are_kept_as_time_goes_by_not_only_when_something_is_raised(stages, monkeypatch):
    monkeypatch.setattr(cached, "KEEP_EVERY", 0.0)
    monkeypatch.setattr(cached, "keep_moments", stop_after(2, cached.keep_moments))
    examples = stages.task.examples()
    base = stages.answers(examples, {"baseline": None}, "x")["baseline"]
    with pytest.raises(Stop):  # as a kill would: what was kept before is all there is
        stages.statistics(examples, base, (0,), **COLLECT)
    monkeypatch.undo()
    calls = counted(monkeypatch, "replay")
    stages.statistics(examples, base, (0,), **COLLECT)
    assert calls == [16, 12]


# -- memory ----------------------------------------------------------------------------------


def test_saes_are_paged_within_their_budget(stages, tmp_path, monkeypatch):
    """Statistics are the same, and no more SAEs are alive than fit."""
    expected = story(stages)[1]
    size = stages.sae.load(0).nbytes
    tight = dataclasses.replace(
        stages,
        store=Store(tmp_path / "tight"),
        sae=dataclasses.replace(stages.sae, budget_gb=2.5 * size / 1e9),
    )
    alive, most = weakref.WeakSet(), []
    load = Folder.load

    def watch(self, *args):
        loaded = load(self, *args)
        alive.add(loaded.W_enc)
        most.append(len(alive))
        return loaded

    monkeypatch.setattr(Folder, "load", watch)
    replays = counted(monkeypatch, "replay")
    base, found, chosen, *_ = story(tight)
    assert max(most) == 2
    assert len(replays) == 8  # four batches for two SAEs, then four for the third
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.r, other.r)
    shown = tight.contexts(tight.task.examples(), base, chosen)
    assert [c["layer"] for c in shown] == [0, 1, 2]
    assert max(most) == 2
