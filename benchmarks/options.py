"""What more arms cost where options are weighed, and what sharing a prompt among them saves.

    OMP_NUM_THREADS=1 python -m benchmarks.options --cpu-time   # the bundled model
    python -m benchmarks.options --cpu-time --model smollm2_135m_it --prompts 32 --repeats 3
    python -m benchmarks.options --small                        # shows that it works

Questions of 40 tokens with two options of 10, without steering and under plans of all layers.
``one pass per option`` reads prompt and option together for each option and arm, as a harness
does; what options weigh is compared before anything is timed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.generate import random_plan
from benchmarks.plain import in_turn, ratios, show
from benchmarks.train_saes import spec_of
from corrsteer.models.loaded import LoadedModel
from corrsteer.models.local import Local, LocalModel
from corrsteer.steering.plan import Plan

PROMPT, OPTION, OPTIONS, ARMS = 40, 10, 2, 10
APART = "one pass per option"


class Asked:
    """Made-up questions of token ids."""

    def __init__(self, model: LocalModel, prompts: int) -> None:
        random = np.random.default_rng(0)
        high = min(model._vocabulary, 2000)

        def ids(*shape: int) -> list[list[int]]:
            drawn: list[list[int]] = random.integers(high // 2, high, shape).tolist()
            return drawn

        self.model, self.rows = model, ids(prompts, PROMPT)
        self.options = [ids(OPTIONS, OPTION) for _ in range(prompts)]

    def weighed(self, plans: Sequence[Plan | None], *, apart: bool = False) -> torch.Tensor:
        """[arm, option]"""
        prepared = [self.model._prepare(plan) for plan in plans]
        found = torch.zeros(len(plans), len(self.rows) * OPTIONS)
        asked = self.rows, self.options, prepared
        with torch.no_grad():
            logs = (
                LoadedModel._option_logs(self.model, *asked)
                if apart
                else self.model._option_logs(*asked)
            )
            for n, taken, some, _ in logs:
                found[n, taken] = some
        return found


def measure(asked: Asked, repeats: int, cpu_time: bool) -> dict[str, list[float]]:
    plans = [None, *(random_plan(asked.model, seed) for seed in range(ARMS - 1))]
    shared, apart = asked.weighed(plans), asked.weighed(plans, apart=True)
    assert torch.allclose(shared, apart, rtol=1e-4), (shared - apart).abs().max()
    cases = {
        f"1 arm, {APART}": lambda: asked.weighed(plans[1:2], apart=True),
        f"{ARMS} arms, {APART}": lambda: asked.weighed(plans, apart=True),
        "1 arm": lambda: asked.weighed(plans[1:2]),
        f"{ARMS} arms": lambda: asked.weighed(plans),
    }
    return in_turn(cases, repeats, time.process_time if cpu_time else time.perf_counter)


def main(words: Sequence[str] | None = None) -> dict[str, tuple[float, float]]:
    """Ratios to one arm that reads a prompt for every option, which are printed, too."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="bundled", help="an option of conf/model")
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    given = parser.parse_args(words)
    prompts, repeats = (4, 1) if given.small else (given.prompts, given.repeats)
    model = Local(device="cpu").load(spec_of(given.model))
    seconds = measure(Asked(model, prompts), repeats, given.cpu_time)
    base = f"1 arm, {APART}"
    print(f"{prompts} questions of {PROMPT} tokens, {OPTIONS} options of {OPTION}, {given.model}")
    show(seconds, base)
    return ratios(seconds, base)


if __name__ == "__main__":
    main()
