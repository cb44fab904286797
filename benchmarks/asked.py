"""What the benchmarks of the bundled model share: its prompts, their settings, and taking turns."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.generate import PROMPT
from benchmarks.plain import Name, in_turn
from corrsteer.config import bundled
from corrsteer.models.local import Local, LocalModel
from corrsteer.models.spec import Model
from corrsteer.scorers.choice import Choice
from corrsteer.tasks.bbq import BBQ


@dataclass(frozen=True)
class Asked:
    """So many prompts in batches of that size, each case timed ``repeats`` times."""

    prompts: int
    batch_size: int
    repeats: int
    clock: Callable[[], float] = time.perf_counter

    def load(self) -> tuple[LocalModel, list[str]]:
        """The bundled model, and its prompts."""
        local = Local(device="cpu", batch_size=self.batch_size)
        task = BBQ(name="bbq", prompt=PROMPT, scorer=Choice(), max_new_tokens=1)
        texts = [example.prompt for example in task.examples()[: self.prompts]]
        return local.load(Model("bundled", bundled("model"))), texts

    def in_turn(self, cases: Mapping[Name, Callable[[], object]]) -> dict[Name, list[float]]:
        """Seconds of every case, one per repeat."""
        return in_turn(cases, self.repeats, self.clock)

    def __str__(self) -> str:
        return f"{self.prompts} prompts in batches of {self.batch_size}, median of {self.repeats}"


def typed(words: Sequence[str] | None, about: str | None, prompts: int) -> Asked:
    """``prompts``: how many without ``--small``."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args(words)
    clock = time.process_time if given.cpu_time else time.perf_counter
    return Asked(16, 8, 1, clock) if given.small else Asked(prompts, 128, given.repeats, clock)
