"""What steering did, in words: the one place that says whether it helped.

:mod:`corrsteer.report.judgement` decides from typed numbers, and every sentence here follows what
it decided. Pages, tables, the terminal and trackers show these and add none of their own (a test
reads all other files for such words). Pure functions of the record; cheap to import, since a run
ends with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from corrsteer.report.judgement import (
    Judgement,
    beaten_in_most,
    claim_of_seeds,
    judge,
)
from corrsteer.report.notes import all_noise, chance, end_of_search, nothing_steers
from corrsteer.report.numbers import counted, interval, p_value, pct, points, short, whole
from corrsteer.report.record import Control, Record
from corrsteer.report.tables import control_kinds, in_words, subject
from corrsteer.stats.claims import Claim, least_draws
from corrsteer.stats.intervals import SIGNIFICANT
from corrsteer.steering.arms import BASELINE, KINDS, NULL, SECOND, STEERED

_KL_LIMIT = 0.1
"""Nats per token: the cut that Arditi et al. (2024) and SteeringSafety use for a changed model."""
_TEXT_LIMIT = 10
"""Times the perplexity of the model's own answers, from which on they are called broken."""
_NULLS = {NULL: KINDS[NULL].plural, SECOND: f"features chosen on {KINDS[SECOND].plural}"}

# -- a run -------------------------------------------------------------------------------------


def verdict(record: Record) -> list[str]:
    """The verdict in one sentence, and at most five short ones that a reader of it needs next."""
    judged = judge(record)
    more = (compared(judged), form(record), constrained(record), one_answer(record))
    first = (headline(judged), elsewhere(record), nothing_steers(record), end_of_search(record))
    said = [*first, all_noise(record), *more, chance(record)]
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
    return f", more than {' and '.join(_NULLS[kind] for kind in judged.nulls)} of the same norm"


def _no_better(judged: Judgement) -> str:
    null, gain = judged.controls[judged.null], points(judged.gain)
    what = _NULLS[judged.null]
    if _beaten_alone(judged):
        p = p_value(judged.nulls[judged.null])
        return (
            f"not shown to be better than {what} of the same norm ({gain} points; {p} among "
            f"{judged.questions} questions)"
        )
    return (
        f"no better than {what} of the same norm ({gain} points; {null.at_least_as_good} "
        f"of {len(null.gains)} of their plans do as well, the best {points(null.best)})"
    )


def _beaten_alone(judged: Judgement) -> bool:
    """Whether the null would have been beaten if the run stood in no table."""
    p = judged.controls[judged.null].p
    return p is not None and p <= SIGNIFICANT


def _untested(judged: Judgement) -> str:
    null = judged.controls.get(NULL)
    if null is None:
        return "there are no random features of the same norm to compare with"
    return f"{counted(null.asked, 'plan')} of random features cannot tell, {least_draws(1)} can"


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


def elsewhere(record: Record) -> str:
    """That the plan breaks the model outside its task; empty where it was not found to."""
    effects = record.side_effects
    if effects is None:
        return ""
    clauses = []
    if effects.neutral and (moved := effects.neutral.arms[STEERED]).kl_ci[0] > _KL_LIMIT:
        clauses.append(
            f"{short(moved.kl)} nats per token on neutral text, where {_KL_LIMIT} is a usual limit"
        )
    if effects.off_target:
        texts = effects.off_target.text.arms
        before, after = texts[BASELINE].perplexity, texts[STEERED].perplexity
        if before and after and after > _TEXT_LIMIT * before:
            clauses.append(
                f"the perplexity of answers to unrelated prompts goes from {short(before)} to"
                f" {whole(after)}"
            )
    return f"Outside its task this plan changes the model: {'; '.join(clauses)}." if clauses else ""


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
    Claim.NO_BETTER: f"is {Claim.NO_BETTER} in",
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
        return f"; {_only(helped)}"
    return f"; it beats every control in {best or 'none'}"


def why_not(judged: Sequence[Judgement]) -> str:
    """What speaks against steering, for a table; empty where it beats every control."""
    if beaten_in_most(judged):
        return ""
    claim, least = claim_of_seeds(judged), judged[0].least
    if claim is Claim.RAISES:
        if not any(j.others for j in judged):
            return f"helps, {_only(judged)}"
        found = Counter(kind for j in judged for kind in (*j.better, *j.level))
        kinds = [kind for kind in control_kinds() if 2 * found[kind] >= len(judged)]
        names = [in_words(kind) for kind in kinds if found[kind]]
        few = 0 < len(names) < 3
        return f"helps, not shown to beat {' and '.join(names) if few else 'every control'}"
    if claim is Claim.UNDECIDED and len(judged) == 1 and least is not None:
        return f"undecided, {_size(least)} points would have shown"
    if claim is Claim.NO_BETTER:
        return _chance(judged)
    return {
        Claim.LOWERS: "lowers accuracy",
        Claim.UNTESTED: "untested against random features",
    }.get(claim, "undecided")


def _chance(judged: Sequence[Judgement]) -> str:
    """What those that are no better than a null are not better than, for a table."""
    some = [j for j in judged if j.claim is Claim.NO_BETTER]
    kind = Counter(j.null for j in some).most_common(1)[0][0]
    shown = "not shown to be better" if all(map(_beaten_alone, some)) else "no better"
    return f"{shown} than {_NULLS[kind]}"


def _only(judged: Sequence[Judgement]) -> str:
    """That there are no controls but the nulls."""
    kinds = [kind for kind in _NULLS if any(kind in j.nulls for j in judged)]
    are = "are its only control" + "s" * (len(kinds) > 1)
    return f"{' and '.join(_NULLS[kind] for kind in kinds)} {are}"


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
