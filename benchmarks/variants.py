"""What variant P asks of the validation split, in unsteered evaluations of it, where an answer is
one token.

    OMP_NUM_THREADS=1 python -m benchmarks.variants --cpu-time  # the bundled model
    python -m benchmarks.variants --small                       # shows that it works

P asks once without steering, under the whole plan and under each layer alone, which share one pass
over the prompts, and then under the layers that it keeps. The bundled model has 6 layers; more are
made by asking about each of them several times, at other vectors. It may cost 3 at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import median

from benchmarks.asked import Asked, typed
from benchmarks.generate import random_plan
from corrsteer.steering.plan import Plan

LAYERS, MOST = (6, 26, 48), 3.0


def measure(given: Asked) -> dict[int, list[float]]:
    """Seconds by the number of layers that P asks about, one per repeat; 0: without steering."""
    model, asked = given.load()

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

    return given.in_turn({0: partial(answer, [None]), **{n: partial(p, n) for n in LAYERS}})


def main(words: Sequence[str] | None = None) -> dict[int, float]:
    """Medians in unsteered evaluations, which are printed, too."""
    given = typed(words, __doc__, 500)
    seconds = measure(given)
    base = median(seconds[0])
    ratios = {n: median(taken) / base for n, taken in seconds.items() if n}
    print(given)
    for n, ratio in ratios.items():
        print(
            f"P over {n:2} layers: {ratio:5.2f} unsteered evaluations, of {MOST:g} that it may cost"
        )
    return ratios


if __name__ == "__main__":
    main()
