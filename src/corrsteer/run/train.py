"""``job=train_sae``: SAEs of the model's own blocks, all layers from one pass over text.

Estimate, train, judge on held-out text, report. A job that was stopped goes on at its last
checkpoint when the same command is typed again. Cost: for each position a pass of the model, and
for each layer a step of its SAE; both are timed and said before training starts.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from corrsteer.config import instantiate
from corrsteer.errors import ConfigError, CorrSteerError, DataError
from corrsteer.layers import parse_layers
from corrsteer.models.local import Local, LocalModel
from corrsteer.models.protocol import Backend
from corrsteer.models.spec import Model
from corrsteer.models.stream import read, rows_of
from corrsteer.progress import progress
from corrsteer.run.judge import judged
from corrsteer.saes.recipe import READ, TrainSAE
from corrsteer.saes.training import Point, Stream, save, step_seconds, train
from corrsteer.store.keys import digest
from corrsteer.store.locks import holder, lock, unlock
from corrsteer.tasks.texts import text_files, texts, texts_digest

if TYPE_CHECKING:
    import torch
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

RECORD = "saes.json"
"""In the folder of the SAEs and in the run's: what they are, and how good."""
WORK = ".training"


@dataclass(frozen=True)
class Parts:
    """What is trained, on which model, from which files: checked, nothing computed."""

    recipe: TrainSAE
    spec: Model
    backend: Local
    layers: tuple[int, ...]
    d_model: int
    files: Sequence[Path]
    heldout: Sequence[Path]
    seed: int

    def key(self) -> dict[str, Any]:
        """What decides the trained weights."""
        return {
            **self.recipe.key(),
            "model": self.backend.key(self.spec),
            "layers": list(self.layers),
            "seed": self.seed,
            "memory": self.recipe.memory(len(self.layers), self.d_model)[1],
            "text": texts_digest(self.files),
            "heldout": texts_digest(self.heldout) if self.heldout else None,
        }


def build(cfg: DictConfig) -> Parts:
    """Raises ConfigError, DataError or ModelError for what can be known to be wrong."""
    try:
        return _build(cfg)
    except CorrSteerError as error:
        error.before_compute = True
        raise


def _build(cfg: DictConfig) -> Parts:
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ConfigError("job=train_sae runs alone: leave out -m and hydra/launcher")
    recipe = instantiate(cfg.job, TrainSAE)
    spec, backend = instantiate(cfg.model, Model), instantiate(cfg.backend, Backend)
    if not isinstance(backend, Local):
        raise ConfigError("job=train_sae needs the model here: type backend=local")
    n_layers, d_model = spec.shape()
    layers = parse_layers(cfg.layers, n_layers)
    recipe.memory(len(layers), d_model)
    files = text_files(_places(recipe.text), "job.text")
    heldout = text_files(_places(recipe.heldout), "job.heldout") if recipe.heldout else []
    return Parts(recipe, spec, backend, layers, d_model, files, heldout, cfg.seed)


def run(cfg: DictConfig, folder: Path) -> float:
    """Trains, saves, judges and reports. Returns the mean explained variance on held-out text."""
    from corrsteer.report.training_page import write_training_page

    parts = build(cfg)
    out = Path(parts.recipe.out).expanduser()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ConfigError(f"job.out={out} is a file: give a folder") from error
    claim = lock(out / ".lock")
    if claim is None:
        raise ConfigError(f"job.out={out} is being written by {holder(out / '.lock')}")
    try:
        record = _trained(parts, out)
    finally:
        unlock(claim)
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    report = write_training_page(folder)
    explained = [row["explained"] for row in record["layers"]]
    mean = sum(explained) / len(explained)
    log.info(
        "%d SAEs in %s: explained variance %.3f to %.3f on held-out text, mean %.3f; type"
        " sae=folder sae.path=%s to use them",
        len(explained), out, min(explained), max(explained), mean, out,
    )  # fmt: skip
    log.info("report: %s", report)
    return float(mean)


def _trained(parts: Parts, out: Path) -> dict[str, Any]:
    """The record of the SAEs in ``out``, trained where they are not there."""
    key = digest(_plain(parts.key()))
    done = out / RECORD
    if done.is_file():
        record: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        if record["key"] == key:
            log.info("%s holds these SAEs already: nothing is trained", out)
            return record
        raise ConfigError(f"job.out={out} holds other SAEs: give another folder")
    work = out / WORK / key
    # One without a file holds nothing: it was stopped before its first checkpoint.
    begun = {f for f in (out / WORK).glob("*") if any(p.is_file() for p in f.rglob("*"))}
    others = begun - {work}
    if others:
        raise ConfigError(
            f"job.out={out} holds unfinished training with other settings: type the same command"
            f" to go on with it, delete {out / WORK}, or give another folder"
        )
    model = parts.backend.load(parts.spec)
    rows, heldout = _rows(parts, model)
    work.mkdir(parents=True, exist_ok=True)
    recipe, layers = parts.recipe, parts.layers
    sinks, seen, model_s = 0, 0, 0.0

    def residuals(some: Sequence[list[int]]) -> torch.Tensor:
        nonlocal sinks, seen, model_s
        began = time.monotonic()
        found = read(model, some, layers)
        sinks, seen = sinks + found.sinks, seen + len(found.x)
        model_s += time.monotonic() - began
        return found.x

    _say_estimate(parts, model, rows)
    began = time.monotonic()
    with progress(f"train {len(layers)} SAEs", recipe.steps * recipe.batch) as bar:

        def show(samples: int, point: Point, known: bool) -> None:
            bar(samples, known=known)
            log.info("%s%s", "goes on: " if known else "", _words(samples, point, layers))

        saes, points = train(
            recipe,
            Stream(rows, residuals, parts.seed),
            layers,
            parts.d_model,
            model_name=parts.spec.name if parts.spec.is_local else parts.spec.path,
            device=str(model.device),
            checkpoints=work / "checkpoints",
            show=show,
        )
    seconds = time.monotonic() - began
    save(saes, out, work, recipe.dtype)
    del saes
    record = {
        "key": key,
        "model": parts.spec.name,
        "fingerprint": parts.spec.fingerprint(),
        "settings": _plain(asdict(recipe)),
        "seed": parts.seed,
        "features": recipe.features(parts.d_model),
        "rows": len(rows),
        "sinks": sinks / max(1, sinks + seen),
        "seconds": seconds,
        "model_seconds": model_s,
        "points": points,
        "layers": judged(recipe, model, out, layers, heldout),
        "versions": {p: importlib.metadata.version(p) for p in ("torch", "sae-lens", "corrsteer")},
    }
    done.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(out / WORK)
    return record


def _rows(parts: Parts, model: LocalModel) -> tuple[list[list[int]], list[list[int]]]:
    """(rows to train on, held-out rows). No more of the text is read than one pass needs.

    Raises DataError where there is too little text to hold some out.
    """
    recipe = parts.recipe
    least = recipe.heldout_positions

    def some(files: Sequence[Path], positions: float) -> list[list[int]]:
        found, n = [], 0
        for row in rows_of(model, texts(files), recipe.context):
            found.append(row)
            n += len(row) - 1
            if n >= positions:
                break
        return found

    if parts.heldout:
        rows, heldout = some(parts.files, recipe.positions), some(parts.heldout, least)
    else:
        every = some(parts.files, recipe.positions + least)
        # Evenly over the text, so that all of its files are in it.
        step = max(2, sum(len(row) - 1 for row in every) // least)
        heldout, rows = every[::step], [row for n, row in enumerate(every) if n % step]
    if not rows or not heldout:
        raise DataError("job.text is too short to train on and hold some out: give more text")
    n = sum(len(row) - 1 for row in rows)
    log.info(
        "%d rows to train on, %s positions%s; %d rows held out",
        len(rows), f"{n:,}", _again(recipe.positions / n), len(heldout),
    )  # fmt: skip
    return rows, heldout


def _again(turns: float) -> str:
    return f", read {turns:.1f} times" if turns > 1.05 else ""


def _say_estimate(parts: Parts, model: LocalModel, rows: list[list[int]]) -> None:
    """How long it will take, and how much memory: from one pass and three steps."""
    recipe, n = parts.recipe, len(parts.layers)
    some = rows[: max(1, READ // recipe.context)]
    read(model, some[:1], parts.layers)  # the first pass is slower
    began = time.monotonic()
    found = len(read(model, some, parts.layers).x)
    passing = (time.monotonic() - began) / max(1, found)
    step = step_seconds(recipe, parts.d_model, str(model.device)) / recipe.batch
    measured = recipe.loss_positions * (2 * n + 1) + recipe.heldout_positions
    spent = {
        "model": recipe.steps * recipe.batch * passing,
        "SAEs": recipe.steps * recipe.batch * n * step,
        "measuring": measured * passing,
    }
    size = recipe.memory(n, parts.d_model)[0]
    log.info(
        "%d SAEs of %s features, %s positions: about %s (%s); %.1f GB beside the model; %.0f"
        " positions a second through the model, %.0f positions x layers through the SAEs",
        n, f"{recipe.features(parts.d_model):,}", f"{recipe.positions:,}",
        _time(sum(spent.values())), ", ".join(f"{k} {_time(v)}" for k, v in spent.items()),
        size / 1e9, 1 / passing, 1 / step,
    )  # fmt: skip


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _words(samples: int, point: Point, layers: Sequence[int]) -> str:
    def span(name: str) -> str:
        values = [point[f"{name} {n}"] for n in layers]
        return f"{sum(values) / len(values):.3g} ({min(values):.3g} to {max(values):.3g})"

    return (
        f"{samples:,} positions: loss {span('loss')}, explained {span('explained')}, L0"
        f" {span('l0')}, dead {span('dead')}"
    )


def _places(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else [str(place) for place in given]


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
