"""Correlates every feature of every layer with the outcome, in one pass over the answers.

Each batch of prompt + answer is replayed through the model, the residuals at the token source
are encoded and pooled per sample, and the pooled activations update streaming statistics, so
memory does not grow with the number of samples. The same pass correlates against shuffled
outcomes, which gives each layer's noise ceiling, and in bootstrap resamples, which gives the
stability of the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from corrsteer.errors import DegenerateOutcomesError
from corrsteer.records import RIGHT
from corrsteer.stats.moments import FeatureMoments, resamples, shuffles


def check_outcomes(outcomes: np.ndarray) -> None:
    """Raises DegenerateOutcomesError when the outcomes cannot correlate with anything."""
    right = int((outcomes >= RIGHT).sum())
    if right in (0, len(outcomes)):
        which = "no answer is" if right == 0 else "all answers are"
        raise DegenerateOutcomesError(
            f"{which} right on the selection split ({right} of {len(outcomes)}), so no feature "
            "can correlate with success; choose an easier or harder task, or raise limit="
        )


def collect(
    model: Any,
    saes: Mapping[int, Any],
    prompts: Sequence[str],
    answers: Sequence[Sequence[int]],
    outcomes: np.ndarray,
    *,
    batches: Sequence[Sequence[int]],
    token_source: str,
    pooling: str,
    n_shuffles: int,
    n_resamples: int,
    seed: int,
    start: tuple[Collection[int], dict[int, FeatureMoments]] = ((), {}),
    on_batch: Callable[[list[int], dict[int, FeatureMoments]], None] | None = None,
) -> dict[int, FeatureMoments]:
    """Statistics of every feature of the given layers' SAEs, over the samples of ``batches``.

    ``answers``: generated token ids per prompt; ``outcomes``: float64 [N], their scores; both of
    all samples, since outcomes are shuffled, and samples resampled, among all.
    ``start``: samples that were seen by an earlier call, and its accumulators, which go on.
    ``on_batch`` hears of every batch: all samples seen so far, and the accumulators.
    """
    check_outcomes(outcomes)
    shuffled = shuffles(outcomes, n_shuffles, seed)
    drawn = resamples(len(outcomes), n_resamples, seed)
    lengths = np.array([len(answer) for answer in answers], dtype=np.float64)
    seen, moments = list(start[0]), dict(start[1])
    for layer, sae in saes.items():
        moments.setdefault(layer, FeatureMoments(sae.width, n_shuffles, n_resamples))
    before = frozenset(seen)
    for batch in batches:
        rows = [i for i in batch if i not in before]
        if not rows:
            continue
        residuals = model.replay(
            [prompts[i] for i in rows], [answers[i] for i in rows], list(saes), token_source
        )
        for layer, sae in saes.items():
            pooled = sae.pool(residuals.layers[layer], residuals.sample, len(rows), pooling)
            moments[layer].update(
                pooled.cpu().numpy(), outcomes[rows], shuffled[rows], lengths[rows], drawn[rows]
            )
        seen += rows
        if on_batch is not None:
            on_batch(seen, moments)
    return {layer: moments[layer] for layer in saes}
