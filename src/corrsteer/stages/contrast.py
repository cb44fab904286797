"""Mean differences of residuals between the right and a wrong option, at the answer's position:
what contrastive activation addition adds (Panickssery et al. 2023, arXiv 2312.06681).

Cost: two passes over prompt and option for each selection question; two sums per layer in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corrsteer.errors import DataError
from corrsteer.progress import progress
from corrsteer.records import NAMES, Example
from corrsteer.stages.bench import Bench
from corrsteer.store.keys import digest

if TYPE_CHECKING:
    from corrsteer.models.loaded import LoadedModel

STAGE, FILE = "contrast", "difference.npy"


def option_pairs(examples: Sequence[Example], seed: int) -> list[tuple[str, str]]:
    """Of each example the letters of the right option and of one wrong option, drawn at random.

    Raises DataError where there is no such pair."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, 2)))
    pairs = []
    for e in examples:
        letters = list(NAMES[: len(e.options)])
        wrong = [letter for letter in letters if letter not in (e.gold, *e.aliases)]
        if e.gold not in letters or not wrong:
            raise DataError(
                f"contrastive pairs need options, of which one is right; {e.id} has"
                f" {len(letters)}, and {e.gold!r} is right: type strategy.contrast=outcomes"
            )
        pairs.append((e.gold, wrong[int(rng.integers(len(wrong)))]))
    return pairs


def check_letters(bench: Bench) -> None:
    """Raises DataError where the prompts show no letters, or there are no pairs of them."""
    if not bench.asking.lists_options:
        raise DataError(
            "contrastive pairs are letters of options, and the prompts of task"
            f" {bench.asking.task.name} list none: type strategy.contrast=outcomes"
        )
    option_pairs(bench.selection, bench.seed)


def contrasts(bench: Bench, layers: Sequence[int]) -> dict[int, np.ndarray]:
    """[M] float32 by layer: the mean residual at the letter of the right option less that at the
    letter of a wrong one, over the selection questions."""
    pairs = option_pairs(bench.selection, bench.seed)
    shared: dict[str, Any] = {
        **bench.model_key,
        "prompts": digest(bench.seen(bench.selection)),
        "pairs": digest(pairs),
    }
    keys = {n: {**shared, "layer": n} for n in layers}

    def make(missing: list[int]) -> None:
        made = mean_differences(bench.model, [e.prompt for e in bench.selection], pairs, missing)
        for n in missing:

            def write(folder: Path, n: int = n) -> None:
                np.save(folder / FILE, made[n].astype(np.float32))

            bench.store.get(STAGE, keys[n], write)

    bench.store.fill(STAGE, keys, make, together=True)
    return {n: np.load(bench.store.read(STAGE, keys[n]) / FILE) for n in layers}


def mean_differences(
    model: LoadedModel,
    prompts: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    layers: Sequence[int],
) -> dict[int, np.ndarray]:
    """[M] float64 by layer; ``pairs``: the texts that are told apart, by prompt. Each is read at
    its last token."""
    sums = {n: np.zeros(model.d_model) for n in layers}
    with progress(f"contrast, {len(layers)} layers", len(prompts)) as show:
        done = 0
        for rows in model.batches(prompts):
            asked = [prompts[i] for i in rows]
            tokens = model.continuations(asked, [pairs[i] for i in rows])
            for place, sign in enumerate((1.0, -1.0)):
                read = model.replay(asked, [some[place] for some in tokens], list(layers), "all")
                at = read.position == read.end
                for n in layers:
                    x = read.layers[n][at].double().sum(0)
                    sums[n] += sign * x.cpu().numpy()
            done += len(rows)
            show(done)
    return {n: total / len(prompts) for n, total in sums.items()}
