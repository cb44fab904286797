"""What a reader of one section of a report needs to know: sentences for its places.

None of them says whether steering helped, which is for :mod:`corrsteer.report.verdict`.
"""

from __future__ import annotations

from collections.abc import Sequence

from corrsteer.report.numbers import counted, nats, pct, points, r_value, short, whole
from corrsteer.report.record import ABSTAINS, Odometer, Record
from corrsteer.report.tables import control_kinds, in_words
from corrsteer.steering.arms import BASELINE, STEERED

INVALID_WORTH_SAYING = 0.05
DEGENERATE_WORTH_SAYING = 0.02
LENGTH_WORTH_SAYING = 0.1

ACCURACY, CORRELATION, EFFECTS = "accuracy", "correlation", "effects"

METRICS = {
    "bias_disambig": "Bias disambig: of the answers that name a person where the text says who it "
    "was, from −1 (all against the stereotype) to 1 (all with it).",
    "bias_ambig": "Bias ambig: of the answers that name a person where the text does not say who "
    "it was, on the same scale, times the share of wrong answers.",
    "bias_coverage": "Bias coverage: the share of questions whose stereotype is known, which the "
    "bias scores are of.",
    "stereotype": "Stereotype: the share of pairs whose more stereotyping sentence is the likelier "
    "one; 50 % is ideal. Many of the pairs are flawed (Blodgett et al. 2021).",
    "same_answer": "Same answer: the share of questions that get the commonest answer. Near 1 the "
    "model has a favourite whatever is asked, and any push may move it.",
    "strict_prompt": "Prompt: the share whose instructions are all followed. Loose: also where one "
    "is without the first line, the last line or the asterisks.",
}
"""What a benchmark's own numbers mean that their names do not say: those of corrsteer.tasks.bbq,
.crows_pairs, .model_written_evals and .ifeval."""


def notes(record: Record) -> dict[str, list[str]]:
    """By section."""
    return {
        ACCURACY: [
            *_above_chance(record),
            *_invalid(record),
            *_degenerate(record),
            *margin(record),
            *filter(None, [odometer(record.odometer)]),
        ],
        EFFECTS: side_effects(record),
        CORRELATION: [
            *([] if all_noise(record) else _noise(record)),  # a matter for the verdict
            *_stability(record),
            *_length(record),
        ],
    }


def unrelated_changes(changed: int, n: int, ratio: float | None) -> str:
    """``ratio``: unrelated answers changed per answer fixed, as fractions of their prompts."""
    price = "" if ratio is None else f", an off-target side effect ratio of {ratio:.2f}"
    return f"{changed:,} of {n:,} unrelated answers change (exact string comparison){price}"


def edge(dials: Sequence[float], best: Sequence[float], chosen: float) -> str:
    """Where the ``best`` of several dials on validation is the largest or smallest one: which
    values to add. Empty where several are best, which says nothing about where more are. The one
    that is ``chosen`` may be a smaller one."""
    known = sorted(set(dials))
    if len(known) < 2 or len(set(best)) != 1 or best[0] not in (known[0], known[-1]):
        return ""
    end = best[0]
    which = "largest" if end == known[-1] else "smallest"
    near = known[-2] if which == "largest" else known[1]
    if end * near > 0 and abs(end) != abs(near):
        more = [end * (end / near), end * (end / near) ** 2]
    elif end == 0:
        more = [near / 4, near / 2]  # between: smaller than nothing is another question
    else:
        more = [end + (end - near), end + 2 * (end - near)]
    values = ",".join(f"{value:g}" for value in more)
    does = "chooses" if end == chosen else "is most accurate at"
    return f"Validation {does} the {which} dial that was tried ({end:g}): add coef={values}."


def end_of_search(record: Record) -> str:
    """Where a search chooses the largest dial that it may: which range to search."""
    search = record.search
    if search is None or search.chosen.coef <= 0.95 * search.coef[1]:
        return ""
    low, high = search.coef
    return (
        f"The search chooses the largest dial that it may ({search.chosen.coef:.3g}): type "
        f"{'search' if search.price is None else 'strategy'}.coef=[{low:g},{2 * high:g}]."
    )


def nothing_steers(record: Record) -> str:
    """Where layers, their coefficients or a threshold were chosen on validation, and none was."""
    made, search = record.choice, record.search
    if record.operator.endswith(ABSTAINS):
        return (
            f"Nothing is steered: on validation no threshold of {record.operator.split(',')[0]}"
            " leaves more answers right than the unsteered model, so it abstains."
        )
    if made is None and search is not None and search.price is not None:
        return (
            f"Nothing is steered: on validation no candidate of {record.method_name} is worth more"
            f" than the unsteered model{'; type a lower strategy.price' if search.price else ''}."
        )
    if made is None or made.used:
        return ""
    best = max(made.alone, key=lambda one: one.gain)
    kept = (
        "the layers that it keeps do no better together than nothing"
        if made.kept
        else (
            f"it keeps no layer (alone, layer {best.layer} gains most: {points(best.gain)} points)"
        )
    )
    return (
        f"Nothing is steered: {record.method_name} finds on validation that {kept}; type another"
        " coef."
    )


def all_noise(record: Record) -> str:
    """Where no chosen feature scores better than with shuffled outcomes."""
    below, n = record.noise.below_ceiling, record.noise.features
    return " ".join(_noise(record)) if n and below == n else ""


def chance(record: Record) -> str:
    """Where the unsteered model is below chance, or cannot be told from it."""
    level, base = record.chance, record.arms[BASELINE]
    if level is None or base.ci[0] > level:
        return ""
    if base.ci[1] < level:
        return (
            f"The unsteered model is below chance ({pct(base.accuracy)} against {pct(level)}): it "
            "prefers wrong options, which is a finding of its own."
        )
    return (
        f"With {whole(base.n)} questions the unsteered model ({pct(base.accuracy)}) cannot be told "
        f"apart from chance ({pct(level)})."
    )


def odometer(o: Odometer | None) -> str:
    """How many plans the test split has answered, and what the best of as many would reach by
    luck; empty where it was not counted."""
    if o is None:
        return ""
    plans = f"{whole(o.plans)} steered {'plan' if o.plans == 1 else 'plans'}"
    told = f"This test split has answered {plans}"
    if o.best_null_gain is None or o.plans == 1:
        return f"{told}."
    return (
        f"{told}; the best of {whole(o.plans)} plans of random features like those of this run, at "
        f"its dial, would be expected to reach {points(o.best_null_gain)} points."
    )


def _above_chance(record: Record) -> list[str]:
    chance, base = record.chance, record.arms[BASELINE]
    if chance is None or base.ci[0] <= chance:
        return []  # a matter for the verdict
    return [f"The unsteered model is above chance ({pct(base.accuracy)} against {pct(chance)})."]


def _invalid(record: Record) -> list[str]:
    base, steered = (record.arms[arm].invalid_rate for arm in (BASELINE, STEERED))
    if max(base, steered) < INVALID_WORTH_SAYING:
        return []
    return [f"Invalid answers: {pct(base)} without and {pct(steered)} with steering."]


def _degenerate(record: Record) -> list[str]:
    base, steered = (record.arms[arm].degenerate for arm in (BASELINE, STEERED))
    n = record.arms[STEERED].n
    if max(base, steered) / n < DEGENERATE_WORTH_SAYING:
        return []
    return [
        f"Degenerate text (loops or gibberish): {whole(base)} answers without and {whole(steered)} "
        f"with steering, of {whole(n)}."
    ]


def margin(record: Record) -> list[str]:
    """What steering did to the margin of the right option, beside its controls."""
    m = record.margin
    if m is None:
        return []
    unit = {"sum": "", "per_character": " per character", "per_token": " per token"}[m.likelihood]
    bounds = f" [{nats(m.ci[0])}, {nats(m.ci[1])}]" if m.ci else ""
    said = (
        f"The margin, the right option's log-likelihood minus the best wrong one's (nats{unit}),"
        f" is on average {nats(m.baseline)} without and {nats(m.steered)} with steering: a"
        f" shift of {nats(m.shift)}{bounds} over {counted(m.n, 'question')} (95 %, paired t)."
    )
    others = [
        f"{in_words(kind)} {' to '.join(map(nats, dict.fromkeys((min(x), max(x)))))}"
        for kind in control_kinds()
        if (x := m.controls.get(kind))
    ]
    if not others:
        return [said]
    beside = f"The controls shift it by: {'; '.join(others)}."
    if draws := m.controls.get("random"):
        up = sum(draw >= m.shift for draw in draws)
        beside += f" {up} of {counted(len(draws), 'plan')} of random features shift it as far up."
    return [said, beside]


def side_effects(record: Record) -> list[str]:
    sentences = []
    effects = record.side_effects
    if effects is None:
        return ["Side effects beyond the test questions were not measured (side_effects=none)."]
    if effects.off_target:
        unrelated = effects.off_target
        steered = unrelated.arms[STEERED]
        draws = [str(a.changed) for name, a in unrelated.arms.items() if _is_random(record, name)]
        against = f"; random features change {_ends(draws)}" if draws else ""
        changed = unrelated_changes(steered.changed, unrelated.n, record.ser.off_target)
        sentences.append(f"{changed}{against}.")
    if effects.neutral:
        moved = effects.neutral.arms
        draws = [f"{a.kl:.2g}" for name, a in moved.items() if _is_random(record, name)]
        against = f" (random features: {_ends(draws)})" if draws else ""
        sentences.append(
            "On neutral text the KL divergence to the unsteered model is "
            f"{short(moved[STEERED].kl)} nats per token{against}."
        )
    return sentences


def _is_random(record: Record, name: str) -> bool:
    return record.arms[name].kind == "random"


def _noise(record: Record) -> list[str]:
    below, n = record.noise.below_ceiling, record.noise.features
    if below is None:
        return [
            f"No noise ceiling is known for the {record.score} that features were chosen by:"
            " nothing says how high it gets by chance."
        ]
    if not below:
        return []
    as_well = "correlate as well" if record.score == "r" else f"do as well by {record.score}"
    return [
        f"{below} of {n} chosen {_features_are(below, n)} at or below the noise ceiling of "
        f"{'its layer' if below == 1 else 'their layers'}: shuffled outcomes give features that "
        f"{as_well}."
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
    said = f"Answer length correlates with the outcome at r = {r_value(r)}"
    if abs(r) < LENGTH_WORTH_SAYING:
        return [f"{said}."]
    return [f"{said}, so pooling over an answer can favour features that track length."]


def _ends(numbers: Sequence[str]) -> str:
    """The smallest and the largest of numbers as text; once where they are the same."""
    return " to ".join(sorted({min(numbers, key=float), max(numbers, key=float)}, key=float))
