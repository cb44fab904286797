"""What steering did, with its controls: pure functions from answers to the typed record.

Answers of two arms are paired by sample id. Every number that a reader may quote stands beside
what random features, constrained decoding or chance would have given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from corrsteer.records import RIGHT, Example, RankedFeature
from corrsteer.report.record import (
    ArmSummary,
    Changes,
    Constrained,
    Control,
    Flips,
    Format,
    Group,
    Interval,
    Margin,
    Noise,
    OneAnswer,
    OtherHalf,
    Ratios,
    Results,
    SideEffects,
    Transfer,
)
from corrsteer.stats.draws import band, monte_carlo_p
from corrsteer.stats.flips import (
    FlipTable,
    changes,
    flip_table,
    off_target_ratio,
    paired,
    side_effect_ratios,
)
from corrsteer.stats.intervals import (
    better_p,
    detectable_gain,
    difference_ci,
    paired_ci,
    proportion_ci,
    ratio_ci,
    ser_ci,
)
from corrsteer.stats.margins import shift
from corrsteer.steering.arms import BASELINE, STEERED, Arm
from corrsteer.steering.controls import NULLS

STABLE = 0.5
"""A chosen feature is unstable if it is its layer's best in a smaller share of the resamples."""
MOST_GROUPS = 60
"""A field with more values than this is not a grouping."""

TaskMetrics = Callable[[Sequence[Example], pd.DataFrame], Mapping[str, float]]
"""What the benchmark reports besides accuracy, from one arm's answers."""


def arm_summary(answers: pd.DataFrame, kind: str) -> ArmSummary:
    """Accuracy with its Wilson interval, and counts. ``answers``: scored, of one arm."""
    n = len(answers)
    right = int((answers["score"] >= RIGHT).sum())
    invalid = int(answers["invalid"].sum())
    return ArmSummary(
        kind=kind,
        n=n,
        accuracy=right / n,
        ci=proportion_ci(right, n),
        right=right,
        wrong=n - right - invalid,
        invalid=invalid,
        invalid_rate=invalid / n,
        degenerate=int(answers["degenerate"].notna().sum()),
    )


def chance_level(examples: Sequence[Example]) -> float | None:
    """Accuracy of guessing among the options; None where answers are free text."""
    if not all(e.options for e in examples):
        return None
    return sum(1 / len(e.options) for e in examples) / len(examples)


def _count(known: Sequence[float], true: Sequence[bool]) -> int | None:
    """How many are true; None where what it is judged by is not a number for any."""
    return None if any(map(math.isnan, known)) else sum(true)


def evaluate(
    test: Mapping[str, pd.DataFrame],
    arms: Sequence[Arm],
    examples: Sequence[Example],
    chosen: Sequence[RankedFeature],
    *,
    task_metrics: TaskMetrics,
    asked: Mapping[str, int] | None = None,
    stop: int | None = None,
    letters: tuple[pd.DataFrame, pd.DataFrame] | None = None,
    one_answer: OneAnswer | None = None,
    likelihood: str = "sum",
) -> Results:
    """Accuracies, flips, controls and groups of the test split.

    ``test``: scored answers by the name of their arm, ``baseline`` and ``steered`` among them.
    ``arms``: at least those. ``asked``: draws that were asked for, by kind of control; ``stop``:
    how many as good as steering end the drawing of one. ``letters``: answers without and
    with steering, restricted to option letters. ``likelihood``: how options were compared, where
    they were weighed.
    """
    summaries = _summaries(test, arms)
    base, steered = test[BASELINE], test[STEERED]
    flips = flip_table(base, steered)
    changed = changes(base, steered)
    ratios = side_effect_ratios(flips, changed["answer"])
    return Results(
        chance=chance_level(examples),
        arms=summaries,
        gain=_gain(summaries),
        gain_ci=paired_ci(flips.fixed, flips.broken, flips.n),
        flips=Flips.model_validate(flips.as_dict()),
        changes=Changes.model_validate(changed),
        ser=Ratios.model_validate({**ratios, "off_target": None}),
        ser_ci=ser_ci(flips.fixed, flips.broken),
        detectable_gain=detectable_gain(flips.n, (flips.fixed + flips.broken) / flips.n),
        controls=_controls(test, summaries, asked or {}, stop),
        format=flip_format(flips),
        constrained_gain=_constrained(base, steered, *letters) if letters else None,
        one_answer=one_answer,
        task_metrics={
            name: dict(task_metrics(examples, answers)) for name, answers in test.items()
        },
        groups=_groups(base, steered, examples),
        noise=Noise(
            features=len(chosen),
            below_ceiling=_count([f.ceiling for f in chosen], [f.is_noise for f in chosen]),
            unstable=_count([f.stability for f in chosen], [f.stability < STABLE for f in chosen]),
        ),
        margin=_margin(test, summaries, likelihood),
    )


def flip_format(flips: FlipTable) -> Format:
    """Flips told apart by whether the other answer could be read."""
    (_, to_wrong, to_invalid), (from_wrong, *_), (from_invalid, *_) = flips.counts
    return Format(
        fixed_from_invalid=from_invalid,
        fixed_from_wrong=from_wrong,
        broken_to_invalid=to_invalid,
        broken_to_wrong=to_wrong,
    )


def _controls(
    test: Mapping[str, pd.DataFrame],
    arms: Mapping[str, ArmSummary],
    asked: Mapping[str, int],
    stop: int | None,
) -> dict[str, Control]:
    steered = arms[STEERED].right
    names: dict[str, list[str]] = {}
    for name, arm in arms.items():
        if arm.kind not in (BASELINE, STEERED):
            names.setdefault(arm.kind, []).append(name)
    controls = {}
    for kind, drawn in names.items():
        # Counts, not accuracies: a tie must not hang on how a fraction was rounded.
        good = [arms[name].right >= steered for name in drawn]
        gains = [_gain(arms, name) for name in drawn]
        best = flip_table(test[max(drawn, key=lambda name: arms[name].right)], test[STEERED])
        controls[kind] = Control(
            gains=gains,
            asked=max(asked.get(kind, 0), len(drawn)),
            at_least_as_good=sum(good),
            p=monte_carlo_p(good, stop) if kind in NULLS else None,
            band=band(gains),
            paired_p=better_p(best.fixed, best.broken),
            # The best of several is the likelier to be ahead by luck.
            ahead_p=min(1.0, len(drawn) * better_p(best.broken, best.fixed)),
            paired_gain=(best.fixed - best.broken) / best.n,
            paired_ci=paired_ci(best.fixed, best.broken, best.n),
        )
    return controls


def _margin(
    test: Mapping[str, pd.DataFrame], arms: Mapping[str, ArmSummary], likelihood: str
) -> Margin | None:
    moved = {name: shift(test[BASELINE], test[name]) for name in arms}
    if (own := moved[STEERED]) is None:
        return None
    controls: dict[str, list[float]] = {}
    for name, arm in arms.items():
        drawn = moved[name]
        if arm.kind not in (BASELINE, STEERED) and drawn is not None:
            controls.setdefault(arm.kind, []).append(drawn.shift)
    return Margin(
        likelihood=likelihood,
        n=own.n,
        baseline=own.before,
        steered=own.after,
        shift=own.shift,
        ci=own.ci,
        controls=controls,
    )


def _constrained(
    base: pd.DataFrame, steered: pd.DataFrame, plain: pd.DataFrame, both: pd.DataFrame
) -> Constrained:
    """``plain`` and ``both``: restricted to letters, without and with steering."""
    free, restricted = outcomes(base, steered), outcomes(plain, both)
    change = restricted - free
    return Constrained(
        gain=float(restricted.mean()),
        ci=difference_ci(restricted),
        difference=float(change.mean()),
        difference_ci=difference_ci(change),
    )


def other_half(name: str, answers: Mapping[str, pd.DataFrame]) -> OtherHalf:
    """Baseline and steered answers to the questions where the one answer is wrong."""
    flips = flip_table(answers[BASELINE], answers[STEERED])
    before, after = sum(flips.counts[0]), sum(row[0] for row in flips.counts)
    return OtherHalf(
        name=name,
        n=flips.n,
        baseline=before / flips.n,
        steered=after / flips.n,
        gain=(after - before) / flips.n,
        ci=paired_ci(flips.fixed, flips.broken, flips.n),
    )


def with_side_effects(results: Results, effects: SideEffects | None, seed: int = 0) -> Results:
    """``results`` with the side effect ratio that needs answers to unrelated prompts, and its
    interval, resampled with ``seed``."""
    if effects is None or effects.off_target is None:
        return results
    unrelated, flips = effects.off_target, results.flips
    counts = unrelated.arms[STEERED].changed, unrelated.n, flips.fixed, flips.n
    ratio = off_target_ratio(*counts)
    ser = results.ser.model_copy(update={"off_target": ratio})
    interval: Interval | None = None if ratio is None else ratio_ci(*counts, seed)
    return results.model_copy(update={"ser": ser, "off_target_ci": interval})


def transfer_summary(
    answers: Mapping[str, pd.DataFrame], arms: Sequence[Arm], examples: Sequence[Example]
) -> Transfer:
    """What a plan did to another task's test questions, beside random features at its norms.

    ``answers`` and ``arms`` as for :func:`evaluate`.
    """
    summaries = _summaries(answers, arms)
    flips = flip_table(answers[BASELINE], answers[STEERED])
    return Transfer(
        n=len(examples),
        chance=chance_level(examples),
        arms=summaries,
        gain=_gain(summaries),
        gain_ci=paired_ci(flips.fixed, flips.broken, flips.n),
        flips=Flips.model_validate(flips.as_dict()),
        random_gains=[
            _gain(summaries, name) for name, a in summaries.items() if a.kind == "random"
        ],
    )


def outcomes(base: pd.DataFrame, steered: pd.DataFrame) -> np.ndarray:
    """[N] of -1, 0 and 1: what steering did to each answer, in the baseline's order."""
    before, after = paired(base, steered)
    right = [(frame["score"] >= RIGHT).to_numpy(float) for frame in (before, after)]
    change: np.ndarray = right[1] - right[0]
    return change


def _summaries(answers: Mapping[str, pd.DataFrame], arms: Sequence[Arm]) -> dict[str, ArmSummary]:
    kinds = {arm.name: arm.kind for arm in arms}
    return {name: arm_summary(frame, kinds[name]) for name, frame in answers.items()}


def _gain(arms: Mapping[str, ArmSummary], name: str = STEERED) -> float:
    return arms[name].accuracy - arms[BASELINE].accuracy


def _groups(
    base: pd.DataFrame, steered: pd.DataFrame, examples: Sequence[Example]
) -> dict[str, Group]:
    """Accuracy of both arms within each value of each meta field that has several values."""
    groups: dict[str, Group] = {}
    for field in sorted({field for e in examples for field in e.meta}):
        values = pd.Series([e.meta.get(field, "") for e in examples])
        if not 1 < values.nunique() <= MOST_GROUPS:
            continue
        for value in sorted(values.unique()):
            rows = (values == value).to_numpy()
            groups[f"{field}={value}"] = Group(
                n=int(rows.sum()),
                baseline=float((base["score"][rows] >= RIGHT).mean()),
                steered=float((steered["score"][rows] >= RIGHT).mean()),
            )
    return groups
