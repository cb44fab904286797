"""Shows what a chosen feature reacts to, and what its direction does to the next token.

Cost: one more replay, over at most ``samples`` of the selection split, and a product of each
direction with the unembedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corrsteer.records import RankedFeature

PROMOTED = 10  # tokens named that a direction makes likelier, and unlikelier
WINDOW = 24  # tokens shown before and after the strongest one


def strongest_contexts(
    model: Any,
    saes: Mapping[int, Any],
    chosen: Sequence[RankedFeature],
    ids: Sequence[str],
    prompts: Sequence[str],
    answers: Sequence[Sequence[int]],
    right: Sequence[bool],
    *,
    top: int = 8,
) -> list[dict[str, Any]]:
    """For each chosen feature the ``top`` samples with its largest activations.

    One dict per feature: layer, feature, ``promotes`` and ``suppresses`` (token texts, the
    strongest first; empty where the model's weights are elsewhere), and ``contexts`` of id, tokens
    (texts), activations, peak (index of the strongest token) and right. Every position of prompt
    and answer counts, not only those that were pooled.
    """
    best: dict[int, list[tuple[float, int, Any, Any]]] = {f.layer: [] for f in chosen}
    feature = {f.layer: f.feature for f in chosen}
    for rows in model.batches(prompts):
        residuals = model.replay(
            [prompts[i] for i in rows], [answers[i] for i in rows], list(feature), "all"
        )
        sample = residuals.sample.cpu().numpy()
        tokens = residuals.token.cpu().numpy()
        for layer in feature:
            encoded = saes[layer].encode(residuals.layers[layer], [feature[layer]])
            active = encoded[:, 0].cpu().numpy()
            peaks = np.zeros(len(rows))
            np.maximum.at(peaks, sample, active)
            for i in np.argsort(-peaks, kind="stable")[:top]:
                if peaks[i] > 0:
                    mine = sample == i
                    best[layer].append((peaks[i], rows[i], tokens[mine], active[mine]))
            best[layer] = sorted(best[layer], key=lambda c: (-c[0], c[1]))[:top]
    shown = []
    for layer in feature:
        directions = saes[layer].directions([feature[layer]])
        ((up, down),) = model.promoted(directions, PROMOTED) or [([], [])]
        contexts = [
            _context(model, ids[i], right[i], tokens, active)
            for _, i, tokens, active in best[layer]
        ]
        shown.append(
            {
                "layer": layer,
                "feature": feature[layer],
                "promotes": up,
                "suppresses": down,
                "contexts": contexts,
            }
        )
    return shown


def _context(
    model: Any, sample_id: str, right: bool, tokens: np.ndarray, active: np.ndarray
) -> dict[str, Any]:
    peak = int(active.argmax())
    start, end = max(0, peak - WINDOW), peak + WINDOW + 1
    return {
        "id": sample_id,
        "tokens": model.token_texts(tokens[start:end].tolist()),
        "activations": [round(float(a), 4) for a in active[start:end]],
        "peak": peak - start,
        "right": bool(right),
    }
