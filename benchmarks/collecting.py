"""What collecting costs beside plain ``generate``: in a replay of the answers, while they are
written, and as others do it.

    OMP_NUM_THREADS=1 python -m benchmarks.collecting          # the bundled model and its SAEs
    python -m benchmarks.collecting --model smollm2_135m_it --width 4096 --prompts 16
    python -m benchmarks.collecting --small                    # shows that it works

Answers of exactly 1 and of exactly 64 tokens: no token ends one. The program's cases are its two
stages, answers and statistics, with their store. ``hooks at every token``, as published code does
it, encode the last position of every block at each step and keep a running maximum; ``everything
stored`` keeps all residuals and encodes them at the end. Both end with correlations, without
shuffled outcomes, resamples, other scores or a form on disk. ``encoders alone`` are the bare matrix
products of residuals of as many positions, batch by batch: plain ``generate`` and these together
are what collecting cannot be cheaper than. ``statistics, paid once`` are the scores, of outcomes,
shuffled ones and resamples, which take as long for a thousand samples as for ten; few are asked
here, so what collecting costs is given without them, too. All SAEs are in memory, except the
bundled ones, which the program reads anew each time.

Before anything is timed, both of the program's ways must choose the same features, with
coefficients equal to 1e-5, and the correlations of all ways must be the same where answers are one
token.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.generate import PROMPT
from benchmarks.made import MODELS, endless, made, random_saes
from benchmarks.plain import in_turn, ratios, show
from corrsteer.config import bundled
from corrsteer.methods.corrsteer import CorrSteer
from corrsteer.models.spec import Model
from corrsteer.records import LayerStats, Score
from corrsteer.saes.folder import Folder
from corrsteer.selectors.correlation import Correlation
from corrsteer.stages.answers import answers
from corrsteer.stages.bench import REPLAY, WRITING, Asking, Bench, Collect
from corrsteer.stages.heard import Heard
from corrsteer.stages.statistics import statistics
from corrsteer.stats.moments import FeatureMoments
from corrsteer.stats.relabelled import resamples, shuffles
from corrsteer.steering.arms import BASELINE, baseline
from corrsteer.store.entries import Store
from corrsteer.tasks.bbq import BBQ

TOKENS = (1, 64)
PLAIN, HOOKS, STORED = "plain generate", "hooks at every token", "everything stored"
ENCODERS, ALONE = "encoders alone", "answers alone"
REPLAYED, HEARD = "answers, then a replay", "heard while writing"
ONCE = "statistics, paid once"
MOST = 1.15
"""Times plain ``generate`` and the encoders together, which collecting may cost."""
ROUNDING = 1e-5
"""By how much a coefficient may differ from one way to the other."""


def any_half(example: Any, text: str) -> Score:
    """Right or wrong by the question alone: here no answer matters."""
    return Score(float(sum(example.id.encode()) % 2), text)


class Asked:
    """One model's questions, with the SAEs of all its layers: random ones, or the bundled."""

    def __init__(
        self,
        spec: Model,
        width: int | None,
        prompts: int,
        tokens: int,
        batch_size: int,
        *,
        layers: int | None = None,
    ) -> None:
        """``layers``: the first so many; None for all."""
        task = BBQ(name="bbq", prompt=PROMPT, scorer=any_half, max_new_tokens=tokens)
        backend, spec, self.model = endless(spec, batch_size)
        provider = random_saes(self.model, width) if width else Folder(bundled("saes"), check="off")
        self.tokens = tokens
        self.bench = Bench(
            store=Store(Path("unused")),
            backend=backend,
            spec=spec,
            sae=provider,
            selector=Correlation(),
            asking=Asking(task, {"selection": task.examples()[:prompts]}),
            layers=tuple(provider.layers())[:layers],
            collect=Collect("generated", "max", shuffles=100, resamples=50),
            seed=0,
        )
        self._right = np.array([any_half(e, "").value for e in self.bench.selection])
        self._held = {n: provider.load(n) for n in self.bench.layers}
        self._prompts = [e.prompt for e in self.bench.selection]
        self._batches = self.model._batches(list(map(len, self.model._encode(self._prompts))))

    def program(self, way: str) -> list[LayerStats]:
        """``way``: that of ``collect.way``, or ``ALONE``."""
        self.model._last_batches = None  # as in a run of its own
        self.model._last_rows.clear()
        with tempfile.TemporaryDirectory() as store:
            collect = self.bench.collect if way == ALONE else replace(self.bench.collect, way=way)
            bench = replace(self.bench, store=Store(Path(store)), collect=collect)
            heard = Heard(bench, bench.collect) if way == WRITING else None
            listen = heard.listener if heard else None
            frames = answers(bench, bench.asking, "selection", [baseline()], listen=listen)
            return [] if way == ALONE else statistics(bench, frames[BASELINE], heard=heard)

    def plain(self) -> None:
        for rows in self._batches:
            self._generate(rows)

    def encoders(self) -> None:
        """Bare products, of as many positions at once as the program encodes."""
        for rows in self._batches:
            for sae in self._held.values():
                for part in torch.ones(len(rows) * self.tokens, sae.d_model).split(sae._rows()):
                    part @ sae.W_enc

    def once(self) -> None:
        for layer in self.bench.layers:
            self._moments.finish(layer)
            self._moments.scores()

    def hooked(self) -> np.ndarray:
        """The correlations [layer, feature]."""
        pooled: dict[int, torch.Tensor] = {}
        z = {n: np.zeros((len(self._right), sae.width)) for n, sae in self._held.items()}

        def encode(layer: int, hidden: torch.Tensor) -> None:
            new = self._held[layer].encode(hidden)
            pooled[layer] = new if layer not in pooled else torch.maximum(pooled[layer], new)

        with self._reading(encode):
            for rows in self._batches:
                pooled.clear()
                self._generate(rows)
                for n, found in pooled.items():
                    z[n][rows] = found.numpy()
        self._moments = self._counted(z[self.bench.layers[0]])
        return self._correlated(z)

    def stored(self) -> np.ndarray:
        kept: dict[int, list[torch.Tensor]] = {n: [] for n in self._held}
        with self._reading(lambda layer, hidden: kept[layer].append(hidden.clone())):
            for rows in self._batches:
                self._generate(rows)
        z = {n: np.zeros((len(self._right), sae.width)) for n, sae in self._held.items()}
        for n, steps in kept.items():
            left = iter(steps)
            for rows in self._batches:
                read = torch.cat([next(left) for _ in range(self.tokens)])
                acts = self._held[n].encode(read).reshape(self.tokens, len(rows), -1)
                z[n][rows] = acts.amax(0).numpy()
        return self._correlated(z)

    def _counted(self, z: np.ndarray) -> FeatureMoments:
        collect, n = self.bench.collect, len(z)
        moments = FeatureMoments(z.shape[1], collect.shuffles, collect.resamples)
        shuffled, drawn = (
            shuffles(self._right, collect.shuffles, 0),
            resamples(n, collect.resamples, 0),
        )
        moments.update(z, self._right, shuffled, np.arange(n) % 2.0, drawn)
        return moments

    def _correlated(self, z: dict[int, np.ndarray]) -> np.ndarray:
        dy = self._right - self._right.mean()
        found = []
        for x in z.values():
            dx = x - x.mean(0)
            spread = np.sqrt((dx**2).sum(0) * (dy @ dy))
            found.append(np.where(spread > 0, dy @ dx / np.where(spread > 0, spread, 1), 0))
        return np.array(found)

    @contextmanager
    def _reading(self, read: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
        def hook(layer: int) -> Callable[[Any, Any, Any], None]:
            def last(module: Any, args: Any, output: Any) -> None:
                read(layer, (output[0] if isinstance(output, tuple) else output)[:, -1])

            return last

        blocks = self.model._blocks
        handles = [blocks[n]._module.register_forward_hook(hook(n)) for n in self._held]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _generate(self, rows: Sequence[int]) -> None:
        """Of texts, as the program's cases: their tokens take up to 2 % of one-token answers."""
        self.model._last_rows.clear()
        inputs = self.model._pad_left(self.model._encode([self._prompts[i] for i in rows]))
        with torch.no_grad():
            self.model._module.generate(**inputs, max_new_tokens=self.tokens)

    def check(self) -> int:
        """How many features are chosen. Raises RuntimeError where the ways choose differently."""
        found = [self.program(way) for way in (REPLAY, WRITING)]
        chosen = [CorrSteer().choose(Correlation().rank(stats)) for stats in found]
        for one, other in zip(*chosen, strict=True):
            same = (one.layer, one.feature) == (other.layer, other.feature)
            if not same or abs(one.coefficient / other.coefficient - 1) > ROUNDING:
                raise RuntimeError(f"chosen in a replay: {one}, while writing: {other}")
        for one, other in zip(*found, strict=True):  # of few samples nothing may be chosen
            apart = abs(one.mean - other.mean) > 1e-4 * one.mean.max()
            if apart.mean() > 1e-3:  # some lie at a threshold
                raise RuntimeError(f"layer {one.layer}: other activations in a replay")
        for rival in (self.hooked(), self.stored()):
            # Of longer answers it may be another: the program leaves special tokens out.
            if self.tokens == 1 and abs(rival - [s.r for s in found[1]]).max() > 1e-4:
                raise RuntimeError("hooks give other correlations than the program")
        return len(chosen[0])


def measured(asked: Asked, repeats: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    cases: dict[str, Callable[[], object]] = {
        PLAIN: asked.plain,
        ENCODERS: asked.encoders,
        ONCE: asked.once,
        HOOKS: asked.hooked,
        STORED: asked.stored,
        ALONE: lambda: asked.program(ALONE),
        REPLAYED: lambda: asked.program(REPLAY),
        HEARD: lambda: asked.program(WRITING),
    }
    return in_turn(cases, repeats, clock, warm=False)  # they were all run to be compared


def of_limit(found: Mapping[str, tuple[float, float]], without: str | None = None) -> float:
    """What collecting while writing takes of plain ``generate`` and the encoders together, of
    medians; ``without``: what another case takes."""
    spared = found[without][1] if without else 0.0
    return (found[HEARD][1] - spared) / (1 + found[ENCODERS][1])


def main(words: Sequence[str] | None = None) -> dict[int, dict[str, tuple[float, float]]]:
    """Ratios to plain generate by number of tokens, which are printed, too."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="bundled", choices=MODELS)
    parser.add_argument("--width", type=int, help="of random SAEs; else the bundled model's own")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--tokens", type=int, nargs="*", default=TOKENS)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    given = parser.parse_args(words)
    if given.model != "bundled" and not given.width:
        parser.error(f"--model {given.model} needs --width")
    prompts, batch_size, repeats = given.prompts, given.batch_size, given.repeats
    if given.small:
        prompts, batch_size, repeats = 16, 8, 1
    clock = time.process_time if given.cpu_time else time.perf_counter
    found = {}
    for tokens in given.tokens:
        spec = made(given.model, small=given.small)
        asked = Asked(spec, given.width, prompts, tokens, batch_size)
        chosen = asked.check()
        print(f"{chosen} features chosen both ways, coefficients equal to {ROUNDING:g}")
        seconds = measured(asked, repeats, clock)
        width = f", SAEs of {given.width}" * bool(given.width)
        print(
            f"{prompts} prompts in batches of {batch_size}, {tokens} tokens, {given.model}{width},"
            f" {repeats} repeats, {torch.get_num_threads()} threads"
        )
        show(seconds, PLAIN)
        found[tokens] = ratios(seconds, PLAIN)
        whole, rest = of_limit(found[tokens]), of_limit(found[tokens], ONCE)
        print(f"{HEARD}, of plain generate and encoders: {whole:.3g}, of at most {MOST}")
        print(f"{HEARD}, likewise, without {ONCE}: {rest:.3g}")
    return found


if __name__ == "__main__":
    main()
