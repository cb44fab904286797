"""What variant P asks of the validation split, in unsteered evaluations of it, where an answer is
one token.

    OMP_NUM_THREADS=1 python -m benchmarks.variants --cpu-time  # the bundled model
    python -m benchmarks.variants --small                       # shows that it works

P asks once without steering, under the whole plan and under each layer alone, which share one pass
over the prompts, and then under the layers that it keeps. The bundled model has 6 layers; more are
made by asking about each of them several times, at other vectors. It may cost 3 at most.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median

from benchmarks.generate import PROMPT, random_plan
from corrsteer.config import bundled
from corrsteer.models.local import Local
from corrsteer.models.spec import Model
from corrsteer.scorers.choice import Choice
from corrsteer.steering.plan import Plan
from corrsteer.tasks.bbq import BBQ

LAYERS, MOST = (6, 26, 48), 3.0


def measure(
    prompts: int, batch_size: int, repeats: int, clock: Callable[[], float]
) -> dict[int, list[float]]:
    """Seconds by the number of layers that P asks about, one per repeat; 0: without steering."""
    model = Local(device="cpu", batch_size=batch_size).load(Model("bundled", bundled("model")))
    task = BBQ(name="bbq", prompt=PROMPT, scorer=Choice(), max_new_tokens=1)
    asked = [example.prompt for example in task.examples()[:prompts]]

    def answer(arms: Sequence[Plan | None]) -> None:
        model.generate(asked, arms, max_new_tokens=1)

    def p(layers: int) -> None:
        plans = [random_plan(model, seed) for seed in range(layers)]
        alone = [
            plan.with_entries((plan.entries[n % len(plan.entries)],))
            for n, plan in enumerate(plans)
        ]
        whole = plans[0]
        answer([None, whole, *alone])
        answer([whole.with_entries(whole.entries[1:])])

    seconds: dict[int, list[float]] = {n: [] for n in (0, *LAYERS)}
    for repeat in range(repeats + 1):
        for n, taken in seconds.items():
            start = clock()
            p(n) if n else answer([None])
            if repeat:  # the first round warms up
                taken.append(clock() - start)
    return seconds


def main(words: Sequence[str] | None = None) -> dict[int, float]:
    """Medians in unsteered evaluations, which are printed, too."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args(words)
    clock = time.process_time if given.cpu_time else time.perf_counter
    prompts, batch, repeats = (16, 8, 1) if given.small else (500, 128, given.repeats)
    seconds = measure(prompts, batch, repeats, clock)
    base = median(seconds[0])
    ratios = {n: median(taken) / base for n, taken in seconds.items() if n}
    print(f"{prompts} prompts in batches of {batch}, median of {repeats}")
    for n, ratio in ratios.items():
        print(
            f"P over {n:2} layers: {ratio:5.2f} unsteered evaluations, of {MOST:g} that it may cost"
        )
    return ratios


if __name__ == "__main__":
    main()
