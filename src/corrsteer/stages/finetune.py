"""Checkpoints of fine-tuning on answers to the selection split: one per learning rate and epoch.

Each is an entry of its own, and beside them lies, until a rate is done, what the next epoch goes on
from. So training that is killed loses at most an epoch, and more epochs or rates leave those that
are there alone. Cost: training (:mod:`corrsteer.models.training`), and for each checkpoint a few
megabytes of a LoRA.

Where all weights are trained a checkpoint is as large as the model in float32, so its weights lie
in an entry apart, which may be dropped (:func:`drop`): the same training makes them again
(:func:`held`), on a CPU byte for byte.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from corrsteer.models.local import LocalModel
from corrsteer.models.recipe import BIAS, Epoch, Recipe
from corrsteer.progress import progress
from corrsteer.records import Example
from corrsteer.stages.bench import Bench, prompts_digest, read_json, write_json
from corrsteer.steering.adapter import FULL, LORA, Adapter, save
from corrsteer.steering.plan import Plan, PlanEntry, load_plan
from corrsteer.store.keys import digest

log = logging.getLogger(__name__)

STAGE, FILE, STATE = "finetune", "training.json", "state"
WEIGHTS = "weights"
"""Stage of what all weights became, of each checkpoint."""
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
    """``intervention``: of a bias a plan, else an adapter, at dial 1; of all weights they may have
    been dropped (:func:`held`). ``loss``, ``seconds``: of its epoch. ``settings``: its key."""

    lr: float
    epoch: int
    steps: int
    loss: float
    seconds: float
    intervention: Adapter | Plan
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)


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

    schema = _schema(recipe)
    bench.store.fill(STAGE, keys, make, schema, together=True)
    found = []
    for (lr, epoch), key in keys.items():
        folder = bench.store.read(STAGE, key, schema)
        facts = read_json(folder, FILE)
        if recipe.kind == FULL:
            made: Adapter | Plan = Adapter(
                FULL, bench.store.place(WEIGHTS, key), facts.pop("content")
            )
        else:
            made = load_plan(folder) if recipe.kind == BIAS else Adapter.read(recipe.kind, folder)
        found.append(Checkpoint(lr, epoch, **facts, intervention=made, settings=key))
    return found


def _schema(recipe: Recipe) -> int:
    return 2 if recipe.kind == FULL else 1  # at first all weights lay in the checkpoint's entry


def held(
    bench: Bench, lesson: Lesson, recipe: Recipe, some: Sequence[Checkpoint]
) -> list[Checkpoint]:
    """Checkpoints of one rate, whose weights are there: if any were dropped, the rate is trained
    again, once, as far as the last of these."""
    if recipe.kind != FULL or not some:
        return list(some)
    wanted = {one.epoch: one.settings for one in some}
    keys = {n: {**some[0].settings, "epoch": n} for n in range(1, max(wanted) + 1)}
    before = {n for n, key in keys.items() if bench.store.has(WEIGHTS, key)}

    def again(missing: Sequence[int]) -> None:
        own = {n: keys[n] for n in range(1, max(missing) + 1)}
        _train(bench, lesson, replace(recipe, lr=some[0].lr), own)

    bench.store.fill(WEIGHTS, wanted, again, together=True)
    for n in {*keys} - before - {*wanted}:
        bench.store.drop(WEIGHTS, keys[n])
    return [
        replace(one, intervention=Adapter.read(FULL, bench.store.read(WEIGHTS, one.settings)))
        for one in some
    ]


def drop(bench: Bench, recipe: Recipe, some: Sequence[Checkpoint]) -> None:
    """Forget the weights of checkpoints, where they are all of the model's; what is known of them
    stays."""
    for one in some if recipe.kind == FULL else ():
        bench.store.drop(WEIGHTS, one.settings)


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
    schema = _schema(recipe)
    there = all(n in keys and bench.store.has(STAGE, keys[n], schema) for n in range(1, done + 1))
    if done and recipe.kind == FULL:
        there = there and bench.store.has(WEIGHTS, keys[done])
    if not there:
        done, state = 0, b""
    n, model = len(lesson.examples), bench.model
    assert isinstance(model, LocalModel), "run.build asks the backend whether it can train"
    prompts = [e.prompt for e in lesson.examples]
    answers = _tokens(bench, prompts, lesson)
    with progress(f"train {recipe.kind}, rate {recipe.lr:g}", n * len(keys)) as show:
        show(done * n, known=True)
        began = done * n
        for epoch in model.train(
            recipe, prompts, answers, len(keys), lambda read: show(began + read), done, state
        ):
            _keep(bench, epoch, recipe, keys[epoch.number])
            part.save(STATE, epoch.number.to_bytes(_NUMBER, "big") + epoch.state)
            log.info("rate %g, epoch %d: loss %.4f", recipe.lr, epoch.number, epoch.loss)
    part.clear()


def _tokens(bench: Bench, prompts: Sequence[str], lesson: Lesson) -> Sequence[Sequence[int]]:
    texts = [answer for answer in lesson.answers if isinstance(answer, str)]
    if texts:
        return bench.model.written(prompts, texts, lesson.stop, lesson.ends)
    return [[int(t) for t in answer] for answer in lesson.answers]


def _keep(bench: Bench, epoch: Epoch, recipe: Recipe, key: Mapping[str, Any]) -> None:
    facts: dict[str, Any] = {"steps": epoch.steps, "loss": epoch.loss, "seconds": epoch.seconds}

    def weights(folder: Path) -> None:
        save(recipe.kind, epoch.arrays, epoch.config, folder)

    def write(folder: Path) -> None:
        if recipe.kind == BIAS:
            bias(recipe, epoch.arrays).save(folder)
        elif recipe.kind != FULL:
            weights(folder)
        write_json(folder, facts, FILE)

    if recipe.kind == FULL:
        facts["content"] = Adapter.read(FULL, bench.store.get(WEIGHTS, key, weights)).content
    bench.store.get(STAGE, key, write, _schema(recipe))


def bias(recipe: Recipe, arrays: Mapping[str, Any]) -> Plan:
    """The plan of trained vectors, by layer: they are no features."""
    entries = tuple(PlanEntry(n, -1, 0.0, 1.0, arrays[str(n)]) for n in recipe.layers)
    return Plan(entries, positions=recipe.positions)
