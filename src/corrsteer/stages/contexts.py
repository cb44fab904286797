"""Shows what features react to, and what their directions do to the next token.

Cost: one more replay, over at most ``samples`` of the selection split, an encoding of the features
asked for, and a product of each direction with the unembedding. Of a feature only its ``top``
contexts are held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from corrsteer.records import RankedFeature
from corrsteer.stages.classify import Shared, shared

PROMOTED = 10  # tokens named that a direction makes likelier, and unlikelier
WINDOW = 24  # tokens shown before and after the strongest one


class _Context(NamedTuple):
    activation: float
    """The strongest, to 4 digits: samples that begin alike have the same up to rounding errors,
    and their order must not depend on who was in a batch with them."""
    row: int
    """Index of the sample."""
    tokens: np.ndarray
    active: np.ndarray
    """Both of the tokens shown."""
    peak: int


def strongest_contexts(
    model: Any,
    saes: Mapping[int, Any],
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
        for layer, mine in columns.items():
            active = saes[layer].encode(residuals.layers[layer], mine).cpu().numpy()
            peaks = np.zeros((len(rows), len(mine)), active.dtype)
            np.maximum.at(peaks, sample, active)
            for k, feature in enumerate(mine):
                kept = best[layer, feature]
                weakest = 0.999 * kept[-1].activation if len(kept) == top else 0.0
                for i in np.flatnonzero((peaks[:, k] >= weakest) & (peaks[:, k] > 0)):
                    span = slice(bounds[i], bounds[i + 1])
                    kept.append(_context(rows[i], tokens[span], active[span, k]))
                kept.sort(key=lambda c: (-c.activation, c.row))
                del kept[top:]
    lens: dict[tuple[int, int], tuple[list[str], list[str]]] = {}
    for layer, mine in columns.items():
        found = model.promoted(saes[layer].directions(mine), PROMOTED)
        lens |= {(layer, f): ends for f, ends in zip(mine, found, strict=True)}
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


def _in_words(model: Any, texts: Shared[int]) -> Shared[str]:
    ids = sorted({*texts.common, *(token for pair in texts.places for token in pair)})
    words = dict(zip(ids, model.token_texts(ids), strict=True))
    return Shared(
        frozenset((words[left], words[right]) for left, right in texts.places),
        frozenset(words[token] for token in texts.common),
    )
