"""The verdicts of a sweep, one per question: what validation chose, and what test and the controls
say about it. In sentences for the page, and as a table for a README (``verdict.md``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from corrsteer.report.numbers import interval, p_value, pct, points, ratio, short, whole
from corrsteer.report.pages import visible
from corrsteer.report.record import Record
from corrsteer.report.tables import control_kinds, in_words
from corrsteer.report.verdict import comparison, unrelated_changes
from corrsteer.stats.intervals import SIGNIFICANT
from corrsteer.steering.arms import BASELINE, STEERED


@dataclass(frozen=True)
class Verdict:
    """``name``: of the question. ``job``: the one that validation chose, with its ``record``.
    ``p_holm``: McNemar's p, corrected for the ``n_jobs`` of the sweep that are done.
    ``choice``: how validation chose (:func:`corrsteer.report.sweep_choice.choice_sentence`)."""

    name: str
    job: int
    record: Record
    p_holm: float
    n_jobs: int
    choice: str

    @property
    def detected(self) -> bool:
        return self.p_holm < SIGNIFICANT

    @property
    def kinds(self) -> list[str]:
        """Of the controls that the job has."""
        return [kind for kind in control_kinds() if kind in self.record.controls]

    @property
    def unbeaten(self) -> list[str]:
        """Kinds of controls that steering does not beat."""
        return [kind for kind in self.kinds if not self.record.controls[kind].beats_all]

    @property
    def helps(self) -> bool:
        """Whether steering raises accuracy, by more than every control."""
        return self.detected and self.record.gain >= 0 and not self.unbeaten

    @property
    def why(self) -> str:
        """What speaks against steering; empty where it helps."""
        reasons = []
        if not self.detected:
            reasons.append("not significant")
        elif self.record.gain < 0:
            reasons.append("lowers accuracy")
        if self.unbeaten:
            names = [in_words(kind) for kind in self.unbeaten]
            who = " and ".join(names) if len(names) < 3 else f"{len(names)} controls"
            reasons.append(f"{who} at least as good")
        return ", ".join(reasons)

    @property
    def sentences(self) -> list[str]:
        return [self._effect(), *self._controls()]

    @property
    def details(self) -> list[str]:
        return [self.choice, self._price()]

    def _effect(self) -> str:
        record, ends = self.record, interval(self.record.gain_ci)
        base, steered = (record.arms[arm].accuracy for arm in (BASELINE, STEERED))
        if self.detected:
            verb = "raises" if record.gain > 0 else "lowers"
            size = points(abs(record.gain)).lstrip("+")
            effect = f"{verb} accuracy by {size} points {ends}"
        else:
            effect = f"does not detectably change accuracy: {points(record.gain)} points {ends}"
        test = p_value(self.p_holm)
        test += f", corrected for {self.n_jobs} jobs" if self.n_jobs > 1 else ""
        moved = f"from {pct(base)} to {pct(steered)}"
        return f"Steering at coef {short(record.coef)} {effect}, {moved} ({test})."

    def _controls(self) -> list[str]:
        controls = self.record.controls
        if not controls:
            return []
        best = ", ".join(f"{in_words(kind)} {points(controls[kind].best)}" for kind in self.kinds)
        return [
            f"Best gain of each control: {best}.",
            comparison(self.record.gain, controls, points=points),
        ]

    def _price(self) -> str:
        flips, effects = self.record.flips, self.record.side_effects
        share = "SER undefined" if flips.ser is None else f"SER {ratio(flips.ser)}"
        sentences = [
            f"On test it fixes {whole(flips.fixed)} answers and breaks {whole(flips.broken)}: "
            f"{share}, exact McNemar {p_value(flips.mcnemar_p)}."
        ]
        if effects and (unrelated := effects.off_target):
            changed, ser = unrelated.arms[STEERED].changed, self.record.ser.off_target
            sentences.append(f"{unrelated_changes(changed, unrelated.n, ser)}.")
        if effects and (neutral := effects.neutral):
            kl = short(neutral.arms[STEERED].kl)
            sentences.append(f"The KL divergence on neutral text is {kl} nats per token.")
        return " ".join(sentences)


def markdown(verdicts: Sequence[Verdict], kinds: Sequence[str]) -> str:
    """The verdicts as a table in GitHub's markdown. ``kinds``: of controls, a column each."""
    titles = ["Question", "Beats all", "coef", "Unsteered", "Steered", "Gain [95 %]", "p (Holm)"]
    titles += ["Fixed", "Broken", "SER", *(in_words(kind).capitalize() for kind in kinds)]
    lines = ["| " + " | ".join(titles) + " |", "|---|---|" + "---:|" * (len(titles) - 2)]
    for v in verdicts:
        record, flips = v.record, v.record.flips
        cells = [_escaped(v.name), "**yes**" if v.helps else f"no: {v.why}", short(record.coef)]
        cells += [pct(record.arms[arm].accuracy) for arm in (BASELINE, STEERED)]
        cells += [f"{points(record.gain)} {interval(record.gain_ci)}", p_value(v.p_holm)[4:]]
        cells += [whole(flips.fixed), whole(flips.broken), ratio(flips.ser)]
        for kind in kinds:
            gain = points(record.best_gain(kind))
            cells.append(f"**{gain}**" if kind in v.unbeaten else gain)
        lines.append("| " + " | ".join(cells) + " |")
    note = (
        "Gains are percentage points over the unsteered model. The gain of a control is that of "
        "its best draw, in bold where steering does not beat it. “Beats all” means that steering "
        f"raises accuracy (McNemar p below {SIGNIFICANT}, corrected for the number of jobs) by "
        "more than every control does."
    )
    return "\n".join([*lines, "", note, ""])


def _escaped(text: str) -> str:
    """Text from outside in a cell of a markdown table."""
    text = " ".join(visible(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)
