"""Rivals at equal accuracy: what each method of a sweep gains, what it pays, and whether the
subject matches a rival at half the side effects.

Of every method and seed the jobs are its settings: dials, checkpoints, learning rates, whatever the
sweep varied. Validation chooses one of them for the table; for a pair it chooses the one whose
*validation* accuracy is nearest the other method's. Test is asked once, of what was chosen
(:mod:`corrsteer.stats.matching`). A method trained on shuffled answers is no rival but a control:
it stands in table and figure with its gain, and nothing is decided, marked or corrected for it.
Reads job folders only; some ten milliseconds per job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from corrsteer.report.compare_jobs import BROKEN, KL, OFF_TARGET, PRICES, Asked, Job, Seed, shares
from corrsteer.stats.intervals import SIGNIFICANT, holm, t_ci
from corrsteer.stats.matching import (
    REFUTED,
    UNDECIDED,
    Equivalence,
    PriceRatio,
    Units,
    equivalence,
    half,
    nearest,
    on_front,
    price_ratio,
    together,
    verdict,
)
from corrsteer.stats.seeds import GainBySample, gain_by_sample
from corrsteer.steering.arms import BASELINE, STEERED

Jobs = Mapping[Seed, Sequence[Job]]
"""Of one method, all that are done, by seed."""
OTHER_DIAL = "a dial at which both are as accurate: add some to coef"


@dataclass(frozen=True)
class Row:
    """A method as validation chose it. ``gain``: against the unsteered model. ``against``: the
    subject, less this one, with its p (Holm); None for the subject and for a control. ``best``:
    columns in which every other method is worse by a test. ``dial`` empty: it has none."""

    name: str
    jobs: Sequence[Job]
    dial: str
    learns_from: str
    accuracy: float
    ci: tuple[float, float]
    gain: float
    against: float | None
    p: float | None
    fixed: int
    broken: int
    prices: Mapping[str, float | None]
    cost: Mapping[str, float | None]
    best: frozenset[str]
    front: bool
    """That no other method is as accurate at a lower price, nor more at the same."""
    control: GainBySample | None = None
    """Of a control, its gain over the unsteered model, with a p that nothing corrects; None for
    subject and rivals."""

    @property
    def title(self) -> str:
        return self.name if self.control is None else f"{self.name} (control)"


@dataclass(frozen=True)
class Pair:
    """The subject and a rival at about the same validation accuracy. ``turned``: which of both was
    turned to the other's accuracy."""

    turned: str
    subject: Sequence[Job]
    rival: Sequence[Job]
    accuracies: tuple[float, float]
    equal: Equivalence
    prices: Mapping[str, PriceRatio | None]
    answer: str

    @property
    def half(self) -> str:
        """Whether the subject has half the side effects, whatever the accuracies."""
        return half([p for p in self.prices.values() if p is not None])


@dataclass(frozen=True)
class Match:
    """``pairs``: with the subject turned to the rival's accuracy, then with the rival turned to the
    subject's. ``needed``: what would decide it; empty where it is decided. ``decides``: which pair
    does, by validation alone."""

    rival: str
    pairs: Sequence[Pair]
    answer: str
    needed: str
    decides: int = 0

    @property
    def deciding(self) -> Pair:
        return self.pairs[self.decides]


@dataclass(frozen=True)
class Comparison:
    asked: Asked
    rows: Sequence[Row]
    matches: Sequence[Match]
    dials: Mapping[str, Sequence[Job]]
    """By method the jobs of its first seed, by dial: the curve of its dial."""
    axis: str
    """The price that the front is over."""


def compare(what: Asked, jobs: Sequence[tuple[Seed, Job]]) -> Comparison | None:
    """``jobs``: those of one question under one model, with their seeds. None without any."""
    methods = by_method(jobs)
    if not methods:
        return None
    best = {name: by_validation(some) for name, some in methods.items()}
    rows = _rows(best, what.subject, methods)
    axis = OFF_TARGET if all(r.prices[OFF_TARGET] is not None for r in rows) else BROKEN
    asked = [r for r in rows if r.control is None]
    front = on_front([r.accuracy for r in asked], [_share(r, axis) for r in asked])
    on = {r.name for r, ahead in zip(asked, front, strict=True) if ahead}
    rows = [replace(r, front=r.name in on) for r in rows]
    matches = []
    if what.subject in methods:
        matches = [
            _match(what, methods[what.subject], methods[name], name)
            for name in methods
            if name != what.subject and set(methods[name]) & set(methods[what.subject])
            if not is_control(methods[name])
        ]
    first = {
        name: sorted((j for j in next(iter(s.values())) if j.match is None), key=_by_dial)
        for name, s in methods.items()
    }
    return Comparison(what, rows, matches, first, axis)


def by_method(jobs: Sequence[tuple[Seed, Job]]) -> dict[str, dict[Seed, list[Job]]]:
    methods: dict[str, dict[Seed, list[Job]]] = {}
    for seed, job in jobs:
        methods.setdefault(job.method, {}).setdefault(seed, []).append(job)
    return methods


def is_control(jobs: Jobs) -> bool:
    return any(job.control for some in jobs.values() for job in some)


# -- what validation chooses -------------------------------------------------------------------


def _by_dial(job: Job) -> tuple[float, int]:
    return job.coef, job.number


def by_validation(jobs: Jobs) -> dict[Seed, Job]:
    """Of each seed the job that validation chose; of several settings that of the highest
    validation accuracy, of equal ones the smallest dial."""
    made = {}
    for seed, some in jobs.items():
        among = [job for job in some if job.chosen] or list(some)
        made[seed] = max(among, key=lambda j: (j.validation, -abs(j.coef), -j.number))
    return made


def _nearest(jobs: Sequence[Job], target: float) -> Job:
    accuracies = [job.validation for job in jobs]
    return jobs[nearest(accuracies, target, [job.coef for job in jobs])]


# -- two methods -------------------------------------------------------------------------------


def _paid(jobs: Sequence[Job], price: str) -> pd.DataFrame | None:
    """Over seeds: summed by unit."""
    frames = [job.paid(price) for job in jobs]
    kept = [frame for frame in frames if frame is not None]
    if len(kept) < len(frames) or not kept:
        return None
    return pd.concat(kept).groupby(level=0).sum()


def _ratio(
    rival: pd.DataFrame | None, subject: pd.DataFrame | None, price: str, level: float
) -> PriceRatio | None:
    """On the units that both were measured on."""
    if rival is None or subject is None:
        return None
    ids = rival.index.intersection(subject.index)
    if not len(ids):
        return None
    a, b = (
        Units(f.loc[ids, "paid"].to_numpy(), f.loc[ids, "per"].to_numpy(), price != KL)
        for f in (rival, subject)
    )
    return price_ratio(a, b, seed=0, level=level)


def _pair(what: Asked, turned: str, subject: Sequence[Job], rival: Sequence[Job]) -> Pair:
    differences = [s.right(STEERED) - r.right(STEERED) for s, r in zip(subject, rival, strict=True)]
    by_question = pd.concat(differences).dropna().groupby(level=0).mean()
    equal = equivalence(by_question.to_numpy(), what.margin)
    paid = {p: (_paid(rival, p), _paid(subject, p)) for p in PRICES}
    measured = [p for p, both in paid.items() if all(f is not None for f in both)]
    level = together(len(measured))
    prices = {p: _ratio(*both, p, level) for p, both in paid.items()}
    said = verdict(equal, [p for p in prices.values() if p is not None])
    accuracies = tuple(
        float(np.mean([j.record.arms[STEERED].accuracy for j in some])) for some in (subject, rival)
    )
    return Pair(turned, subject, rival, accuracies, equal, prices, said)  # type: ignore[arg-type]


def _match(what: Asked, subject: Jobs, rival: Jobs, name: str) -> Match:
    """The pair whose validation accuracies are closer decides, of equally close ones the first:
    what test says of either chooses nothing."""
    seeds = [seed for seed in rival if seed in subject]
    own = by_validation({s: subject[s] for s in seeds})
    best = by_validation({s: rival[s] for s in seeds})
    to_rival = [_nearest(subject[s], best[s].validation) for s in seeds]
    to_subject = [_nearest(rival[s], own[s].validation) for s in seeds]
    pairs = [_pair(what, what.subject, to_rival, [best[s] for s in seeds])]
    if ([own[s] for s in seeds], to_subject) != (to_rival, [best[s] for s in seeds]):
        pairs.append(_pair(what, name, [own[s] for s in seeds], to_subject))
    decides = min(range(len(pairs)), key=lambda i: (_apart(pairs[i]), i))
    needed = _needed(pairs[decides], what.margin)
    return Match(name, pairs, pairs[decides].answer, needed, decides)


def _apart(pair: Pair) -> float:
    """By how much validation accuracies differ, over seeds."""
    own, other = (np.mean([j.validation for j in some]) for some in (pair.subject, pair.rival))
    return round(abs(float(own - other)), 12)


def _needed(pair: Pair, margin: float) -> str:
    """In words, what would decide a pair. Not that the subject is more accurate by over the margin:
    its prices then say nothing. Where a price is refuted, that it is at most equal is enough."""
    if pair.answer != UNDECIDED:
        return ""
    if pair.equal.ahead or pair.equal.difference > margin:
        return OTHER_DIAL
    if pair.half == REFUTED:
        return _questions(pair.equal.bounding, pair.equal.n)
    return to_match(pair) or to_halve(pair)


def _questions(wanted: int | None, n: int) -> str:
    if wanted is None:
        return "no number of questions, were the difference the margin itself, as it seems"
    return f"about {wanted:,} test questions (now {n:,})"


def to_match(pair: Pair) -> str:
    """In words, what would decide whether a pair is as accurate; empty where it is decided."""
    if pair.equal.answer != UNDECIDED:
        return ""
    return _questions(pair.equal.questions, pair.equal.n)


def to_halve(pair: Pair) -> str:
    """In words, what would decide about the side effects of a pair; empty where it is decided."""
    if pair.half != UNDECIDED:
        return ""
    units = {BROKEN: "test questions", OFF_TARGET: "unrelated prompts", KL: "neutral texts"}
    wanted = [
        f"about {p.units:,} {units[n]} (now {p.n:,})"
        for n, p in pair.prices.items()
        if p and p.units
    ]
    if not wanted:
        return "a price that can be divided: of one method nothing was fixed, or nothing changed"
    return " and ".join(wanted)


# -- the table ---------------------------------------------------------------------------------


def _rows(
    chosen: Mapping[str, Mapping[Seed, Job]], subject: str, methods: Mapping[str, Jobs]
) -> list[Row]:
    first = chosen.get(subject, {})
    asked = {name: some for name, some in chosen.items() if not is_control(methods[name])}
    gains = {
        name: gain_by_sample(pairs)
        for name, some in asked.items()
        if name != subject
        and (pairs := [(j.answers(STEERED), first[s].answers(STEERED)) for s, j in some.items()
                       if s in first])
    }  # fmt: skip
    p = dict(zip(gains, holm([g.p for g in gains.values()]), strict=True))
    best = _best(asked)
    rows = []
    for name, some in chosen.items():
        jobs = list(some.values())
        records = [j.record for j in jobs]
        paid = {price: _paid(jobs, price) for price in PRICES}
        prices = {
            n: None if f is None else Units(f["paid"].to_numpy(), f["per"].to_numpy()).price
            for n, f in paid.items()
        }
        dials = dict.fromkeys(job.dial for job in jobs if job.dial)
        arms = [r.arms[STEERED] for r in records]
        rows.append(
            Row(
                name=name,
                jobs=jobs,
                dial=", ".join(dials),
                learns_from=str(jobs[0].cost().get("learns_from", "")),
                accuracy=float(np.mean([a.accuracy for a in arms])),
                ci=t_ci([a.accuracy for a in arms]) or arms[0].ci,
                gain=float(np.mean([r.gain for r in records])),
                against=gains[name].gain if name in gains else None,
                p=p.get(name),
                fixed=sum(r.flips.fixed for r in records),
                broken=sum(r.flips.broken for r in records),
                prices=prices,
                cost=_cost([job for some in methods[name].values() for job in some]),
                best=frozenset(column for column, who in best.items() if who == name),
                front=False,
                control=None if name in asked else _over_unsteered(jobs),
            )
        )
    return sorted(rows, key=lambda r: (-r.accuracy, r.name))


def _over_unsteered(jobs: Sequence[Job]) -> GainBySample:
    return gain_by_sample([(j.answers(BASELINE), j.answers(STEERED)) for j in jobs])


def _best(chosen: Mapping[str, Mapping[Seed, Job]]) -> dict[str, str]:
    """By column the method than which every other is worse by a test, corrected for the others."""
    marked: dict[str, str] = {}
    if len(chosen) < 2:
        return marked
    accurate = {
        name: float(np.mean([j.record.arms[STEERED].accuracy for j in some.values()]))
        for name, some in chosen.items()
    }
    top = max(accurate, key=lambda name: accurate[name])
    ps = []
    for name, some in chosen.items():
        pairs = [
            (j.answers(STEERED), chosen[top][s].answers(STEERED))
            for s, j in some.items()
            if s in chosen[top]
        ]
        if name != top and pairs:
            ps.append(gain_by_sample(pairs).p)
    if len(ps) == len(chosen) - 1 and max(holm(ps)) <= SIGNIFICANT:
        marked["accuracy"] = top
    for price in PRICES:
        paid = {name: _paid(list(some.values()), price) for name, some in chosen.items()}
        sizes = {
            name: frame["paid"].sum() / frame["per"].sum()
            for name, frame in paid.items()
            if frame is not None and frame["per"].sum()
        }
        if len(sizes) < 2:
            continue
        low = min(sizes, key=lambda name: sizes[name])
        level = together(len(sizes) - 1)
        ratios = [_ratio(paid[n], paid[low], price, level) for n in sizes if n != low]
        if all(r is not None and r.ci[0] > 1 for r in ratios):
            marked[price] = low
    return marked


def _cost(jobs: Sequence[Job]) -> dict[str, float | None]:
    """Of the job that spent most: what was in the cache cost the others nothing."""
    spent = [job.cost() for job in jobs]

    def most(part: str, name: str) -> float | None:
        values = [c.get(part, {}).get(name) for c in spent]
        return max((float(v) for v in values if v is not None), default=None)

    names = [(part, name) for part in ("fit", "answer") for name in ("seconds", "peak_mb")]
    return {f"{part}_{name}": most(part, name) for part, name in names}


def _share(row: Row, axis: str) -> float:
    """A price that every method has: per unrelated prompt, or per test question."""
    return float(shares(row.jobs, axis).mean())
