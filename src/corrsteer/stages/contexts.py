"""What features react to, what their directions do to the next token, and what is said of them.

A feature was chosen for what it does at the token source, so that is where its contexts, its peak
and its class are from. The rest of the text is context, and what it does there is told apart: a
feature can be much stronger on the first word of a prompt than on any word of an answer.

Cost: one more replay, over at most ``samples`` of the selection split, an encoding of the features
asked for, and a product of each direction with the unembedding. Of a feature only its ``top``
contexts are held.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from corrsteer.models.protocol import WHOLE, sinks
from corrsteer.records import RIGHT, RankedFeature
from corrsteer.saes import neuronpedia
from corrsteer.selectors.classes import STRONG, Shared, classify, overruled, shared
from corrsteer.stages.bench import Bench, Collect, answers_key, read_json, write_json
from corrsteer.steering.arms import baseline
from corrsteer.store.keys import digest

if TYPE_CHECKING:
    from corrsteer.models.loaded import LoadedModel
    from corrsteer.models.protocol import Residuals
    from corrsteer.saes.loaded import LoadedSAE

STAGE, FORM, FILE = "explain", 4, "contexts.json"
SAMPLES = 400
"""Samples of the selection split that are searched for a feature's contexts."""

PROMOTED = 10  # tokens named that a direction makes likelier, and unlikelier
WINDOW = 24  # tokens shown before and after the strongest one
ELSEWHERE = 5  # tokens named that a feature fires on outside the token source


class _Context(NamedTuple):
    pooled: float
    """To 4 digits: samples that begin alike have the same up to rounding errors, and their order
    must not depend on what was in a batch with them."""
    row: int
    """Index of the sample."""
    tokens: np.ndarray
    active: np.ndarray
    within: np.ndarray
    """Whether it was pooled; all three of the tokens shown."""
    peak: int
    """The strongest of those that were pooled."""


@dataclass
class _Elsewhere:
    """What a feature does where it was not pooled: the strongest token of each sample there, and of
    its attention sinks."""

    most: float = 0.0
    sink: float = 0.0
    tokens: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    """By id, the sum of the activations that are a sample's strongest."""


def contexts(
    bench: Bench,
    answered: pd.DataFrame,
    features: Sequence[RankedFeature],
    collect: Collect | None = None,
) -> list[dict[str, Any]]:
    """A card of each feature: the tokens that activate it most, over part of the selection
    split, those its direction makes likelier, its class, and its page on Neuronpedia.

    ``collect``: how the features were pooled when they were ranked, if not as the bench says.
    Contexts are kept. Classes are not: they may be given by hand, and the rule is quick.
    """
    collect = collect or bench.collect
    if not features:
        return []
    examples, answered = bench.selection[:SAMPLES], answered.iloc[:SAMPLES]
    wanted = sorted(features, key=lambda f: (f.layer, f.feature))
    layers = list(dict.fromkeys(f.layer for f in wanted))
    settings = {
        **answers_key(bench, bench.asking, examples, baseline()),
        "right": digest((answered["score"] >= RIGHT).to_numpy().tobytes()),
        "features": {str(n): [f.feature for f in wanted if f.layer == n] for n in layers},
        "saes": [bench.sae_key(n) for n in layers],
        "token_source": collect.token_source,
        "pooling": collect.pooling,
    }

    def write(folder: Path) -> None:
        cards = []
        texts: Shared[str] | None = None
        for saes in bench.in_budget(layers):
            some, texts = strongest_contexts(
                bench.model,
                saes,
                [f for f in wanted if f.layer in saes],
                [e.id for e in examples],
                [e.prompt for e in examples],
                answered["tokens"].tolist(),
                (answered["score"] >= RIGHT).tolist(),
                source=collect.token_source,
                pooling=collect.pooling,
            )
            cards += some
        assert texts is not None
        kept = {"cards": cards, "places": sorted(texts.places), "common": sorted(texts.common)}
        write_json(folder, kept, FILE)

    kept = read_json(bench.store.get(STAGE, settings, write, FORM), FILE)
    texts = Shared(frozenset(map(tuple, kept["places"])), frozenset(kept["common"]))
    cards = {(card["layer"], card["feature"]): card for card in kept["cards"]}
    return [_card(bench, cards[f.layer, f.feature], texts) for f in features]


def _card(bench: Bench, card: Mapping[str, Any], texts: Shared[str]) -> dict[str, Any]:
    layer, feature = card["layer"], card["feature"]
    sae = bench.sae.sae_id(layer)
    rule = classify(card["contexts"], texts)
    return {
        "sae": sae,
        "layer": layer,
        "feature": feature,
        **overruled(rule, bench.hands.get((sae, feature))),
        "neuronpedia": neuronpedia.link(bench.sae.neuronpedia(layer), feature),
        "description": None,
        "promotes": card["promotes"],
        "suppresses": card["suppresses"],
        "contexts": card["contexts"],
        "elsewhere": card["elsewhere"],
    }


def descriptions(
    bench: Bench, features: Sequence[RankedFeature], fetch: bool
) -> dict[tuple[int, int], str | None]:
    """(layer, feature) -> what Neuronpedia says of it, as far as that is kept or, with
    ``fetch``, can be had. What was said once, even that there is nothing, is not asked again.
    """
    known: dict[tuple[int, int], str | None] = {}
    for f in features:
        sae = bench.sae.neuronpedia(f.layer)
        if sae is None or neuronpedia.link(sae, f.feature) is None:
            continue
        settings = {"neuronpedia": sae, "feature": f.feature}
        if not bench.store.has("describe", settings):
            answer = neuronpedia.describe(sae, [f.feature]) if fetch else {}
            fetch = bool(answer)  # after a failure no more is asked
            if not answer:
                continue

            def write(folder: Path, text: str | None = answer[f.feature]) -> None:
                write_json(folder, text, "description.json")

            bench.store.get("describe", settings, write)
        known[f.layer, f.feature] = read_json(
            bench.store.read("describe", settings), "description.json"
        )
    return known


def strongest_contexts(
    model: LoadedModel,
    saes: Mapping[int, LoadedSAE],
    features: Sequence[RankedFeature],
    ids: Sequence[str],
    prompts: Sequence[str],
    answers: Sequence[Sequence[int]],
    right: Sequence[bool],
    *,
    source: str,
    pooling: str,
    top: int = 8,
) -> tuple[list[dict[str, Any]], Shared[str]]:
    """For each feature the ``top`` samples with its largest pooled activations, and what the texts
    of all samples share.

    One dict per feature, in their order: layer, feature, ``promotes`` and ``suppresses`` (token
    texts, the strongest first), ``contexts`` and ``elsewhere``. A context has id, pooled, right,
    and of prompt and answer near the peak tokens (texts), activations (5 digits), within (whether
    it was pooled) and the index of the peak, the strongest that was. ``elsewhere`` says what the
    feature does at positions that were not pooled, where it gets to ``STRONG`` of its strongest
    activation that was: ``tokens`` (texts), the ``most`` it has there, and ``sink``, the most it
    has at attention sinks, 0 for little; None where it does nothing there.
    """
    columns: dict[int, list[int]] = {}
    for f in features:
        columns.setdefault(f.layer, []).append(f.feature)
    best: dict[tuple[int, int], list[_Context]] = {(f.layer, f.feature): [] for f in features}
    outside = {(f.layer, f.feature): _Elsewhere() for f in features}
    strongest = dict.fromkeys(best, 0.0)
    texts: list[list[int]] = []
    for rows in model.batches(prompts):
        residuals = model.replay(
            [prompts[i] for i in rows], [answers[i] for i in rows], list(columns), "all"
        )
        sample = residuals.sample.cpu().numpy()
        tokens = residuals.token.cpu().numpy()
        bounds = np.searchsorted(sample, np.arange(len(rows) + 1))  # ordered by sample
        texts += [tokens[i:j].tolist() for i, j in zip(bounds, bounds[1:], strict=False)]
        for layer, column in columns.items():
            active = saes[layer].encode(residuals.layers[layer], column).cpu().numpy()
            within, sink = _positions(residuals, layer, source)
            pooled = _pooled(active[within], sample[within], len(rows), pooling)
            ordinary = ~within & ~sink
            beside = _pooled(active[ordinary], sample[ordinary], len(rows), "max")
            for k, feature in enumerate(column):
                kept, one = best[layer, feature], outside[layer, feature]
                weakest = 0.999 * kept[-1].pooled if len(kept) == top else 0.0
                for i in np.flatnonzero((pooled[:, k] >= weakest) & (pooled[:, k] > 0)):
                    span = slice(bounds[i], bounds[i + 1])
                    context = tokens[span], active[span, k], within[span]
                    kept.append(_context(rows[i], float(pooled[i, k]), *context))
                kept.sort(key=lambda c: (-c.pooled, c.row))
                del kept[top:]
                strongest[layer, feature] = max(
                    strongest[layer, feature], active[within, k].max(initial=0.0)
                )
                one.sink = max(one.sink, active[sink & ~within, k].max(initial=0.0))
                one.most = max(one.most, beside[:, k].max(initial=0.0))
                for i in np.flatnonzero(beside[:, k] > 0):
                    span = slice(bounds[i], bounds[i + 1])
                    there = np.where(ordinary[span], active[span, k], -1.0)
                    one.tokens[int(tokens[span][there.argmax()])] += float(beside[i, k])
    lens: dict[tuple[int, int], tuple[list[str], list[str]]] = {}
    for layer, column in columns.items():
        promoted = model.promoted(saes[layer].directions(column), PROMOTED)
        lens |= {(layer, f): ends for f, ends in zip(column, promoted, strict=True)}
    shown = []
    for f in features:
        up, down = lens[f.layer, f.feature]
        contexts = [
            {
                "id": ids[c.row],
                "pooled": c.pooled,
                "tokens": model.token_texts(c.tokens.tolist()),
                "activations": [float(f"{a:.5g}") for a in c.active],
                "within": c.within.tolist(),
                "peak": c.peak,
                "right": bool(right[c.row]),
            }
            for c in best[f.layer, f.feature]
        ]
        shown.append(
            {
                "layer": f.layer,
                "feature": f.feature,
                "promotes": up,
                "suppresses": down,
                "contexts": contexts,
                "elsewhere": _elsewhere(
                    model, outside[f.layer, f.feature], STRONG * strongest[f.layer, f.feature]
                ),
            }
        )
    return shown, _in_words(model, shared(texts))


def _positions(residuals: Residuals, layer: int, source: str) -> tuple[np.ndarray, np.ndarray]:
    """[N] bool each: the positions that were pooled, and the attention sinks."""
    x, sample = residuals.layers[layer], residuals.sample
    within, sink = residuals.within(source), sinks(x, sample)
    if source in WHOLE:  # as statistics are collected
        inside = within.clone()
        inside[within] = ~sinks(x[within], sample[within])
        within, sink = inside, within & ~inside | sink
    return within.cpu().numpy(), sink.cpu().numpy()


def _pooled(active: np.ndarray, sample: np.ndarray, n: int, pooling: str) -> np.ndarray:
    """[n, k] of activations [N, k], as :meth:`corrsteer.saes.loaded.LoadedSAE.pool` does."""
    out = np.zeros((n, active.shape[1]), active.dtype)
    if pooling == "max":
        np.maximum.at(out, sample, active)
        return out
    np.add.at(out, sample, active)
    out /= np.maximum(np.bincount(sample, minlength=n), 1)[:, None]
    return out


def _context(
    row: int, pooled: float, tokens: np.ndarray, active: np.ndarray, within: np.ndarray
) -> _Context:
    peak = int(np.where(within, active, -1.0).argmax())
    start, end = max(0, peak - WINDOW), peak + WINDOW + 1
    # Copies: a view would hold on to its whole batch.
    shown = [part[start:end].copy() for part in (tokens, active, within)]
    return _Context(float(f"{pooled:.4g}"), row, shown[0], shown[1], shown[2], peak - start)


def _elsewhere(model: LoadedModel, found: _Elsewhere, least: float) -> dict[str, Any] | None:
    """``least``: what counts as firing."""
    most, sink = (float(f"{a:.4g}") if a >= least else 0.0 for a in (found.most, found.sink))
    if not (most or sink):
        return None
    # Of equal sums the smaller id: the order of batches must not show.
    ranked = sorted(found.tokens, key=lambda t: (-float(f"{found.tokens[t]:.4g}"), t))
    return {
        "tokens": model.token_texts(ranked[:ELSEWHERE]) if most else [],
        "most": most,
        "sink": sink,
    }


def _in_words(model: LoadedModel, texts: Shared[int]) -> Shared[str]:
    ids = sorted({*texts.common, *(token for pair in texts.places for token in pair)})
    words = dict(zip(ids, model.token_texts(ids), strict=True))
    return Shared(
        frozenset((words[left], words[right]) for left, right in texts.places),
        frozenset(words[token] for token in texts.common),
    )
