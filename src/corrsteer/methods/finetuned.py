"""Fine-tuning as a rival: the same questions of the selection split, learnt by gradients.

A LoRA (Hu et al. 2022), all weights, or one vector per block (after BitFit, Ben Zaken et al. 2022),
on gold answers or on the model's own right ones, which is what CorrSteer gets to know. Learning
rate and epoch are chosen on the validation split, the unsteered model among them. Deviations from
CorrSteer's own comparison (arXiv 2508.12535: all weights, one rate, one pass, another form of
prompt): several rates, and prompts as they are tested.

Cost: training, and the validation split once per checkpoint, none of which shares a prompt.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import ClassVar

import numpy as np
import pandas as pd

from corrsteer.errors import ConfigError, DataError, check_known
from corrsteer.methods.protocol import Fitted, Observed, observe
from corrsteer.models.protocol import TRAINED
from corrsteer.models.recipe import BIAS, Recipe
from corrsteer.records import RIGHT
from corrsteer.stages.answers import answers
from corrsteer.stages.bench import ANSWERS, Bench, answers_key
from corrsteer.stages.finetune import Checkpoint, Lesson, bias, checkpoints, drop, held
from corrsteer.stats.flips import flip_table
from corrsteer.steering.adapter import FULL, LORA, Adapter
from corrsteer.steering.arms import BASELINE, Arm, baseline, steered
from corrsteer.steering.plan import Plan
from corrsteer.steering.positions import where

log = logging.getLogger(__name__)

GOLD, OWN, SHUFFLED = "gold", "own_right", "shuffled"


@dataclass(frozen=True)
class Tried:
    """A checkpoint, None for the model as it is, and its answers to the validation split."""

    checkpoint: Checkpoint | None
    arm: Arm
    answers: pd.DataFrame

    @property
    def right(self) -> int:
        return int((self.answers["score"] >= RIGHT).sum())


@dataclass(frozen=True)
class FineTuned(ABC):
    """``coef``: the dial; 0 is the unsteered model, 1 what was trained. ``data``: gold, own_right,
    or shuffled, gold answers dealt to other questions, the null. ``match``: an accuracy on
    validation, to which the checkpoint is the nearest; None: the best one.
    """

    kind: ClassVar[str]
    name: ClassVar[str]
    unread: ClassVar[frozenset[str]] = frozenset({"ablations", "selector"})
    coef: float
    data: str
    lr: Sequence[float]
    epochs: int
    batch: int
    match: float | None

    def __post_init__(self) -> None:
        check_known("strategy.data", self.data, (GOLD, OWN, SHUFFLED))
        if not self.lr or not all(isinstance(x, int | float) and 0 < x < 10 for x in self.lr):
            raise ConfigError(
                f"strategy.lr={self.lr}: it must be a list of rates above 0, such as"
                " strategy.lr=[1e-4,1e-3]"
            )
        for name, least in (("epochs", 0), ("batch", 1)):
            if type(getattr(self, name)) is not int or getattr(self, name) < least:
                raise ConfigError(
                    f"strategy.{name}={getattr(self, name)}: it must be a whole number, at least"
                    f" {least}"
                )
        if self.match is not None and not 0 <= self.match <= 1:
            raise ConfigError(
                f"strategy.match={self.match}: it must lie between 0 and 1, such as"
                " strategy.match=0.8, or null for the best checkpoint"
            )

    @property
    def variant(self) -> str:
        return self.data

    @property
    def learns_from(self) -> str:
        return {GOLD: "gold answers", OWN: "outcomes"}.get(self.data, "shuffled gold answers")

    @property
    def needs(self) -> frozenset[str]:
        return TRAINED

    @abstractmethod
    def recipe(self, bench: Bench) -> Recipe: ...

    def untrained(self, bench: Bench) -> Adapter | Plan:
        """What no step of training gives: it does nothing."""
        return Adapter(self.kind)

    def share(self, bench: Bench) -> Sequence[Fitted]:
        return [replace(self, coef=1.0).fit(bench)]

    def fit(self, bench: Bench) -> Fitted:
        every = self.tried(bench)
        found = [one.right for one in every]
        best = chosen(found, len(every[0].answers), self.match)
        one = every[best]
        log.info(
            "%s: %s of %d checkpoints, %d of %d right on validation, %d without training",
            self.name,
            f"rate {one.checkpoint.lr:g}, epoch {one.checkpoint.epoch}"
            if one.checkpoint
            else "no training",
            *(len(every) - 1, found[best], len(one.answers), found[0]),
        )
        made = one.arm.intervention
        if one.checkpoint is not None:
            lesson = lesson_of(bench, self.data)
            (there,) = held(bench, lesson, self.recipe(bench), [one.checkpoint])
            made = there.intervention
        assert isinstance(made, Adapter | Plan)
        return Fitted(
            steered(made.turned_to(self.coef)),
            self._observed(bench),
            tables={"training": training_table(every, best)},
        )

    def tried(self, bench: Bench) -> list[Tried]:
        """What there is to choose from, least training first; the first has none. Computed once:
        afterwards it is read from the store. Of weights that were new to it, those of the best one
        are kept."""
        lesson, recipe = lesson_of(bench, self.data), self.recipe(bench)
        base = answers(bench, bench.asking, "validation", [baseline()])[BASELINE]
        every = [Tried(None, Arm("untrained", "steered", self.untrained(bench)), base)]
        fresh: list[Tried] = []
        for lr in self.lr:
            made = checkpoints(bench, lesson, recipe, [lr], self.epochs)
            lacking = [one for one in made if not self._is_answered(bench, one)]
            there = {one.epoch: one for one in held(bench, lesson, recipe, lacking)}
            for one in made:
                tried = self._answered(bench, there.get(one.epoch, one))
                every.append(tried)
                fresh += [tried] if one.epoch in there else []
            every.sort(key=lambda t: t.checkpoint.epoch if t.checkpoint else 0)
            best = every[chosen([t.right for t in every], len(base), self.match)]
            drop(bench, recipe, [t.checkpoint for t in fresh if t.checkpoint and t is not best])
            fresh = [t for t in fresh if t is best]
        return every

    def _is_answered(self, bench: Bench, one: Checkpoint) -> bool:
        """Whether its answers to the validation split are in the store."""
        examples = bench.asking.splits["validation"]
        return bench.store.has(ANSWERS, answers_key(bench, bench.asking, examples, _arm(one)))

    def _answered(self, bench: Bench, one: Checkpoint) -> Tried:
        # One at a time: the weights of all of them would not fit.
        arm = _arm(one)
        return Tried(one, arm, answers(bench, bench.asking, "validation", [arm])[arm.name])

    def _observed(self, bench: Bench) -> Observed:
        """No feature is looked at, so none is collected."""
        selection = answers(bench, bench.asking, "selection", [baseline()])[BASELINE]
        return Observed([], selection, [], bench.collect)


@dataclass(frozen=True)
class LoRA(FineTuned):
    """``rank``, ``alpha``: of the matrices beside every linear layer, the unembedding's apart."""

    kind: ClassVar[str] = LORA
    name: ClassVar[str] = "LoRA"
    rank: int
    alpha: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rank", "alpha"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(
                    f"strategy.{name}={value}: it must be a whole number, at least 1, such as"
                    " strategy.rank=16 strategy.alpha=32"
                )
        if find_spec("peft") is None:
            raise ConfigError(
                "strategy=lora needs the package peft: type pip install 'corrsteer[finetune]', in a"
                " checkout .venv/bin/pip install -e '.[finetune]'"
            )

    def recipe(self, bench: Bench) -> Recipe:
        return Recipe(self.kind, 0.0, self.batch, bench.seed, self.rank, self.alpha)


@dataclass(frozen=True)
class AllWeights(FineTuned):
    """Every parameter is trained."""

    kind: ClassVar[str] = FULL
    name: ClassVar[str] = "Fine-tuning"

    def recipe(self, bench: Bench) -> Recipe:
        return Recipe(self.kind, 0.0, self.batch, bench.seed)


@dataclass(frozen=True)
class BiasOnly(FineTuned):
    """A vector for each of the run's layers, added to the block's output at ``positions``: a plan
    whose vectors gradients chose."""

    kind: ClassVar[str] = BIAS
    name: ClassVar[str] = "Bias"
    unread: ClassVar[frozenset[str]] = frozenset()  # a plan, whose controls are ranked
    positions: str

    def __post_init__(self) -> None:
        super().__post_init__()
        where(self.positions)

    @property
    def needs(self) -> frozenset[str]:
        return Plan((), positions=self.positions).needs | {"training"}

    def recipe(self, bench: Bench) -> Recipe:
        return Recipe(
            *(self.kind, 0.0, self.batch, bench.seed),
            layers=bench.layers,
            positions=self.positions,
        )

    def untrained(self, bench: Bench) -> Plan:
        zero = np.zeros(bench.spec.shape()[1], np.float32)
        return bias(self.recipe(bench), {str(n): zero for n in bench.layers})

    def _observed(self, bench: Bench) -> Observed:
        return observe(bench)  # random features are its controls, as of any plan


def _arm(one: Checkpoint) -> Arm:
    return Arm(f"lr_{one.lr:g}_epoch_{one.epoch}", "steered", one.intervention)


def chosen(right: Sequence[int], n: int, match: float | None) -> int:
    """Which checkpoint, by how many of ``n`` answers are right: of equal ones the first, which is
    the model as it is; of those as near to ``match`` one that was trained."""
    if match is None:
        return max(range(len(right)), key=lambda i: (right[i], -i))
    away = [round(abs(some / n - match), 12) for some in right]
    return min(range(len(right)), key=lambda i: (away[i], i == 0, i))


def lesson_of(bench: Bench, data: str) -> Lesson:
    """Raises DataError where there is nothing to learn from."""
    examples, asking = bench.selection, bench.asking
    if data == OWN:
        answered = answers(bench, asking, "selection", [baseline()])[BASELINE]
        right = [i for i, score in enumerate(answered["score"]) if score >= RIGHT]
        if not right:
            raise DataError(
                f"strategy.data=own_right: none of the model's {len(answered)} answers to the"
                " selection split is right; type strategy.data=gold, or give more samples"
                " (limit=null)"
            )
        tokens = [[int(t) for t in answered["tokens"].iloc[i]] for i in right]
        return Lesson([examples[i] for i in right], tokens)
    texts = asking.right_texts(examples)
    if texts is None:
        raise DataError(
            f"strategy.data={data}: task {asking.task.name} has no right answers to learn, only a"
            " way to score them; type strategy.data=own_right"
        )
    if data == SHUFFLED:
        dealt = np.random.default_rng((bench.seed, 7)).permutation(len(texts))
        texts = [texts[i] for i in dealt]
    return Lesson(examples, texts, asking.stop, asking.decoding == "free")


def training_table(every: Sequence[Tried], best: int) -> pd.DataFrame:
    """One row per checkpoint, the model as it is first: ``training.csv``."""
    rows = []
    for n, one in enumerate(every):
        flips = flip_table(every[0].answers, one.answers)
        made, total = one.checkpoint, len(one.answers)
        rows.append(
            {
                "lr": made.lr if made else math.nan,
                "epoch": made.epoch if made else 0,
                "steps": made.steps if made else 0,
                "loss": made.loss if made else math.nan,
                "seconds": made.seconds if made else 0.0,
                "n": total,
                "right": one.right,
                "accuracy": one.right / total,
                "fixed": flips.fixed,
                "broken": flips.broken,
                "chosen": n == best,
            }
        )
    return pd.DataFrame(rows)
