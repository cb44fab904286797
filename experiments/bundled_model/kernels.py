"""Which settings of the machine move the weights: the first steps of training under each.

    python -m experiments.bundled_model.kernels           # prints a table; 3 minutes on two cores
    python -m experiments.bundled_model.kernels --keep    # and puts it onto the page
    python -m experiments.bundled_model.kernels --small   # a few steps of the first two settings

Addition of floats is not associative: another number of threads, or wider vectors, sum in another
order. Each setting is a process of its own, since these are read when torch is loaded. The
settings are forced onto this machine; an older processor has no other choice than some of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.bundled_model.card import write
from experiments.bundled_model.scale import BUNDLED, FULL, HERE, SMALL, Scale

NAME = "experiments.bundled_model.kernels"
STEPS = 30
# Threads that sleep while they wait for each other lose little time on a busy machine.
TWO = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
SETTINGS = {
    "2 threads": TWO,
    "2 threads, again": TWO,
    "1 thread": {**TWO, "OMP_NUM_THREADS": "1"},
    "2 threads, AVX2 at most": {**TWO, **AVX2},
}


def first_steps(folder: Path, scale: Scale) -> None:
    """Trains in this process: model.safetensors and loss.json in ``folder``."""
    from experiments.bundled_model import model, text, tokenizer

    held_out = text.held_out(scale)
    tokenizer.train(folder, held_out, scale.tokenizer_documents)
    # Within the warm-up the learning rate does not depend on the number of steps.
    model.train(folder, folder, held_out, dataclasses.replace(scale, steps=_steps(scale)))


def _steps(scale: Scale) -> int:
    return min(STEPS, scale.steps)


def measured(scale: Scale) -> list[dict[str, Any]]:
    """One row per setting, each compared with the first."""
    names = list(SETTINGS)[: 2 if scale is SMALL else None]
    with tempfile.TemporaryDirectory() as place:
        for number, name in enumerate(names):
            folder = Path(place) / str(number)
            folder.mkdir()
            command = [sys.executable, "-m", NAME, "--child", str(folder)]
            command += ["--small"] if scale is SMALL else []
            environment = {**os.environ, **SETTINGS[name]}
            subprocess.run(
                command, check=True, env=environment, cwd=HERE.parents[1], stdout=subprocess.DEVNULL
            )
        return [row(name, Path(place), n) for n, name in enumerate(names)]


def row(name: str, place: Path, number: int) -> dict[str, Any]:
    """What a setting's folder says beside that of the first."""
    from experiments.bundled_model.compare import weights

    first, loss = (json.loads((place / str(n) / "loss.json").read_text()) for n in (0, number))
    apart = [n for n, (a, b) in enumerate(zip(first, loss, strict=True), 1) if a != b]
    return {
        "setting": name,
        "steps": len(loss),
        "mean_loss": round(sum(loss) / len(loss), 5),
        "loss_differs_from_step": apart[0] if apart else None,
        **weights(place / str(number), place / "0", Path("model.safetensors")),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write kernels.json and the page")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.keep and args.small:
        parser.error("--small says nothing that is worth a page")
    scale = SMALL if args.small else FULL
    if args.child:
        first_steps(args.child, scale)
        return
    found = json.dumps(measured(scale), indent=1)
    print(found)
    if args.keep:
        (HERE / "kernels.json").write_text(found + "\n")
        write(HERE, BUNDLED, FULL)


if __name__ == "__main__":
    main()
