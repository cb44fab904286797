"""Claims read from a sweep over one setting: seeds, positions, features per layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from corrsteer.claims.reading import done_jobs, of_mean
from corrsteer.claims.record import Found, Number, Table, Word
from corrsteer.errors import DataError
from corrsteer.report.numbers import interval, p_value, pct, points, short
from corrsteer.report.record import Record
from corrsteer.report.settings import leaves
from corrsteer.report.tables import read_answers
from corrsteer.stats.flips import flip_table
from corrsteer.stats.intervals import SIGNIFICANT, detectable_gain, holm, mcnemar_exact, paired_ci
from corrsteer.steering.arms import BASELINE, STEERED

KL = 0.1  # nats a token: what a usable plan may cost (Arditi et al., arXiv 2406.11717)
ENOUGH = 0.02  # a gain that is as good as none


def seeds(folder: Path) -> dict[str, Found]:
    """Each seed at the dial that validation chose for it."""
    verdicts, _ = done_jobs(folder)
    records = [record for verdict in verdicts for record in verdict.records]
    rows = [
        [str(r.seed), short(r.coef), pct(r.arms[BASELINE].accuracy), pct(r.arms[STEERED].accuracy),
         f"{points(r.gain)} {interval(r.gain_ci)}"] for r in records
    ]  # fmt: skip
    gains = [r.gain for r in records]
    above = sum(gain > 0 for gain in gains)
    columns = ["Seed", "coef", "Unsteered", "Steered", "Gain [95 %]"]
    found = of_mean(
        f"gain, mean over {len(gains)} seeds", gains, "points",
        f"Accuracy is higher in {above} of {len(gains)} seeds.", Table(columns=columns, rows=rows),
    )  # fmt: skip
    return {"seeds": found}


@dataclass(frozen=True)
class Against:
    """An arm against the reference on the same questions. ``p``: McNemar's."""

    name: str
    record: Record
    fixed: int
    broken: int
    n: int
    p: float

    @property
    def gain(self) -> float:
        return (self.fixed - self.broken) / self.n

    @property
    def ci(self) -> tuple[float, float]:
        return paired_ci(self.fixed, self.broken, self.n)

    def least(self, among: int) -> float | None:
        flipped = (self.fixed + self.broken) / self.n
        return detectable_gain(self.n, flipped, level=SIGNIFICANT / among)


def against(folder: Path, arms: Mapping[str, tuple[int, Record]], reference: str) -> list[Against]:
    """``arms``: by name, a job and its record; all but the reference. Not corrected."""
    if reference not in arms:
        raise DataError(f"no job of {folder} with {reference} is done: type its command again")
    columns = ["id", "split", "arm", "score", "invalid"]
    answers = {
        name: read_answers(folder / str(job), columns, ["test"], [STEERED])
        for name, (job, _) in arms.items()
    }
    flips = {
        name: flip_table(answers[reference], answers[name]) for name in arms if name != reference
    }
    return [
        Against(name, arms[name][1], f.fixed, f.broken, f.n, mcnemar_exact(f.fixed, f.broken))
        for name, f in flips.items()
    ]


def corrected(rows: Sequence[Against]) -> list[Against]:
    """With p after Holm, over all of them."""
    ps = holm([row.p for row in rows])
    return [replace(row, p=p) for row, p in zip(rows, ps, strict=True)]


def _table(first: str, reference: str, own: Record, rows: Sequence[Against]) -> Table:
    head = [reference, short(own.coef), pct(own.arms[STEERED].accuracy), "–", "–"]
    lines = [
        [r.name, short(r.record.coef), pct(r.record.arms[STEERED].accuracy),
         f"{points(r.gain)} {interval(r.ci)}", p_value(r.p)[4:]] for r in rows
    ]  # fmt: skip
    columns = [first, "coef", "Steered", f"Against {reference} [95 %]", "p (Holm)"]
    return Table(columns=columns, rows=[head, *lines])


def _least_p(rows: Sequence[Against]) -> str:
    """An interval is of one arm, and may exclude 0 where the test of all of them does not."""
    return f" (smallest {p_value(min(r.p for r in rows))} after Holm, over {len(rows)})"


def positions(folder: Path) -> dict[str, Found]:
    _, results = done_jobs(folder)
    arms = {r.positions: (job, r) for job, r in results.items()}
    rows = corrected(against(folder, arms, "generation"))
    if not rows:
        raise DataError(f"one job of {folder} alone is done: type its command again")
    far = max(rows, key=lambda r: abs(r.gain))
    differ = [r.name for r in rows if r.p <= SIGNIFICANT]
    answer: Word = "undecided"
    if differ:
        answer = "supported"
    elif all(max(map(abs, r.ci)) < ENOUGH for r in rows):
        answer = "refuted"
    number = Number(
        what=f"{far.name} against generation positions", value=far.gain, ci=far.ci, unit="points"
    )
    found = Found(
        answer=answer,
        sentence=f"{len(differ)} of {len(rows)} other places change accuracy{_least_p(rows)}.",
        number=number,
        smallest=far.least(len(rows)),
        table=_table("Positions", "generation", arms["generation"][1], rows),
    )
    return {"positions": found}


WAYS = {"TotalNorm": "at equal total norm", "MeanRight": "as they are"}


def features(folder: Path) -> dict[str, Found]:
    """At the dial that validation chose of each k and each way of giving vectors a length, against
    one feature with lengths of the same way. Of both ways together each arm counts, by Holm over
    all."""
    verdicts, _ = done_jobs(folder)
    arms: dict[str, dict[str, tuple[int, Record]]] = {}
    for verdict in verdicts:
        one = verdict.chosen[0]
        settings = leaves(folder / str(one.job))
        k = int(settings.get("strategy.k", "1"))
        norm = settings.get("coefficient._target_", "").rpartition(".")[2]
        arms.setdefault(norm, {})[f"k = {k}"] = (one.job, one.record)
    found = {norm: against(folder, some, "k = 1") for norm, some in arms.items() if norm in WAYS}
    if not all(found.get(norm) for norm in WAYS):
        raise DataError(f"too few jobs of {folder} are done, of both ways: type its command again")
    every = iter(corrected([row for some in found.values() for row in some]))
    rows = {norm: [next(every) for _ in some] for norm, some in found.items()}
    best, way = max(
        ((row, norm) for norm, some in rows.items() for row in some), key=lambda pair: pair[0].gain
    )
    flat = [row for some in rows.values() for row in some]
    more = {norm: sum(r.p <= SIGNIFICANT and r.gain > 0 for r in rows[norm]) for norm in WAYS}
    answer: Word = "undecided"
    if any(more.values()):
        answer = "refuted"
    elif all(r.ci[1] < ENOUGH for r in flat):
        answer = "supported"
    counts = ", ".join(f"{more[norm]} of {len(rows[norm])} {WAYS[norm]}" for norm in WAYS)
    lines = [
        [WAYS[norm], *line] for norm, some in rows.items()
        for line in _table("Features", "k = 1", arms[norm]["k = 1"][1], some).rows
    ]  # fmt: skip
    columns = ["Vectors", "Features", "coef", "Steered", "Against k = 1 [95 %]", "p (Holm)"]
    made = Found(
        answer=answer,
        sentence=f"Larger k that gain more: {counts}{_least_p(flat)}.",
        number=Number(
            what=f"{best.name} against k = 1, {WAYS[way]}",
            value=best.gain, ci=best.ci, unit="points",
        ),
        smallest=best.least(len(flat)),
        table=Table(columns=columns, rows=lines),
    )  # fmt: skip
    return {"one_feature": made}


def optimised(folder: Path) -> dict[str, Found]:
    _, results = done_jobs(folder)
    (record, *_) = results.values()
    effects = record.side_effects
    if effects is None or effects.neutral is None:
        raise DataError(f"{folder} has no neutral text: leave side_effects as it is")
    own = effects.neutral.arms[STEERED]
    helped = record.gain > 0 and record.flips.mcnemar_p <= SIGNIFICANT
    answer: Word = "undecided"
    if own.kl_ci[0] > KL:
        answer = "refuted"
    elif own.kl_ci[1] < KL and helped:
        answer = "supported"
    rows = [
        [name, short(arm.kl), f"[{short(arm.kl_ci[0])}, {short(arm.kl_ci[1])}]",
         pct(arm.top1_changed)] for name, arm in effects.neutral.arms.items()
    ]  # fmt: skip
    gain = f"{points(record.gain)} points {interval(record.gain_ci)}"
    found = Found(
        answer=answer,
        sentence=f"The gain on test is {gain}.",
        number=Number(
            what="KL divergence on neutral text", value=own.kl, ci=own.kl_ci, unit="nats"
        ),
        table=Table(columns=["Plan", "KL, nats", "95 %", "Likeliest token changes"], rows=rows),
    )  # fmt: skip
    return {"tuned_for_free": found}
