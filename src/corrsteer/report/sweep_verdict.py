"""The verdicts of a sweep, one per setting: what validation chose in each seed, and what test and
the controls say about it. For the page, the terminal, and as a table for a README (``verdict.md``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import pandas as pd

from corrsteer.report.judgement import Judgement, beaten_in_most, joint_nulls, judge, other_p
from corrsteer.report.notes import all_noise, chance, edge, odometer, side_effects
from corrsteer.report.numbers import counted, interval, p_value, pct, points, ratio, short, whole
from corrsteer.report.pages import cut, visible
from corrsteer.report.record import Odometer, Record
from corrsteer.report.settings import SEEDS, seeds_called
from corrsteer.report.sweep_choice import choice_sentence, most_accurate
from corrsteer.report.sweep_table import ALIKE, QUESTION
from corrsteer.report.tables import control_kinds, in_words
from corrsteer.report.verdict import (
    compared,
    constrained,
    elsewhere,
    form,
    headline,
    headline_of_seeds,
    headline_of_table,
    one_answer,
    why_not,
)
from corrsteer.stats.intervals import SIGNIFICANT
from corrsteer.stats.joint import best_of
from corrsteer.stats.seeds import over_seeds
from corrsteer.steering.arms import BASELINE, NULL, STEERED

Records = Mapping[int, Record]
"""Of the jobs that are done, by their number."""


@dataclass(frozen=True)
class Chosen:
    """The job that validation chose of one seed. ``choice``: how, in sentences; ``edge``: which
    dials to add, where the first or the last of several did best. ``dials``: how many it chose
    from. ``seeds``: by the name of their setting, those that it has. ``seen``: the plans that its
    test split had answered when the sweep's last job was done."""

    job: int
    record: Record
    seeds: Mapping[str, int]
    judged: Judgement
    choice: str
    edge: str
    dials: int
    seen: Odometer | None


@dataclass(frozen=True)
class Verdict:
    """``name``: of the setting. ``chosen``: of every seed. ``n_jobs``: of the sweep that are
    done."""

    name: str
    chosen: Sequence[Chosen]
    n_jobs: int

    @property
    def record(self) -> Record:
        """Of the first seed."""
        return self.chosen[0].record

    @property
    def records(self) -> list[Record]:
        return [c.record for c in self.chosen]

    @property
    def judged(self) -> list[Judgement]:
        return [c.judged for c in self.chosen]

    @property
    def jobs(self) -> list[int]:
        return [c.job for c in self.chosen]

    @property
    def kinds(self) -> list[str]:
        """Of the controls that the jobs have."""
        had = {kind for record in self.records for kind in record.controls}
        return [kind for kind in control_kinds() if kind in had]

    @property
    def unbeaten(self) -> list[str]:
        """Kinds of controls that steering is not shown to beat in any seed."""
        return [kind for kind in self.kinds if any(kind in j.unbeaten for j in self.judged)]

    @property
    def beats_all(self) -> bool:
        return beaten_in_most(self.judged)

    @property
    def why(self) -> str:
        return why_not(self.judged)

    @property
    def headline(self) -> str:
        gains = over_seeds([r.gain for r in self.records])
        return headline_of_seeds(self.judged, *gains, seeds_called(self._varied))

    @property
    def _varied(self) -> list[str]:
        """Which seeds differ, of :data:`SEEDS`."""
        return [name for name in SEEDS if len({c.seeds.get(name) for c in self.chosen}) > 1]

    @property
    def advice(self) -> str:
        return next((c.edge for c in self.chosen if c.edge), "")

    @property
    def lines(self) -> list[str]:
        """What a reader of the headline needs next, at most five; all of it where there is one
        seed."""
        if len(self.chosen) > 1:
            return [self.advice] if self.advice else []
        record = self.record
        first = (elsewhere(record), self.advice, all_noise(record), compared(self.judged[0]))
        more = (form(record), constrained(record), one_answer(record), chance(record))
        return [sentence for sentence in (*first, *more) if sentence][:5]

    @property
    def details(self) -> list[str]:
        """Of each seed: what validation chose, and its price on test; nothing where each of several
        had one dial."""
        if len(self.chosen) > 1 and all(c.dials == 1 for c in self.chosen):
            return []
        return [sentence for one in self.chosen for sentence in self._details(one)]

    def _details(self, one: Chosen) -> list[str]:
        several = len(self.chosen) > 1
        varied = [name for name in self._varied if name in one.seeds]
        told = [f"{'Seed' if name == 'seed' else name} {one.seeds[name]}" for name in varied]
        seed = f"{', '.join(told)}: " if told else ""
        said = [f"{seed}{one.choice} {_price(one.record)}"]
        seen = odometer(one.seen)
        if several:
            return [" ".join(filter(None, (said[0], headline(one.judged), seen)))]
        return [*said, *filter(None, (" ".join(side_effects(one.record)), seen))]

    # -- the row of a table, with means over the seeds

    @property
    def cells(self) -> dict[str, str]:
        records, judged = self.records, self.judged
        gain, sd = over_seeds([r.gain for r in records])
        one = len(records) == 1
        null = [p for j in judged if (p := j.null_p) is not None]
        sers = [r.flips.ser for r in records if r.flips.ser is not None]
        return {
            "coef": ", ".join(dict.fromkeys(short(r.coef) for r in records)),
            "unsteered": pct(fmean(r.arms[BASELINE].accuracy for r in records)),
            "steered": pct(fmean(r.arms[STEERED].accuracy for r in records)),
            "gain": points(gain),
            "spread": interval(records[0].gain_ci) if one or sd is None else f"± {100 * sd:.1f}",
            "p": p_value(max(j.p for j in judged))[4:],
            "null_p": p_value(max(null))[4:] if null else "–",
            "fixed": _with_format([(r.flips.fixed, r.format.fixed_from_invalid) for r in records]),
            "broken": _with_format([(r.flips.broken, r.format.broken_to_invalid) for r in records]),
            "ser": ratio(fmean(sers) if sers else None),
        }

    def best_gain(self, kind: str) -> float | None:
        """Of one kind of control, in the mean over the seeds that have it."""
        gains = [g for r in self.records if (g := r.best_gain(kind)) is not None]
        return fmean(gains) if gains else None


def _with_format(counts: Sequence[tuple[int, int]]) -> str:
    """Flipped answers and, in brackets, those with an answer that could not be read."""
    flipped, unread = (fmean(column) for column in zip(*counts, strict=True))
    return f"{whole(round(flipped))} ({whole(round(unread))})"


# -- how they are found ------------------------------------------------------------------------


def verdicts(table: pd.DataFrame, results: Records) -> list[Verdict]:
    """Of every setting with a job that is done. ``table``: of
    :func:`corrsteer.report.sweep_table.sweep_table`.

    p-values are corrected for what the table compares: McNemar's for all done jobs, those of the
    controls for the settings of each seed.
    """
    done = table[table["state"] == "done"]
    chosen = done[done["chosen"]]
    corrected, seen = _corrected(chosen, results), _seen(done, results)
    found: dict[str, list[Chosen]] = {}
    for row in chosen.itertuples():
        job = int(row.job)
        record, (questions, nulls, others, ahead) = results[job], corrected[job]
        alike = pd.Series(True, index=done.index)
        for name in ALIKE:
            value = getattr(row, name)
            alike &= done[name].isna() if pd.isna(value) else done[name] == value
        judged = judge(
            record,
            p=float(row.p_holm),
            nulls=nulls,
            others=others,
            ahead=ahead,
            jobs=len(done),
            questions=questions,
        )
        same = done[alike]
        dials = same["coef"].astype(float)
        values = dict(zip(SEEDS, (row.seed, row.splits_seed), strict=True))
        seeds = {name: int(str(value)) for name, value in values.items() if not pd.isna(value)}
        ends = edge(dials.tolist(), dials[most_accurate(same)].tolist(), record.coef)
        how = choice_sentence(same)
        found.setdefault(str(row.setting), []).append(
            Chosen(job, record, seeds, judged, how, ends, dials.nunique(), seen[job])
        )
    tasks = {name: some[0].record.task for name, some in found.items()}
    return [
        Verdict(cut(name or tasks[name], 60), sorted(some, key=lambda c: c.job), len(done))
        for name, some in found.items()
    ]


_Corrected = tuple[int, dict[str, float], dict[str, float], dict[str, float]]


def _corrected(chosen: pd.DataFrame, results: Records) -> dict[int, _Corrected]:
    """By job: how many settings its seed has, and its p-values of the nulls and of the other
    controls (behind and ahead), corrected for them."""
    found: dict[int, _Corrected] = {}
    for _, some in chosen.groupby(["seed", "splits_seed"], dropna=False):
        jobs = [int(n) for n in some["job"]]
        records = [results[n] for n in jobs]
        nulls = joint_nulls(records)
        behind, ahead = (other_p(records, which) for which in ("paired_p", "ahead_p"))
        for n, null, no_better, no_worse in zip(jobs, nulls, behind, ahead, strict=True):
            found[n] = (len(jobs), null, no_better, no_worse)
    return found


def _seen(done: pd.DataFrame, results: Records) -> dict[int, Odometer | None]:
    """By job, the largest count of those that share its test split, which is the latest one."""
    found: dict[int, Odometer | None] = {}
    for _, some in done.groupby([*QUESTION, "seed", "splits_seed"], dropna=False):
        jobs = [int(n) for n in some["job"]]
        plans = max((o.plans for n in jobs if (o := results[n].odometer)), default=0)
        for n in jobs:
            null = results[n].controls.get(NULL)
            best = best_of(null.gains, plans) if null and plans else None
            found[n] = Odometer(plans=plans, best_null_gain=best) if plans else None
    return found


def overall(found: Sequence[Verdict]) -> str:
    """The headline of several settings; empty for one, which has its own."""
    return headline_of_table([v.judged for v in found]) if len(found) > 1 else ""


def with_verdicts(table: pd.DataFrame, found: Sequence[Verdict]) -> pd.DataFrame:
    """The table with what is said of the chosen jobs: ``claim`` and p-values corrected for the
    settings of the table, and the ``verdict`` and ``advice`` on the setting; ``overall`` is the one
    on all of them, beside the first."""
    rows: dict[int, dict[str, object]] = {}
    for v in found:
        for c in v.chosen:
            rows[c.job] = {
                "claim": str(c.judged.claim),
                "null_p_table": c.judged.null_p,
                "beats_all": c.judged.beats_all,
                "verdict": v.headline if c is v.chosen[0] else None,
                "advice": v.advice if c is v.chosen[0] else None,
                "called": v.name if c is v.chosen[0] else None,
                "overall": (overall(found) or None) if c is found[0].chosen[0] else None,
            }
    names = ("claim", "null_p_table", "beats_all", "called", "verdict", "advice", "overall")
    new = {name: [rows.get(n, {}).get(name) for n in table["job"]] for name in names}
    return table.assign(**{name: pd.array(values, dtype=object) for name, values in new.items()})


# -- sentences and tables ----------------------------------------------------------------------


def _price(record: Record) -> str:
    flips = record.flips
    share = "SER undefined" if flips.ser is None else f"SER {ratio(flips.ser)}"
    return (
        f"On test it fixes {counted(flips.fixed, 'answer')} and breaks {whole(flips.broken)}: "
        f"{share}, exact McNemar {p_value(flips.mcnemar_p)}."
    )


def markdown(found: Sequence[Verdict], kinds: Sequence[str]) -> str:
    """The verdicts as a table in GitHub's markdown. ``kinds``: of controls, a column each."""
    titles = ["Question and setting", "Beats all", "coef", "Unsteered", "Steered"]
    titles += [f"Gain ({spread_title(found)})", "p (Holm)"]
    titles += ["p (null)", "Fixed", "Broken", "SER"]
    titles += [in_words(kind).capitalize() for kind in kinds]
    lines = ["| " + " | ".join(titles) + " |", "|---|---|" + "---:|" * (len(titles) - 2)]
    for v in found:
        c = v.cells
        cells = [_escaped(v.name), "**yes**" if v.beats_all else f"no: {v.why}"]
        cells += [c["coef"], c["unsteered"], c["steered"], f"{c['gain']} {c['spread']}"]
        cells += [c[name] for name in ("p", "null_p", "fixed", "broken", "ser")]
        for kind in kinds:
            gain = points(v.best_gain(kind))
            cells.append(f"**{gain}**" if kind in v.unbeaten else gain)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", table_note("in bold"), ""])


def spread_title(found: Sequence[Verdict]) -> str:
    """What stands beside the gains of a table."""
    several = [len(v.records) > 1 for v in found]
    if any(several):
        return "± SD over seeds" if all(several) else "95 % interval, or ± SD over seeds"
    return "95 % interval"


def table_note(unbeaten: str) -> str:
    """What the table of verdicts means. ``unbeaten``: how a control is marked that steering is not
    shown to beat."""
    return (
        "Gains are percentage points over the unsteered model; several seeds have their mean and "
        "standard deviation. Of fixed and broken answers those that could not be read before, or "
        "after, are in brackets. The gain of a control is that of its best draw, "
        f"{unbeaten} where steering is not shown to beat it. p (Holm) is that of the exact "
        "McNemar test, corrected for the number of jobs; p (null) that the plan is one more plan "
        "of random features, or, where that is larger, of features chosen on shuffled outcomes, "
        "corrected for the rows of the table (Westfall and Young 1993; for rows that random "
        "features rule out, their random draws stand in for the second). Both must be at most "
        f"{SIGNIFICANT}, and every other control worse by a paired test (Holm), "
        "for “Beats all”."
    )


def _escaped(text: str) -> str:
    """Text from outside in a cell of a markdown table."""
    text = " ".join(visible(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)
