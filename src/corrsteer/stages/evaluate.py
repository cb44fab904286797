"""What steering did, with its controls: pure functions from answers to the typed record.

Answers of two arms are paired by sample id. Every number that a reader may quote stands beside
what random features, constrained decoding or chance would have given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from corrsteer.records import RIGHT, Example, RankedFeature
from corrsteer.report.record import (
    ArmSummary,
    Changes,
    Control,
    Flips,
    Group,
    Noise,
    Ratios,
    Results,
    SideEffects,
    Transfer,
)
from corrsteer.stats.flips import changes, flip_table, off_target_ratio, side_effect_ratios
from corrsteer.stats.intervals import detectable_gain, paired_bootstrap_ci, proportion_ci, ser_ci
from corrsteer.steering.arms import BASELINE, STEERED, Arm

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


def evaluate(
    test: Mapping[str, pd.DataFrame],
    arms: Sequence[Arm],
    examples: Sequence[Example],
    chosen: Sequence[RankedFeature],
    *,
    task_metrics: TaskMetrics,
    seed: int,
) -> Results:
    """Accuracies, flips, controls and groups of the test split.

    ``test``: scored answers by the name of their arm, ``baseline`` and ``steered`` among them.
    ``arms``: at least those.
    """
    summaries = _summaries(test, arms)
    base, steered = test[BASELINE], test[STEERED]
    flips = flip_table(base, steered)
    changed = changes(base, steered)
    gain = _gain(summaries)
    ratios = side_effect_ratios(flips, changed["answer"])
    return Results(
        chance=chance_level(examples),
        arms=summaries,
        gain=gain,
        gain_ci=gain_ci(base, steered, seed),
        flips=Flips.model_validate(flips.as_dict()),
        changes=Changes.model_validate(changed),
        ser=Ratios.model_validate({**ratios, "off_target": None}),
        ser_ci=ser_ci(flips.fixed, flips.broken, flips.n, seed),
        detectable_gain=detectable_gain(flips.n, (flips.fixed + flips.broken) / flips.n),
        controls={
            kind: Control(gains=gains, beats_all=gain > max(gains))
            for kind, gains in control_gains(summaries).items()
        },
        task_metrics={
            name: dict(task_metrics(examples, answers)) for name, answers in test.items()
        },
        groups=_groups(base, steered, examples),
        noise=Noise(
            features=len(chosen),
            below_ceiling=sum(f.is_noise for f in chosen),
            unstable=sum(f.stability < STABLE for f in chosen),
        ),
    )


def with_side_effects(results: Results, effects: SideEffects | None) -> Results:
    """``results`` with the side effect ratio that needs answers to unrelated prompts."""
    if effects is None or effects.off_target is None:
        return results
    unrelated, flips = effects.off_target, results.flips
    changed = unrelated.arms[STEERED].changed
    ratio = off_target_ratio(changed, unrelated.n, flips.fixed, flips.n)
    return results.model_copy(update={"ser": results.ser.model_copy(update={"off_target": ratio})})


def transfer_summary(
    answers: Mapping[str, pd.DataFrame],
    arms: Sequence[Arm],
    examples: Sequence[Example],
    *,
    seed: int,
) -> Transfer:
    """What a plan did to another task's test questions, beside random features at its norms.

    ``answers`` and ``arms`` as for :func:`evaluate`.
    """
    summaries = _summaries(answers, arms)
    base, steered = answers[BASELINE], answers[STEERED]
    return Transfer(
        n=len(examples),
        chance=chance_level(examples),
        arms=summaries,
        gain=_gain(summaries),
        gain_ci=gain_ci(base, steered, seed),
        flips=Flips.model_validate(flip_table(base, steered).as_dict()),
        random_gains=control_gains(summaries).get("random", []),
    )


def control_gains(arms: Mapping[str, ArmSummary]) -> dict[str, list[float]]:
    """By kind of control, the gain of each of its draws over the baseline."""
    gains: dict[str, list[float]] = {}
    for arm in arms.values():
        if arm.kind not in (BASELINE, STEERED):
            gains.setdefault(arm.kind, []).append(arm.accuracy - arms[BASELINE].accuracy)
    return gains


def gain_ci(base: pd.DataFrame, steered: pd.DataFrame, seed: int) -> tuple[float, float]:
    """Paired bootstrap interval of the gain, of answers in the same order."""
    assert list(base["id"]) == list(steered["id"])
    right = [(frame["score"] >= RIGHT).to_numpy(float) for frame in (base, steered)]
    return paired_bootstrap_ci(right[0], right[1], seed)


def _summaries(answers: Mapping[str, pd.DataFrame], arms: Sequence[Arm]) -> dict[str, ArmSummary]:
    kinds = {arm.name: arm.kind for arm in arms}
    return {name: arm_summary(frame, kinds[name]) for name, frame in answers.items()}


def _gain(arms: Mapping[str, ArmSummary]) -> float:
    return arms[STEERED].accuracy - arms[BASELINE].accuracy


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
