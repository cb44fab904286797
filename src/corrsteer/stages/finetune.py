"""Checkpoints of fine-tuning on answers to the selection split: one per learning rate and epoch.

Each is an entry of its own, and beside them lies, until a rate is done, what the next epoch goes on
from. So training that is killed loses at most an epoch, and more epochs or rates leave those that
are there alone. Cost: training (:mod:`corrsteer.models.training`), and for each checkpoint a few
megabytes of a LoRA, or all weights in float32 where all are trained.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from corrsteer.models.recipe import BIAS, Epoch, Recipe
from corrsteer.progress import progress
from corrsteer.records import Example
from corrsteer.stages.bench import Bench, prompts_digest, read_json, write_json
from corrsteer.steering.adapter import LORA, Adapter, save
from corrsteer.steering.plan import Plan, PlanEntry, load_plan
from corrsteer.store.keys import digest

log = logging.getLogger(__name__)

STAGE, FILE, STATE = "finetune", "training.json", "state"
_NUMBER = 8  # bytes before a state: after which epoch it is


@dataclass(frozen=True)
class Lesson:
    """What is trained on: prompts, and for each an answer, as text or as tokens, which end as they
    are. ``ends``: texts get the end that the model should write."""

    examples: Sequence[Example]
    answers: Sequence[str] | Sequence[Sequence[int]]
    stop: tuple[str, ...] = ()
    ends: bool = True


@dataclass(frozen=True)
class Checkpoint:
    """``intervention``: of a bias a plan, else an adapter, at dial 1. ``loss``, ``seconds``: of its
    epoch."""

    lr: float
    epoch: int
    steps: int
    loss: float
    seconds: float
    intervention: Adapter | Plan


def checkpoints(
    bench: Bench, lesson: Lesson, recipe: Recipe, lrs: Sequence[float], epochs: int
) -> list[Checkpoint]:
    """By epoch, then rate. ``recipe``: whatever its own rate."""
    shared = _settings(bench, lesson, recipe)
    keys = {
        (lr, epoch): {**shared, "lr": lr, "epoch": epoch}
        for epoch in range(1, epochs + 1)
        for lr in lrs
    }

    def make(missing: list[tuple[float, int]]) -> None:
        for lr in dict.fromkeys(lr for lr, _ in missing):
            own = {n: keys[lr, n] for n in range(1, epochs + 1)}
            _train(bench, lesson, replace(recipe, lr=lr), own)

    bench.store.fill(STAGE, keys, make, together=True)
    found = []
    for (lr, epoch), key in keys.items():
        folder = bench.store.read(STAGE, key)
        facts = read_json(folder, FILE)
        made = load_plan(folder) if recipe.kind == BIAS else Adapter.read(recipe.kind, folder)
        found.append(Checkpoint(lr, epoch, **facts, intervention=made))
    return found


def _settings(bench: Bench, lesson: Lesson, recipe: Recipe) -> dict[str, Any]:
    answers = [a if isinstance(a, str) else list(map(int, a)) for a in lesson.answers]
    settings: dict[str, Any] = {
        **bench.model_key,
        "prompts": prompts_digest(bench, lesson.examples),
        "targets": digest(answers),
        "end": list(lesson.stop[:1]) if lesson.ends else None,
        "kind": recipe.kind,
        "batch": recipe.batch,
        "seed": recipe.seed,
    }
    if recipe.kind == LORA:
        settings |= {"rank": recipe.rank, "alpha": recipe.alpha}
    elif recipe.kind == BIAS:
        settings |= {"layers": list(recipe.layers), "positions": recipe.positions}
    return settings


def _train(
    bench: Bench, lesson: Lesson, recipe: Recipe, keys: Mapping[int, Mapping[str, Any]]
) -> None:
    """``keys``: by epoch. Goes on after the last epoch whose state was kept."""
    part = bench.store.partial(STAGE, {**keys[1], "epoch": STATE})
    kept = part.load().get(STATE, b"")
    done, state = int.from_bytes(kept[:_NUMBER], "big"), kept[_NUMBER:]
    if not all(n in keys and bench.store.has(STAGE, keys[n]) for n in range(1, done + 1)):
        done, state = 0, b""
    n = len(lesson.examples)
    prompts = [e.prompt for e in lesson.examples]
    answers = _tokens(bench, prompts, lesson)
    with progress(f"train {recipe.kind}, rate {recipe.lr:g}", n * len(keys)) as show:
        show(done * n, known=True)
        began = done * n
        model: Any = bench.model  # of a backend that supports training: methods ask
        for epoch in model.train(
            recipe, prompts, answers, len(keys), lambda read: show(began + read), done, state
        ):
            bench.store.get(STAGE, keys[epoch.number], _writer(epoch, recipe))
            part.save(STATE, epoch.number.to_bytes(_NUMBER, "big") + epoch.state)
            log.info("rate %g, epoch %d: loss %.4f", recipe.lr, epoch.number, epoch.loss)
    part.clear()


def _tokens(bench: Bench, prompts: Sequence[str], lesson: Lesson) -> Sequence[Sequence[int]]:
    texts = [answer for answer in lesson.answers if isinstance(answer, str)]
    if texts:
        return bench.model.written(prompts, texts, lesson.stop, lesson.ends)
    return [[int(t) for t in answer] for answer in lesson.answers]


def _writer(epoch: Epoch, recipe: Recipe) -> Any:
    def write(folder: Path) -> None:
        if recipe.kind == BIAS:
            bias(recipe, epoch.arrays).save(folder)
        else:
            save(recipe.kind, epoch.arrays, epoch.config, folder)
        facts = {"steps": epoch.steps, "loss": epoch.loss, "seconds": epoch.seconds}
        write_json(folder, facts, FILE)

    return write


def bias(recipe: Recipe, arrays: Mapping[str, Any]) -> Plan:
    """The plan of trained vectors, by layer: they are no features."""
    entries = tuple(PlanEntry(n, -1, 0.0, 1.0, arrays[str(n)]) for n in recipe.layers)
    return Plan(entries, positions=recipe.positions)
