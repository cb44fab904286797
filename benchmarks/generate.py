"""Speed of steering and of collecting, as ratios against plain ``generate`` in the same run.

    python benchmarks/generate.py [--prompts 400] [--repeats 5]

Prints one row per case: median seconds and the median of the per-repeat ratios to transformers'
own ``generate`` on the same prompts, batches and threads. Seconds are this machine's and this
moment's; the ratios are what to compare.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import corrsteer
from corrsteer.models.local import Local
from corrsteer.models.spec import Model
from corrsteer.saes.folder import Folder
from corrsteer.stages.statistics import collect
from corrsteer.steering.plan import Plan, PlanEntry
from corrsteer.tasks.bbq import BBQ

BUNDLED = Path(corrsteer.__file__).parent / "bundled"
NEW_TOKENS = 8
PROMPT = "{context}\n{question}\n{options}\nAnswer:"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    model = Local(device="cpu").load(Model("bundled", str(BUNDLED / "model")))
    task = BBQ(name="bbq", prompt=PROMPT, scorer=lambda *_: None, max_new_tokens=NEW_TOKENS)
    prompts = [e.prompt for e in task.examples()[: args.prompts]]
    rng = np.random.default_rng(0)
    plans = [
        Plan(
            tuple(
                PlanEntry(n, 0, 0.0, 1.0, rng.normal(size=model.d_model).astype(np.float32) * 0.01)
                for n in range(model.n_layers)
            )
        )
        for _ in range(10)
    ]
    saes = {n: Folder(str(BUNDLED / "saes")).load(n) for n in range(model.n_layers)}
    (answers,) = model.generate(prompts, [None], max_new_tokens=NEW_TOKENS)
    tokens = [a.tokens for a in answers]
    outcomes = rng.integers(0, 2, len(prompts)).astype(float)

    def plain() -> None:
        for rows in model.batches(prompts):
            inputs = model._pad_left(model._encode([prompts[i] for i in rows]))
            with torch.no_grad():
                model._module.generate(**inputs, max_new_tokens=NEW_TOKENS)

    def steer(n: int) -> Callable[[], None]:
        return lambda: model.generate(prompts, plans[:n], max_new_tokens=NEW_TOKENS)

    def gather() -> None:
        collect(
            model, saes, prompts, tokens, outcomes,
            token_source="generated", pooling="max", n_shuffles=100, n_resamples=50, seed=0,
        )  # fmt: skip

    cases = {
        "plain generate": plain,
        "1 plan, all layers": steer(1),
        "10 plans, all layers": steer(10),
        "collect, all layers": gather,
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(args.repeats + 1):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if repeat:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    print(f"{len(prompts)} prompts, up to {NEW_TOKENS} new tokens, {args.repeats} repeats")
    print(f"{'case':<22}{'seconds':>9}{'ratio':>8}")
    for name, times in seconds.items():
        ratios = [t / p for t, p in zip(times, seconds["plain generate"], strict=True)]
        print(f"{name:<22}{statistics.median(times):>9.2f}{statistics.median(ratios):>8.2f}")


if __name__ == "__main__":
    main()
