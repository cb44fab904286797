"""What the numbers of a run, or of the runs of one table, allow to be said.

Decided with :mod:`corrsteer.stats.claims` from the typed record; :mod:`corrsteer.report.verdict`
puts it into words. Pure functions; cheap to import, since a run ends with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from corrsteer.report.record import Control, Interval, Record
from corrsteer.report.tables import control_kinds
from corrsteer.stats.claims import Claim, beats_all, decide, least_draws
from corrsteer.stats.intervals import SIGNIFICANT, detectable_gain, holm
from corrsteer.stats.joint import Drawn, joint_p, joint_second
from corrsteer.steering.arms import BOUND, NULL, SECOND

Pair = tuple[int, str]


@dataclass(frozen=True)
class Judgement:
    """What the numbers of one run allow to be said.

    ``p``, ``nulls`` (by kind) and the p-values behind ``level`` are corrected for the ``jobs`` and
    ``questions`` of the table they stand in, if any. ``better``: kinds of controls that do better
    than steering, ``worse``: those that do worse, both by paired tests, ``level``: all others; the
    nulls are in none of them. ``least``: the smallest gain that the paired test would
    have found with 80 % power, None where there is none. ``gain_ci``: of the gain, uncorrected.
    """

    claim: Claim
    gain: float
    p: float
    nulls: Mapping[str, float]
    controls: Mapping[str, Control]
    better: tuple[str, ...]
    level: tuple[str, ...]
    worse: tuple[str, ...]
    beats_all: bool
    flipped: int
    least: float | None
    gain_ci: Interval
    jobs: int = 1
    questions: int = 1

    @property
    def null_p(self) -> float | None:
        """The largest of the nulls; None without random features to compare with."""
        return max(self.nulls.values()) if NULL in self.nulls else None

    @property
    def null(self) -> str:
        """The first null that steering is not shown to beat, random features where it beats all."""
        above = [kind for kind in (NULL, SECOND) if self.nulls.get(kind, 0.0) > SIGNIFICANT]
        return above[0] if above and NULL in self.nulls else NULL

    @property
    def others(self) -> bool:
        """Whether there are controls besides the nulls."""
        return bool(self.better or self.level or self.worse)

    @property
    def unbeaten(self) -> list[str]:
        """Kinds of controls that steering is not shown to beat, the random features among them."""
        nulls = [k for k in (NULL, SECOND) if k in self.controls and k not in self.compared]
        nulls = [k for k in nulls if not self.nulls.get(k, 1.0) <= SIGNIFICANT]
        return [kind for kind in control_kinds() if kind in (*self.better, *self.level, *nulls)]

    @property
    def compared(self) -> tuple[str, ...]:
        """The kinds of controls that are compared by paired tests."""
        return (*self.better, *self.level, *self.worse)


def judge(
    record: Record,
    *,
    p: float | None = None,
    nulls: Mapping[str, float] | None = None,
    others: Mapping[str, float] | None = None,
    ahead: Mapping[str, float] | None = None,
    jobs: int = 1,
    questions: int = 1,
) -> Judgement:
    """``p``: McNemar's, corrected for the ``jobs`` of a sweep; ``nulls``: :func:`own_nulls`,
    ``others`` and ``ahead``: :func:`other_p` of the other controls by kind, all corrected for the
    ``questions`` of a table. Left out: the record's own."""
    flips, controls = record.flips, record.controls
    p = flips.mcnemar_p if p is None else p
    nulls = own_nulls(record) if nulls is None else nulls
    others = other_p([record])[0] if others is None else others
    ahead = other_p([record], "ahead_p")[0] if ahead is None else ahead
    claim = decide(record.gain, p, max(nulls.values()) if NULL in nulls else None)
    kinds = [kind for kind in control_kinds() if kind in others]
    worse = tuple(kind for kind in kinds if others[kind] < SIGNIFICANT)
    better = tuple(kind for kind in kinds if ahead[kind] < SIGNIFICANT)
    flipped = flips.fixed + flips.broken
    return Judgement(
        claim=claim,
        gain=record.gain,
        p=p,
        nulls=nulls,
        controls=controls,
        better=better,
        level=tuple(kind for kind in kinds if kind not in (*worse, *better)),
        worse=worse,
        beats_all=beats_all(claim, [max(others.values())] if others else []),
        flipped=flipped,
        least=detectable_gain(flips.n, flipped / flips.n, level=SIGNIFICANT / jobs),
        gain_ci=record.gain_ci,
        jobs=jobs,
        questions=questions,
    )


def own_nulls(record: Record) -> dict[str, float]:
    """The p-values of one run by kind of null, without those that were to have too few draws for
    any plan to be told from them, and without a second one of which the first left a few draws."""
    found: dict[str, float] = {}
    for kind in (NULL, SECOND):
        null = record.controls.get(kind)
        if null is None or null.p is None or null.asked < least_draws(1):
            continue
        whole = kind == NULL or len(null.gains) == null.asked
        if whole or (record.gain > 0 and found.get(NULL, 1.0) <= SIGNIFICANT):
            found[kind] = null.p
    return found


def joint_nulls(records: Sequence[Record]) -> list[dict[str, float]]:
    """:func:`own_nulls` of each record, corrected for the number of records."""
    found: list[dict[str, float]] = [{} for _ in records]
    own = [own_nulls(record) for record in records]
    tried = [n for n, nulls in enumerate(own) if NULL in nulls]
    first = [_drawn(records[n], NULL) for n in tried]
    second = [_drawn(records[n], SECOND) if SECOND in own[n] else None for n in tried]
    for n, p, drawn, q in zip(
        tried, joint_p(first), second, joint_second(first, second), strict=True
    ):
        found[n] = {NULL: p} if drawn is None else {NULL: p, SECOND: q}
    return found


def _drawn(record: Record, kind: str) -> Drawn:
    null = record.controls[kind]
    assert null.p is not None
    return Drawn(record.gain, null.gains, record.flips.n, null.p)


def other_p(
    records: Sequence[Record], which: Literal["paired_p", "ahead_p"] = "paired_p"
) -> list[dict[str, float]]:
    """Of each record, by kind of control but the nulls: the p-value that steering does no
    better than its best draw, or (``ahead_p``) that the draw does no better than steering; after
    Holm over all controls of all records."""
    raw: dict[Pair, float] = {
        (n, kind): getattr(control, which)
        for n, record in enumerate(records)
        for kind, control in record.controls.items()
        if kind not in (NULL, BOUND) and kind not in own_nulls(record)
    }
    found: list[dict[str, float]] = [{} for _ in records]
    for (n, kind), p in zip(raw, holm(list(raw.values())), strict=True):
        found[n][kind] = p
    return found


def claim_of_seeds(judged: Sequence[Judgement]) -> Claim:
    """What more than half of the seeds allow; undecided where no claim has so many."""
    claim, count = Counter(j.claim for j in judged).most_common(1)[0]
    return claim if 2 * count > len(judged) else Claim.UNDECIDED


def beaten_in_most(judged: Sequence[Judgement]) -> bool:
    """Whether steering beats every control in more than half of the seeds."""
    return 2 * sum(j.beats_all for j in judged) > len(judged)
