"""The result of a run in plain sentences: the gain, its price, and what the controls say about it.

Pure functions of the record; cheap to import, since a run ends with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from corrsteer.report.record import Control, Record
from corrsteer.report.tables import control_kinds, subject
from corrsteer.stats.intervals import SIGNIFICANT
from corrsteer.steering.arms import BASELINE, STEERED

INVALID_WORTH_SAYING = 0.05
DEGENERATE_WORTH_SAYING = 0.02
LENGTH_WORTH_SAYING = 0.1

Points = Callable[[float], str]
"""Writes a difference of fractions in percentage points, signed."""


def verdict(record: Record) -> list[str]:
    """One sentence per finding, the most important first."""
    return [
        *_gain(record),
        *_price(record),
        *_power(record),
        *_invalid(record),
        *_degenerate(record),
        *_random(record),
        *_other_controls(record),
        *_constrained(record),
        *_side_effects(record),
        *_chance(record),
        *_noise(record),
        *_stability(record),
        *_length(record),
    ]


# -- sentences that the verdicts of sweeps share -----------------------------------------------


def ascii_points(share: float) -> str:
    return f"{100 * share:+.1f}"


def comparison(
    gain: float,
    controls: Mapping[str, Control],
    together: str = "controls",
    points: Points = ascii_points,
) -> str:
    """Which controls do better than steering, by their best draw. ``controls``: by kind, at least
    one; ``together``: what all of them are called."""
    kinds = [kind for kind in control_kinds() if kind in controls]
    better = [kind for kind in kinds if controls[kind].best > gain]
    equal = [kind for kind in kinds if controls[kind].best == gain]
    worse = [kind for kind in kinds if controls[kind].best < gain]
    best = [controls[kind].best for kind in kinds]
    clauses = []
    if len(better) == len(kinds) > 2:
        reach = f"{points(min(best))} to {points(max(best))}"
        clauses.append(
            f"all {together} do better than steering ({reach} against {points(gain)} points)"
        )
    elif better:
        gains = _listed([_best_draw(controls[kind], points) for kind in better])
        clauses.append(
            f"{_do(better)} better than steering ({gains} against {points(gain)} points)"
        )
    if equal:
        clauses.append(
            f"{_do(equal)} as well" + ("" if better else f" as steering ({points(gain)} points)")
        )
    if worse and (better or equal):
        clauses.append(f"{_do(worse)} worse" if len(worse) == 1 else "the other controls do worse")
    elif len(worse) == 1:
        (only,) = (_best_draw(controls[kind], points) for kind in worse)
        clauses.append(f"{_do(worse)} worse than steering ({only} against {points(gain)} points)")
    elif worse:
        least = f"at most {points(max(best))} against {points(gain)} points"
        clauses.append(f"all {together} do worse than steering ({least})")
    return sentence("; ".join(clauses))


def unrelated_changes(changed: int, n: int, ratio: float | None) -> str:
    """``ratio``: unrelated answers changed per answer fixed, as fractions of their prompts."""
    price = "" if ratio is None else f", an off-target side effect ratio of {ratio:.2f}"
    return f"{changed:,} of {n:,} unrelated answers change (exact string comparison){price}"


def sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _do(kinds: Sequence[str]) -> str:
    """Subjects with their verb: the instruction does, random features and other layers do."""
    names = [subject(kind) for kind in kinds]
    several = len(names) > 1 or names[0].endswith("s")
    return f"{_listed(names)} {'do' if several else 'does'}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def _best_draw(control: Control, points: Points) -> str:
    several = min(control.gains) < control.best
    return points(control.best) + (" at best" if several else "")


# -- a run -------------------------------------------------------------------------------------


def _gain(record: Record) -> list[str]:
    base, steered = record.arms[BASELINE].accuracy, record.arms[STEERED].accuracy
    p = record.flips.mcnemar_p
    low, high = map(ascii_points, record.gain_ci)
    measured = f"95 % interval {low} to {high} points; exact McNemar p = {p:.2g}"
    moved = f"from {_percent(base)} to {_percent(steered)}"
    if p >= SIGNIFICANT:
        return [f"Steering does not detectably change accuracy ({moved}; {measured})."]
    verb = "raises" if record.gain > 0 else "lowers"
    return [f"Steering {verb} accuracy by {_size(record.gain)} points, {moved} ({measured})."]


def _price(record: Record) -> list[str]:
    flips = record.flips
    if flips.ser is None or record.ser_ci is None:
        return ["No answer flipped, so the side effect ratio is undefined."]
    low, high = record.ser_ci
    return [
        f"It fixed {flips.fixed:,} answers and broke {flips.broken:,}: side effect ratio "
        f"{flips.ser:.2f} (95 % interval {low:.2f} to {high:.2f})."
    ]


def _power(record: Record) -> list[str]:
    if record.flips.mcnemar_p < SIGNIFICANT or record.detectable_gain is None:
        return []
    return [
        f"At this flip rate and N = {record.flips.n:,} the test has 80 % power to detect "
        f"{_size(record.detectable_gain)} points."
    ]


def _invalid(record: Record) -> list[str]:
    base, steered = (record.arms[arm].invalid_rate for arm in (BASELINE, STEERED))
    if max(base, steered) < INVALID_WORTH_SAYING:
        return []
    return [f"Invalid answers: {_percent(base)} without and {_percent(steered)} with steering."]


def _degenerate(record: Record) -> list[str]:
    base, steered = (record.arms[arm].degenerate for arm in (BASELINE, STEERED))
    n = record.arms[STEERED].n
    if max(base, steered) / n < DEGENERATE_WORTH_SAYING:
        return []
    return [
        f"Degenerate text (loops or gibberish): {base:,} answers without and {steered:,} with "
        f"steering, of {n:,}."
    ]


def _random(record: Record) -> list[str]:
    if "random" not in record.controls:
        return []
    gains = record.controls["random"].gains
    n, below = len(gains), sum(gain < record.gain for gain in gains)
    if below == n:
        rank = "all below steering" if n > 1 else "below steering"
    else:
        some = "" if n == 1 else "all " if not below else f"{n - below} of them "
        rank = f"{some}at least as good as steering"
    return [
        f"Random features of the same norm ({n} {'draw' if n == 1 else 'draws'}): "
        f"{_range(gains)} points, {rank}."
    ]


def _other_controls(record: Record) -> list[str]:
    others = {kind: c for kind, c in record.controls.items() if kind != "random"}
    together = "other controls" if len(others) < len(record.controls) else "controls"
    return [comparison(record.gain, others, together)] if others else []


def _constrained(record: Record) -> list[str]:
    base = record.arms[BASELINE].accuracy
    return [
        f"The unsteered model restricted to the option letters reaches {_percent(arm.accuracy)} "
        f"({ascii_points(arm.accuracy - base)} points)."
        for arm in record.arms.values()
        if arm.kind == "constrained"
    ]


def _side_effects(record: Record) -> list[str]:
    sentences = []
    effects = record.side_effects
    if effects and effects.off_target:
        unrelated = effects.off_target
        steered = unrelated.arms[STEERED]
        draws = [str(a.changed) for name, a in unrelated.arms.items() if _is_random(record, name)]
        against = f"; random features change {_ends(draws)}" if draws else ""
        changed = unrelated_changes(steered.changed, unrelated.n, record.ser.off_target)
        sentences.append(f"Side effects: {changed}{against}.")
    if effects and effects.neutral:
        moved = effects.neutral.arms
        draws = [f"{a.kl:.2g}" for name, a in moved.items() if _is_random(record, name)]
        against = f" (random features: {_ends(draws)})" if draws else ""
        sentences.append(
            f"On neutral text the KL divergence to the unsteered model is {moved[STEERED].kl:.2g} "
            f"nats per token{against}."
        )
    return sentences


def _is_random(record: Record, name: str) -> bool:
    return record.arms[name].kind == "random"


def _chance(record: Record) -> list[str]:
    chance, (low, high) = record.chance, record.arms[BASELINE].ci
    if chance is None or low > chance:
        return []
    where = "below" if high < chance else "not above"
    return [
        f"The unsteered model is {where} chance ({_percent(chance)}): it cannot do this task, so a "
        "change in accuracy says little about steering."
    ]


def _noise(record: Record) -> list[str]:
    below, n = record.noise.below_ceiling, record.noise.features
    if not below:
        return []
    return [
        f"{below} of {n} chosen {_features_are(below, n)} at or below the noise ceiling of "
        f"{'its layer' if below == 1 else 'their layers'}: shuffled outcomes give features that "
        "correlate as well."
    ]


def _stability(record: Record) -> list[str]:
    unstable, n = record.noise.unstable, record.noise.features
    if not unstable:
        return []
    return [
        f"{unstable} of {n} chosen {_features_are(unstable, n)} the best of "
        f"{'its layer' if unstable == 1 else 'their layers'} in fewer than half of "
        f"{record.stability.resamples} bootstrap resamples: other questions would have selected "
        "other features."
    ]


def _features_are(some: int, n: int) -> str:
    return f"{'feature' if n == 1 else 'features'} {'is' if some == 1 else 'are'}"


def _length(record: Record) -> list[str]:
    r = record.selection.length_r
    if abs(r) < LENGTH_WORTH_SAYING:
        return []
    return [
        f"Answer length correlates with the outcome (r = {r:.2f}), so pooling over an answer can "
        "favour features that track length."
    ]


def _range(gains: Sequence[float]) -> str:
    return _ends([ascii_points(gain) for gain in gains])


def _ends(numbers: Sequence[str]) -> str:
    """The smallest and the largest of numbers as text; once where they are the same."""
    return " to ".join(sorted({min(numbers, key=float), max(numbers, key=float)}, key=float))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _size(share: float) -> str:
    return f"{abs(100 * share):.1f}"
