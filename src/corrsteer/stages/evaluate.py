"""What steering did, with its controls: pure functions from answers to numbers and sentences.

Answers of two arms are paired by sample id. Every number that a reader may quote stands beside
what a random feature, constrained decoding or chance would have given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from corrsteer.records import RIGHT, Example, RankedFeature, arm_kind
from corrsteer.stats.flips import changes, flip_table, off_target_ratio, side_effect_ratios
from corrsteer.stats.intervals import (
    SIGNIFICANT,
    detectable_gain,
    paired_bootstrap_ci,
    proportion_ci,
    ser_ci,
)

INVALID_WORTH_SAYING = 0.05
DEGENERATE_WORTH_SAYING = 0.02
LENGTH_WORTH_SAYING = 0.1
STABLE = 0.5


def arm_summary(answers: pd.DataFrame) -> dict[str, Any]:
    """n, accuracy with its Wilson 95 % interval, and counts of right, wrong and invalid."""
    n = len(answers)
    degenerate = int(answers["degenerate"].notna().sum())
    right = int((answers["score"] >= RIGHT).sum())
    invalid = int(answers["invalid"].sum())
    low, high = proportion_ci(right, n)
    return {
        "n": n,
        "accuracy": right / n,
        "ci": [low, high],
        "right": right,
        "wrong": n - right - invalid,
        "invalid": invalid,
        "invalid_rate": invalid / n,
        "degenerate": degenerate,
    }


def chance_level(examples: Sequence[Example]) -> float | None:
    """Accuracy of guessing among the options; None where answers are free text."""
    if not all(e.options for e in examples):
        return None
    return sum(1 / len(e.options) for e in examples) / len(examples)


def evaluate(
    test: Mapping[str, pd.DataFrame],
    examples: Sequence[Example],
    chosen: Sequence[RankedFeature],
    *,
    task_metrics: Callable[[Sequence[Example], pd.DataFrame], Mapping[str, float]],
    seed: int,
) -> dict[str, Any]:
    """Accuracies, flips, controls and groups of the test split.

    ``test``: arm -> scored answers; arms baseline, steered and those of the controls, numbered
    where there are several of a kind (random_1, ...). ``task_metrics``: what the benchmark reports
    besides, of one arm.
    """
    arms = {arm: arm_summary(answers) for arm, answers in test.items()}
    base, steered = test["baseline"], test["steered"]
    flips = flip_table(base, steered)
    changed = changes(base, steered)
    gain = arms["steered"]["accuracy"] - arms["baseline"]["accuracy"]
    metrics: dict[str, Any] = {
        "chance": chance_level(examples),
        "arms": arms,
        "gain": gain,
        "gain_ci": list(gain_ci(base, steered, seed)),
        "flips": flips.as_dict(),
        "changes": changed,
        "ser": {**side_effect_ratios(flips, changed["answer"]), "off_target": None},
        "ser_ci": ser_ci(flips.fixed, flips.broken, flips.n, seed),
        "detectable_gain": detectable_gain(flips.n, (flips.fixed + flips.broken) / flips.n),
        "controls": {
            kind: {"gains": gains, "beats_all": gain > max(gains)}
            for kind, gains in control_gains(arms).items()
        },
        "task_metrics": {
            arm: dict(task_metrics(examples, answers)) for arm, answers in test.items()
        },
        "groups": _groups(base, steered, examples),
        "noise": {
            "features": len(chosen),
            "below_ceiling": sum(f.is_noise for f in chosen),
            "unstable": sum(f.stability < STABLE for f in chosen),
        },
    }
    return metrics


def with_side_effects(
    results: Mapping[str, Any], effects: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The results of :func:`evaluate` with what :mod:`corrsteer.stages.side_effects` measured."""
    ser = dict(results["ser"])
    if effects and (found := effects["off_target"]):
        changed, flips = found["arms"]["steered"]["changed"], results["flips"]
        ser["off_target"] = off_target_ratio(changed, found["n"], flips["fixed"], flips["n"])
    return {**results, "ser": ser, "side_effects": effects}


def transfer_summary(
    answers: Mapping[str, pd.DataFrame], examples: Sequence[Example], *, seed: int
) -> dict[str, Any]:
    """What a plan did to another task's test questions, beside random features at its norms.

    ``answers``: arm -> scored answers: baseline, steered and random_1, ...
    """
    arms = {arm: arm_summary(frame) for arm, frame in answers.items()}
    return {
        "n": len(examples),
        "chance": chance_level(examples),
        "arms": arms,
        "gain": arms["steered"]["accuracy"] - arms["baseline"]["accuracy"],
        "gain_ci": list(gain_ci(answers["baseline"], answers["steered"], seed)),
        "flips": flip_table(answers["baseline"], answers["steered"]).as_dict(),
        "random_gains": control_gains(arms)["random"],
    }


def control_gains(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, list[float]]:
    """Kind of control -> the gain over the baseline of each of its draws."""
    gains: dict[str, list[float]] = {}
    for name, arm in arms.items():
        if name not in ("baseline", "steered"):
            gain = arm["accuracy"] - arms["baseline"]["accuracy"]
            gains.setdefault(arm_kind(name), []).append(gain)
    return gains


def gain_ci(base: pd.DataFrame, steered: pd.DataFrame, seed: int) -> tuple[float, float]:
    """Paired bootstrap interval of the gain, of answers in the same order."""
    assert list(base["id"]) == list(steered["id"])
    right = [(frame["score"] >= RIGHT).to_numpy(float) for frame in (base, steered)]
    return paired_bootstrap_ci(right[0], right[1], seed)


def _groups(
    base: pd.DataFrame, steered: pd.DataFrame, examples: Sequence[Example]
) -> dict[str, dict[str, Any]]:
    """Accuracy of both arms within each value of each meta field that has several values."""
    groups: dict[str, dict[str, Any]] = {}
    fields = sorted({field for e in examples for field in e.meta})
    for field in fields:
        values = pd.Series([e.meta.get(field, "") for e in examples])
        if not 1 < values.nunique() <= 60:
            continue
        for value in sorted(values.unique()):
            rows = (values == value).to_numpy()
            groups[f"{field}={value}"] = {
                "n": int(rows.sum()),
                "baseline": float((base["score"][rows] >= RIGHT).mean()),
                "steered": float((steered["score"][rows] >= RIGHT).mean()),
            }
    return groups


def verdict(metrics: Mapping[str, Any]) -> list[str]:
    """The result in plain sentences: the gain, its price, and what the controls say of it."""
    arms, flips = metrics["arms"], metrics["flips"]
    base, steered = arms["baseline"], arms["steered"]
    return [
        *_gain(metrics, base, steered, flips),
        *_random(metrics),
        *_others(metrics),
        *_constrained(metrics),
        *_side_effects(metrics),
        *_chance(metrics, base),
        *_noise(metrics),
        *_stability(metrics),
        *_length(metrics),
    ]


def _gain(metrics: Mapping, base: Mapping, steered: Mapping, flips: Mapping) -> list[str]:
    low, high = metrics["gain_ci"]
    interval = f"95 % interval {_points(low)} to {_points(high)}"
    test = f"exact McNemar p = {flips['mcnemar_p']:.2g}"
    moved = f"from {_percent(base['accuracy'])} to {_percent(steered['accuracy'])}"
    if flips["mcnemar_p"] >= SIGNIFICANT:
        first = f"Steering does not detectably change accuracy ({moved}; {interval}; {test})."
    else:
        verb = "raises" if metrics["gain"] > 0 else "lowers"
        points = _points(abs(metrics["gain"]), signed=False)
        first = f"Steering {verb} accuracy by {points} points, {moved} ({interval}; {test})."
    if flips["ser"] is None:
        price = "No answer flipped, so the side effect ratio is undefined."
    else:
        low, high = metrics["ser_ci"]
        price = (
            f"It fixed {flips['fixed']} answers and broke {flips['broken']}: "
            f"side effect ratio {flips['ser']:.2f} (95 % interval {low:.2f} to {high:.2f})."
        )
    sentences = [first, price]
    if flips["mcnemar_p"] >= SIGNIFICANT and metrics["detectable_gain"] is not None:
        least = _points(metrics["detectable_gain"], signed=False)
        sentences.append(
            f"With as many flips on {base['n']} questions, four of five such tests would find a "
            f"gain of {least} points."
        )
    if max(base["invalid_rate"], steered["invalid_rate"]) >= INVALID_WORTH_SAYING:
        sentences.append(
            f"Invalid answers: {_percent(base['invalid_rate'])} without and "
            f"{_percent(steered['invalid_rate'])} with steering."
        )
    most = max(base["degenerate"], steered["degenerate"])
    if most / steered["n"] >= DEGENERATE_WORTH_SAYING:
        sentences.append(
            f"Degenerate text (loops or gibberish): {base['degenerate']} answers without and "
            f"{steered['degenerate']} with steering, of {steered['n']}."
        )
    return sentences


def _random(metrics: Mapping) -> list[str]:
    gains = metrics["controls"]["random"]["gains"]
    beats = "yes" if metrics["controls"]["random"]["beats_all"] else "no"
    return [
        f"{len(gains)} draws of random features at the same norms change accuracy by "
        f"{_points(min(gains))} to {_points(max(gains))} points; steering beats all of them: "
        f"{beats}."
    ]


OTHERS = {
    "direction": "random directions",
    "shuffled": "features chosen on shuffled outcomes",
    "layers": "the plan's vectors at other layers",
    "flipped": "the plan with its sign flipped",
    "instruction": "an instruction in the prompt instead",
}


def _others(metrics: Mapping) -> list[str]:
    there = {kind: metrics["controls"][kind] for kind in OTHERS if kind in metrics["controls"]}
    if not there:
        return []
    changes = [f"{OTHERS[kind]} {_range(control['gains'])}" for kind, control in there.items()]
    unbeaten = [OTHERS[kind] for kind, control in there.items() if not control["beats_all"]]
    beats = f"no ({', '.join(unbeaten)})" if unbeaten else "yes"
    return [f"Other controls: {'; '.join(changes)} points. Steering beats all of these: {beats}."]


def _range(gains: Sequence[float]) -> str:
    ends = sorted({_points(min(gains)), _points(max(gains))}, key=float)
    return " to ".join(ends)


def _constrained(metrics: Mapping) -> list[str]:
    arm = metrics["arms"].get("constrained")
    if arm is None:
        return []
    gain = arm["accuracy"] - metrics["arms"]["baseline"]["accuracy"]
    beats = "yes" if metrics["arms"]["steered"]["accuracy"] > arm["accuracy"] else "no"
    return [
        f"Restricting the unsteered model to the option letters changes accuracy by "
        f"{_points(gain)} points, to {_percent(arm['accuracy'])}; steering beats it: {beats}."
    ]


def _chance(metrics: Mapping, base: Mapping) -> list[str]:
    chance = metrics["chance"]
    if chance is None or base["ci"][0] > chance:
        return []
    where = "below" if base["ci"][1] < chance else "not above"
    return [
        f"The unsteered model is {where} chance ({_percent(chance)}): it cannot do this task, "
        "and a change of accuracy says little about steering."
    ]


def _noise(metrics: Mapping) -> list[str]:
    noise = metrics["noise"]
    if not noise["below_ceiling"]:
        return []
    return [
        f"{noise['below_ceiling']} of {noise['features']} chosen features are at or below their "
        "layer's noise ceiling: shuffled outcomes select features as good."
    ]


def _stability(metrics: Mapping) -> list[str]:
    unstable, total = metrics["noise"]["unstable"], metrics["noise"]["features"]
    if not unstable:
        return []
    return [
        f"{unstable} of {total} chosen features win their layer in fewer than half of "
        f"{metrics['stability']['resamples']} bootstrap resamples: other questions would have "
        "chosen others."
    ]


def _side_effects(metrics: Mapping) -> list[str]:
    effects = metrics["side_effects"]
    if effects is None:
        return []
    parts = []
    if off := effects["off_target"]:
        rates = _beside(off["arms"], "rate", lambda rate: f"{1000 * rate:.0f}")
        ratio = metrics["ser"]["off_target"]
        per_fix = "" if ratio is None else f", {ratio:.2f} for each answer fixed"
        parts.append(f"it changes {rates[0]} of 1,000 answers{per_fix} (random draws: {rates[1]})")
    if neutral := effects["neutral"]:
        kl = _beside(neutral["arms"], "kl", lambda nats: f"{nats:.2g}")
        parts.append(
            f"on neutral text the KL divergence to the unsteered model is {kl[0]} nats per token "
            f"(random draws: {kl[1]})"
        )
    if not parts:
        return []
    where = "Side effects: on prompts that are no part of the task " if off else "Side effects: "
    return [f"{where}{'; '.join(parts)}."]


def _beside(
    arms: Mapping[str, Mapping], name: str, text: Callable[[float], str]
) -> tuple[str, str]:
    """A number of the plan, and the range of the random draws."""
    draws = [arm[name] for key, arm in arms.items() if arm_kind(key) == "random"]
    ends = sorted({text(min(draws)), text(max(draws))}, key=float)
    return text(arms["steered"][name]), " to ".join(ends)


def _length(metrics: Mapping) -> list[str]:
    r = metrics["selection"]["length_r"]
    if abs(r) < LENGTH_WORTH_SAYING:
        return []
    return [
        f"Answer length correlates with the outcome (r = {r:.2f}); pooling over an answer can "
        "select for its length."
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float, signed: bool = True) -> str:
    return f"{100 * share:+.1f}" if signed else f"{100 * share:.1f}"
