"""What features did while the unsteered answers to the selection split were written
(``collect.way=writing``).

The residuals at the generation positions of one batch, of several where they are small, are kept
while the model answers, then encoded and pooled, every SAE once, in large matrix products. What is
pooled is kept on disk until the statistics are made of it: those need the outcomes of all samples.
So a second pass over prompts and answers is saved, and memory does not grow with the samples. A
batch that was not heard, since its answers are from elsewhere, is answered again, so that a result
does not depend on what was there. A kill costs what is not encoded yet, fewer than ``TOGETHER``
positions and a batch, and what came since the last saving.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from corrsteer.errors import ConfigError
from corrsteer.models.listening import Listener
from corrsteer.models.protocol import RESIDUALS
from corrsteer.stages.bench import (
    WRITING,
    Bench,
    Collect,
    Pooled,
    Share,
    answers_key,
    groups,
    pooled,
)
from corrsteer.steering.arms import baseline
from corrsteer.store.keys import digest
from corrsteer.store.partial import Partial

if TYPE_CHECKING:
    from corrsteer.models.protocol import Residuals
    from corrsteer.saes.loaded import LoadedSAE

log = logging.getLogger(__name__)

STAGE, FORM = "collect", 2
"""Where it is kept in the store: not in entries of that stage, but as parts of results."""
SOURCE = "generated"
SAVE_EVERY = 50.0
"""Times what the last saving took, after which the next one is due: that is 2 % of the time."""
TOGETHER = 64
"""Positions that are encoded together at least, and samples that are counted together: one costs
nearly what so many do."""


def check_heard(bench: Bench, supported: frozenset[str]) -> None:
    """Raise ConfigError where answers are to be heard but are not written, or elsewhere, or where
    other positions are to be read. ``supported``: by the backend."""
    if bench.collect.way != WRITING:
        return
    decoding, source = bench.asking.decoding, bench.collect.token_source
    wrong = [f"collect.token_source={source}"] * (source != SOURCE)
    wrong += [f"decoding={decoding}"] * (decoding == "loglikelihood")
    wrong += [f"backend {type(bench.backend).__name__}"] * (RESIDUALS not in supported)
    if wrong:
        raise ConfigError(
            f"collect.way=writing reads the {SOURCE} tokens while this machine writes them, not"
            f" with {wrong[0]}: type collect.way=replay"
        )


class Kept(NamedTuple):
    """What was heard of one sample at one layer."""

    told: str
    """A digest of its answer."""
    features: np.ndarray
    """Those that are active, ascending."""
    values: np.ndarray
    """Their activations."""
    norms: np.ndarray
    """The sum and number of the norms of its residuals."""


class Waiting(NamedTuple):
    """A batch that was heard and is not encoded yet."""

    rows: list[int]
    told: list[str]
    residuals: Residuals


class Heard:
    """What was heard of the answers to a bench's selection split. ``share``: of these batches."""

    def __init__(self, bench: Bench, collect: Collect, share: Share | None = None) -> None:
        asked = answers_key(bench, bench.asking, bench.selection, baseline())
        self._bench, self._pooling = bench, collect.pooling
        self._parts = {
            n: bench.store.partial(
                STAGE,
                {**asked, "heard": collect.pooling, "layer": n, "sae": bench.sae_key(n)},
                FORM,
            )
            for n in bench.layers
        }
        self._share = share or Share()
        self._loaded: dict[int, LoadedSAE] = {}
        self._waiting: list[Waiting] = []
        self._new: dict[int, list[dict[str, np.ndarray]]] = {}  # not yet on disk
        self._where: dict[int, dict[int, str]] = {}  # by layer: in which part a sample is
        self._saved, self._took = time.monotonic(), 0.0

    def listener(self, rows: Sequence[int]) -> Listener:
        """``rows``: which samples are asked."""
        return self._listener(rows, list(self._parts))

    def batches(self, batches: Sequence[Sequence[int]]) -> list[list[int]]:
        """Neighbours joined until they have ``TOGETHER`` samples."""
        joined: list[list[int]] = []
        for batch in batches:
            if joined and len(joined[-1]) < TOGETHER:
                joined[-1] += batch
            else:
                joined.append(list(batch))
        return joined

    def in_budget(self, layers: Sequence[int]) -> Iterator[dict[int, LoadedSAE]]:
        """In groups that fit into memory; loaded once where all do."""
        if set(layers) <= set(self._loaded):
            yield {n: self._loaded[n] for n in layers}
            return
        for group in self._bench.in_budget(layers):
            if len(group) == len(layers):
                self._loaded = dict(group)
            yield group

    def read(
        self, saes: Mapping[int, LoadedSAE], rows: Sequence[int], answers: Sequence[Sequence[int]]
    ) -> dict[int, Pooled]:
        """Activations of one whole batch by layer, where ``answers`` were written."""
        told = _told(answers)
        self.save()
        found = {n: self._kept(n, rows) for n in saes}
        if any(len(kept) < len(rows) for kept in found.values()):
            self._loaded = dict(saes)
            self._answer_again(rows, list(saes))
            self.save()
            found = {n: self._kept(n, rows) for n in saes}
        others = [
            k for k, i in enumerate(rows) if any(kept[i].told != told[k] for kept in found.values())
        ]
        if others:  # of another batch size, or another machine
            log.info("collect: %d answers are not those that were heard; replayed", len(others))
            prompts = [self._bench.selection[rows[k]].prompt for k in others]
            written = [answers[k] for k in others]
            for n, sae in saes.items():
                for k, prompt, answer in zip(others, prompts, written, strict=True):
                    again = pooled(
                        self._bench.model, {n: sae}, [prompt], [answer], SOURCE, self._pooling
                    )[n]
                    active = np.flatnonzero(again.z[0])
                    one = Kept(told[k], active, again.z[0][active], again.norms)
                    found[n][rows[k]] = one
        return {n: _together([kept[i] for i in rows]) for n, kept in found.items()}

    def save(self) -> None:
        """Put all that was heard on disk."""
        self._encode()
        self._save()

    def clear(self) -> None:
        """The statistics are in the store."""
        self._loaded.clear()
        self._waiting.clear()
        self._where.clear()
        for part in self._parts.values():
            part.clear()

    def _listener(self, rows: Sequence[int], layers: Sequence[int]) -> Listener:
        def hear(batch: list[int], written: list[tuple[int, ...]], residuals: Residuals) -> None:
            here = [rows[i] for i in batch]
            self._waiting.append(Waiting(here, _told(written), residuals))
            # At the end of what is counted together, too: it may be heard again as a whole, and
            # has the same bits only if the same positions are encoded together.
            positions = sum(len(one.residuals.token) for one in self._waiting)
            if positions >= TOGETHER or not self._ends.isdisjoint(here):
                self._encode()
                if time.monotonic() - self._saved >= SAVE_EVERY * self._took:
                    self._save()

        return Listener(layers, hear)

    @cached_property
    def _ends(self) -> frozenset[int]:
        """The last sample of each of :meth:`batches`."""
        batches = self._bench.model.batches([e.prompt for e in self._bench.selection])
        return frozenset(group[-1] for group in self.batches(self._share.batches(batches)))

    def _encode(self) -> None:
        """What was waiting."""
        import torch

        some, self._waiting = self._waiting, []
        if not some:
            return
        rows = [row for one in some for row in one.rows]
        told = [text for one in some for text in one.told]
        firsts = np.cumsum([0, *(len(one.rows) for one in some[:-1])]).tolist()
        heard = [one.residuals for one in some]
        sample = torch.cat([x.sample + first for x, first in zip(heard, firsts, strict=True)])
        owner = sample.cpu().numpy()
        for saes in self.in_budget(list(heard[0].layers)):
            for layer, sae in saes.items():
                x = torch.cat([one.layers[layer] for one in heard])
                active = sae.active(x, sample, len(rows), self._pooling)
                norms = x.norm(dim=1).cpu().double().numpy()
                sums = (
                    np.bincount(owner, norms, len(rows)),
                    np.bincount(owner, minlength=len(rows)),
                )
                new = _heard(rows, told, active, np.stack(sums, 1))
                self._new.setdefault(layer, []).append(new)

    def _answer_again(self, rows: Sequence[int], layers: Sequence[int]) -> None:
        asking, examples = self._bench.asking, self._bench.selection
        for group, allowed in groups(rows, examples, asking.decoding):
            self._bench.model.generate(
                [examples[i].prompt for i in group],
                [None],
                max_new_tokens=asking.task.max_new_tokens,
                allowed=allowed,
                stop=asking.stop,
                listener=self._listener(group, layers),
            )

    def _save(self) -> None:
        """Put what is new on disk, a part per layer, named after its first sample."""
        began = time.monotonic()
        for layer, some in self._new.items():
            content = io.BytesIO()
            arrays: dict[str, Any] = {k: np.concatenate([x[k] for x in some]) for k in some[0]}
            np.savez(content, **arrays)
            rows = arrays["rows"].tolist()
            name = f"{min(rows):08d}"
            self._parts[layer].save(name, content.getvalue())
            self._of(layer).update(dict.fromkeys(rows, name))
        if self._new:
            self._new = {}
            self._saved = time.monotonic()
            self._took = self._saved - began

    def _of(self, layer: int) -> dict[int, str]:
        """In which part each sample is, of an earlier job too."""
        if layer not in self._where:
            part, self._where[layer] = self._parts[layer], {}
            for name in part.names():
                kept = _read(part, {name})
                self._where[layer].update(dict.fromkeys(kept, name))
        return self._where[layer]

    def _kept(self, layer: int, rows: Sequence[int]) -> dict[int, Kept]:
        where = self._of(layer)
        kept = _read(self._parts[layer], {where[i] for i in rows if i in where})
        return {i: kept[i] for i in rows if i in kept}


def _heard(
    rows: Sequence[int],
    told: Sequence[str],
    active: tuple[np.ndarray, np.ndarray, np.ndarray],
    norms: np.ndarray,
) -> dict[str, np.ndarray]:
    """What is kept of some samples at one layer. ``active``: samples, features, activations."""
    sample, features, values = active
    return {
        "rows": np.array(rows),
        "told": np.array(told),
        "active": np.bincount(sample, minlength=len(rows)),
        "features": features,
        "values": values,
        "norms": norms,
    }


def _read(part: Partial, names: Collection[str]) -> dict[int, Kept]:
    """By sample."""
    found: dict[int, Kept] = {}
    for content in part.load(names).values():
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            rows, told = arrays["rows"].tolist(), arrays["told"].tolist()
            bounds = list(pairwise([0, *np.cumsum(arrays["active"]).tolist()]))
            both = arrays["features"], arrays["values"]
            each = ([array[start:end] for start, end in bounds] for array in both)
            found |= zip(rows, map(Kept, told, *each, arrays["norms"]), strict=True)
    return found


def _together(some: Sequence[Kept]) -> Pooled:
    """Activations of the features that are active in some sample."""
    features, place = np.unique(np.concatenate([x.features for x in some]), return_inverse=True)
    z = np.zeros((len(some), len(features)), np.float32)
    z[np.repeat(range(len(some)), [len(x.features) for x in some]), place] = np.concatenate(
        [x.values for x in some]
    )
    return Pooled(z, sum((x.norms for x in some), np.zeros(2)), 0, features)


def _told(answers: Sequence[Sequence[int]]) -> list[str]:
    """A digest of each."""
    return [digest(list(map(int, answer))) for answer in answers]
