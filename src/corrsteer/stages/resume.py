"""Half-made results of a stage: what is kept of answers and statistics while they are computed.

Answers are kept batch by batch. Statistics are kept per layer in two slots, written in turn, so
that a kill between two layers leaves a saving that all of them have. A :class:`Share` of the
batches is computed alone, by a job of its own or in turn.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from corrsteer.records import Completion
from corrsteer.stats.moments import FeatureMoments
from corrsteer.store.partial import Partial

SLOTS = ("a", "b")  # a layer's last two savings

Seen = tuple[int, ...]  # indices of samples, in the order they were added


@dataclass(frozen=True)
class Share:
    """Every ``of``-th batch, from batch ``index`` on: batches are ordered by length, so shares
    take about equally long."""

    index: int = 0
    of: int = 1

    def __str__(self) -> str:
        return f"{self.index}-of-{self.of}"

    def batches(self, batches: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        return batches[self.index :: self.of]


def shares(of: int) -> list[Share]:
    return [Share(index, of) for index in range(of)]


def keep_answers(part: Partial, answers: Mapping[int, Completion]) -> None:
    rows = [[i, c.text, list(c.tokens), c.steered] for i, c in answers.items()]
    part.save(f"{min(answers):08d}", json.dumps(rows).encode())


def kept_answers(part: Partial) -> dict[int, Completion]:
    return {
        i: Completion(text, tuple(tokens), steered)
        for content in part.load().values()
        for i, text, tokens, steered in json.loads(content)
    }


def keep_moments(
    parts: Mapping[int, Partial],
    slots: Mapping[int, str],
    seen: Sequence[int],
    moments: Mapping[int, FeatureMoments],
) -> dict[int, str]:
    """Save the samples seen and the accumulators of all layers; return the slots written to.

    ``slots``: where each layer's last saving is. It stays until the next one, so that a kill
    between two layers leaves a saving that all of them have.
    """
    written = {}
    for layer, one in moments.items():
        content = io.BytesIO()
        arrays: dict[str, Any] = {"seen": np.array(seen), **one.to_arrays()}
        np.savez(content, **arrays)
        written[layer] = SLOTS[slots[layer] == SLOTS[0]]
        parts[layer].save(written[layer], content.getvalue())
    return written


def savings(part: Partial) -> Iterator[tuple[Seen, str, Mapping[str, np.ndarray]]]:
    """(samples seen, slot, accumulator) of a layer's savings; arrays are read when asked for."""
    for slot, content in part.load().items():
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            yield tuple(arrays["seen"].tolist()), slot, arrays


def alike(kept: Mapping[int, set[Seen]]) -> list[list[int]]:
    """The layers in groups that can go on together: all have a saving in common, or none has any.

    Usually one group. There are more when a job was killed while it stored the results, or
    when earlier jobs had other layers.
    """
    groups: list[tuple[set[Seen], list[int]]] = []
    for layer, seen in kept.items():
        for n, (common, layers) in enumerate(groups):
            if common & seen or common == seen:
                groups[n] = (common & seen, [*layers, layer])
                break
        else:
            groups.append((seen, [layer]))
    return [layers for _, layers in groups]


def kept_moments(
    parts: Mapping[int, Partial],
) -> tuple[tuple[Seen, dict[int, FeatureMoments]], dict[int, str]]:
    """(samples seen, accumulators) of the furthest saving that all layers have, and its slots."""
    nothing: tuple[Any, dict[int, str]] = ((), {}), dict.fromkeys(parts, SLOTS[0])
    common = set.intersection(*({seen for seen, *_ in savings(p)} for p in parts.values()))
    furthest = max(common, key=len, default=())
    moments, slots = {}, {}
    for layer, part in parts.items():
        for seen, slot, arrays in savings(part):
            if seen == furthest:
                moments[layer], slots[layer] = FeatureMoments.from_arrays(arrays), slot
    # A layer is missing where another job went on meanwhile and overwrote what this one found.
    return ((furthest, moments), slots) if len(moments) == len(parts) else nothing
