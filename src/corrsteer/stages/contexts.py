"""What features react to, what their directions do to the next token, and what is said of them.

Cost: one more replay, over at most ``samples`` of the selection split, an encoding of the features
asked for, and a product of each direction with the unembedding. Of a feature only its ``top``
contexts are held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from corrsteer.records import RIGHT, RankedFeature
from corrsteer.saes import neuronpedia
from corrsteer.selectors.classes import Shared, classify, overruled, shared
from corrsteer.stages.bench import Bench, answers_key, read_json, write_json
from corrsteer.steering.arms import baseline
from corrsteer.store.keys import digest

if TYPE_CHECKING:
    from corrsteer.models.loaded import LoadedModel
    from corrsteer.saes.loaded import LoadedSAE

STAGE, FORM, FILE = "explain", 3, "contexts.json"
SAMPLES = 400
"""Samples of the selection split that are searched for a feature's contexts."""

PROMOTED = 10  # tokens named that a direction makes likelier, and unlikelier
WINDOW = 24  # tokens shown before and after the strongest one


class _Context(NamedTuple):
    activation: float
    """The strongest, to 4 digits: samples that begin alike have the same up to rounding errors,
    and their order must not depend on what was in a batch with them."""
    row: int
    """Index of the sample."""
    tokens: np.ndarray
    active: np.ndarray
    """Both of the tokens shown."""
    peak: int


def contexts(
    bench: Bench, answered: pd.DataFrame, features: Sequence[RankedFeature]
) -> list[dict[str, Any]]:
    """A card of each feature: the tokens that activate it most, over part of the selection
    split, those its direction makes likelier, its class, and its page on Neuronpedia.

    Contexts are kept. Classes are not: they may be given by hand, and the rule is quick.
    """
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
    top: int = 8,
) -> tuple[list[dict[str, Any]], Shared[str]]:
    """For each feature the ``top`` samples with its largest activations, and what the texts of all
    samples share.

    One dict per feature, in their order: layer, feature, ``promotes`` and ``suppresses`` (token
    texts, the strongest first), and ``contexts`` of id, tokens (texts), activations (5 digits),
    peak (index of the strongest token) and right. Every position of prompt and answer counts, not
    only those that were pooled.
    """
    columns: dict[int, list[int]] = {}
    for f in features:
        columns.setdefault(f.layer, []).append(f.feature)
    best: dict[tuple[int, int], list[_Context]] = {(f.layer, f.feature): [] for f in features}
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
            peaks = np.zeros((len(rows), len(column)), active.dtype)
            np.maximum.at(peaks, sample, active)
            for k, feature in enumerate(column):
                kept = best[layer, feature]
                weakest = 0.999 * kept[-1].activation if len(kept) == top else 0.0
                for i in np.flatnonzero((peaks[:, k] >= weakest) & (peaks[:, k] > 0)):
                    span = slice(bounds[i], bounds[i + 1])
                    kept.append(_context(rows[i], tokens[span], active[span, k]))
                kept.sort(key=lambda c: (-c.activation, c.row))
                del kept[top:]
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
                "tokens": model.token_texts(c.tokens.tolist()),
                "activations": [float(f"{a:.5g}") for a in c.active],
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
            }
        )
    return shown, _in_words(model, shared(texts))


def _context(row: int, tokens: np.ndarray, active: np.ndarray) -> _Context:
    peak = int(active.argmax())
    start, end = max(0, peak - WINDOW), peak + WINDOW + 1
    # Copies: a view would hold on to its whole batch.
    shown = tokens[start:end].copy(), active[start:end].copy()
    return _Context(float(f"{active[peak]:.4g}"), row, *shown, peak - start)


def _in_words(model: LoadedModel, texts: Shared[int]) -> Shared[str]:
    ids = sorted({*texts.common, *(token for pair in texts.places for token in pair)})
    words = dict(zip(ids, model.token_texts(ids), strict=True))
    return Shared(
        frozenset((words[left], words[right]) for left, right in texts.places),
        frozenset(words[token] for token in texts.common),
    )
