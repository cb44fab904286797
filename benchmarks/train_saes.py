"""Training the SAEs of all layers from one pass over text, against one training run per layer.

    python -m benchmarks.train_saes                              # the bundled model, 6 layers
    python -m benchmarks.train_saes --model smollm2_135m_it --layers 4,14,24 --positions 8192
    python -m benchmarks.train_saes --small                      # shows that it works

Both train the same SAEs on the same rows with the same trainer (``corrsteer.saes.training``, which
is sae_lens's); the second runs the model once for every layer. They take turns, after a short one
that warms up. Positions are counted once, however many layers are trained on them. ``--cpu-time``
counts the process's own time, for a machine that is busy; use it with ``OMP_NUM_THREADS=1``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir

from benchmarks.plain import show
from corrsteer.config import bundled, instantiate
from corrsteer.layers import parse_layers
from corrsteer.models.local import Local, LocalModel
from corrsteer.models.spec import Model
from corrsteer.models.stream import read, rows_of
from corrsteer.saes.recipe import TrainSAE
from corrsteer.saes.training import Stream, train
from corrsteer.tasks.texts import text_files, texts

CONF = Path(__file__).parents[1] / "conf"
TEXT = "neutral/everyday/texts.jsonl.gz"
Clock = Callable[[], float]
TOGETHER, APART = "one pass", "a run per layer"


class Spent(NamedTuple):
    """Of one training: seconds, those of them in the model, and the positions it was run over."""

    seconds: float
    model: float
    read: int


def spec_of(name: str) -> Model:
    """An option of conf/model."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [f"model={name}", "sae=folder", "sae.path=none"])
    return instantiate(cfg.model, Model)


def trained(
    model: LocalModel,
    layers: Sequence[int],
    recipe: TrainSAE,
    rows: Sequence[list[int]],
    clock: Clock,
) -> Spent:
    spent, seen = 0.0, 0

    def residuals(some: Sequence[list[int]]) -> torch.Tensor:
        nonlocal spent, seen
        began = clock()
        x = read(model, some, layers).x
        spent, seen = spent + clock() - began, seen + sum(map(len, some))
        return x

    with tempfile.TemporaryDirectory() as checkpoints:
        began = clock()
        train(
            recipe, Stream(rows, residuals, 0), layers, model.d_model, model_name="",
            device=str(model.device), checkpoints=Path(checkpoints), show=lambda *_: None,
        )  # fmt: skip
        return Spent(clock() - began, spent, seen)


def wall() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(
    model: LocalModel,
    layers: Sequence[int],
    recipe: TrainSAE,
    repeats: int,
    text: str,
    clock: Clock = wall,
) -> dict[str, list[Spent]]:
    """By case, what each repeat took."""
    whole = "\n\n".join(texts(text_files([text], "--text")))
    rows = list(rows_of(model, [whole], recipe.context))
    short = TrainSAE(**{**vars(recipe), "positions": 2 * recipe.batch})
    trained(model, layers, short, rows, clock)
    found: dict[str, list[Spent]] = {TOGETHER: [], APART: []}
    for _ in range(repeats):
        found[TOGETHER].append(trained(model, layers, recipe, rows, clock))
        each = [trained(model, [layer], recipe, rows, clock) for layer in layers]
        found[APART].append(Spent(*map(sum, zip(*each, strict=True))))
    return found


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="bundled", help="an option of conf/model")
    parser.add_argument("--layers", default="all", help="all, 2-4 or 0,3; not with --small")
    parser.add_argument("--positions", type=int, help="to train on")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--text", default=bundled(TEXT), help="a file or a folder")
    parser.add_argument("--cpu-time", action="store_true", help="this process's time alone")
    parser.add_argument("--small", action="store_true", help="two layers, a few steps")
    args = parser.parse_args(arguments)
    positions, repeats, batch = (512, 1, 128) if args.small else (32_768, 3, 1024)
    recipe = TrainSAE("text", "out", positions=args.positions or positions, batch=batch)
    model = Local().load(spec_of(args.model))
    layers = parse_layers("0-1" if args.small else args.layers, model.n_layers)
    clock = time.process_time if args.cpu_time else wall
    found = measure(model, layers, recipe, args.repeats or repeats, args.text, clock)

    seconds = {name: [one.seconds for one in spent] for name, spent in found.items()}
    said: dict[str, Any] = {
        "model": args.model,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "layers": list(layers),
        "features": recipe.features(model.d_model),
        "positions": recipe.steps * recipe.batch,
    }
    for name, spent in found.items():
        said[name] = {
            "positions_per_s": said["positions"] / min(seconds[name]),
            "in_the_model": statistics.median(one.model / one.seconds for one in spent),
            "read": spent[0].read,
        }
    print(json.dumps(said, indent=2))
    show(seconds, TOGETHER)
    return said


if __name__ == "__main__":
    main()
