"""What a method is: a selection and a validation split in, an intervention out.

The method decides (which features, how strong, on what evidence); what is done to the model is the
intervention's. The test split is none of its business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import pandas as pd

from corrsteer.records import POSITIVE, LayerStats, RankedFeature, SiteFit
from corrsteer.report.record import LayerChoice, Search
from corrsteer.selectors.protocol import statistic
from corrsteer.stages.answers import answers
from corrsteer.stages.bench import WRITING, Bench, Collect
from corrsteer.stages.bins import binned
from corrsteer.stages.heard import Heard
from corrsteer.stages.outputs import OUTPUT_SCORE, with_outputs
from corrsteer.stages.sites import sites
from corrsteer.stages.statistics import statistics
from corrsteer.stats.bins import BINNED
from corrsteer.stats.scores import SCORES
from corrsteer.steering.arms import BASELINE, Arm, baseline
from corrsteer.steering.plan import Plan


@dataclass(frozen=True)
class Observed:
    """What the model did without steering: all that no method changes."""

    sites: list[SiteFit]
    selection: pd.DataFrame
    """Scored answers to the selection split."""
    stats: list[LayerStats]
    collect: Collect
    """How the statistics were collected."""


def observe(bench: Bench, collect: Collect | None = None, *, wholly: bool = False) -> Observed:
    """``collect``: other settings than the bench's. ``wholly``: with all that is collected, also
    where the selector does not rank by it.

    The statistics have what the selector ranks by. What it would choose on shuffled outcomes is
    among them, for the control: by r where no null of its score is known. Where it looks for
    features of wrong answers (``sign``), they have a ``mirror``: statistics of exchanged outcomes,
    in which an outcome of exactly a half counts as right, too.
    """
    collect = collect or bench.collect
    fits = sites(bench)
    heard = Heard(bench, collect) if collect.way == WRITING else None
    listen = heard.listener if heard else None
    unsteered = answers(bench, bench.asking, "selection", [baseline()], listen=listen)
    selection = unsteered[BASELINE]
    stats = collected(bench, selection, collect, wholly=wholly, heard=heard)
    if (sign := getattr(bench.selector, "sign", POSITIVE)) != POSITIVE:
        other = selection.assign(score=1.0 - selection["score"])
        mirrors = collected(bench, other, collect, wholly=wholly, heard=heard)
        stats = [replace(s, mirror=m) for s, m in zip(stats, mirrors, strict=True)]
    if heard is not None:
        heard.clear()
    if sign != POSITIVE:
        shuffled: Any = bench.selector
        chosen = [shuffled.shuffled(s) for s in stats]
        stats = [
            replace(s, shuffled_best=best, shuffled_sign=signs)
            for s, (best, signs) in zip(stats, chosen, strict=True)
        ]
    elif by := statistic(bench.selector):
        stats = [
            replace(s, shuffled_best=s.others[by].shuffled_best)
            if by in s.others and bench.selector.null
            else s
            for s in stats
        ]
    return Observed(fits, selection, stats, collect)


def collected(
    bench: Bench,
    selection: pd.DataFrame,
    collect: Collect,
    *,
    wholly: bool = False,
    heard: Heard | None = None,
) -> list[LayerStats]:
    """The statistics of the bench's features, with what its selector ranks by. ``selection``: the
    scored answers without steering; ``heard``: what was collected while they were written."""
    by = statistic(bench.selector)
    every = wholly or by in SCORES
    stats = statistics(bench, selection, collect=collect, wholly=every, heard=heard)
    if by == OUTPUT_SCORE:
        return with_outputs(bench, stats)
    return binned(bench, selection, stats, collect) if by in BINNED else stats


@dataclass(frozen=True)
class Fitted:
    """What a method found. ``arm``: the steered one, whose controls and price are measured next.

    ``cards``: of all features that were looked at before the choice, where classes were asked for.
    ``tables``: by file name without its end, what the run folder holds besides. ``whole``: the plan
    whose layers the arm's were chosen from, and ``choice``, how they were; None: they were not.
    """

    arm: Arm
    observed: Observed
    ranked: tuple[RankedFeature, ...] = ()
    chosen: tuple[RankedFeature, ...] = ()
    cards: Sequence[Mapping[str, Any]] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    search: Search | None = None
    whole: Plan | None = None
    choice: LayerChoice | None = None

    @property
    def plan(self) -> Plan | None:
        """The intervention, where it is a plan."""
        return self.arm.intervention if isinstance(self.arm.intervention, Plan) else None

    def with_plan(self, plan: Plan) -> Fitted:
        """Another plan of the same features, or of some of them."""
        layers = {e.layer for e in plan.entries}
        return replace(
            self,
            arm=replace(self.arm, intervention=plan),
            chosen=tuple(f for f in self.chosen if f.layer in layers),
        )


class Method(Protocol):
    """A frozen dataclass. What is not a setting of it may be a class attribute."""

    @property
    def name(self) -> str:
        """What it is called in tables, such as CorrSteer."""

    @property
    def variant(self) -> str:
        """What of the method, such as A; empty where it has no variants."""

    # Optional: ``learns_from``, what data it needs beside questions, in a word or two for a table
    # ("outcomes" where it is not there: whether the model's own answers are right). ``decoding``,
    # how its arm answers where that is not the run's: whether the task can is checked first.
    # ``unread``, names of settings of the run that it never looks at, such as selector: they are
    # refused where they are typed.

    @property
    def needs(self) -> frozenset[str]:
        """What its intervention needs of a backend
        (:attr:`corrsteer.steering.protocol.Intervention.needs`): checked before any compute."""

    def share(self, bench: Bench) -> Sequence[Fitted]:
        """Compute and store what fits of this bench have in common, whatever the dial: the jobs of
        a sweep wait for it. Returns what there is to explain."""

    def fit(self, bench: Bench) -> Fitted:
        """Raises DataError where there is nothing to steer with."""


class Tunable(Method, Protocol):
    """A method whose result is a plan that can be turned: what a search works on."""

    def plain(self, bench: Bench, pooling: str) -> Fitted:
        """The plan at dial 1, with features pooled so."""
