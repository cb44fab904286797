"""The stages together on a tiny random model, with its cache."""

import dataclasses
import json
import shutil
import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import pearsonr

from corrsteer.errors import DegenerateOutcomesError
from corrsteer.models.local import LocalModel
from corrsteer.records import Completion, Score, Weighed
from corrsteer.saes.folder import Folder
from corrsteer.stages import bench as bench_module
from corrsteer.stages import statistics as statistics_module
from corrsteer.stages.answers import answers, keep_answers, kept_answers
from corrsteer.stages.contexts import contexts
from corrsteer.stages.statistics import _brief, statistics
from corrsteer.steering.arms import BASELINE, baseline, steered
from corrsteer.steering.plan import load_plan
from corrsteer.store.partial import Partial
from tests.stages.made import (
    Stop,
    asked,
    asking_of,
    assert_same,
    bench,
    bench_of,
    by_hash,
    by_sae_lens,
    counted,
    emptied,
    stop_after,
    story,
    tokens,
    unsteered,
    with_a_sink,
)

__all__ = ["bench"]  # a fixture


@pytest.fixture
def sunk(tiny_model, tiny_saes, tmp_path):
    """The bench of a model whose first positions are attention sinks."""
    shutil.copytree(tiny_model("gpt2"), tmp_path / "sunk")
    with_a_sink(tmp_path / "sunk")
    return bench_of(tmp_path / "sunk", tiny_saes, tmp_path / "cache")


@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.parametrize(
    ("on", "source"),
    [
        ("ordinary", "generated"),
        pytest.param("ordinary", "all", marks=pytest.mark.night),
        pytest.param("sunk", "all", marks=pytest.mark.night),
    ],
)
def test_r_and_coefficients_agree_with_scipy_on_the_same_activations(
    bench, sunk, on, source, pooling
):
    bench = bench if on == "ordinary" else sunk
    base, stats, *_ = story(bench, token_source=source, pooling=pooling)
    y = base["score"].to_numpy()
    assert 10 < y.sum() < 50
    model = bench.model
    # The first of every text, but in answers.
    left_out = 60 if (on, source) == ("sunk", "all") else 0
    assert {s.left_out for s in stats} == {left_out}
    for s in stats:
        weights = by_sae_lens(bench, s.layer)
        z = []
        for example, row in zip(bench.selection, base["tokens"], strict=True):  # one by one
            x = model.replay([example.prompt], [row], [s.layer], source).layers[s.layer]
            if source == "all":  # without attention sinks
                norms = x.norm(dim=1)
                x = x[norms <= 10 * norms.median()]
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


@pytest.mark.night
def test_what_is_left_out_survives_an_interruption_and_shards(sunk, tmp_path, monkeypatch):
    base = unsteered(sunk)
    whole = dataclasses.replace(sunk.collect, token_source="prompt")
    expected = statistics(sunk, base, collect=whole)
    assert {s.left_out for s in expected} == {60}
    other = emptied(sunk, tmp_path / "other")
    with monkeypatch.context() as patched:
        patched.setattr(LocalModel, "replay", stop_after(2, LocalModel.replay))
        with pytest.raises(Stop):
            statistics(other, base, collect=whole)
    assert_same(statistics(other, base, collect=whole), expected)
    shared = statistics(
        emptied(sunk, tmp_path / "third"), base, collect=dataclasses.replace(whole, shards=3)
    )
    assert [s.left_out for s in shared] == [60, 60, 60]
    for source in ("generated", "last_prompt", "prompt", "all"):  # nothing moves for the first two
        asked_for = dataclasses.replace(whole, token_source=source)
        (key,) = bench_module.statistics_keys(
            sunk, base["score"].to_numpy(float), [0], asked_for
        ).values()
        assert ("without_sinks" in key) == (source in ("prompt", "all"))
    # Written before positions were counted: none were left out then.
    folder = sunk.store.read(
        "collect",
        bench_module.statistics_keys(sunk, base["score"].to_numpy(float), [0], whole)[0],
        statistics_module.FORM,
    )
    with np.load(folder / "stats.npz") as kept:
        np.savez(tmp_path / "stats.npz", **{n: kept[n] for n in kept if n != "left_out"})
    assert statistics_module.read_stats(tmp_path).left_out == 0


def test_the_plan_adds_the_coefficient_times_the_decoder_row(bench):
    _, stats, chosen, plan, random, _ = story(bench, coef=2.0)
    assert [f.layer for f in chosen] == [0, 1, 2]
    for f, s in zip(chosen, stats, strict=True):
        assert f.r == s.r.max()
        row = by_sae_lens(bench, f.layer).W_dec[f.feature].numpy()
        np.testing.assert_allclose(plan.vectors()[f.layer], 2 * f.coefficient * row, rtol=1e-6)
    assert len(random) == 5
    for draw in random:
        assert draw.coef == plan.coef
        for entry, own in zip(draw.entries, plan.entries, strict=True):
            assert entry.feature != own.feature
            assert np.linalg.norm(entry.vector) == pytest.approx(
                np.linalg.norm(own.vector), rel=1e-5
            )
    assert len({tuple(e.feature for e in draw.entries) for draw in random}) > 1


def test_coef_0_is_the_baseline_token_for_token_and_coef_1_is_not(bench):
    *_, arms = story(bench, coef=0.0)
    assert tokens(arms["steered"]) == tokens(arms["baseline"])
    assert (arms["steered"]["n_steered"] == arms["steered"]["n_tokens"]).all()
    assert (arms["baseline"]["n_steered"] == 0).all()
    *_, arms = story(bench, coef=1.0)
    assert tokens(arms["steered"]) != tokens(arms["baseline"])


def test_an_answer_that_many_arms_give_is_scored_once(bench):
    asked = []

    def watch(example, text):
        asked.append((example.id, text))
        return by_hash(example, text)

    bench = dataclasses.replace(bench, asking=asking_of(watch))
    arms = [baseline(), steered(None), dataclasses.replace(baseline(), name="again")]
    frames = answers(bench, bench.asking, "test", arms)
    assert sorted(asked) == sorted(set(asked)) and len(asked) == 60
    for frame in frames.values():
        told = [
            by_hash(e, t) for e, t in zip(bench.asking.splits["test"], frame["answer"], strict=True)
        ]
        assert frame["score"].tolist() == [score.value for score in told]


def test_a_sweep_over_the_dial_collects_once(bench):
    for coef in (0.5, 1.0, 2.0):
        story(bench, coef=coef)
    log = bench.store.log
    assert (log["miss collect"], log["hit collect"]) == (3, 6)  # one entry per layer
    assert log["miss select"] == 1
    assert log["miss controls"] == 1
    assert log["miss generate"] == 4  # the baseline once, and one arm per dial


def test_some_layers_reuse_what_all_layers_collected(bench):
    all_layers = story(bench).stats
    before = bench.store.log["miss collect"]
    (one,) = story(bench, layers=(1,)).stats
    assert bench.store.log["miss collect"] == before
    np.testing.assert_array_equal(one.r, all_layers[1].r)


@pytest.mark.night
def test_what_changes_the_statistics_changes_their_key(bench):
    story(bench)
    others = {"pooling": "mean", "token_source": "all", "shuffles": 21, "resamples": 21}
    for change in ({name: value} for name, value in others.items()):
        before = bench.store.log["miss collect"]
        story(bench, **change)
        assert bench.store.log["miss collect"] == before + 3, change


def test_a_run_that_finds_everything_loads_no_model(bench, monkeypatch):
    first = story(bench)

    def fail(*_):
        raise AssertionError("loaded")

    monkeypatch.setattr(bench_module, "load_model", fail)
    monkeypatch.setattr(Folder, "load", fail)
    again = story(bench)
    assert tokens(again.arms["steered"]) == tokens(first.arms["steered"])


def test_another_seed_shuffles_anew_but_generates_nothing(bench):
    stats = story(bench).stats
    other = dataclasses.replace(bench, seed=1)
    before = bench.store.log["miss generate"]
    again = statistics(other, unsteered(other), (0,))
    assert bench.store.log["miss generate"] == before
    np.testing.assert_array_equal(again[0].r, stats[0].r)
    assert (again[0].max_shuffled_r != stats[0].max_shuffled_r).any()


@pytest.mark.parametrize(("value", "message"), [(0.0, "no answer is right"), (1.0, "all answers")])
def test_outcomes_that_do_not_vary_are_refused_with_counts(bench, value, message):
    bench = dataclasses.replace(bench, asking=asking_of(lambda e, t: Score(value, t)))
    with pytest.raises(DegenerateOutcomesError, match=message) as error:
        story(bench)
    assert f"({int(60 * value)} of 60)" in str(error.value)
    # Two answers beside what is right, and all of them to keep.
    frame = error.value.answers
    assert len(frame) == 60 and "\n" not in str(error.value)
    for row in frame.head(2).itertuples():
        assert f"{_brief(row.answer)} where {_brief(row.gold)} is right" in str(error.value)
    assert bench.store.log["miss collect"] == 0


def test_a_right_answer_inside_a_sentence_names_the_scorer_for_it():
    said = ["The capital of Chile\nis Santiago.", "Lima", "x" * 99]
    golds = ["Santiago", "Quito", "B"]
    frame = pd.DataFrame({"id": "1", "prompt": "p", "answer": said, "gold": golds, "score": 0.0})
    with pytest.raises(DegenerateOutcomesError) as caught:
        statistics_module._outcomes(frame)
    assert str(caught.value).endswith(
        "; e.g. 'The capital of Chile is Santiago.' where 'Santiago' is right and 'Lima' where"
        " 'Quito' is right; in 1 of 3 answers the right one is part of what is said: type"
        " task.scorer=contains"
    )
    with pytest.raises(DegenerateOutcomesError) as caught:
        statistics_module._outcomes(frame[1:])
    assert "x' where 'B' is right" not in str(caught.value)  # cut
    assert f"'{'x' * 57}...' where 'B' is right" in str(caught.value)
    assert "contains" not in str(caught.value)


def test_contexts_show_the_tokens_that_activate_a_feature_most(bench):
    base, _, chosen, *_ = story(bench)
    cards = contexts(bench, base, chosen)
    for feature, card in zip(chosen, cards, strict=True):
        assert (card["layer"], card["feature"]) == (feature.layer, feature.feature)
        sae, peaks = bench.sae.load(feature.layer), []
        for example, row in zip(bench.selection, base["tokens"], strict=True):
            x = bench.model.replay([example.prompt], [row], [feature.layer], "generated")
            peaks.append(float(sae.encode(x.layers[feature.layer])[:, feature.feature].max()))
        best = sorted(peaks, reverse=True)[: len(card["contexts"])]
        for context, peak in zip(card["contexts"], best, strict=True):
            both = zip(context["activations"], context["within"], strict=True)
            assert max(a for a, within in both if within) == pytest.approx(peak, abs=1e-3)
            assert context["activations"][context["peak"]] == pytest.approx(peak, abs=1e-3)
            assert len(context["tokens"]) == len(context["activations"])


def test_a_plan_survives_the_disk(bench, tmp_path):
    plan = story(bench, coef=0.5).plan
    about, facts = {"model": {"name": "tiny"}}, {1: {"class": "unclear", "noise": True}}
    entries = tuple(dataclasses.replace(e, about=facts.get(e.layer, {})) for e in plan.entries)
    dataclasses.replace(plan, entries=entries, about=about).save(tmp_path / "plan")
    kept = json.loads((tmp_path / "plan" / "plan.json").read_text())
    assert kept["model"] == about["model"]
    assert [e.get("class") for e in kept["entries"]] == [None, "unclear", None]
    loaded = load_plan(tmp_path / "plan")
    assert loaded.coef == 0.5
    for a, b in zip(loaded.entries, plan.entries, strict=True):
        assert (a.layer, a.feature, a.r, a.coefficient) == (b.layer, b.feature, b.r, b.coefficient)
        np.testing.assert_array_equal(a.vector, b.vector)


# -- what was done is never lost -------------------------------------------------------------


def test_interrupted_generation_goes_on_where_it_stopped(bench, tmp_path, monkeypatch):
    expected = asked(emptied(bench, tmp_path / "other"))[BASELINE]
    with monkeypatch.context() as patch:
        patch.setattr(LocalModel, "generate", stop_after(2, LocalModel.generate))
        with pytest.raises(Stop):
            asked(bench)
    calls = counted(monkeypatch, "generate")
    resumed = asked(bench)[BASELINE]
    assert calls == [16, 12]  # of 60 in batches of 16, two were kept
    pd.testing.assert_frame_equal(resumed, expected)
    assert not list(bench.store.root.rglob(".*"))


def test_a_new_arm_does_not_repeat_what_another_has(bench, tmp_path, monkeypatch):
    plan = story(bench).plan
    seen = []
    method = LocalModel.generate

    def watch(self, prompts, interventions, **kwargs):
        seen.append(len(interventions))
        return method(self, prompts, interventions, **kwargs)

    fresh = emptied(bench, tmp_path / "fresh")
    with monkeypatch.context() as patch:
        patch.setattr(LocalModel, "generate", stop_after(1, method))
        with pytest.raises(Stop):
            asked(fresh)
    monkeypatch.setattr(LocalModel, "generate", watch)
    asked(fresh, baseline(), steered(plan))
    assert seen == [1, 2, 2, 2]


def test_a_harmed_part_is_made_again(bench, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(LocalModel, "generate", stop_after(3, LocalModel.generate))
        with pytest.raises(Stop):
            asked(bench)
    (folder,) = (bench.store.root / "generate").glob(".*.partial")
    first, second, third = sorted(folder.iterdir())
    first.write_bytes(first.read_bytes()[:-9])  # truncated
    second.write_bytes(second.read_bytes().replace(b"[", b"{", 1))
    calls = counted(monkeypatch, "generate")
    asked(bench)
    assert calls == [16, 16, 12]


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_interrupted_collection_ends_with_the_same_statistics(
    bench, tmp_path, monkeypatch, batches
):
    base = unsteered(bench)
    expected = statistics(emptied(bench, tmp_path / "other"), base, (0, 2))
    with monkeypatch.context() as patch:
        patch.setattr(LocalModel, "replay", stop_after(batches, LocalModel.replay))
        with pytest.raises(Stop):
            statistics(bench, base, (0, 2))
    calls = counted(monkeypatch, "replay")
    resumed = statistics(bench, base, (0, 2))
    assert calls == [16, 16, 16, 12][batches:]
    assert_same(resumed, expected)
    assert not list(bench.store.root.rglob(".*"))


def test_statistics_are_kept_as_time_goes_by_not_only_when_something_is_raised(bench, monkeypatch):
    monkeypatch.setattr(statistics_module, "KEEP_EVERY", 0.0)
    stopped = stop_after(2, statistics_module.keep_moments)
    monkeypatch.setattr(statistics_module, "keep_moments", stopped)
    base = unsteered(bench)
    with pytest.raises(Stop):  # as a kill would: what was kept before is all there is
        statistics(bench, base, (0,))
    monkeypatch.undo()
    calls = counted(monkeypatch, "replay")
    statistics(bench, base, (0,))
    assert calls == [16, 12]


# -- memory ----------------------------------------------------------------------------------


@pytest.mark.night
def test_saes_are_paged_within_their_budget(bench, tmp_path, monkeypatch):
    """Statistics are the same, and no more SAEs are alive than fit."""
    expected = story(bench).stats
    size = bench.sae.load(0).nbytes
    sae = dataclasses.replace(bench.sae, budget_gb=2.5 * size / 1e9)
    tight = emptied(bench, tmp_path / "tight", sae=sae)
    alive, most = weakref.WeakSet(), []
    load = Folder.load

    def watch(self, *args):
        loaded = load(self, *args)
        alive.add(loaded.W_enc)
        most.append(len(alive))
        return loaded

    monkeypatch.setattr(Folder, "load", watch)
    replays = counted(monkeypatch, "replay")
    base, stats, chosen, *_ = story(tight)
    assert max(most) == 2
    assert len(replays) == 8  # four batches for two SAEs, then four for the third
    for one, other in zip(stats, expected, strict=True):
        np.testing.assert_array_equal(one.r, other.r)
    cards = contexts(tight, base, chosen)
    assert [c["layer"] for c in cards] == [0, 1, 2]
    assert max(most) == 2


def test_what_options_weigh_is_kept_batch_by_batch(tmp_path):
    """JSON keeps a double whole; an answer that no option was chosen for has none."""
    part = Partial(tmp_path / "part")
    made = {
        0: Completion("B. two", (5, 6), 0, (Weighed(-1.25, 3, 1), Weighed(-0.1234567890123, 3, 2))),
        1: Completion("free", (7,), 1),
    }
    keep_answers(part, made)
    kept = kept_answers(part)
    assert kept == made
    assert [c.options for c in kept.values()] == [c.options for c in made.values()]
