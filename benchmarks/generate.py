"""Speed of steering and of collecting, as ratios to transformers' own ``generate`` in the same run.

    python -m benchmarks.generate            # the bundled model; minutes on two cores
    python -m benchmarks.generate --small    # shows that it works

Every case answers the same prompts in the same batches with the same threads, on the CPU. The cases
take turns; plain ``generate`` has two, and how far the ratio of the second is from 1 says what the
others are worth. The answers are compared, too: unsteered ones must be plain ``generate``'s to the
token, and steered ones those of the hooks that ``plan.steer`` puts onto a plain model.
``--cpu-time`` counts the process's own time instead of the clock's, for a machine that is busy with
other things; use it with ``OMP_NUM_THREADS=1``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.plain import Plain, Tokens, in_turn, show
from corrsteer.config import bundled
from corrsteer.models.loaded import LoadedModel
from corrsteer.models.local import Local
from corrsteer.models.spec import Model
from corrsteer.saes.folder import Folder
from corrsteer.scorers.choice import Choice
from corrsteer.stages.statistics import collect
from corrsteer.steering.plan import Plan, PlanEntry
from corrsteer.tasks.bbq import BBQ

PROMPT = "{context}\n{question}\n{options}\nAnswer:"
NEW_TOKENS = 8
PLAIN = "plain generate"
LOUD = 100.0
"""The dial at which answers are compared: there the plan changes some."""


@dataclass(frozen=True)
class Scale:
    prompts: int
    batch_size: int
    repeats: int
    plans: int


FULL = Scale(prompts=400, batch_size=128, repeats=5, plans=10)
SMALL = Scale(prompts=16, batch_size=8, repeats=2, plans=3)


def random_plan(model: LoadedModel, seed: int) -> Plan:
    """A vector for every layer, too short to make answers longer."""
    rng = np.random.default_rng(seed)
    size = (model.n_layers, model.d_model)
    vectors = rng.normal(scale=0.1, size=size).astype(np.float32)
    return Plan(tuple(PlanEntry(n, -1, 0.0, 1.0, vectors[n]) for n in range(model.n_layers)))


def same(what: str, ours: Tokens, plain: Tokens) -> None:
    """Raises RuntimeError where answers are not the same to the token."""
    others = sum(one != other for one, other in zip(ours, plain, strict=True))
    if others:
        raise RuntimeError(f"{what}: {others} of {len(plain)} answers are not plain generate's")


def measure(scale: Scale, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of every case, one per repeat."""
    backend = Local(device="cpu", batch_size=scale.batch_size)
    model = backend.load(Model("bundled", bundled("model")))
    plain = Plain(Path(bundled("model")))
    saes = {n: Folder(bundled("saes")).load(n) for n in range(model.n_layers)}
    task = BBQ(name="bbq", prompt=PROMPT, scorer=Choice(), max_new_tokens=NEW_TOKENS)
    prompts = [example.prompt for example in task.examples()[: scale.prompts]]
    batches = plain.batches(prompts, scale.batch_size)
    plans = [random_plan(model, seed) for seed in range(scale.plans)]

    def alone() -> Tokens:
        return plain.generate(prompts, batches, NEW_TOKENS)

    def hooks(plan: Plan) -> Tokens:
        with plan.steer(plain.model):
            return alone()

    def ours(*arms: Plan | None) -> Tokens:
        answers = model.generate(prompts, arms, max_new_tokens=NEW_TOKENS)
        return [answer.tokens for answer in answers[0]]

    unsteered, loud = alone(), plans[0].turned_to(LOUD)
    steered = hooks(loud)
    same("no plan", ours(None), unsteered)
    same("1 plan", ours(loud), steered)
    if steered == unsteered:
        raise RuntimeError("the plan changes no answer, so the comparison says nothing")
    outcomes = np.random.default_rng(0).permutation(len(prompts)) % 2.0

    def collected() -> object:
        return collect(
            model, saes, prompts, unsteered, outcomes, batches=batches,
            token_source="generated", pooling="max", n_shuffles=100, n_resamples=50, seed=0,
        )  # fmt: skip

    cases: dict[str, Callable[[], object]] = {
        PLAIN: alone,
        f"{PLAIN}, again": alone,
        "plan.steer(model)": lambda: hooks(plans[0]),
        "program, no plan": lambda: ours(None),
        "program, 1 plan": lambda: ours(plans[0]),
        f"program, {scale.plans} plans": lambda: ours(*plans),
        "collect": collected,
    }
    return in_turn(cases, scale.repeats, clock)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="16 prompts, twice")
    parser.add_argument("--cpu-time", action="store_true", help="this process's time alone")
    parser.add_argument("--repeats", type=int, help="how often each case is timed")
    args = parser.parse_args(arguments)
    scale = SMALL if args.small else FULL
    if args.repeats:
        scale = replace(scale, repeats=args.repeats)
    clock = time.process_time if args.cpu_time else time.perf_counter
    seconds = measure(scale, clock)
    print(
        f"{scale.prompts} prompts in batches of {scale.batch_size}, up to {NEW_TOKENS} new tokens,"
        f" every layer steered, {scale.repeats} repeats, {torch.get_num_threads()} threads"
    )
    show(seconds, PLAIN)


if __name__ == "__main__":
    main()
