"""Statistics of every feature of every layer against the outcomes, in one pass over the answers.

Each batch of prompt + answer is replayed through the model, the residuals at the token source
are encoded and pooled per sample, and the pooled activations update streaming statistics, so
memory does not grow with the number of samples. The same pass correlates against shuffled
outcomes, which gives each layer's noise ceiling, and in bootstrap resamples, which gives the
stability of the choice, and keeps what the other scores of :mod:`corrsteer.stats.scores` are made
of. One entry per layer: layer subsets share them, and all selectors that rank by these scores.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from corrsteer.errors import DegenerateOutcomesError
from corrsteer.progress import progress
from corrsteer.records import RIGHT, Example, LayerStats
from corrsteer.scorers.contains import Contains
from corrsteer.stages.bench import (
    WRITING,
    Bench,
    Collect,
    Hears,
    Share,
    pooled,
    statistics_keys,
)
from corrsteer.stats import scores
from corrsteer.stats.moments import FeatureMoments
from corrsteer.stats.relabelled import resamples, shuffles
from corrsteer.store.partial import Partial

if TYPE_CHECKING:
    from corrsteer.models.loaded import LoadedModel
    from corrsteer.saes.loaded import LoadedSAE

log = logging.getLogger(__name__)

STAGE, FORM = "collect", 3
WHOLLY = "scores"
"""The stage where an entry of an earlier version, which has r alone, is made again when more is
asked for."""
FILE = "stats.npz"
SLOTS = ("a", "b")  # a layer's last two savings
# Half-made statistics are saved at a batch when this many times the last saving's duration has
# gone by: saving takes under 5 % of the time, and with small SAEs happens at every batch.
KEEP_EVERY = 20.0

Seen = tuple[int, ...]  # indices of samples, in the order they were added

# -- the stage ---------------------------------------------------------------------------------


def statistics(
    bench: Bench,
    answered: pd.DataFrame,
    layers: Sequence[int] | None = None,
    collect: Collect | None = None,
    *,
    wholly: bool = False,
    heard: Hears | None = None,
) -> list[LayerStats]:
    """Feature statistics per layer, of the answers to the selection split.

    ``layers`` and ``collect``: others than the bench's. ``collect.shards``: into how many shares
    the samples are divided, whose statistics are merged at the end. Rounding aside (1e-12), the
    result is the same. ``wholly``: with all scores, also where an earlier version collected.
    ``heard``: what was heard while the answers were written, for ``collect.way=writing``.
    """
    collect = collect or bench.collect
    layers = bench.layers if layers is None else layers
    assert (collect.way == WRITING) is (heard is not None), collect.way
    made = _statistics(bench, answered, layers, collect, STAGE, heard)
    if wholly and not all(s.others for s in made):
        made = _statistics(bench, answered, layers, collect, WHOLLY, heard)
    if sunk := [s for s in made if s.left_out]:
        log.info(
            "collect: attention sinks are not pooled, at most %d positions of a layer",
            max(s.left_out for s in sunk),
        )
    return made


def _statistics(
    bench: Bench,
    answered: pd.DataFrame,
    layers: Sequence[int],
    collect: Collect,
    stage: str,
    heard: Hears | None,
) -> list[LayerStats]:
    outcomes = _outcomes(answered)
    keys = statistics_keys(bench, outcomes, layers, collect)
    shares = [Share(index, collect.shards) for index in range(collect.shards)]
    parts = [_parts(bench, keys, share) for share in shares]

    def make(missing: list[int]) -> None:
        batches = bench.model.batches([e.prompt for e in bench.selection])
        rows = [sum(map(len, share.batches(batches))) for share in shares]
        kept = {n: [{seen for seen, *_ in savings(part[n])} for part in parts] for n in missing}
        # Shares that other jobs have finished need no SAE.
        whole = [
            n
            for n, seen_by_share in kept.items()
            if all(total in map(len, seen) for total, seen in zip(rows, seen_by_share, strict=True))
        ]
        groups = [[n for n in missing if n not in whole]]
        for k in range(len(shares)):
            groups = [g for group in groups for g in alike({n: kept[n][k] for n in group})]
        for n in whole:
            done = (kept_moments({n: part[n]})[0][1][n] for part in parts)
            put(n, reduce(FeatureMoments.merge, done))
        for saes in chain.from_iterable(map((heard or bench).in_budget, groups)):
            made: dict[int, FeatureMoments] = {}
            for part, share in zip(parts, shares, strict=True):
                new = _collected(bench, part, saes, answered, outcomes, collect, share, heard)
                made = {n: made[n].merge(new[n]) if made else new[n] for n in saes}
            for n in saes:
                put(n, made[n])

    def put(n: int, moments: FeatureMoments) -> None:
        stats = replace(moments.finish(n), others=moments.scores())

        def write(folder: Path) -> None:
            np.savez(folder / FILE, **scores.to_arrays(stats))

        bench.store.get(stage, keys[n], write, FORM)

    bench.store.fill(stage, keys, make, FORM, together=True)
    entries = [bench.store.read(stage, keys[n], FORM) for n in layers]
    for part in chain.from_iterable(p.values() for p in parts):
        part.clear()
    return [read_stats(entry) for entry in entries]


def collect_share(
    bench: Bench, answered: pd.DataFrame, share: Share, heard: Hears | None = None
) -> None:
    """Statistics of some batches of the selection split, kept for :func:`statistics`."""
    outcomes = _outcomes(answered)
    keys = statistics_keys(bench, outcomes, bench.layers, bench.collect)
    missing = [n for n in bench.layers if not bench.store.has(STAGE, keys[n], FORM)]
    if not missing:
        return
    parts = _parts(bench, {n: keys[n] for n in missing}, share)
    claims = {n: {**keys[n], "share": str(share)} for n in missing}
    with bench.store.claim(STAGE, claims, together=True):
        kept = {n: {seen for seen, *_ in savings(parts[n])} for n in missing}
        for saes in chain.from_iterable(map((heard or bench).in_budget, alike(kept))):
            _collected(bench, parts, saes, answered, outcomes, bench.collect, share, heard)


def _outcomes(answered: pd.DataFrame) -> np.ndarray:
    """The scores. Raises DegenerateOutcomesError, which shows two answers, when they are alike."""
    outcomes: np.ndarray = answered["score"].to_numpy(np.float64)
    try:
        check_outcomes(outcomes)
    except DegenerateOutcomesError as error:
        raise DegenerateOutcomesError(f"{error}{_shown(answered)}", answered) from None
    return outcomes


def _shown(answered: pd.DataFrame) -> str:
    """Two answers beside what is right, and whether another scorer would find that in them."""
    rows = list(answered.itertuples())
    two = (f"{_brief(row.answer)} where {_brief(row.gold)} is right" for row in rows[:2])
    inside = sum(
        len(row.gold) > 1 and Contains()(Example(row.id, row.prompt, row.gold), row.answer).value
        for row in rows
        if row.score < RIGHT
    )
    hint = f"; in {inside:.0f} of {len(rows)} answers the right one is part of what is said:"
    hint += " type task.scorer=contains"
    return f"; e.g. {' and '.join(two)}{hint if inside else ''}"


def _brief(text: str) -> str:
    words = " ".join(text.split())
    return repr(words if len(words) <= 60 else f"{words[:57]}...")


def _parts(bench: Bench, keys: Mapping[int, Mapping[str, Any]], share: Share) -> dict[int, Partial]:
    share_key = {"share": str(share)} if share.of > 1 else {}
    return {n: bench.store.partial(STAGE, {**key, **share_key}, FORM) for n, key in keys.items()}


def _collected(
    bench: Bench,
    parts: Mapping[int, Partial],
    saes: Mapping[int, LoadedSAE],
    answered: pd.DataFrame,
    outcomes: np.ndarray,
    settings: Collect,
    share: Share,
    heard: Hears | None,
) -> dict[int, FeatureMoments]:
    """One group's accumulators, going on from what ``parts`` holds and keeping it up to date.

    A kill costs the batch at work and those since the last saving: up to ``KEEP_EVERY`` times
    what a saving takes (6 layers of 1,024 features: 70 ms, so under 2 seconds; 26 of 16,384 that
    were all active: 3 to 6 s for 880 MB). All layers of a saving count or none, and sums go on in
    the order of an undisturbed run, so the result has the same bits.
    """
    start, slots = kept_moments({n: parts[n] for n in saes})
    prompts = [e.prompt for e in bench.selection]
    batches = share.batches(bench.model.batches(prompts))
    total = sum(map(len, batches))
    if start[0]:
        log.info("collect: %d of %d samples were kept", len(start[0]), total)
    latest: tuple[list[int], dict[int, FeatureMoments]] | None = None
    saved, took = time.monotonic(), 0.0
    names = f"layer {min(saes)}" if len(saes) == 1 else f"{len(saes)} layers"
    names += f", {share}" if share.of > 1 else ""
    try:
        with progress(f"collect {names}", total) as show:
            show(len(start[0]), known=True)

            def keep(seen: list[int], moments: dict[int, FeatureMoments]) -> None:
                nonlocal latest, saved, took
                latest = (seen, moments)
                now = time.monotonic()
                last = share.of > 1 and len(seen) == total
                # What was heard is kept, and quickly added anew.
                if last or heard is None and now - saved >= KEEP_EVERY * took:
                    slots.update(keep_moments(parts, slots, *latest))
                    saved = time.monotonic()
                    took = saved - now
                show(len(seen))

            return collect(
                bench.model,
                saes,
                prompts,
                answered["tokens"].tolist(),
                outcomes,
                batches=batches,
                token_source=settings.token_source,
                pooling=settings.pooling,
                n_shuffles=settings.shuffles,
                n_resamples=settings.resamples,
                seed=bench.seed,
                start=start,
                on_batch=keep,
                heard=heard,
            )
    except BaseException:
        # A server that went away, an interrupt: everything up to the last batch is good,
        # unless part of the next one has been added already.
        if latest is not None and all(m.n == len(latest[0]) for m in latest[1].values()):
            keep_moments(parts, slots, *latest)
        raise


# -- the computation ---------------------------------------------------------------------------


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
    model: LoadedModel,
    saes: Mapping[int, LoadedSAE],
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
    heard: Hears | None = None,
) -> dict[int, FeatureMoments]:
    """Statistics of every feature of the given layers' SAEs, over the samples of ``batches``.

    ``answers``: generated token ids per prompt; ``outcomes``: float64 [N], their scores; both of
    all samples, since outcomes are shuffled, and samples resampled, among all.
    ``start``: samples that were seen by an earlier call, and its accumulators, which go on.
    ``on_batch`` hears of every batch: all samples seen so far, and the accumulators. ``heard``:
    where activations are read instead of from a replay.
    """
    check_outcomes(outcomes)
    shuffled = shuffles(outcomes, n_shuffles, seed)
    drawn = resamples(len(outcomes), n_resamples, seed)
    lengths = np.array([len(answer) for answer in answers], dtype=np.float64)
    seen, moments = list(start[0]), dict(start[1])
    for layer, sae in saes.items():
        moments.setdefault(layer, FeatureMoments(sae.width, n_shuffles, n_resamples))
    before = frozenset(seen)
    for batch in batches if heard is None else heard.batches(batches):
        rows = [i for i in batch if i not in before]
        if not rows:
            continue
        written = [answers[i] for i in rows]
        if heard is None:
            asked = [prompts[i] for i in rows]
            found = pooled(model, saes, asked, written, token_source, pooling)
        else:
            found = heard.read(saes, rows, written)
        told = outcomes[rows], shuffled[rows], lengths[rows], drawn[rows]
        for layer, read in found.items():
            moments[layer].update(read.z, *told, features=read.features)
            moments[layer].left_out += read.left_out
            moments[layer].norms += read.norms
        seen += rows
        if on_batch is not None:
            on_batch(seen, moments)
    return {layer: moments[layer] for layer in saes}


# -- form on disk ------------------------------------------------------------------------------


def read_stats(folder: Path) -> LayerStats:
    with np.load(folder / FILE, allow_pickle=False) as arrays:
        return scores.from_arrays(arrays)


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
            if "features" in arrays:  # an earlier version kept all
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
