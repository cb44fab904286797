"""Tokens per second at the size of Gemma-2 2B, beside transformers' own ``generate``; for a GPU.

    python -m benchmarks.speed --out FOLDER            # 10 GB of weights, made and deleted
    python -m benchmarks.speed --out FOLDER --small    # tiny, on any machine: shows that it works

Random weights and 26 random SAEs of 16k features (:mod:`benchmarks.published_size`), bfloat16 on
disk; the model computes in bfloat16 on a GPU that has it, else in float32, the SAEs always in
float32. Cases: plain ``generate``, alone and under the hooks of ``plan.steer``; the program without
a plan and with one of all layers; collecting all layers. Each is timed after a warm-up, between
synchronisations. FOLDER/speed.json is written after every case; a case that fails says so there and
ends no other. Exit status 1 where one did.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks import published_size
from benchmarks.generate import PROMPT, random_plan
from benchmarks.plain import Plain, Tokens
from benchmarks.published_size import Scale, build
from corrsteer.models.local import Local
from corrsteer.models.protocol import chosen_device
from corrsteer.models.spec import Model
from corrsteer.saes.folder import Folder
from corrsteer.scorers.choice import Choice
from corrsteer.stages.statistics import collect
from corrsteer.tasks.bbq import BBQ

PLAIN = "plain generate"
FULL, NEW_TOKENS = replace(published_size.FULL, prompts=128), 64
SMALL, FEW_TOKENS = replace(published_size.SMALL, prompts=8), 8
FILE = "speed.json"


@dataclass
class Measured:
    """What was measured so far, in ``file``. ``cases``: by name, in the order they were tried."""

    file: Path
    about: dict[str, Any]
    repeats: int
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)

    @contextmanager
    def trying(self, *names: str) -> Iterator[None]:
        """The cases that cannot be timed where this fails."""
        try:
            yield
        except Exception as error:  # of any kind: the others are measured all the same
            told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            for name in names:
                self.cases.setdefault(name, {"failed": told})
            print(f"{', '.join(names)}: {told}", file=sys.stderr)
        self.write()

    def time(self, name: str, case: Callable[[], Tokens]) -> Tokens:
        """The answers of a case, called once to warm up and then timed."""
        answers = case()
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for _ in range(self.repeats):
            start = _now()
            answers = case()
            seconds.append(_now() - start)
        tokens = sum(map(len, answers))
        self.cases[name] = {
            "seconds": seconds,
            "tokens": tokens,
            "tokens_per_s": tokens / min(seconds),
            "peak_gpu_gb": torch.cuda.max_memory_allocated() / 1e9 if cuda else None,
        }
        self.write()
        return answers

    def write(self) -> None:
        """With ratios to plain ``generate``, of the fastest repeat and of the median one."""
        base = self.cases.get(PLAIN, {}).get("seconds")
        for found in self.cases.values():
            if base and "seconds" in found:
                found["times_plain"] = min(found["seconds"]) / min(base)
                median = statistics.median(found["seconds"]) / statistics.median(base)
                found["times_plain_median"] = median
        peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)
        whole = {**self.about, "peak_memory_gb": peak, "cases": self.cases}
        self.file.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(weights: Path, scale: Scale, new_tokens: int, file: Path) -> dict[str, dict[str, Any]]:
    """The cases; ``weights``: a folder to make the model and the SAEs in."""
    device, backend = chosen_device("auto"), Local(batch_size=scale.batch_size)
    spec = Model("random", str(weights / "model"))
    dtype = backend.dtype(spec)
    about = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "transformers", "nnsight")},
        **asdict(scale),
        "new_tokens": new_tokens,
    }
    found = Measured(file, about, scale.repeats)
    steered, hooked = "program, every layer steered", "plan.steer, every layer"
    unsteered, collecting = "program, no plan", "collecting, every layer"
    task = BBQ(name="bbq", prompt=PROMPT, scorer=Choice(), max_new_tokens=new_tokens)
    examples = task.examples()
    prompts = [e.prompt for e in examples[:: len(examples) // scale.prompts][: scale.prompts]]
    shape: Any = SimpleNamespace(n_layers=scale.blocks, d_model=scale.width)
    alone: Tokens = []
    batches = _chunks(len(prompts), scale.batch_size)
    with found.trying(PLAIN, hooked, unsteered, steered, collecting):
        build(weights, scale, torch.bfloat16)
    if found.cases:
        return found.cases

    with found.trying(PLAIN, hooked):
        plain = Plain(weights / "model", dtype, device)
        batches = plain.batches(prompts, scale.batch_size)
        alone = found.time(PLAIN, lambda: plain.generate(prompts, batches, new_tokens))
        with random_plan(shape, 0).steer(plain.model):
            found.time(hooked, lambda: plain.generate(prompts, batches, new_tokens))
    plain = None  # type: ignore[assignment]  # its memory is the program's now
    _freed()

    with found.trying(unsteered, steered, collecting):
        model = backend.load(spec)

        def ours(plan: Any) -> Tokens:
            (answers,) = model.generate(prompts, [plan], max_new_tokens=new_tokens)
            return [answer.tokens for answer in answers]

        with found.trying(unsteered):
            mine = found.time(unsteered, lambda: ours(None))
            same = sum(map(tuple.__eq__, mine, alone or mine)) / len(mine)
            found.cases[unsteered]["same_answers"] = same if alone else None
            alone = alone or mine
        with found.trying(steered):
            found.time(steered, lambda: ours(random_plan(shape, 0)))
        with found.trying(collecting):
            provider = Folder(str(weights / "saes"), check="off")
            saes = {n: provider.load(n, device) for n in range(model.n_layers)}
            outcomes = np.random.default_rng(0).permutation(len(prompts)) % 2.0

            def collected() -> Tokens:
                collect(
                    model, saes, prompts, alone, outcomes, batches=batches,
                    token_source="generated", pooling="max", n_shuffles=100, n_resamples=50, seed=0,
                )  # fmt: skip
                return alone

            found.time(collecting, collected)
    found.write()
    return found.cases


def _chunks(n: int, size: int) -> list[list[int]]:
    return [list(range(n))[i : i + size] for i in range(0, n, size)]


def _freed() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for speed.json")
    parser.add_argument("--weights", type=Path, help="where weights are made and kept")
    parser.add_argument("--small", action="store_true", help="a tiny model, to show that it works")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    scale, new_tokens = (SMALL, FEW_TOKENS) if args.small else (FULL, NEW_TOKENS)
    with tempfile.TemporaryDirectory(dir=args.out) as made:
        cases = measure(args.weights or Path(made), scale, new_tokens, args.out / FILE)
    for name, found in cases.items():
        if "failed" not in found:
            print(f"{name:<32}{found['tokens_per_s']:>10.3g} tokens/s")
    return int(any("failed" in found for found in cases.values()))


if __name__ == "__main__":
    sys.exit(main())
