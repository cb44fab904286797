"""Claims that the sweep over seven tasks and three dials decides: the one behind ``verdict.md``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from corrsteer.claims.reading import done_jobs, of_mean
from corrsteer.claims.record import Found, Number, Table, Word
from corrsteer.report.numbers import interval, p_value, pct, points, ratio, short
from corrsteer.report.record import Record
from corrsteer.report.sweep_verdict import Verdict
from corrsteer.report.tables import read_table
from corrsteer.stats.claims import Claim
from corrsteer.stats.intervals import SIGNIFICANT, proportion_ci
from corrsteer.steering.arms import BASELINE, STEERED

LOW_SER, ALONE = 0.2, 0.1
SHUFFLED = "outcomes shuffled before selection"


def read(folder: Path) -> dict[str, Found]:
    found, _ = done_jobs(folder)
    records = [v.record for v in found]
    made = {
        "chosen_features": _chosen_features(found),
        "content": _content(records),
        "beats_prompt": _against(records, "instruction", "a sentence before the prompt"),
        "layer_matters": _against(records, "layers", "the same vectors at other layers"),
        "ser_is_enough": _ser(records),
    }
    return {name: one for name, one in made.items() if one is not None}


def _chosen_features(found: Sequence[Verdict]) -> Found:
    claims = [v.judged[0].claim for v in found]
    holds, n = sum(c is Claim.RAISES for c in claims), len(found)
    ci = proportion_ci(holds, n)
    answer: Word = "undecided"
    if 2 * holds > n:
        answer = "supported"
    elif ci[1] < 0.5:
        answer = "refuted"
    words = {Claim.RAISES: "yes", Claim.LOWERS: "no: accuracy is lower"}
    rows = [
        [
            v.name, short(v.record.coef), pct(v.record.arms[BASELINE].accuracy),
            pct(v.record.arms[STEERED].accuracy),
            f"{points(v.record.gain)} {interval(v.record.gain_ci)}",
            p_value(v.judged[0].p)[4:],
            p_value(v.judged[0].null_p)[4:] if v.judged[0].null_p is not None else "–",
            points(v.record.best_gain("random")), points(v.record.best_gain("shuffled")),
            words.get(v.judged[0].claim, f"no: {v.judged[0].claim}"),
        ]
        for v in found
    ]  # fmt: skip
    columns = ["Task", "coef", "Unsteered", "Steered", "Gain [95 %]", "p (Holm)", "p (null)",
               "Best random", "Best shuffled", "Holds"]  # fmt: skip
    return Found(
        answer=answer,
        sentence=f"It holds on {holds} of {n} tasks.",
        number=Number(what="share of tasks where it holds", value=holds / n, ci=ci, unit="percent"),
        table=Table(columns=columns, rows=rows),
    )


def _against(records: Sequence[Record], kind: str, words: str) -> Found | None:
    rows, gains = [], []
    for record in records:
        control = record.controls.get(kind)
        if control is None:
            continue
        gains.append(control.paired_gain)
        difference = f"{points(control.paired_gain)} {interval(control.paired_ci)}"
        rows.append([record.task, points(record.gain), points(control.best), difference])
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


def _content(records: Sequence[Record]) -> Found | None:
    fixed = sum(r.flips.fixed for r in records)
    wrong = sum(r.format.fixed_from_wrong for r in records)
    if not fixed:
        return None
    ci = proportion_ci(wrong, fixed)
    answer: Word = "undecided"
    if ci[0] > 0.5:
        answer = "supported"
    elif ci[1] < 0.5:
        answer = "refuted"
    rows = [
        [r.task, str(r.flips.fixed), str(r.format.fixed_from_wrong),
         str(r.format.fixed_from_invalid)] for r in records
    ]  # fmt: skip
    return Found(
        answer=answer,
        sentence=f"Of {fixed} fixed answers, {wrong} could be read before, and were wrong.",
        number=Number(
            what="share of fixed answers that could be read before",
            value=wrong / fixed, ci=ci, unit="percent",
        ),
        table=Table(columns=["Task", "Fixed", "Readable before", "Unreadable before"], rows=rows),
    )  # fmt: skip


def _ser(records: Sequence[Record]) -> Found | None:
    """Turned about: that more than ``ALONE`` of the answers change refutes it."""
    rows, rates = [], []
    for record in records:
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
    found = of_mean(
        f"unrelated answers that change, mean over {len(rows)} tasks",
        rates,
        "percent",
        f"{len(rows)} of {len(records)} tasks have a SER of at most {LOW_SER}.",
        Table(columns=columns, rows=rows),
        least=ALONE,
    )
    turned: dict[Word, Word] = {"supported": "refuted", "refuted": "supported"}
    return found.model_copy(update={"answer": turned.get(found.answer, found.answer)})


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
