"""How much a text repeats itself. Cost: one pass over its tokens."""

from __future__ import annotations

from collections.abc import Sequence


def repeated_ngrams(tokens: Sequence[int], n: int = 4) -> float | None:
    """Share of the n-grams of ``tokens`` that occurred before: 1 - distinct / all (seq-rep-n of
    Welleck et al. 2020, "Neural text generation with unlikelihood training").

    None for fewer than ``n + 1`` tokens: a single n-gram has nothing to repeat.
    """
    assert n >= 1, n
    if len(tokens) <= n:
        return None
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams)
