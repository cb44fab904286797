"""What a whole command costs, in times of plain ``generate`` of the prompts that it answers.

    python -m benchmarks.job                 # all questions of the default splits: minutes
    python -m benchmarks.job --limit 200
    python -m benchmarks.job --small         # shows that it works

Commands run in processes of their own with an empty cache, start-up included: the main job with one
coefficient, with all its controls and side effects; the same without controls or side effects; the
sweep of three coefficients; and variant P. Plain ``generate`` answers the prompts of all three
splits once, with as many tokens at most, the model in memory. The cases take turns. ``--cpu-time``
counts the processor's time of this process and of the commands.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.made import prompts
from benchmarks.plain import Plain, in_turn, ratios, show
from corrsteer.config import bundled

ROOT = Path(__file__).parents[1]
SPLITS = {"selection": 1000, "validation": 500, "test": 2000}
TOKENS, BATCH = 8, 128
PLAIN, ONE, SWEEP = "plain generate", "main job", "sweep of 3"
WORDS = ("-m", "src.main", "task=bbq", "layers=all", "hydra/job_logging=disabled")
CASES = {
    ONE: ("coef=1",),
    "no side effects": ("coef=1", "side_effects=none"),
    "few controls, no side effects": ("coef=1", "controls=few", "side_effects=none"),
    SWEEP: ("-m", "coef=0.5,1,2"),
    "variant P": ("coef=1", "strategy=corrsteer_p"),
}


def command(words: Sequence[str], limit: int | None) -> None:
    """Raises RuntimeError, with what it said last, where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        bounds = [f"limit={limit}"] if limit else []
        typed = [
            sys.executable, *WORDS, *words, *bounds, f"cache={folder}/cache",
            f"hydra.run.dir={folder}/run", f"hydra.sweep.dir={folder}/sweep",
        ]  # fmt: skip
        done = subprocess.run(typed, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {(done.stderr or done.stdout)[-500:]}")


def with_children() -> float:
    """Processor's time of this process and of those that it waited for."""
    return sum(os.times()[:4])


def main(words: Sequence[str] | None = None) -> dict[str, tuple[float, float]]:
    """Ratios to plain generate, and of the sweep to one coefficient; they are printed, too."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--limit", type=int, help="questions of a split at most")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args(words)
    limit, repeats = (24, 1) if given.small else (given.limit, given.repeats)
    plain = Plain(Path(bundled("model")))
    asked = prompts(sum(min(n, limit or n) for n in SPLITS.values()))
    batches = plain.batches(asked, BATCH)
    some = ["collect.shuffles=20", "collect.resamples=20"] if given.small else []
    cases: dict[str, Callable[[], object]] = {
        PLAIN: lambda: plain.generate(asked, batches, TOKENS),
    }
    for name, own in list(CASES.items())[: 1 if given.small else None]:
        cases[name] = lambda own=own: command([*own, *some], limit)  # type: ignore[misc]
    clock = with_children if given.cpu_time else time.perf_counter
    seconds = in_turn(cases, repeats, clock, warm=False)
    print(f"{len(asked)} prompts, {repeats} repeats, {torch.get_num_threads()} threads")
    show(seconds, PLAIN)
    found = ratios(seconds, PLAIN)
    if SWEEP in seconds:
        sweep, one = (statistics.median(seconds[name]) for name in (SWEEP, ONE))
        print(f"{SWEEP}, times one coefficient: {sweep / one:.3g}")
    return found


if __name__ == "__main__":
    main()
