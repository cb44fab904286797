"""Does memory grow with samples or tokens? Peak memory of a selection, against both.

    python -m experiments.memory.measure FOLDER
    python -m experiments.memory.measure FOLDER --small task=mmlu   # any settings of a run

Each point is a process of its own that answers, collects and selects (``method.fit``) with an empty
cache, all tokens of prompt and answer pooled (``collect.token_source=all``), and says its peak
resident memory. Tokens grow with solved questions before the prompt. Of each length, the slope over
samples is compared with what storing the residuals of every layer at every token would add per
sample. Writes ``study.json`` and ``points.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import linregress, t

ROOT = Path(__file__).parents[2]
SAMPLES, SHOTS, BATCH = (1000, 1600, 2200, 2800, 3400), (0, 4), 32
"""From where a selection has reached what it keeps: of 1,500 samples its memory rises in the first
few hundred, while features are met for the first time, and is then level."""
SMALL = (32, 48, 64)
SHARE = 0.05  # of what storing everything would add
ONE = "--one"


def peak(samples: int, shots: int, words: Sequence[str]) -> dict[str, float]:
    """In this process: peak memory in bytes, mean tokens of a sample, and the bytes that its
    residuals of all layers are."""
    from hydra import compose, initialize_config_dir

    from corrsteer import config
    from corrsteer.run.build import build

    with tempfile.TemporaryDirectory() as cache:
        own = [
            "task=bbq", f"splits.selection={samples}", "splits.validation=1", "splits.test=1",
            f"task.few_shot={shots}", "collect.token_source=all", f"backend.batch_size={BATCH}",
            f"cache={cache}",
        ]  # fmt: skip
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("config", overrides=[*own, *words])
        config.check(cfg)
        parts = build(cfg)
        fitted = parts.method.fit(parts.bench)
        high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        bench = parts.bench
        prompts = [example.prompt for example in bench.selection[:100]]
        tokens = float(np.mean([bench.model.n_tokens(prompt) for prompt in prompts])) + 1
        assert fitted.plan is not None
        width, layers = len(fitted.plan.entries[0].vector), len(bench.layers)
    return {
        "samples": samples, "shots": shots, "peak": float(high), "tokens": tokens,
        "stored": tokens * layers * width * 4,
    }  # fmt: skip


def slope(points: Sequence[dict[str, float]]) -> tuple[float, float, float]:
    """Bytes per sample, with a 95 % interval (least squares)."""
    x, y = ([p[name] for p in points] for name in ("samples", "peak"))
    fit = linregress(x, y)
    half = float(t.ppf(0.975, len(x) - 2) * fit.stderr)
    return float(fit.slope), float(fit.slope) - half, float(fit.slope) + half


def answered(points: Sequence[dict[str, float]]) -> dict[str, Any]:
    """What ``study.json`` says. Supported: at every length the slope's upper bound is below
    ``SHARE`` of what storing would add. Refuted: at one, the lower bound is above it."""
    rows, over, under, worst = [], False, True, None
    for shots in sorted({p["shots"] for p in points}):
        some = [p for p in points if p["shots"] == shots]
        stored = some[0]["stored"]
        value, low, high = (number / stored for number in slope(some))
        under, over = under and high < SHARE, over or low > SHARE
        if worst is None or high > worst[2]:
            worst = (value, low, high)
        rows.append([
            f"{some[0]['tokens']:.0f}", f"{min(p['peak'] for p in some) / 1e6:.0f}",
            f"{max(p['peak'] for p in some) / 1e6:.0f}", f"{value * stored / 1e3:.2f}",
            f"{stored / 1e3:.0f}", f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]",
        ])  # fmt: skip
    assert worst is not None
    sizes = sorted({int(p["samples"]) for p in points})
    return {
        "answer": "refuted" if over else "supported" if under else "undecided",
        "sentence": f"Peak memory from {sizes[0]:,} to {sizes[-1]:,} samples, at two lengths.",
        "number": {
            "what": "memory per sample, of what storing every residual would add (worse length)",
            "value": worst[0], "ci": [worst[1], worst[2]], "unit": "percent",
        },
        "smallest": None,
        "table": {
            "columns": ["Tokens of a sample", "Lowest peak, MB", "Highest peak, MB",
                        "Slope, kB per sample", "Storing, kB per sample", "Share, % [95 %]"],
            "rows": rows,
        },
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true", help="three sizes of at most 64 samples")
    parser.add_argument(ONE, type=int, nargs=2, help=argparse.SUPPRESS)
    args, words = parser.parse_known_args(arguments)
    if args.one:
        samples, shots = args.one
        print(json.dumps(peak(samples, shots, words)))
        return
    points = []
    for shots in SHOTS:
        for samples in SMALL if args.small else SAMPLES:
            command = [sys.executable, "-m", "experiments.memory.measure", str(args.folder),
                       ONE, str(samples), str(shots), *words]  # fmt: skip
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ}
            )
            points.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{samples} samples, {shots} solved before each:"
                  f" {points[-1]['peak'] / 1e6:.0f} MB", flush=True)  # fmt: skip
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / "points.json").write_text(json.dumps(points, indent=1) + "\n")
    (args.folder / "study.json").write_text(json.dumps(answered(points), indent=1) + "\n")


if __name__ == "__main__":
    main()
