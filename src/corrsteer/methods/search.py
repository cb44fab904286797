"""A search for the dial, the layers and the pooling: many candidates on the validation split, over
one pass of its prompts (:mod:`corrsteer.methods.study`). What is wanted is a front of accuracy and
broken answers (``search=pareto``), or one number (``strategy=corrsteer_optimised``).

The test split is not touched: what is chosen here is confirmed there, once. Validation numbers of
what was chosen on validation are optimistic (the winner's curse), the more so the more candidates
there were.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from corrsteer.config import POOLINGS
from corrsteer.errors import ConfigError, DataError, check_known
from corrsteer.methods.protocol import Fitted, Tunable
from corrsteer.methods.study import (
    TUNED,
    Candidate,
    Objective,
    Space,
    Trial,
    choose,
    front,
    run_study,
    standard_error,
    study_folder,
)
from corrsteer.records import RIGHT
from corrsteer.report import record
from corrsteer.stages.answers import answers
from corrsteer.stages.bench import Bench
from corrsteer.stats.choice import search_shares
from corrsteer.stats.flips import changes, flip_table
from corrsteer.steering.arms import BASELINE, Arm, baseline
from corrsteer.steering.plan import Plan

log = logging.getLogger(__name__)

NOTE = (
    "Validation numbers of a candidate that was chosen on validation are optimistic; the test "
    "split, which the search never saw, is the confirmation."
)


@dataclass(frozen=True)
class Pareto:
    """The settings of ``conf/search/pareto.yaml``, where they are explained. ``method``: whose
    plan is turned."""

    group: ClassVar[str] = "search"

    method: Tunable
    trials: int
    batch: int
    coef: Sequence[float]
    start: float
    layers: str
    pooling: Sequence[str]
    workers: int

    def __post_init__(self) -> None:
        where = self.group
        for name, example in (("batch", 8), ("workers", 2)):
            if not _whole(getattr(self, name), 1):
                raise ConfigError(
                    f"{where}.{name}={getattr(self, name)}: it must be a whole number, at least 1,"
                    f" such as {where}.{name}={example}"
                )
        coef = self.coef
        numbers = isinstance(coef, list) and len(coef) == 2 and all(map(_finite, coef))
        if not numbers or not coef[0] <= 0 < coef[1]:
            raise ConfigError(
                f"{where}.coef={coef}: it must be the range of the dial, [low,high] with 0 in it,"
                f" such as {where}.coef=[0,3]"
            )
        if not _finite(self.start) or not coef[0] <= self.start <= coef[1]:
            raise ConfigError(
                f"coef={self.start}: a search starts there, so it must lie in the range"
                f" {where}.coef=[{coef[0]},{coef[1]}]; type another coef or a wider range"
            )
        check_known(f"{where}.layers", self.layers, TUNED)
        known = isinstance(self.pooling, list) and all(p in POOLINGS for p in self.pooling)
        if not known or not self.pooling or len(set(self.pooling)) < len(self.pooling):
            raise ConfigError(
                f"{where}.pooling={self.pooling}: it must be a list of {' and '.join(POOLINGS)},"
                f" each at most once, such as {where}.pooling=[max,mean]"
            )
        least = 1 + len(self.pooling)
        if not _whole(self.trials, least):
            raise ConfigError(
                f"{where}.trials={self.trials}: it must be a whole number, at least {least}: the"
                " first candidates are the unsteered model and the plain plan of each pooling;"
                f" type {where}.trials=64"
            )

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def variant(self) -> str:
        return self.method.variant

    @property
    def needs(self) -> frozenset[str]:
        return self.method.needs

    def share(self, bench: Bench) -> Sequence[Fitted]:
        return list(self._plain(bench).values())

    def fit(self, bench: Bench) -> Fitted:
        """The point of the study's front with the fewest broken answers among those within one
        standard error of its best accuracy."""
        plain = self._plain(bench)
        plans = plans_of(plain)
        trials, base = self._study(bench, plans, None)
        best = front(trials, norms(plans))
        chosen = choose(best, len(base))
        kept = self._answered({t.number: t.candidate for t in best}, bench, plans, "front")
        on_front = np.stack([(kept[t.number]["score"] >= RIGHT).to_numpy(float) for t in best])
        was_right = (base["score"] >= RIGHT).to_numpy(float)
        sure = search_shares(on_front, was_right)[best.index(chosen)]
        return self._found(plain, trials, base, chosen, sure)

    def _found(
        self,
        plain: Mapping[str, Fitted],
        trials: Sequence[Trial],
        base: pd.DataFrame,
        chosen: Trial,
        sure: float | None,
        price: float | None = None,
    ) -> Fitted:
        """The chosen trial's plan, with all trials. ``base``: answers without steering."""
        plans = plans_of(plain)
        norm = norms(plans)
        best = front(trials, norm)
        n, right = len(base), int((base["score"] >= RIGHT).sum())
        rows: list[dict[str, Any]] = []
        for t in trials:
            fixed = round(t.accuracy * n) - right + t.broken
            rows.append(
                {
                    "number": t.number,
                    "coef": t.candidate.coef,
                    "pooling": t.candidate.pooling,
                    **{f"layer_{layer}": scale for layer, scale in t.candidate.scales.items()},
                    "accuracy": t.accuracy,
                    "broken": t.broken,
                    "broken_share": t.broken / max(right, 1),
                    "fixed": fixed,
                    "ser": t.broken / (fixed + t.broken) if fixed + t.broken else None,
                    "norm": norm(t),
                    "on_front": t in best,
                    "chosen": t == chosen,
                }
            )
        tried = [record.Trial(**row) for row in rows]
        search = record.Search(
            trials=len(trials),
            batch=self.batch,
            coef=list(self.coef),
            start=self.start,
            layers=self.layers,
            pooling=list(self.pooling),
            n=n,
            right=right,
            standard_error=standard_error(best[0].accuracy, n),
            sure=sure,
            unsteered=tried[0],
            plain=tried[1 : 1 + len(self.pooling)],
            front=[tried[t.number] for t in best],
            chosen=tried[chosen.number],
            note=NOTE,
            price=price,
        )
        log.info(
            "search: trial %d is chosen, %.1f %% with %d broken on validation; %s",
            *(chosen.number, 100 * chosen.accuracy, chosen.broken, NOTE),
        )
        pooling = chosen.candidate.pooling
        turned = plain[pooling].with_plan(chosen.candidate.applied(plans[pooling]))
        return replace(turned, search=search, tables={"trials": pd.DataFrame(rows)})

    def work(self, bench: Bench, worker: int) -> None:
        """Answer trials until all are asked for; the job itself chooses."""
        self._study(bench, plans_of(self._plain(bench)), worker)

    def _plain(self, bench: Bench) -> dict[str, Fitted]:
        """By pooling, what a candidate is made of."""
        return {pooling: self.method.plain(bench, pooling) for pooling in self.pooling}

    def _study(
        self,
        bench: Bench,
        plans: Mapping[str, Plan],
        worker: int | None,
        price: float | None = None,
    ) -> tuple[list[Trial], pd.DataFrame]:
        """The trials, and the unsteered answers that they are compared with. ``price``: see
        :func:`priced`; None: a front is looked for."""
        base = answers(bench, bench.asking, "validation", [baseline()])[BASELINE]
        layers = sorted({e.layer for plan in plans.values() for e in plan.entries})
        low, high = self.coef
        space = Space((float(low), float(high)), self.layers, tuple(layers), tuple(self.pooling))

        def measure(candidates: Mapping[int, Candidate]) -> dict[int, Sequence[float]]:
            results: dict[int, Sequence[float]] = {}
            for n, now in self._answered(candidates, bench, plans, "trial").items():
                right = float((now["score"] >= RIGHT).mean())
                results[n] = [right, flip_table(base, now).broken]
                if objective is not None:
                    results[n] = [*results[n], stray(base, now)]
            return results

        settings: dict[str, Any] = {
            "coef": space.coef,
            "start": self.start,
            "layers": self.layers,
            "batch": self.batch,
        }
        objective = None
        if price is not None:
            objective, settings["price"] = priced(base, price), price
        trials = run_study(
            study_folder(bench, base, plans, settings),
            space,
            measure,
            start=float(self.start),
            trials=self.trials,
            batch=self.batch,
            seed=bench.seed,
            worker=worker,
            objective=objective,
        )
        return trials, base

    @staticmethod
    def _answered(
        candidates: Mapping[int, Candidate], bench: Bench, plans: Mapping[str, Plan], name: str
    ) -> dict[int, pd.DataFrame]:
        """Scored answers to the validation split under each candidate, by its number."""
        arms = []
        for n, candidate in candidates.items():
            plan = candidate.applied(plans[candidate.pooling])
            # What adds nothing is the unsteered model, whose answers are there already.
            arms.append(Arm(f"{name}_{n}", "steered", None if plan.does_nothing else plan))
        answered = answers(bench, bench.asking, "validation", arms)
        return {n: answered[f"{name}_{n}"] for n in candidates}


def plans_of(plain: Mapping[str, Fitted]) -> dict[str, Plan]:
    """By pooling. Raises DataError for a method that gives no plan: there is nothing to turn."""
    plans = {}
    for pooling, fitted in plain.items():
        if fitted.plan is None:
            raise DataError(
                f"search={Pareto.__name__.lower()} turns a plan, and with {pooling} pooling the"
                " strategy's plain() gives none: type search=none"
            )
        plans[pooling] = fitted.plan
    return plans


def priced(base: pd.DataFrame, price: float) -> Objective:
    """Accuracy - ``price`` * (broken share of right answers + stray share of all answers).
    ``base``: answers without steering."""
    n, right = len(base), max(1, int((base["score"] >= RIGHT).sum()))

    def worth(result: Sequence[float]) -> float:
        accuracy, broken, strays = result
        return accuracy - price * (broken / right + strays / n)

    return worth


def stray(base: pd.DataFrame, now: pd.DataFrame) -> int:
    """Answers that became others, by what was read of them, without getting better or worse."""
    flips = flip_table(base, now)
    return max(0, changes(base, now)["answer"] - flips.fixed - flips.broken)


def norms(plans: Mapping[str, Plan]) -> Callable[[Trial], float]:
    """How long all is that a trial adds, over all layers."""

    def norm(trial: Trial) -> float:
        plan = trial.candidate.applied(plans[trial.candidate.pooling])
        squares = (np.square(v, dtype=np.float64).sum() for v in plan.vectors().values())
        return math.sqrt(sum(map(float, squares)))

    return norm


def _whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)
