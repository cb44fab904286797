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

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median

from benchmarks.generate import PROMPT, random_plan
from corrsteer.config import bundled
from corrsteer.models.local import Local, LocalModel
from corrsteer.models.spec import Model
from corrsteer.scorers.choice import Choice
from corrsteer.stats.draws import chunk_end
from corrsteer.steering.controls import DRAWS
from corrsteer.tasks.bbq import BBQ

BEFORE, STOP, TEXT = 5, 10, 8
LETTERS = [" A", " B", " C"]


def measure(
    prompts: int, batch_size: int, repeats: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of every case, one per repeat."""
    model, asked = _asked(prompts, batch_size)
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
    cases = {
        f"{BEFORE} draws": [BEFORE],
        f"{DRAWS} draws": [DRAWS],
        "in chunks": whole,
        "ended early": whole[:1],
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats + 1):
        for name, ends in cases.items():
            start = clock()
            drawn(ends)
            if repeat:  # the first round warms up
                seconds[name].append(clock() - start)
    return seconds


def beside(prompts: int, batch_size: int, repeats: int, clock: Callable[[], float]) -> float:
    """What answering beside each other takes of what one after the other does."""
    model, asked = _asked(prompts, batch_size)
    arms = [None, *(random_plan(model, seed) for seed in range(1 + DRAWS))]
    seconds: dict[bool, list[float]] = {True: [], False: []}
    answers = []
    for repeat in range(repeats + 1):
        for together, times in seconds.items():
            model._takes_columns = None if together else False
            start = clock()
            answers.append(model.generate(asked, arms, max_new_tokens=TEXT))
            if repeat:
                times.append(clock() - start)
    if any(some != answers[0] for some in answers):
        raise RuntimeError("arms beside each other answer otherwise than one after the other")
    return median(seconds[True]) / median(seconds[False])


def _asked(prompts: int, batch_size: int) -> tuple[LocalModel, list[str]]:
    model = Local(device="cpu", batch_size=batch_size).load(Model("bundled", bundled("model")))
    task = BBQ(name="bbq", prompt=PROMPT, scorer=Choice(), max_new_tokens=1)
    return model, [example.prompt for example in task.examples()[:prompts]]


def main(words: Sequence[str] | None = None) -> dict[str, float]:
    """Ratios of the medians to the case of before, which are printed, too."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args(words)
    clock = time.process_time if given.cpu_time else time.perf_counter
    prompts, batch, repeats = (16, 8, 1) if given.small else (512, 128, given.repeats)
    seconds = measure(prompts, batch, repeats, clock)
    base = median(seconds[f"{BEFORE} draws"])
    ratios = {name: median(times) / base for name, times in seconds.items()}
    print(f"{prompts} prompts in batches of {batch}, median of {repeats}")
    for name, ratio in ratios.items():
        print(f"{name:12} {ratio:5.2f} times {BEFORE} draws")
    ratios["beside"] = beside(prompts, batch, repeats, clock)
    print(f"text, beside {ratios['beside']:5.2f} times one after the other")
    return ratios


if __name__ == "__main__":
    main()
