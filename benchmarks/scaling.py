"""How time and memory of collecting grow with samples, tokens, layers and SAE width.

    OMP_NUM_THREADS=1 python -m benchmarks.scaling             # the bundled model
    python -m benchmarks.scaling --model smollm2_135m_it --samples 4 8 16 32 --repeats 1
    python -m benchmarks.scaling --small                       # shows that it works

Each point is a fresh process in which the model and random SAEs are loaded and a few questions are
asked first; then it collects while it writes, or only generates, and says how long that took and by
how much its peak resident memory is above what was resident before. Of time the exponent is fitted
(1: twice the samples take twice as long), of memory the slope, of what collecting takes beyond
plain ``generate`` at the same point; each by least squares with a 95 % interval. The residuals of a
batch are held while it is written, so tokens times batch size may add up to 1 GiB
(``corrsteer.models.listening.BYTES``). Does it grow with the length of prompts? See
``experiments/memory``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from benchmarks.made import MODELS, made
from corrsteer.stages.bench import WRITING

AXES = {
    "samples": (256, 512, 1024, 2048),
    "tokens": (1, 8, 16, 32, 64),
    "layers": (1, 2, 4, 6),
    "width": (1024, 2304, 4096, 16384),
}
SMALL = {"samples": (8, 16, 24), "tokens": (1, 2, 4)}
PLAIN, FEW = "plain", 8


@dataclass(frozen=True)
class Point:
    samples: int
    tokens: int
    layers: int
    width: int
    way: str = WRITING
    model: str = "bundled"
    batch_size: int = 32
    small: bool = False


def resident(name: str) -> float:
    """MB of this process: VmRSS, or its peak, VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name)) / 1000


def spent(point: Point) -> tuple[float, float]:
    """In this process: seconds, and MB at the peak beyond what is resident before."""
    from benchmarks.collecting import Asked

    def asked(samples: int) -> Asked:
        spec = made(point.model, small=point.small)
        return Asked(
            spec, point.width, samples, point.tokens, point.batch_size, layers=point.layers
        )

    def run(some: Asked) -> None:
        if point.way == PLAIN:
            some.plain()
        else:
            some.program(point.way)

    run(asked(FEW))
    whole = asked(point.samples)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    before, began = resident("VmRSS"), time.process_time()
    run(whole)
    return time.process_time() - began, resident("VmHWM") - before


def fit(
    x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray
) -> tuple[float, float, float]:
    """Slope of ``y`` on ``x``, and its 95 % interval, by least squares."""
    dx, dy = np.array(x) - np.mean(x), np.array(y) - np.mean(y)
    slope = float(dx @ dy / (dx @ dx))
    rest, free = dy - slope * dx, len(dx) - 2
    half = float(t.ppf(0.975, free) * np.sqrt(rest @ rest / free / (dx @ dx)))
    return slope, slope - half, slope + half


def fitted(
    x: Sequence[int], seconds: np.ndarray, megabytes: np.ndarray
) -> dict[str, tuple[float, float, float]]:
    """``seconds`` and ``megabytes``: [point, (collecting, plain)]."""
    return {
        "exponent of time": fit(np.log(x), np.log(seconds[:, 0])),
        "MB per unit": fit(x, megabytes[:, 0]),
        "MB per unit beyond plain generate": fit(x, megabytes[:, 0] - megabytes[:, 1]),
    }


def main(words: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """By axis: the fits, and what was measured at each point; printed, too."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="bundled", choices=MODELS)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=2, help="processes per point")
    parser.add_argument("--small", action="store_true", help="tiny, and all in one process")
    for name in AXES:
        parser.add_argument(f"--{name}", type=int, nargs="*", help="values, or none")
    given = parser.parse_args(words)
    axes: Mapping[str, Sequence[int]] = SMALL if given.small else AXES
    axes = {n: v for n, old in axes.items() if (v := getattr(given, n)) or v is None and (v := old)}
    for name, values in axes.items():
        if len({*values}) < 3 and not given.small:
            parser.error(f"--{name}: a slope and its interval need three values")
    shared = {"model": given.model, "batch_size": given.batch_size, "small": given.small}
    base = Point(samples=256, tokens=1, layers=6, width=2304, **shared)
    if given.small:
        base = replace(base, samples=16, layers=2, width=64, batch_size=8)
    repeats = 1 if given.small else given.repeats
    found: dict[str, dict[str, Any]] = {}
    for axis, values in axes.items():
        points = [
            replace(base, **{axis: value}, way=way)  # type: ignore[arg-type]
            for _ in range(repeats)
            for value in values
            for way in (WRITING, PLAIN)
        ]
        if given.small:
            told = list(map(spent, points))
        else:
            with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as fresh:
                told = list(fresh.map(spent, points))
        measured = np.array(told).reshape(-1, 2, 2)
        x = [int(value) for value in values] * repeats
        fits = fitted(x, measured[:, :, 0], measured[:, :, 1])
        found[axis] = {"fits": fits, "x": x, "measured": measured.tolist()}
        print(f"{axis}: {', '.join(map(str, values))}, {given.model}")
        for name, (value, low, high) in fits.items():
            print(f"  {name}: {value:.3g} [{low:.3g}, {high:.3g}]")
    return found


if __name__ == "__main__":
    main()
