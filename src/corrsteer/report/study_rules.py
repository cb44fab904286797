"""How each study answers its claim: pure functions from compared arms to one of three words.

Every arm is compared with the reference on the same test questions: p is that of the exact McNemar
test (of the sign-flip test over questions where there are several seeds), corrected for the arms
that were compared (Holm). Where jobs of equal norm were found, an arm does better or worse only if
it does so there, too.

An answer is given only once every arm that was asked for has a job, and only where no dial at an
end of its range could change it: a wider range can only improve the arm that it holds back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from corrsteer.report.numbers import interval, p_value, points
from corrsteer.report.tables import in_words
from corrsteer.stats.intervals import SIGNIFICANT
from corrsteer.stats.seeds import GainBySample

SUPPORTED, REFUTED, UNDECIDED = "supported", "refuted", "undecided"
MARGIN = 0.02
"""A gain below two points is none that matters, where a study claims that there is none."""


@dataclass(frozen=True)
class Asked:
    """The setting ``study``. ``subject``: arms that the claim is about; ``control``: kinds of
    controls, or arms, that must be beaten besides."""

    claim: str
    reference: str = ""
    subject: tuple[str, ...] = ()
    control: tuple[str, ...] = ()
    rule: str = "better"
    by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compared:
    """An arm against the reference. ``accuracy``: on test, its mean over seeds. ``smallest``: the
    gain that the test could have found (:func:`corrsteer.stats.intervals.detectable_gain`).
    ``equal``: the gain where both plans have the same total norm, that of the one which validation
    finds better, and ``equal_p`` its p (Holm); None where there are no such jobs. ``controls``: by
    kind, the p-value that the arm is no better than the best draw. ``dial``: what validation chose;
    ``facts``: what else a table says."""

    name: str
    accuracy: float
    gain: GainBySample
    p: float
    smallest: float | None
    equal: GainBySample | None = None
    equal_p: float | None = None
    dial: str = ""
    controls: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def is_better(self) -> bool:
        return self._differs(1)

    @property
    def is_worse(self) -> bool:
        return self._differs(-1)

    def _differs(self, sign: int) -> bool:
        own = self.p <= SIGNIFICANT and sign * self.gain.gain > 0
        if self.equal is None or self.equal_p is None:
            return own
        return own and self.equal_p <= SIGNIFICANT and sign * self.equal.gain > 0

    @property
    def lies_below(self) -> bool:
        """Both intervals below 0."""
        return self.gain.ci[1] < 0 and (self.equal is None or self.equal.ci[1] < 0)

    def beats(self, controls: Sequence[str]) -> bool:
        """Whether it is shown to beat the best draw of each; not where one was not drawn."""
        return all(self.controls.get(kind, 1.0) <= SIGNIFICANT for kind in controls)


@dataclass(frozen=True)
class Finding:
    """``row``: the arm whose gain decides, None without one. ``why``: what the numbers are not
    enough for, or besides. ``losers``: the arms that the answer needs to do no better. ``held``:
    why the numbers, which are enough, give no answer; empty where they do."""

    answer: str
    row: Compared | None
    why: str = ""
    losers: Sequence[str] = ()
    held: str = ""


def held(asked: Asked, found: Finding, missing: Sequence[str], at_ends: Sequence[str]) -> Finding:
    """``missing``: arms that were asked for and have no job that is done; ``at_ends``: arms whose
    dial lies at an end of its range. Of these count the reference and the losers."""
    if missing:
        why = f"no job of {', '.join(missing)} is done"
        if found.answer != UNDECIDED:
            return replace(found, answer=UNDECIDED, why=f"but {why}", held=why)
        return replace(found, why=", ".join(filter(None, [found.why, why])))
    short = [name for name in (asked.reference, *found.losers) if name in at_ends]
    if found.answer == UNDECIDED or not short:
        return found
    why = f"the dial of {', '.join(short)} lies at an end of its range"
    return replace(found, answer=UNDECIDED, why=f"but {why}", held=why)


def better(asked: Asked, rows: Sequence[Compared], own: Mapping[str, float]) -> Finding:
    """One arm does better than the reference and than the best draw of its controls."""
    row = next((row for row in rows if row.name in asked.subject), None)
    control = " and ".join(map(in_words, asked.control))
    if row is None:
        return Finding(UNDECIDED, None)
    if row.is_worse:
        return Finding(REFUTED, row, losers=[row.name])
    if row.is_better and row.beats(asked.control):
        return Finding(SUPPORTED, row, f"and more than the best of {control}")
    if row.is_better:
        return Finding(UNDECIDED, row, f"but not shown to beat {control}")
    return Finding(UNDECIDED, row)


def gates(asked: Asked, rows: Sequence[Compared], own: Mapping[str, float]) -> Finding:
    """All arms do worse than the reference. Refuted by one that does better, and than its
    controls."""
    if not rows:
        return Finding(UNDECIDED, None)
    best = max(rows, key=lambda row: row.gain.gain)
    if all(row.lies_below for row in rows):
        return Finding(SUPPORTED, best, f"the best of {len(rows)}", [row.name for row in rows])
    above = [row for row in rows if row.is_better]
    winners = [row for row in above if row.beats(asked.control)]
    if winners:
        row = max(winners, key=lambda row: row.gain.gain)
        return Finding(REFUTED, row, f"and more than {' and '.join(map(in_words, asked.control))}")
    if above:
        control = " and ".join(map(in_words, asked.control))
        return Finding(UNDECIDED, max(above, key=lambda r: r.gain.gain), f"but not than {control}")
    return Finding(UNDECIDED, best, f"the best of {len(rows)}")


def selectors(asked: Asked, rows: Sequence[Compared], own: Mapping[str, float]) -> Finding:
    """No arm gains ``MARGIN`` over the reference, which does better than the arm drawn by chance
    (``asked.control``). Refuted by one that is better."""
    others = [row for row in rows if row.name not in asked.control]
    chance = [row for row in rows if row.name in asked.control]
    if not others:
        return Finding(UNDECIDED, None)
    best = max(others, key=lambda row: row.gain.gain)
    above = [row for row in others if row.is_better]
    if above:
        return Finding(REFUTED, max(above, key=lambda row: row.gain.gain))
    bounds = [r.ci[1] for row in others for r in (row.gain, row.equal) if r is not None]
    if not chance or not all(row.is_worse for row in chance):
        return Finding(
            UNDECIDED,
            best,
            f"the best of {len(others)}; a choice by chance is not shown to be worse",
        )
    if max(bounds) < MARGIN:
        why = f"the best of {len(others)}; a choice by chance is worse"
        return Finding(SUPPORTED, best, why, [row.name for row in rows])
    return Finding(UNDECIDED, best, f"the best of {len(others)}")


def depth(asked: Asked, rows: Sequence[Compared], own: Mapping[str, float]) -> Finding:
    """All layers do better than every arm of one layer (``asked.subject``), and than the controls.
    ``own``: p-values of the reference against its controls. Refuted by one layer that is better."""
    ones = [row for row in rows if row.name in asked.subject]
    if not ones:
        return Finding(UNDECIDED, None)
    best = max(ones, key=lambda row: row.gain.gain)
    above = [row for row in ones if row.is_better]
    if above:
        return Finding(REFUTED, max(above, key=lambda row: row.gain.gain))
    control = " and ".join(map(in_words, asked.control))
    if not all(row.lies_below for row in ones):
        return Finding(UNDECIDED, best, f"the best of {len(ones)} arms of one layer")
    if not all(own.get(kind, 1.0) <= SIGNIFICANT for kind in asked.control):
        return Finding(UNDECIDED, best, f"but all layers are not shown to beat {control}")
    why = f"the best of one layer; all beat {control}"
    return Finding(SUPPORTED, best, why, [row.name for row in ones])


@dataclass(frozen=True)
class Partial:
    """Partial correlation over ``n`` arms and dials of the gain with the rise of active features,
    given the norm, and its 95 % interval (Fisher's z). They share questions, so it describes them:
    the interval is not one for new arms or questions."""

    r: float
    ci: tuple[float, float]
    n: int


def filling(asked: Asked, rows: Sequence[Compared], partial: Partial | None) -> Finding:
    """The subject is no worse than the reference by ``MARGIN``, and the rise of active features
    predicts the gain beyond the norm. Refuted where the subject is worse."""
    row = next((row for row in rows if row.name in asked.subject), None)
    if row is None:
        return Finding(UNDECIDED, None)
    why = "the rise of active features could not be measured"
    if partial is not None:
        low, high = partial.ci
        why = (
            f"correlation of gain and rise of active features given norm {partial.r:.2f}"
            f" [{low:.2f}, {high:.2f}], descriptive: {partial.n} arms and dials on the same"
            " questions"
        )
    if row.is_worse:
        return Finding(REFUTED, row, why, [row.name])
    if partial is not None and partial.ci[0] > 0 and row.gain.ci[0] > -MARGIN:
        return Finding(SUPPORTED, row, why)
    return Finding(UNDECIDED, row, why)


RULES: Mapping[str, Callable[[Asked, Sequence[Compared], Mapping[str, float]], Finding]] = {
    "better": better,
    "gates": gates,
    "selectors": selectors,
    "depth": depth,
}


def sentence(asked: Asked, rows: Sequence[Compared], found: Finding) -> str:
    """With the claim, and the answer at its end with its numbers."""
    head = f"{asked.claim[:1].upper()}{asked.claim[1:]}"
    row = found.row
    if row is None:
        there = ", ".join(row.name for row in rows) or "none"
        wanted = " or ".join(asked.subject) or "another arm"
        return (
            f"{head}: {found.answer}, since no job of both {wanted} and {asked.reference} is done"
            f" (compared with {asked.reference}: {there})."
        )
    name = "" if asked.subject == (row.name,) else f"{row.name} "
    numbers = (
        f"{name}{points(row.gain.gain)} points {interval(row.gain.ci)} against {asked.reference}, "
        f"{p_value(row.p)} (Holm)"
    )
    if row.equal is not None:
        numbers += f", at equal norm {points(row.equal.gain)} {interval(row.equal.ci)}"
    if found.why:
        numbers += f", {found.why}"
    if found.answer == UNDECIDED and not found.why.startswith("but"):
        if row.p <= SIGNIFICANT and (row.equal_p or 0.0) > SIGNIFICANT:
            numbers += ", which is not shown there"
        if row.smallest is None:
            numbers += "; too few answers differ to show any gain"
        else:
            numbers += f"; smallest gain the data could have shown: {100 * row.smallest:.1f} points"
    return f"{head}: {found.answer} ({numbers})."
