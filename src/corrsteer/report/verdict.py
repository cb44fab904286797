"""What steering did, in words: the one place that says whether it helped.

:func:`judge` decides from typed numbers with :mod:`corrsteer.stats.claims`, and every sentence here
follows what it decided. Pages, tables, the terminal and trackers show these and add none of their
own (a test reads all other files for such words). Pure functions of the record; cheap to import,
since a run ends with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from corrsteer.report.notes import all_noise, chance, end_of_search
from corrsteer.report.numbers import counted, interval, p_value, pct, points, whole
from corrsteer.report.record import Control, Interval, Record
from corrsteer.report.tables import control_kinds, in_words, subject
from corrsteer.stats.claims import Claim, beats_all, decide, least_draws
from corrsteer.stats.intervals import SIGNIFICANT, detectable_gain, holm
from corrsteer.steering.arms import KINDS

NULL = "random"
"""The kind of control that a gain due to steering must beat."""

Pair = tuple[int, str]

# -- what is decided ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Judgement:
    """What the numbers of one run allow to be said.

    ``p``, ``null_p`` and the p-values behind ``level`` are corrected for the ``jobs`` and
    ``questions`` of the table they stand in, if any. ``better``: kinds of controls that do better
    than steering, ``worse``: those that do worse, both by paired tests, ``level``: all others; the
    random features are in none of them. ``least``: the smallest gain that the paired test would
    have found with 80 % power, None where there is none. ``gain_ci``: of the gain, uncorrected.
    """

    claim: Claim
    gain: float
    p: float
    null_p: float | None
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
    def null(self) -> Control | None:
        return self.controls.get(NULL)

    @property
    def others(self) -> bool:
        """Whether there are controls besides the random features."""
        return bool(self.better or self.level or self.worse)

    @property
    def unbeaten(self) -> list[str]:
        """Kinds of controls that steering is not shown to beat, the random features among them."""
        above_null = self.null_p is not None and self.null_p <= SIGNIFICANT
        null = [NULL] if self.null and not above_null else []
        return [kind for kind in control_kinds() if kind in (*self.better, *self.level, *null)]


def judge(
    record: Record,
    *,
    p: float | None = None,
    null_p: float | None = None,
    others: Mapping[str, float] | None = None,
    jobs: int = 1,
    questions: int = 1,
) -> Judgement:
    """``p``: McNemar's, corrected for the ``jobs`` of a sweep; ``null_p``: of the random features,
    ``others``: :func:`other_p` of the other controls by kind, both corrected for the ``questions``
    of a table. Left out: the record's own."""
    flips, controls = record.flips, record.controls
    p = flips.mcnemar_p if p is None else p
    null_p = own_null_p(record) if null_p is None else null_p
    others = other_p([record])[0] if others is None else others
    claim = decide(record.gain, p, null_p)
    kinds = [kind for kind in control_kinds() if kind in others]
    worse = tuple(kind for kind in kinds if others[kind] < SIGNIFICANT)
    better = tuple(kind for kind in kinds if controls[kind].paired_ci[1] < 0)
    flipped = flips.fixed + flips.broken
    return Judgement(
        claim=claim,
        gain=record.gain,
        p=p,
        null_p=null_p,
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


def own_null_p(record: Record) -> float | None:
    """Of the random features of one run; None where there were none, or too few for any plan to
    be told from them."""
    null = record.controls.get(NULL)
    return null.p if null and null.asked >= least_draws(1) else None


def other_p(records: Sequence[Record]) -> list[dict[str, float]]:
    """Of each record, by kind of control but random features: the p-value that steering does no
    better than its best draw, after Holm over all controls of all records."""
    raw: dict[Pair, float] = {
        (n, kind): control.paired_p
        for n, record in enumerate(records)
        for kind, control in record.controls.items()
        if kind != NULL
    }
    found: list[dict[str, float]] = [{} for _ in records]
    for (n, kind), p in zip(raw, holm(list(raw.values())), strict=True):
        found[n][kind] = p
    return found


# -- a run -------------------------------------------------------------------------------------


def verdict(record: Record) -> list[str]:
    """The verdict in one sentence, and at most five short ones that a reader of it needs next."""
    judged = judge(record)
    more = (compared(judged), form(record), constrained(record), one_answer(record))
    said = [headline(judged), end_of_search(record), all_noise(record), *more, chance(record)]
    return [sentence for sentence in said if sentence][:6]


def headline(judged: Judgement) -> str:
    gain = f"{points(judged.gain)} points"
    match judged.claim:
        case Claim.RAISES:
            return f"Steering helps ({gain}){_beside(judged)}."
        case Claim.LOWERS:
            return f"Steering lowers accuracy ({gain})."
        case Claim.NO_BETTER:
            return f"Steering is {_no_better(judged)}."
        case Claim.UNTESTED:
            return (
                f"Accuracy rises ({gain}), but whether steering is the cause is untested: "
                f"{_untested(judged)}."
            )
        case Claim.UNDECIDED:
            return f"Undecided ({gain}): {_least(judged)}."


def _beside(judged: Judgement) -> str:
    """What else does as well, or better, than steering that helps: the first two by name."""
    clauses = []
    for kinds, more in ((judged.better, "more"), (judged.level, "as much")):
        for kind in sorted(kinds, key=lambda kind: -judged.controls[kind].best):
            does = "help" if _several(kind) else "helps"
            does = does if more == "more" else "may help"
            gain = points(judged.controls[kind].best)
            clauses.append(f"{_at_length(kind)} {does} {more} ({gain})")
    if clauses:
        others = len(clauses) - 2
        rest = f", and {counted(others, 'other control')}" if others > 0 else ""
        return f", but {' and '.join(clauses[:2])}{rest}"
    if judged.worse:
        return ", more than every control"
    return ", more than random features of the same norm"


def _no_better(judged: Judgement) -> str:
    null, gain = judged.null, points(judged.gain)
    assert null is not None and null.p is not None, judged
    if null.p <= SIGNIFICANT:  # alone it would have been enough
        return (
            f"not shown to be better than random features of the same norm ({gain} points; "
            f"{p_value(judged.null_p)} among {judged.questions} questions)"
        )
    return (
        f"no better than random features of the same norm ({gain} points; {null.at_least_as_good} "
        f"of {len(null.gains)} of their plans do as well, the best {points(null.best)})"
    )


def _untested(judged: Judgement) -> str:
    if judged.null is None:
        return "there are no random features of the same norm to compare with"
    return (
        f"{judged.null.asked} {'plan' if judged.null.asked == 1 else 'plans'} of random features "
        f"cannot tell, {least_draws(1)} can"
    )


def _least(judged: Judgement) -> str:
    if not judged.flipped:
        return "no answer flipped"
    low, high = judged.gain_ci
    stricter = ""
    if low > 0 or high < 0:
        test = f"exact McNemar test{', corrected for the jobs,' if judged.jobs > 1 else ''}"
        stricter = f"the interval excludes 0, but the {test} is stricter ({p_value(judged.p)}); "
    if judged.least is None:
        return f"{stricter}too few answers flipped to show any change"
    change = "loss" if judged.gain < 0 else "gain"
    least = f"{_size(judged.least)} points"
    return f"{stricter}the smallest {change} that these data could have shown is {least}"


def compared(judged: Judgement) -> str:
    """How the other controls do beside steering, answer by answer; empty without any."""
    if judged.beats_all and judged.worse:
        best = max(judged.worse, key=lambda kind: judged.controls[kind].best)
        verb = "come" if _several(best) else "comes"
        return f"{_capital(subject(best))} {verb} closest ({points(judged.controls[best].best)})."
    groups = (
        (judged.better, "does better than", "do better than"),
        (judged.level, "is not told apart from", "are not told apart from"),
        (judged.worse, "does worse than", "do worse than"),
    )
    clauses: list[str] = []
    for kinds, does, do in groups:
        if kinds:
            how = do if len(kinds) > 1 or _several(kinds[0]) else does
            than = "it" if clauses else "steering"
            clauses.append(f"{_named(kinds, judged.controls)} {how} {than}")
    return f"{_capital('; '.join(clauses))}." if clauses else ""


def form(record: Record) -> str:
    """Where flips come from, or lead to, answers that cannot be read; empty where none do."""
    f, flips = record.format, record.flips
    clauses = []
    if n := f.fixed_from_invalid:
        was = "was" if n == 1 else "were"
        clauses.append(f"{_of(n, flips.fixed, 'fixed')} {was} no readable answer before")
    if n := f.broken_to_invalid:
        clauses.append(f"{_of(n, flips.broken, 'broken')} can no longer be read")
    return f"{_capital('; '.join(clauses))}." if clauses else ""


def constrained(record: Record) -> str:
    """How far the gain shrinks where only option letters may be answered."""
    c = record.constrained_gain
    if c is None:
        return ""
    gain = f"{points(c.gain)} points {interval(c.ci)}"
    low, high = c.difference_ci
    change = f"{_size(c.difference)} points {'more' if low > 0 else 'fewer'} than in free answers"
    if low <= 0 <= high:
        change = "not told apart from that of free answers"
    return f"Where both may answer with option letters only, the gain is {gain}, {change}."


def one_answer(record: Record) -> str:
    """Where accuracy is the rate of one answer."""
    one = record.one_answer
    if one is None:
        return ""
    told = f"“{one.answer}” is right in every test question, so accuracy is the rate of that answer"
    if one.half is None:
        return f"{told}, and a mere push towards it would look the same."
    half = one.half
    return (
        f"{told}; where it is wrong ({half.name}, {whole(half.n)} questions) accuracy goes from "
        f"{pct(half.baseline)} to {pct(half.steered)} ({points(half.gain)} {interval(half.ci)})."
    )


# -- a setting of a sweep, with its seeds ------------------------------------------------------

_COUNTED = {
    Claim.RAISES: "helps in",
    Claim.LOWERS: "lowers accuracy in",
    Claim.NO_BETTER: "is no better than random features in",
    Claim.UNTESTED: "is untested in",
    Claim.UNDECIDED: "is undecided in",
}


def headline_of_seeds(
    judged: Sequence[Judgement], mean: float, sd: float | None, seeds: str = "seeds"
) -> str:
    """One seed's own headline; for several, how many allow which claim. ``mean`` and ``sd``: of
    their gains. ``seeds``: what they are called."""
    if len(judged) == 1:
        return headline(judged[0])
    counts = Counter(j.claim for j in judged)
    claims = _listed([f"{_COUNTED[claim]} {counts[claim]}" for claim in Claim if counts[claim]])
    spread = "" if sd is None else f", standard deviation {_size(sd)}"
    beats = _beats(judged, sum(j.beats_all for j in judged))
    told = f"Steering {claims} of {len(judged)} {seeds} (mean gain {points(mean)} points{spread})"
    return f"{told}{beats}."


def headline_of_table(settings: Sequence[Sequence[Judgement]]) -> str:
    """How many settings allow which claim. ``settings``: the seeds of each."""
    counts = Counter(claim_of_seeds(judged) for judged in settings)
    claims = _listed([f"{_COUNTED[claim]} {counts[claim]}" for claim in Claim if counts[claim]])
    helped = [j for judged in settings if claim_of_seeds(judged) is Claim.RAISES for j in judged]
    beats = _beats(helped, sum(beaten_in_most(judged) for judged in settings))
    return f"Of {len(settings)} settings, steering {claims}{beats}."


def _beats(judged: Sequence[Judgement], best: int) -> str:
    """In how many, ``best``, steering that helps beats every control; empty where it never
    helps."""
    helped = [j for j in judged if j.claim is Claim.RAISES]
    if not helped:
        return ""
    if not any(j.others for j in helped):
        return "; random features are its only control"
    return f"; it beats every control in {best or 'none'}"


def claim_of_seeds(judged: Sequence[Judgement]) -> Claim:
    """What more than half of the seeds allow; undecided where no claim has so many."""
    claim, count = Counter(j.claim for j in judged).most_common(1)[0]
    return claim if 2 * count > len(judged) else Claim.UNDECIDED


def beaten_in_most(judged: Sequence[Judgement]) -> bool:
    """Whether steering beats every control in more than half of the seeds."""
    return 2 * sum(j.beats_all for j in judged) > len(judged)


def why_not(judged: Sequence[Judgement]) -> str:
    """What speaks against steering, for a table; empty where it beats every control."""
    if beaten_in_most(judged):
        return ""
    claim, least = claim_of_seeds(judged), judged[0].least
    if claim is Claim.RAISES:
        if not any(j.others for j in judged):
            return "helps, random features are its only control"
        found = Counter(kind for j in judged for kind in (*j.better, *j.level))
        kinds = [kind for kind in control_kinds() if 2 * found[kind] >= len(judged)]
        names = [in_words(kind) for kind in kinds if found[kind]]
        few = 0 < len(names) < 3
        return f"helps, not shown to beat {' and '.join(names) if few else 'every control'}"
    if claim is Claim.UNDECIDED and len(judged) == 1 and least is not None:
        return f"undecided, {_size(least)} points would have shown"
    return {
        Claim.LOWERS: "lowers accuracy",
        Claim.NO_BETTER: "no better than random features",
        Claim.UNTESTED: "untested against random features",
    }.get(claim, "undecided")


# -- words -------------------------------------------------------------------------------------


def _named(kinds: Sequence[str], controls: Mapping[str, Control]) -> str:
    """At most three by name, with the gain of the best draw of each."""
    ordered = sorted(kinds, key=lambda kind: -controls[kind].best)
    if len(ordered) > 3:
        most = points(controls[ordered[0]].best)
        return f"{len(ordered)} controls (at most {most})"
    return _listed([f"{subject(kind)} ({points(controls[kind].best)})" for kind in ordered])


def _at_length(kind: str) -> str:
    return f"{KINDS[kind].plural} in the prompt" if kind == "instruction" else KINDS[kind].plural


def _several(kind: str) -> bool:
    return KINDS[kind].plural.endswith("s")


def _listed(words: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def _capital(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}"


def _of(n: int, all_: int, how: str) -> str:
    """So many, at least one, of the answers that are fixed or broken."""
    if all_ == 1:
        return f"the one {how} answer"
    return f"of {whole(all_)} {how} answers {whole(n) if n < all_ else f'all {whole(n)}'}"


def _size(share: float) -> str:
    return f"{abs(100 * share):.1f}"
