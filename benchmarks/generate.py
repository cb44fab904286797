"""Speed of steering and of collecting, as ratios to transformers' own ``generate`` in the same run.

    python -m benchmarks.generate            # the bundled model; minutes on two cores
    python -m benchmarks.generate --model smollm2_135m_it --prompts 16 --tokens 64
    python -m benchmarks.generate --small    # shows that it works

Every case answers the same prompts in the same batches with the same threads, on the CPU, each with
exactly as many tokens: none ends an answer. The cases take turns; plain ``generate`` has two, and
how far the ratio of the second is from 1 says what the others are worth. The answers are compared,
too: unsteered ones must be plain ``generate``'s to the token, and steered ones those of the hooks
that ``plan.steer`` puts onto a plain model.

The last cases steer every position, the prompt's too, as other ways do (``benchmarks/rivals.py``):
plain hooks, a bias in the weights, and the libraries steering-vectors and repeng where they are
installed. Each has to give the tokens that ``plan.steer`` gives with the same vectors; one that
does not is named and not timed. ``--cpu-time`` counts the process's own time instead of the
clock's, for a machine that is busy with other things; use it with ``OMP_NUM_THREADS=1``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from benchmarks.made import MODELS, endless, made
from benchmarks.plain import Plain, Tokens, in_turn, ratios, show
from benchmarks.rivals import RIVALS, why_not
from corrsteer.config import bundled
from corrsteer.models.loaded import LoadedModel
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
    tokens: int = NEW_TOKENS


FULL = Scale(prompts=400, batch_size=128, repeats=5, plans=10)
SMALL = Scale(prompts=16, batch_size=8, repeats=2, plans=3)


def random_plan(model: LoadedModel, seed: int) -> Plan:
    """A short vector for every layer."""
    rng = np.random.default_rng(seed)
    size = (model.n_layers, model.d_model)
    vectors = rng.normal(scale=0.1, size=size).astype(np.float32)
    return Plan(tuple(PlanEntry(n, -1, 0.0, 1.0, vectors[n]) for n in range(model.n_layers)))


def same(what: str, ours: Tokens, plain: Tokens) -> None:
    """Raises RuntimeError where answers are not the same to the token."""
    others = sum(one != other for one, other in zip(ours, plain, strict=True))
    if others:
        raise RuntimeError(f"{what}: {others} of {len(plain)} answers are not plain generate's")


def measure(
    scale: Scale, clock: Callable[[], float], spec: Model | None = None
) -> dict[str, list[float]]:
    """Seconds of every case, one per repeat. ``spec``: other than the bundled model, without SAEs
    to collect with."""
    collects = spec is None
    spec = spec or Model("bundled", bundled("model"))
    *_, model = endless(spec, scale.batch_size)
    plain = Plain(spec.folder(), endless=True)
    task = BBQ(name="bbq", prompt=PROMPT, scorer=Choice(), max_new_tokens=scale.tokens)
    prompts = [example.prompt for example in task.examples()[: scale.prompts]]
    batches = plain.batches(prompts, scale.batch_size)
    plans = [random_plan(model, seed) for seed in range(scale.plans)]

    def alone() -> Tokens:
        return plain.generate(prompts, batches, scale.tokens)

    def hooks(plan: Plan) -> Tokens:
        with plan.steer(plain.model):
            return alone()

    def ours(*arms: Plan | None) -> Tokens:
        answers = model.generate(prompts, arms, max_new_tokens=scale.tokens)
        return [answer.tokens for answer in answers[0]]

    unsteered, loud = alone(), plans[0].turned_to(LOUD)
    steered = hooks(loud)
    same("no plan", ours(None), unsteered)
    same("1 plan", ours(loud), steered)
    if steered == unsteered:
        raise RuntimeError("the plan changes no answer, so the comparison says nothing")
    everywhere = replace(plans[0], positions="all")
    cases: dict[str, Callable[[], object]] = {
        PLAIN: alone,
        f"{PLAIN}, again": alone,
        "plan.steer(model)": lambda: hooks(plans[0]),
        "program, no plan": lambda: ours(None),
        "program, 1 plan": lambda: ours(plans[0]),
        f"program, {scale.plans} plans": lambda: ours(*plans),
        "plan.steer, all positions": lambda: hooks(everywhere),
        "program, all positions": lambda: ours(everywhere),
    }
    cases |= rivals(plain, alone, hooks(everywhere.turned_to(LOUD)), everywhere)
    if collects:
        saes = {n: Folder(bundled("saes")).load(n) for n in range(model.n_layers)}
        outcomes = np.random.default_rng(0).permutation(len(prompts)) % 2.0
        cases["collect"] = lambda: collect(
            model, saes, prompts, unsteered, outcomes, batches=batches,
            token_source="generated", pooling="max", n_shuffles=100, n_resamples=50, seed=0,
        )  # fmt: skip
    return in_turn(cases, scale.repeats, clock, warm=False)  # most were run to be compared


def rivals(
    plain: Plain, alone: Callable[[], Tokens], expected: Tokens, plan: Plan
) -> dict[str, Callable[[], object]]:
    """Those that answer with the ``expected`` tokens under the loud ``plan``, by name; the others
    are printed with why not."""
    found: dict[str, Callable[[], object]] = {}
    for name, rival in RIVALS.items():
        try:
            with rival(plain.model, plan.turned_to(LOUD).vectors()):
                same(f"all positions of {name}", alone(), expected)
        except Exception as error:  # of any kind: it is not ours, and the others are timed
            print(why_not(name, error))
            continue

        def case(rival: Any = rival) -> Tokens:
            with rival(plain.model, plan.vectors()):
                return alone()

        found[name] = case
    return found


def main(arguments: Sequence[str] | None = None) -> dict[str, tuple[float, float]]:
    """Ratios to plain generate, which are printed, too."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="16 prompts, twice")
    parser.add_argument("--cpu-time", action="store_true", help="this process's time alone")
    parser.add_argument("--model", default="bundled", choices=MODELS)
    for name in ("prompts", "batch-size", "repeats", "plans", "tokens"):
        parser.add_argument(f"--{name}", type=int, help="other than the setting's")
    args = parser.parse_args(arguments)
    given = {
        name: value
        for name in ("prompts", "batch_size", "repeats", "plans", "tokens")
        if (value := getattr(args, name)) is not None
    }
    scale = replace(SMALL if args.small else FULL, **given)
    clock = time.process_time if args.cpu_time else time.perf_counter
    spec = None if args.model == "bundled" else made(args.model, small=args.small)
    seconds = measure(scale, clock, spec)
    print(
        f"{scale.prompts} prompts in batches of {scale.batch_size}, {scale.tokens} new tokens,"
        f" {args.model}, every layer steered, {scale.repeats} repeats,"
        f" {torch.get_num_threads()} threads"
    )
    show(seconds, PLAIN)
    return ratios(seconds, PLAIN)


if __name__ == "__main__":
    main()
