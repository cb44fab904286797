"""Claims that the sweep over seven tasks and three dials decides: the one behind ``verdict.md``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from corrsteer.claims.reading import done_jobs, of_mean
from corrsteer.claims.record import Found, Number, Table, Word
from corrsteer.report.judgement import claim_of_seeds, own_nulls
from corrsteer.report.numbers import interval, pct, points, ratio
from corrsteer.report.sweep_verdict import Verdict
from corrsteer.report.tables import read_table
from corrsteer.stats.claims import Claim
from corrsteer.stats.intervals import SIGNIFICANT, proportion_ci
from corrsteer.steering.arms import STEERED

LOW_SER, ALONE = 0.2, 0.1
SHUFFLED = "outcomes shuffled before selection"


def read(folder: Path) -> dict[str, Found]:
    """Each task at the dial that validation chose; of several seeds, the mean, and the claim of
    most of them."""
    found, _ = done_jobs(folder)
    made = {
        "chosen_features": _chosen_features(found),
        "content": _content(found),
        "beats_prompt": _against(found, "instruction", "a sentence before the prompt"),
        "layer_matters": _against(found, "layers", "the same vectors at other layers"),
        "ser_is_enough": _ser(found),
    }
    return {name: one for name, one in made.items() if one is not None}


def _chosen_features(found: Sequence[Verdict]) -> Found:
    claims = [claim_of_seeds(v.judged) for v in found]
    holds, n = sum(c is Claim.RAISES for c in claims), len(found)
    fails = sum(_fails(v) for v in found)
    ci = proportion_ci(holds, n)
    answer: Word = "undecided"
    if 2 * holds > n:
        answer = "supported"
    elif 2 * fails > n:
        answer = "refuted"
    rows = [
        [
            v.name, c["coef"], c["unsteered"], c["steered"], f"{c['gain']} {c['spread']}", c["p"],
            c["null_p"], points(v.best_gain("random")), points(v.best_gain("shuffled")),
            "yes" if claim is Claim.RAISES else f"no: {v.why}",
        ]
        for v, claim in zip(found, claims, strict=True) for c in (v.cells,)
    ]  # fmt: skip
    columns = ["Task", "coef", "Unsteered", "Steered", "Gain [95 %, or ± SD]", "p (Holm)",
               "p (null)", "Best random", "Best shuffled", "Holds"]  # fmt: skip
    return Found(
        answer=answer,
        sentence=f"It holds on {holds} of {n} tasks, and fails on {fails}.",
        number=Number(what="share of tasks where it holds", value=holds / n, ci=ci, unit="percent"),
        table=Table(columns=columns, rows=rows),
    )


def _fails(verdict: Verdict) -> bool:
    """Whether in most seeds accuracy is lower, or it rises and, uncorrected, more than 5 % of drawn
    plans do as well. A task that is undecided does not fail."""
    against = 0
    for record, judged in zip(verdict.records, verdict.judged, strict=True):
        beaten = max(own_nulls(record).values(), default=0.0) > SIGNIFICANT
        against += judged.claim is Claim.LOWERS or (judged.claim is Claim.NO_BETTER and beaten)
    return 2 * against > len(verdict.records)


def _against(found: Sequence[Verdict], kind: str, words: str) -> Found | None:
    rows, gains = [], []
    for v in found:
        controls = [r.controls[kind] for r in v.records if kind in r.controls]
        if not controls:
            continue
        gains.append(fmean(c.paired_gain for c in controls))
        one = f" {interval(controls[0].paired_ci)}" if len(controls) == 1 else ""
        best = points(fmean(c.best for c in controls))
        steered = points(fmean(r.gain for r in v.records))
        rows.append([v.record.task, steered, best, f"{points(gains[-1])}{one}"])
    if not rows:
        return None
    columns = ["Task", "Steered", words[:1].upper() + words[1:], "Difference [95 %]"]
    ahead = sum(gain > 0 for gain in gains)
    return of_mean(
        f"steered minus {words}, mean over {len(gains)} tasks",
        gains,
        "points",
        f"Steering is ahead of {words} on {ahead} of {len(gains)} tasks.",
        Table(columns=columns, rows=rows),
    )


def _content(found: Sequence[Verdict]) -> Found | None:
    rows, fixed, wrong = [], 0, 0
    for v in found:
        counts = [
            sum(r.flips.fixed for r in v.records),
            sum(r.format.fixed_from_wrong for r in v.records),
            sum(r.format.fixed_from_invalid for r in v.records),
        ]
        fixed, wrong = fixed + counts[0], wrong + counts[1]
        rows.append([v.record.task, *map(str, counts)])
    if not fixed:
        return None
    ci = proportion_ci(wrong, fixed)
    answer: Word = "undecided"
    if ci[0] > 0.5:
        answer = "supported"
    elif ci[1] < 0.5:
        answer = "refuted"
    return Found(
        answer=answer,
        sentence=f"Of {fixed} fixed answers, {wrong} could be read before, and were wrong.",
        number=Number(
            what="share of fixed answers that could be read before",
            value=wrong / fixed, ci=ci, unit="percent",
        ),
        table=Table(columns=["Task", "Fixed", "Readable before", "Unreadable before"], rows=rows),
    )  # fmt: skip


def _ser(found: Sequence[Verdict]) -> Found | None:
    """Turned about: that more than ``ALONE`` of the answers change refutes it."""
    rows, rates = [], []
    for v in found:
        record = v.record
        effects, ser = record.side_effects, record.flips.ser
        if effects is None or effects.off_target is None or ser is None or ser > LOW_SER:
            continue
        arms = effects.off_target.arms
        drawn = [arm.rate for name, arm in arms.items() if name.startswith("random")]
        own = arms[STEERED]
        rates.append(own.rate)
        changed = f"{pct(own.rate)} [{pct(own.ci[0])}, {pct(own.ci[1])}]"
        rows.append([record.task, ratio(ser), changed, ", ".join(map(pct, drawn)) or "–"])
    if not rows:
        return None
    columns = ["Task", "SER", "Unrelated answers that change [95 %]", "The same, random features"]
    made = of_mean(
        f"unrelated answers that change, mean over {len(rows)} tasks",
        rates,
        "percent",
        f"{len(rows)} of {len(found)} tasks have a SER of at most {LOW_SER}.",
        Table(columns=columns, rows=rows),
        least=ALONE,
    )
    turned: dict[Word, Word] = {"supported": "refuted", "refuted": "supported"}
    return made.model_copy(update={"answer": turned.get(made.answer, made.answer)})


def calibration(folder: Path) -> dict[str, Found]:
    """From ``calibration.csv`` of :mod:`experiments.calibration.measure`."""
    columns = ["data", "what", "count", "of", "rate", "low", "high"]
    table = read_table(folder / "calibration.csv", columns)
    table = table[table["what"].isin(["raises", "random features alone", "McNemar alone"])]
    row = table[(table["data"] == SHUFFLED) & (table["what"] == "raises")].iloc[0]
    low, high = float(row["low"]), float(row["high"])
    answer: Word = "undecided"
    if high < SIGNIFICANT:
        answer = "supported"
    elif low > SIGNIFICANT:
        answer = "refuted"
    rows = [
        [r["data"], r["what"], str(r["count"]), str(r["of"]),
         f"{pct(r['rate'])} [{pct(r['low'])}, {pct(r['high'])}]"] for _, r in table.iterrows()
    ]  # fmt: skip
    found = Found(
        answer=answer,
        sentence=f"An effect was claimed of {row['count']} of {row['of']} such plans.",
        number=Number(
            what="plans of which one is claimed",
            value=float(row["rate"]), ci=(low, high), unit="percent",
        ),
        table=Table(columns=["Data", "Said", "Count", "Of", "Rate [95 %]"], rows=rows),
    )  # fmt: skip
    return {"seldom_wrong": found}
