"""Contexts of several features per layer against plain encodings; classes as a filter; what is
kept of descriptions. On a tiny random model."""

from __future__ import annotations

import collections
import dataclasses
import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest

from corrsteer.errors import DataError
from corrsteer.methods import corrsteer
from corrsteer.methods.corrsteer import CorrSteer
from corrsteer.methods.protocol import Observed
from corrsteer.models import protocol
from corrsteer.models.local import Local, LocalModel
from corrsteer.records import CLASSES
from corrsteer.run.pipeline import explained
from corrsteer.saes import neuronpedia
from corrsteer.saes.loaded import LoadedSAE
from corrsteer.selectors.classes import Hand, classify, shared
from corrsteer.selectors.correlation import Correlation
from corrsteer.stages import bench as bench_module
from corrsteer.stages import contexts as contexts_module
from corrsteer.stages.contexts import WINDOW, contexts, descriptions, strongest_contexts
from corrsteer.stages.statistics import statistics
from corrsteer.store.entries import Store
from tests.stages.made import bench_of, by_sae_lens, counted, emptied, unsteered

K = 5


@pytest.fixture(scope="module")
def observed_once(tiny_llama, tiny_saes, tmp_path_factory):
    """A bench with ``K`` ranked features of each layer, and what they are about."""
    cache = tmp_path_factory.mktemp("cache")
    bench = bench_of(tiny_llama, tiny_saes, cache, selector=Correlation(top_k=K))
    base = unsteered(bench)
    stats = statistics(bench, base)
    ranked = bench.selector.rank(stats)
    assert len(ranked) == 3 * K
    return SimpleNamespace(bench=bench, base=base, stats=stats, ranked=ranked)


@pytest.fixture
def looked(observed_once, tmp_path):
    """The same, with nothing in the store."""
    bench = emptied(observed_once.bench, tmp_path / "cache")
    return SimpleNamespace(**{**vars(observed_once), "bench": bench})


def cards(looked, features=None, **changes):
    bench = dataclasses.replace(looked.bench, **changes)
    return contexts(bench, looked.base, features or looked.ranked)


def test_every_feature_shows_its_strongest_samples(looked):
    made = cards(looked)
    assert [(c["layer"], c["feature"]) for c in made] == [
        (f.layer, f.feature) for f in looked.ranked
    ]
    model, texts, acts = looked.bench.model, [], {layer: [] for layer in (0, 1, 2)}
    pooled = []  # of each text: the positions that wrote the answer
    for example, tokens in zip(looked.bench.selection, looked.base["tokens"], strict=True):
        plain = model.replay([example.prompt], [tokens], [0, 1, 2], "all")
        texts.append(plain.token.tolist())
        written = model.replay([example.prompt], [tokens], [0], "generated").position.tolist()
        pooled.append(np.isin(plain.position.numpy(), written))
        assert 0 < pooled[-1].sum() < len(texts[-1])
        for layer in acts:
            sae = by_sae_lens(looked.bench, layer)
            acts[layer].append(sae.encode(plain.layers[layer]).numpy())
    assert max(map(len, texts)) > WINDOW  # so that some are cut
    ids, right = [e.id for e in looked.bench.selection], (looked.base["score"] >= 0.5).tolist()
    common, loud = shared(texts), 0
    for card in made:
        columns = [a[:, card["feature"]] for a in acts[card["layer"]]]
        inside = [np.where(p, a, 0) for a, p in zip(columns, pooled, strict=True)]
        best = sorted((a.max() for a in inside if a.max() > 0), reverse=True)[:8]
        assert len({shown["id"] for shown in card["contexts"]}) == len(best)
        for shown, activation in zip(card["contexts"], best, strict=True):
            i = ids.index(shown["id"])
            peak = int(inside[i].argmax())
            part = slice(max(0, peak - WINDOW), peak + WINDOW + 1)
            assert inside[i].max() == pytest.approx(activation, rel=1e-3)
            assert shown["pooled"] == pytest.approx(activation, rel=1e-3)
            assert shown["within"] == pooled[i][part].tolist()
            assert shown["right"] == right[i]
            assert shown["tokens"] == model.token_texts(texts[i][part])
            np.testing.assert_allclose(shown["activations"], columns[i][part], rtol=1e-3, atol=1e-4)
            assert shown["peak"] == peak - part.start
        outside = [np.where(p, 0, a) for a, p in zip(columns, pooled, strict=True)]
        most = max(a.max() for a in outside)
        if most >= 0.5 * best[0]:
            tops = collections.Counter()
            for text, a in zip(texts, outside, strict=True):
                tops[text[a.argmax()]] += float(a.max())
            (first, _), *_ = tops.most_common(1)
            assert card["elsewhere"]["most"] == pytest.approx(most, rel=1e-3)
            assert card["elsewhere"]["tokens"][0] == model.token_texts([first])[0]
            assert card["elsewhere"]["sink"] == 0  # this model has none
            loud += 1
        else:
            assert card["elsewhere"] is None
        words = dataclasses.replace(
            common,
            places={tuple(model.token_texts(pair)) for pair in common.places},
            common=set(model.token_texts(sorted(common.common))),
        )
        assert (card["class"], card["class_why"]) == classify(card["contexts"], words)
        assert card["class_by"] == "rule" and card["sae"] == f"folder/layer_{card['layer']}"
        assert card["neuronpedia"] is card["description"] is None
    assert loud


def test_the_lens_is_of_each_features_own_direction(looked):
    for card in cards(looked):
        row = looked.bench.sae.load(card["layer"]).directions([card["feature"]])
        ((up, down),) = looked.bench.model.promoted(row, 10)
        assert (card["promotes"], card["suppresses"]) == (up, down)


def test_one_replay_for_all_and_only_the_columns_asked_for(looked, monkeypatch):
    replays, encoded = counted(monkeypatch, "replay"), []
    encode = LoadedSAE.encode

    def watch(self, x, features=None):
        encoded.append(None if features is None else len(features))
        return encode(self, x, features)

    monkeypatch.setattr(LoadedSAE, "encode", watch)
    first = cards(looked)
    assert replays == [16, 16, 16, 12]
    assert set(encoded) == {K} and len(encoded) == 4 * 3
    again = cards(looked, looked.ranked[::-1])  # in another order it is the same question
    assert len(replays) == 4 and again == first[::-1]


def test_neither_batches_nor_the_budget_change_a_card(looked, tmp_path):
    size = looked.bench.sae.load(0).nbytes
    other = cards(
        looked,
        store=Store(tmp_path / "other"),
        backend=Local(device="cpu", batch_size=7),
        sae=dataclasses.replace(looked.bench.sae, budget_gb=1.5 * size / 1e9),
    )
    for one, two in zip(cards(looked), other, strict=True):
        assert [c["id"] for c in one["contexts"]] == [c["id"] for c in two["contexts"]]
        for a, b in zip(one["contexts"], two["contexts"], strict=True):
            np.testing.assert_allclose(a["activations"], b["activations"], rtol=1e-3, atol=1e-4)
        assert one["class"] == two["class"]


def test_no_features_are_no_work(looked):
    assert contexts(looked.bench, looked.base, ()) == []


# -- classes -----------------------------------------------------------------------------------


def fitted_to(looked, variant="A", **changes):
    return CorrSteer(variant).fit(dataclasses.replace(looked.bench, **changes))


@pytest.fixture
def observed(looked, monkeypatch):
    """Methods find a model that was observed before."""
    seen = Observed([], looked.base, looked.stats, looked.bench.collect)
    monkeypatch.setattr(corrsteer, "observe", lambda bench, collect, **_: seen)


def explained_to(looked, fitted, **changes):
    bench = dataclasses.replace(looked.bench, **changes)
    return explained(SimpleNamespace(bench=bench, fetch=True), fitted)


def by_hand(looked):
    """The second and the fourth of layers 0 and 2 are semantic, all others structural."""
    return {
        (f"folder/layer_{f.layer}", f.feature): Hand(
            "semantic" if f.layer != 1 and f.rank in (2, 4) else "structural", "seen"
        )
        for f in looked.ranked
    }


def test_the_best_feature_of_the_classes_steers(looked, observed, caplog):
    changes = {"hands": by_hand(looked), "selector": Correlation(K, classes=["semantic"])}
    with caplog.at_level(logging.INFO):
        fitted = fitted_to(looked, **changes)
    assert [(f.layer, f.rank, f.kind) for f in fitted.ranked] == [
        (0, 1, "semantic"), (0, 2, "semantic"), (2, 1, "semantic"), (2, 2, "semantic"),
    ]  # fmt: skip
    second = [f for f in looked.ranked if f.layer != 1 and f.rank == 2]
    assert [f.feature for f in fitted.chosen] == [f.feature for f in second]
    assert [f.stability for f in fitted.chosen] == [f.stability for f in second]
    assert [(e.layer, e.feature) for e in fitted.plan.entries] == [
        (f.layer, f.feature) for f in second
    ]
    (line,) = [m for m in caplog.messages if m.startswith("selector.classes")]
    assert line == (
        "selector.classes=[semantic]: of 15 ranked features (11 structural, 4 semantic), 4 are"
        " left; layers without one, which are not steered: 1"
    )
    looked_at = explained_to(looked, fitted, **changes)
    assert [(c["layer"], c["feature"]) for c in looked_at] == [
        (f.layer, f.feature) for f in looked.ranked
    ]
    assert {c["class_by"] for c in looked_at} == {"hand"}
    assert looked_at[0]["class_why"].startswith("seen (the rule: ")


def test_the_single_best_feature_of_the_classes(looked, observed):
    selector = Correlation(K, classes=["semantic"])
    (chosen,) = fitted_to(looked, "S", hands=by_hand(looked), selector=selector).chosen
    best = max((f for f in looked.ranked if f.layer != 1 and f.rank == 2), key=lambda f: f.r)
    assert chosen.feature == best.feature


def test_all_classes_are_the_plan_without_a_filter(looked, observed):
    plain = fitted_to(looked)
    every = fitted_to(looked, selector=Correlation(K, classes=list(CLASSES)))
    assert [dataclasses.replace(f, kind="") for f in every.ranked] == list(plain.ranked)
    assert [e.feature for e in every.plan.entries] == [e.feature for e in plain.plan.entries]


def test_nothing_left_is_said(looked, observed):
    selector = Correlation(K, classes=["unclear"])
    with pytest.raises(DataError, match=r"none of the 15 .* \(11 structural, 4 semantic\)"):
        fitted_to(looked, hands=by_hand(looked), selector=selector)


def test_without_a_filter_nothing_is_looked_at_before_the_choice(looked, observed, monkeypatch):
    replays = counted(monkeypatch, "replay")
    fitted = fitted_to(looked)
    assert replays == [] and {f.kind for f in fitted.ranked} == {""} and not fitted.cards
    assert [c["layer"] for c in explained_to(looked, fitted)] == [0, 1, 2]


# -- descriptions ------------------------------------------------------------------------------


class Listed:
    """SAEs of which Neuronpedia knows those of layers 0 and 2."""

    def neuronpedia(self, layer):
        return None if layer == 1 else f"tiny/{layer}-res"

    def sae_id(self, layer):
        return f"listed/{layer}"


@pytest.fixture
def asked(monkeypatch):
    """Every feature that Neuronpedia was asked for; what it says of them is in ``texts``."""
    calls, texts = [], {}

    def describe(sae, features):
        calls.extend((sae, f) for f in features)
        return {f: texts[f] for f in features if f in texts}

    monkeypatch.setattr(neuronpedia, "describe", describe)
    return SimpleNamespace(calls=calls, texts=texts)


def test_descriptions_are_fetched_once(looked, asked):
    bench = dataclasses.replace(looked.bench, sae=Listed())
    chosen = [f for f in looked.ranked if f.rank == 1]
    zero, _, two = (f.feature for f in chosen)
    asked.texts.update({zero: "knives \x1b[31m", two: None})
    for fetch in (True, True, False):
        assert descriptions(bench, chosen, fetch) == {(0, zero): "knives \x1b[31m", (2, two): None}
        assert asked.calls == [("tiny/0-res", zero), ("tiny/2-res", two)]


def test_a_failure_is_not_kept_and_ends_the_asking(looked, asked):
    bench = dataclasses.replace(looked.bench, sae=Listed())
    features = [f for f in looked.ranked if f.layer == 0]
    first, second, third, *_ = (f.feature for f in features)
    asked.texts[second] = "there before"
    assert descriptions(bench, features[1:2], True) == {(0, second): "there before"}
    asked.calls.clear()
    assert descriptions(bench, features, True) == {(0, second): "there before"}
    assert asked.calls == [("tiny/0-res", first)]
    asked.texts |= {first: "now", third: "too"}
    assert descriptions(bench, features[:3], True) == {
        (0, first): "now", (0, second): "there before", (0, third): "too",
    }  # fmt: skip


def test_without_an_id_or_without_leave_nothing_is_asked(looked, asked):
    chosen = [f for f in looked.ranked if f.rank == 1]
    assert descriptions(looked.bench, chosen, True) == {}
    bench = dataclasses.replace(looked.bench, sae=Listed())
    assert descriptions(bench, chosen, False) == {}
    assert asked.calls == []


def test_a_card_says_where_its_page_is(looked):
    card = cards(looked, looked.ranked[:1])[0]
    bench = dataclasses.replace(looked.bench, sae=Listed())
    listed = contexts_module._card(bench, card, shared([]))
    assert listed["neuronpedia"] == f"https://www.neuronpedia.org/tiny/0-res/{card['feature']}"
    assert listed["sae"] == "listed/0"
    json.dumps(listed, allow_nan=False)


def made_up(activations, within, features=(9,), unit=1.0, **how):
    """Cards of samples with these activations at each position of a text, of which ``within`` are
    pooled; two samples to a batch. All positions are of the same length but one of 99."""
    import torch

    class Model:
        def batches(self, prompts):
            return [list(range(i, min(i + 2, len(prompts)))) for i in range(0, len(prompts), 2)]

        def replay(self, prompts, answers, layers, source):
            assert source == "all"
            taken = [int(p) for p in prompts]
            x = torch.tensor([a for i in taken for a in activations[i]])
            sample = torch.tensor([k for k, i in enumerate(taken) for _ in activations[i]])
            token = torch.tensor([5 + n for i in taken for n in range(len(activations[i]))])
            inside = torch.tensor([w for i in taken for w in within[i]])
            long = torch.where(x == 99, 1000.0, 1.0)
            return Residuals(
                {0: torch.stack([x, long], 1)}, sample, token, token - 5, inside, inside
            )

        def token_texts(self, ids):
            return [f"t{i}" for i in ids]

        def promoted(self, directions, top):
            return [([], [])] * len(directions)

    class SAE:
        def encode(self, x, columns):
            return unit * x[:, :1].expand(len(x), len(columns))

        def directions(self, columns):
            return np.zeros((len(columns), 1))

    class Residuals(protocol.Residuals):
        def within(self, source):
            return self.last

    n = len(activations)
    asked = [SimpleNamespace(layer=0, feature=f) for f in features]
    ones = (list("abcdefgh"[:n]), [str(i) for i in range(n)], [[]] * n, [True] * n)
    how = {"source": "generated", "pooling": "max", "top": 2} | how
    return strongest_contexts(Model(), {0: SAE()}, asked, *ones, **how)


IN, OUT = True, False


def test_activations_in_small_units_keep_their_digits():
    acts, within = [[1.0, 2.0], [4.0], [1.0, 2.0]], [[IN, IN], [IN], [IN, IN]]
    made, texts = made_up(acts, within, (9, 3), unit=1e-7 / 3)
    assert [c["feature"] for c in made] == [9, 3]
    assert [c["id"] for c in made[0]["contexts"]] == ["b", "a"]  # of two that are equal, the first
    assert made[0]["contexts"][1]["activations"] == [3.3333e-08, 6.6667e-08]
    assert made[0]["promotes"] == made[1]["suppresses"] == []
    assert texts.places == frozenset() and texts.common == {"t5", "t6"}


def test_contexts_rank_by_what_was_pooled_and_say_what_is_elsewhere():
    """The first word of the prompt is a sink of every text, and the second stronger than the
    answer in one of them; the answers are the last two words."""
    acts = [[99.0, 8, 1, 2], [99.0, 1, 3, 0], [99.0, 0, 5, 4]]
    within = [[OUT, OUT, IN, IN]] * 3
    (card,), _ = made_up(acts, within)
    shown = [(c["id"], c["pooled"], c["peak"]) for c in card["contexts"]]
    assert shown == [("c", 5, 2), ("b", 3, 2)]
    assert card["contexts"][0]["within"] == [False, False, True, True]
    assert card["elsewhere"] == {"tokens": ["t6"], "most": 8, "sink": 99}
    (card,), _ = made_up(acts, within, pooling="mean")
    assert [(c["id"], c["pooled"]) for c in card["contexts"]] == [("c", 4.5), ("a", 1.5)]
    assert [c["peak"] for c in card["contexts"]] == [2, 3]
    quiet = [[0.0, 2, 5, 5]] * 3  # below half of what it has in answers
    assert made_up(quiet, within)[0][0]["elsewhere"] is None


@pytest.mark.parametrize("source", ["prompt", "all"])
def test_a_sink_is_no_context_where_the_prompt_is_pooled(source):
    acts = [[99.0, 8, 1, 2], [99.0, 1, 3, 0], [99.0, 0, 5, 4]]
    (card,), _ = made_up(acts, [[IN] * 4] * 3, source=source)
    assert [(c["id"], c["pooled"]) for c in card["contexts"]] == [("a", 8), ("c", 5)]
    assert card["contexts"][0]["within"] == [False, True, True, True]
    assert card["elsewhere"] == {"tokens": [], "most": 0, "sink": 99}


def test_the_model_is_not_loaded_for_what_is_kept(looked, monkeypatch):
    first = cards(looked)

    def fail(*_):
        raise AssertionError("loaded")

    monkeypatch.setattr(bench_module, "load_model", fail)
    monkeypatch.setattr(LocalModel, "replay", fail)
    assert cards(looked) == first
