"""What a null of 39 draws costs, against the five draws of before, where an answer is one token.

    OMP_NUM_THREADS=1 python -m benchmarks.draws --cpu-time     # the bundled model, option letters
    python -m benchmarks.draws --small                          # shows that it works

Both answer without steering and with a plan, too, and all share one pass over the prompts. Longer
answers are drawn in chunks (:func:`corrsteer.stats.draws.chunk_end`), each with a pass of its own:
"in chunks" is what 39 draws cost then, and "ended early" those of a plan that is nothing special.
The cases take turns.

Last come the same 39 draws and two more arms where answers are text of at most 8 tokens: all beside
each other (:mod:`corrsteer.models.beside`), against one after the other behind the same prompts.
Their answers are compared first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

from benchmarks.asked import Asked, typed
from benchmarks.generate import random_plan
from corrsteer.stats.draws import chunk_end
from corrsteer.steering.controls import DRAWS

BEFORE, STOP, TEXT = 5, 10, 8
LETTERS = [" A", " B", " C"]


def measure(given: Asked) -> dict[str, list[float]]:
    """Seconds of every case, one per repeat."""
    model, asked = given.load()
    plans = [random_plan(model, seed) for seed in range(1 + DRAWS)]

    def drawn(ends: Sequence[int]) -> None:
        done = 0
        for end in ends:
            arms = [*([None, plans[0]] if not done else []), *plans[1 + done : 1 + end]]
            model.generate(asked, arms, max_new_tokens=1, allowed=LETTERS)
            done = end

    whole = [chunk_end(0, DRAWS, STOP)]
    while whole[-1] < DRAWS:
        whole.append(chunk_end(whole[-1], DRAWS, STOP))
    return given.in_turn(
        {
            f"{BEFORE} draws": partial(drawn, [BEFORE]),
            f"{DRAWS} draws": partial(drawn, [DRAWS]),
            "in chunks": partial(drawn, whole),
            "ended early": partial(drawn, whole[:1]),
        }
    )


def beside(given: Asked) -> float:
    """What answering beside each other takes of what one after the other does."""
    model, asked = given.load()
    arms = [None, *(random_plan(model, seed) for seed in range(1 + DRAWS))]
    answers = []

    def answered(together: bool) -> None:
        model._takes_columns = None if together else False
        answers.append(model.generate(asked, arms, max_new_tokens=TEXT))

    cases: dict[bool, Callable[[], object]] = {
        together: partial(answered, together) for together in (True, False)
    }
    seconds = given.in_turn(cases)
    if any(some != answers[0] for some in answers):
        raise RuntimeError("arms beside each other answer otherwise than one after the other")
    return median(seconds[True]) / median(seconds[False])


def main(words: Sequence[str] | None = None) -> dict[str, float]:
    """Ratios of the medians to the case of before, which are printed, too."""
    given = typed(words, __doc__, 512)
    seconds = measure(given)
    base = median(seconds[f"{BEFORE} draws"])
    ratios = {name: median(times) / base for name, times in seconds.items()}
    print(given)
    for name, ratio in ratios.items():
        print(f"{name:12} {ratio:5.2f} times {BEFORE} draws")
    ratios["beside"] = beside(given)
    print(f"text, beside {ratios['beside']:5.2f} times one after the other")
    return ratios


if __name__ == "__main__":
    main()
