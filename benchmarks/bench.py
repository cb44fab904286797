"""All speed benchmarks by one command, and the tables of ``benchmarks/README.md``.

    make bench                                      # two hours on two idle cores
    make bench ARGS='--only steering --model bundled'    # a part of it; the other results stay
    make bench ARGS=--small                         # everything with tiny numbers: it works
    python -m benchmarks.bench --list               # the commands, with the seconds they take
    python -m benchmarks.bench --render             # the tables anew, from the last results

Each command runs in a process of its own, one after the other, and compares what it times within
itself. Results are kept in ``FILE`` command by command, with date and machine. One that fails says
so there and ends no other; then the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from multiprocessing import get_context
from typing import Any

from benchmarks import tables
from benchmarks.made import FOLDER, GEMMA, MODELS

FILE = FOLDER / "bench.json"
GROUPS = ("steering", "collecting", "arms", "job", "scaling")
WIDTHS = (2304, 4096, 16384)
SETTINGS = {
    "bundled": (
        (1, 128, 512, 20, 30),
        (64, 128, 64, 60, 60),
        (1, 1, 128, 30, 40),
        (64, 1, 16, 90, 90),
    ),
    "smollm2_135m_it": (
        (1, 128, 16, 130, 120),
        (64, 128, 8, 200, 200),
        (1, 1, 8, 70, 90),
        (64, 1, 4, 300, 300),
    ),
    GEMMA: (
        (1, 128, 16, 200, 180),
        (64, 128, 4, 250, 250),
        (1, 1, 4, 60, 70),
        (64, 1, 4, 600, 500),
    ),
}
"""By model: tokens, batch size, prompts, and about the seconds that steering takes on two idle
cores, and collecting at one width."""


@dataclass(frozen=True)
class Part:
    group: str
    module: str
    words: tuple[str, ...]
    seconds: int
    """About what it takes on two idle cores."""
    threads: int = 1

    @property
    def command(self) -> str:
        typed = f"python -m benchmarks.{self.module} {shlex.join(self.words)}"
        return f"OMP_NUM_THREADS={self.threads} {typed}".strip()


def parts() -> list[Part]:
    """In the order in which they run."""
    found: list[Part] = []
    for model, settings in SETTINGS.items():
        repeats, threads = ("3", 1) if model == "bundled" else ("2", 2)
        for tokens, batch, n, steering, collecting in settings:
            words = (
                "--model", model, "--tokens", str(tokens), "--batch-size", str(batch),
                "--prompts", str(n), "--repeats", repeats,
            )  # fmt: skip
            found.append(Part("steering", "generate", (*words, "--plans", "4"), steering, threads))
            slow = threads > 1 and (tokens, batch) == (64, 1)
            for width in WIDTHS[1:2] if slow else WIDTHS:
                wide = (*words, "--width", str(width))
                found.append(Part("collecting", "collecting", wide, collecting, threads))
    found += [
        Part("arms", "variants", ("--repeats", "3"), 60),
        Part("arms", "draws", ("--repeats", "3"), 60),
        Part("arms", "options", ("--repeats", "3"), 60),
        Part(
            "arms", "options",
            ("--model", "smollm2_135m_it", "--prompts", "16", "--repeats", "2"), 180, 2,
        ),
        Part("job", "job", ("--repeats", "2"), 600),
        Part("scaling", "scaling", ("--repeats", "2"), 600),
    ]  # fmt: skip
    return sorted(found, key=lambda part: GROUPS.index(part.group))


def small() -> list[Part]:
    """One of each module and model."""
    some: dict[Any, Part] = {}
    for part in parts():
        model = part.words[part.words.index("--model") + 1] if "--model" in part.words else ""
        if model != "smollm2_135m_it":
            words = ("--model", model) * bool(model)
            words += ("--width", "1024") * (part.module == "collecting")
            new = Part(part.group, part.module, (*words, "--small"), 10)
            some.setdefault((part.module, model), new)
    return list(some.values())


def called(part: Part) -> Any:
    return import_module(f"benchmarks.{part.module}").main(part.words)


def done(part: Part) -> dict[str, Any]:
    """What is kept of a part that runs now, in a fresh process."""
    os.environ["OMP_NUM_THREADS"] = str(part.threads)
    began = time.perf_counter()
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
            result: dict[str, Any] = {"found": plain(fresh.submit(called, part).result())}
    except (Exception, SystemExit) as error:  # of any kind: the others run all the same
        told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        print(told, file=sys.stderr)
        result = {"failed": told}
    return {
        "group": part.group,
        "module": part.module,
        "words": part.words,
        **result,
        "seconds": round(time.perf_counter() - began),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
    }


def machine() -> str:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} CPU cores, {platform.machine()}, {gpu}"


def plain(value: Any) -> Any:
    """As JSON has it: names are texts."""
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="tiny numbers, which are not kept")
    parser.add_argument("--only", nargs="*", choices=GROUPS, default=GROUPS)
    parser.add_argument("--model", nargs="*", choices=MODELS, help="parts of these models alone")
    parser.add_argument("--list", action="store_true", help="print the commands")
    parser.add_argument("--render", action="store_true", help="write the tables")
    given = parser.parse_args(arguments)
    if given.render:
        return tables.render(json.loads(FILE.read_text(encoding="utf-8")))
    chosen = [
        part
        for part in (small() if given.small else parts())
        if part.group in given.only and (not given.model or {*given.model} & {*part.words})
    ]
    if given.list:
        for part in chosen:
            print(f"{part.seconds:5} s  {part.command}")
        print(f"{sum(part.seconds for part in chosen):5} s in all")
        return 0
    kept = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    failed = 0
    for part in chosen:
        print(f"\n{part.command}", flush=True)
        one = done(part)
        failed += "failed" in one
        if not given.small:
            kept[part.command] = one
            FILE.parent.mkdir(parents=True, exist_ok=True)
            FILE.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
