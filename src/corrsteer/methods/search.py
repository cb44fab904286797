"""What a run steers with: the plan as it was chosen, or the best point of a search.

A search (:class:`Pareto`) tries dials, layers and poolings on the validation split, many
candidates over one pass of its prompts (:mod:`corrsteer.methods.study`). The test split is not
touched: what is chosen here is confirmed there, once. Validation numbers of what was chosen on
validation are optimistic (the winner's curse), the more so the more candidates there were.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from corrsteer.config import POOLINGS
from corrsteer.errors import ConfigError
from corrsteer.methods.study import (
    TUNED,
    Candidate,
    Space,
    Trial,
    choose,
    front,
    run_study,
    standard_error,
)
from corrsteer.records import RIGHT, Plan, RankedFeature
from corrsteer.run.build import Job, Observed, observe
from corrsteer.stages.classify import counts, named, of_classes
from corrsteer.stats.flips import flip_table

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

NOTE = (
    "Validation numbers of a candidate that was chosen on validation are optimistic; the test "
    "split, which the search never saw, is the confirmation."
)


@dataclass(frozen=True)
class Found:
    """``plan`` with the dial and layers to steer with.

    ``cards``: of all features that were looked at before the choice, where classes were asked for.
    ``about`` and ``trials``: what a search adds to metrics.json, and its table of trials.
    """

    seen: Observed
    ranked: tuple[RankedFeature, ...]
    chosen: tuple[RankedFeature, ...]
    plan: Plan
    cards: Sequence[Mapping[str, Any]] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    trials: pd.DataFrame | None = None

    def turned(self, candidate: Candidate) -> Found:
        """With a candidate's dial and factors."""
        plan = candidate.applied(self.plan)
        layers = {e.layer for e in plan.entries}
        chosen = tuple(f for f in self.chosen if f.layer in layers)
        return replace(self, chosen=chosen, plan=plan)

    def explained(self, job: Job, fetch: bool) -> list[dict[str, Any]]:
        """A card of each feature that was looked at, if only of the chosen ones, with what
        Neuronpedia says of those. ``fetch``: whether it may be asked."""
        examples, answers = job.splits["selection"], self.seen.selection
        cards = self.cards or job.stages.contexts(examples, answers, self.chosen)
        said = job.stages.descriptions(self.chosen, fetch)
        return [{**c, "description": said.get((c["layer"], c["feature"]))} for c in cards]


def choices(job: Job) -> Found:
    """The plan of the job's features at dial 1."""
    seen = observe(job)
    classes = job.stages.selector.classes
    if classes is None:
        return Found(seen, *job.stages.plan(seen.stats))
    cards: list[dict[str, Any]] = []

    def narrow(ranked: tuple[RankedFeature, ...]) -> tuple[RankedFeature, ...]:
        cards.extend(job.stages.contexts(job.splits["selection"], seen.selection, ranked))
        looked = named(ranked, cards)
        kept = of_classes(looked, classes)
        bare = sorted({f.layer for f in looked} - {f.layer for f in kept})
        log.info(
            "selector.classes=[%s]: of %d ranked features (%s), %d are left; layers without one,"
            " which are not steered: %s",
            *(",".join(classes), len(looked), counts(looked), len(kept)),
            ", ".join(map(str, bare)) or "none",
        )
        return kept

    return Found(seen, *job.stages.plan(seen.stats, narrow), cards=cards)


@dataclass(frozen=True)
class NoSearch:
    """All layers of the plan, at dial ``start``."""

    start: float

    def options(self, job: Job) -> dict[str, Found]:
        return {job.collect["pooling"]: choices(job)}

    def find(self, job: Job) -> Found:
        (found,) = self.options(job).values()
        return found.turned(Candidate(self.start, job.collect["pooling"], {}))


@dataclass(frozen=True)
class Pareto:
    """The settings of ``conf/search/pareto.yaml``, where their meaning stands."""

    trials: int
    batch: int
    coef: Sequence[float]
    start: float
    layers: str
    pooling: Sequence[str]
    workers: int

    def __post_init__(self) -> None:
        for name, such_as in (("batch", 8), ("workers", 2)):
            if not _whole(getattr(self, name), 1):
                raise ConfigError(
                    f"search.{name}={getattr(self, name)}: it must be a whole number, at least 1,"
                    f" such as search.{name}={such_as}"
                )
        coef = self.coef
        numbers = isinstance(coef, list) and len(coef) == 2 and all(map(_finite, coef))
        if not numbers or not coef[0] <= 0 < coef[1]:
            raise ConfigError(
                f"search.coef={coef}: it must be the range of the dial, [low,high] with 0 in it,"
                " such as search.coef=[0,3]"
            )
        if not _finite(self.start) or not coef[0] <= self.start <= coef[1]:
            raise ConfigError(
                f"coef={self.start}: a search starts there, so it must lie in the range"
                f" search.coef=[{coef[0]},{coef[1]}]; type another coef or a wider range"
            )
        if self.layers not in TUNED:
            raise ConfigError(
                f"search.layers={self.layers} is unknown; choose one of: {', '.join(TUNED)}"
            )
        known = isinstance(self.pooling, list) and all(p in POOLINGS for p in self.pooling)
        if not known or not self.pooling or len(set(self.pooling)) < len(self.pooling):
            raise ConfigError(
                f"search.pooling={self.pooling}: it must be a list of {' and '.join(POOLINGS)},"
                " each at most once, such as search.pooling=[max,mean]"
            )
        least = 1 + len(self.pooling)
        if not _whole(self.trials, least):
            raise ConfigError(
                f"search.trials={self.trials}: it must be a whole number, at least {least}: the"
                " first candidates are the unsteered model and the plain plan of each pooling;"
                " type search.trials=64"
            )

    def find(self, job: Job) -> Found:
        """The point of the study's front with the fewest broken answers among those within one
        standard error of its best accuracy."""
        options = self.options(job)
        trials, base = self._study(job, options, None)
        n, right = len(base), int((base["score"] >= RIGHT).sum())

        def norm(trial: Trial) -> float:
            return _norm(trial.candidate.applied(options[trial.candidate.pooling].plan))

        best = front(trials, norm)
        chosen = choose(best, n)
        rows = []
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
        about = {
            "trials": len(trials),
            "batch": self.batch,
            "coef": list(self.coef),
            "start": self.start,
            "layers": self.layers,
            "pooling": list(self.pooling),
            "n": n,
            "right": right,
            "standard_error": standard_error(best[0].accuracy, n),
            "unsteered": rows[0],
            "plain": rows[1 : 1 + len(self.pooling)],
            "front": [rows[t.number] for t in best],
            "chosen": rows[chosen.number],
            "note": NOTE,
        }
        log.info(
            "search: trial %d is chosen, %.1f %% with %d broken on validation; %s",
            *(chosen.number, 100 * chosen.accuracy, chosen.broken, NOTE),
        )
        import pandas as pd

        found = options[chosen.candidate.pooling].turned(chosen.candidate)
        more = {"pooling": chosen.candidate.pooling, "search": about}
        return replace(found, about=more, trials=pd.DataFrame(rows))

    def work(self, job: Job, worker: int) -> None:
        """Answer trials until all are asked for; the job itself chooses."""
        self._study(job, self.options(job), worker)

    def options(self, job: Job) -> dict[str, Found]:
        """By pooling, what a candidate is made of."""
        jobs = {p: replace(job, collect={**job.collect, "pooling": p}) for p in self.pooling}
        return {pooling: choices(job) for pooling, job in jobs.items()}

    def _study(
        self, job: Job, options: Mapping[str, Found], worker: int | None
    ) -> tuple[list[Trial], pd.DataFrame]:
        """The trials, and the unsteered answers that they are compared with."""
        stages, examples = job.stages, job.splits["validation"]
        base = stages.answers(examples, {"baseline": None}, "validation")["baseline"]
        plans = {pooling: found.plan for pooling, found in options.items()}
        layers = sorted({e.layer for plan in plans.values() for e in plan.entries})
        low, high = self.coef
        space = Space((float(low), float(high)), self.layers, tuple(layers), tuple(self.pooling))

        def measure(candidates: Mapping[int, Candidate]) -> dict[int, tuple[float, int]]:
            made = {f"trial_{n}": c.applied(plans[c.pooling]) for n, c in candidates.items()}
            # What adds nothing is the unsteered model, whose answers are there.
            arms = {arm: plan if _norm(plan) else None for arm, plan in made.items()}
            answered = stages.answers(examples, arms, "validation")
            results = {}
            for n in candidates:
                now = answered[f"trial_{n}"]
                right = float((now["score"] >= RIGHT).mean())
                results[n] = (right, flip_table(base, now).broken)
            return results

        settings = {
            "coef": space.coef,
            "start": self.start,
            "layers": self.layers,
            "batch": self.batch,
        }
        trials = run_study(
            stages.study(examples, base, plans, settings),
            space,
            measure,
            start=float(self.start),
            trials=self.trials,
            batch=self.batch,
            seed=stages.seed,
            worker=worker,
        )
        return trials, base


def _norm(plan: Plan) -> float:
    """Length of all that is added, over all layers."""
    return math.sqrt(
        sum(float(np.square(v, dtype=np.float64).sum()) for v in plan.vectors().values())
    )


def _whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)
