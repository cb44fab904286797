"""What collecting costs beside plain ``generate``: in a replay of the answers, while they are
written, and as published code does it.

    OMP_NUM_THREADS=1 python -m benchmarks.collecting --cpu-time     # the bundled model
    python -m benchmarks.collecting --cpu-time --model smollm2_135m_it --saes FOLDER --prompts 32
    python -m benchmarks.collecting --small                          # shows that it works

Answers of at most 1 and of at most 64 tokens. The program's cases are its two stages, answers and
statistics, with their store. ``hooks at every token`` encodes the last position of every block at
each step and keeps a running maximum, with correlations of these at the end; it has no shuffled
outcomes, no resamples and no form on disk. The features chosen are compared before anything is
timed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.generate import PROMPT
from benchmarks.plain import in_turn, ratios, show
from benchmarks.train_saes import spec_of
from corrsteer.config import bundled
from corrsteer.methods.corrsteer import CorrSteer
from corrsteer.models.local import Local
from corrsteer.models.spec import Model
from corrsteer.records import LayerStats, Score
from corrsteer.saes.folder import Folder
from corrsteer.selectors.correlation import Correlation
from corrsteer.stages.answers import answers
from corrsteer.stages.bench import REPLAY, WRITING, Asking, Bench, Collect
from corrsteer.stages.heard import Heard
from corrsteer.stages.statistics import statistics
from corrsteer.steering.arms import BASELINE, baseline
from corrsteer.store.entries import Store
from corrsteer.tasks.bbq import BBQ

TOKENS = (1, 64)
PLAIN, HOOKS = "plain generate", "hooks at every token"
ALONE = "nothing is collected"
ROUNDING = 1e-5
"""By how much a coefficient may differ from one way to the other."""


def any_half(example: Any, text: str) -> Score:
    """Right or wrong by the question alone: here no answer matters."""
    return Score(float(sum(example.id.encode()) % 2), text)


class Asked:
    """One model's questions, with the SAEs of all its layers."""

    def __init__(self, spec: Model, saes: str, prompts: int, tokens: int, batch_size: int) -> None:
        task = BBQ(name="bbq", prompt=PROMPT, scorer=any_half, max_new_tokens=tokens)
        provider = Folder(saes, check="off")
        self.tokens = tokens
        self._bench = Bench(
            store=Store(Path("unused")),
            backend=Local(device="cpu", batch_size=batch_size),
            spec=spec,
            sae=provider,
            selector=Correlation(),
            asking=Asking(task, {"selection": task.examples()[:prompts]}),
            layers=tuple(provider.layers()),
            collect=Collect("generated", "max", shuffles=100, resamples=50),
            seed=0,
        )
        self._model = self._bench.model

    def program(self, way: str) -> list[LayerStats]:
        with tempfile.TemporaryDirectory() as store:
            collect = replace(self._bench.collect, way=way)
            bench = replace(self._bench, store=Store(Path(store)), collect=collect)
            heard = Heard(bench, bench.collect) if way == WRITING else None
            listen = heard.listener if heard else None
            made = answers(bench, bench.asking, "selection", [baseline()], listen=listen)
            if way == ALONE:
                return []
            return statistics(bench, made[BASELINE], heard=heard)

    def plain(self) -> None:
        for _, inputs in self._batches():
            self._generate(inputs)

    def hooked(self) -> dict[int, np.ndarray]:
        """The correlation of every feature, by layer."""
        bench = self._bench
        saes = {n: bench.sae.load(n) for n in bench.layers}
        sums = {n: np.zeros((4, sae.width)) for n, sae in saes.items()}
        right = [any_half(e, "").value for e in bench.selection]
        pooled: dict[int, torch.Tensor] = {}

        def hook(layer: int) -> Callable[[Any, Any, Any], None]:
            def encode(module: Any, args: Any, output: Any) -> None:
                hidden = output[0] if isinstance(output, tuple) else output
                z = saes[layer].encode(hidden[:, -1])
                pooled[layer] = z if layer not in pooled else torch.maximum(pooled[layer], z)

            return encode

        blocks = self._model._blocks
        handles = [blocks[n]._module.register_forward_hook(hook(n)) for n in saes]
        for rows, inputs in self._batches():
            pooled.clear()
            self._generate(inputs)
            y = np.array([right[i] for i in rows])[:, None]
            for n, z in pooled.items():
                x = z.double().numpy()
                sums[n] += np.stack([x.sum(0), (x**2).sum(0), (x * y).sum(0), (x > 0).sum(0)])
        for handle in handles:
            handle.remove()
        mean, spread = float(np.mean(right)), float(np.std(right))
        n = len(right)
        return {
            layer: (xy / n - x / n * mean)
            / np.maximum(np.sqrt(np.maximum(xx / n - (x / n) ** 2, 0)) * spread, 1e-12)
            for layer, (x, xx, xy, _) in sums.items()
        }

    def _batches(self) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        ids = self._model._encode([e.prompt for e in self._bench.selection])
        for rows in self._model._batches(list(map(len, ids))):
            yield rows, self._model._pad_left([ids[i] for i in rows])

    def _generate(self, inputs: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            self._model._module.generate(**inputs, max_new_tokens=self.tokens)

    def check(self) -> None:
        """Raises RuntimeError where the ways choose differently."""
        chosen = [
            CorrSteer().choose(Correlation().rank(self.program(way))) for way in (REPLAY, WRITING)
        ]
        for one, other in zip(*chosen, strict=True):
            same = (one.layer, one.feature) == (other.layer, other.feature)
            if not same or abs(one.coefficient / other.coefficient - 1) > ROUNDING:
                raise RuntimeError(f"chosen in a replay: {one}, while writing: {other}")
        print(f"{len(chosen[0])} features chosen both ways, coefficients equal to {ROUNDING:g}")


def main(words: Sequence[str] | None = None) -> dict[int, dict[str, tuple[float, float]]]:
    """Ratios to plain generate by number of tokens, which are printed, too."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="bundled", help="an option of conf/model")
    parser.add_argument("--saes", default=bundled("saes"), help="folder of SAEs")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--tokens", type=int, nargs="*", default=TOKENS)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    given = parser.parse_args(words)
    prompts, batch_size, repeats = given.prompts, given.batch_size, given.repeats
    if given.small:
        prompts, batch_size, repeats = 16, 8, 1
    clock = time.process_time if given.cpu_time else time.perf_counter
    found = {}
    for tokens in given.tokens:
        asked = Asked(spec_of(given.model), given.saes, prompts, tokens, batch_size)
        asked.check()
        cases: dict[str, Callable[[], object]] = {
            PLAIN: asked.plain,
            HOOKS: asked.hooked,
            "answers alone": lambda asked=asked: asked.program(ALONE),  # type: ignore[misc]
            "answers, then a replay": lambda asked=asked: asked.program(REPLAY),  # type: ignore[misc]
            "heard while writing": lambda asked=asked: asked.program(WRITING),  # type: ignore[misc]
        }
        seconds = in_turn(cases, repeats, clock)
        print(f"{prompts} prompts in batches of {batch_size}, {tokens} tokens, {given.model}")
        show(seconds, PLAIN)
        found[tokens] = ratios(seconds, PLAIN)
    return found


if __name__ == "__main__":
    main()
