"""What an intervention does besides its task: side effects, and what it does to other tasks.

Everything is measured beside plans of random features at the same norms, since any vector of that
length does something. The test split's own flips are :mod:`corrsteer.stages.evaluate`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from corrsteer.records import Example
from corrsteer.report import record
from corrsteer.stages.activity import active_features
from corrsteer.stages.answers import answers
from corrsteer.stages.bench import Asking, Bench
from corrsteer.stages.divergence import divergences, summary
from corrsteer.stages.likelihood import likelihoods
from corrsteer.stages.side_effects import SideEffects, compared, off_target, text_summary
from corrsteer.steering.arms import BASELINE, Arm, baseline

Frames = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Elsewhere:
    """What side effects are measured on: the settings, the unrelated prompts (None: none) as the
    split "unrelated", and neutral texts. ``source``: where both are from."""

    settings: SideEffects
    unrelated: Asking | None
    texts: Sequence[str]
    source: str


def unrelated_answers(bench: Bench, elsewhere: Elsewhere, arms: Sequence[Arm]) -> Frames:
    """Answers to the unrelated prompts, by arm; none where none were asked for."""
    if elsewhere.unrelated is None:
        return {}
    # Without options there is nothing to restrict an answer to, and texts end as they would.
    free = [replace(arm, decoding=None, stop=()) for arm in arms]
    return answers(bench, elsewhere.unrelated, "unrelated", free, "unrelated prompts")


def side_effects(
    bench: Bench, elsewhere: Elsewhere, arms: Sequence[Arm], test: Mapping[str, pd.DataFrame]
) -> tuple[record.SideEffects | None, Frames]:
    """The measures of ``side_effects``, and the answers to unrelated prompts.

    ``arms``: all of the test split; ``test``: their scored answers, of which the first
    ``side_effects.answers`` are read again. None where nothing is to be measured.
    """
    measured = compared(arms, elsewhere.settings.draws)
    unrelated = unrelated_answers(bench, elsewhere, [baseline(), *measured])
    examples = bench.asking.splits["test"][: elsewhere.settings.answers]
    if not (unrelated or elsewhere.texts or examples):
        return None, unrelated
    off = neutral = text = activity = None
    if elsewhere.unrelated is not None:
        read = readings(bench, elsewhere.unrelated.splits["unrelated"], unrelated)
        off = off_target(unrelated, elsewhere.source, read)
    # Texts and layers are read as they are: there is no room for a prefix, and an arm that is only
    # one changes neither.
    acting = [arm for arm in measured if arm.intervention is not None]
    if elsewhere.texts and acting:
        moved = divergences(bench, elsewhere.texts, acting)
        neutral = summary(moved, elsewhere.source, bench.seed)
    if examples:
        names = [BASELINE, *(arm.name for arm in measured)]
        again = {name: test[name].iloc[: len(examples)] for name in names}
        text = readings(bench, examples, again)
        if acting:
            layers = active_features(bench, examples, again[BASELINE], acting[0])
            n = layers[0].n_positions
            activity = record.Activity(n=len(examples), n_positions=n, layers=layers)
    return record.SideEffects(
        off_target=off, neutral=neutral, text=text, activity=activity
    ), unrelated


def divergence_table(
    bench: Bench, elsewhere: Elsewhere, arms: Sequence[Arm]
) -> pd.DataFrame | None:
    """One row per arm and neutral text, of what :func:`side_effects` has measured: ``kl`` summed
    over ``positions``, in nats. None where nothing was."""
    acting = [a for a in compared(arms, elsewhere.settings.draws) if a.intervention is not None]
    if not (elsewhere.texts and acting):
        return None
    moved = divergences(bench, elsewhere.texts, acting)
    rows = [
        {"arm": name, "text": n, "kl": one.kl, "positions": one.positions}
        for name, texts in moved.items()
        for n, one in enumerate(texts)
    ]
    return pd.DataFrame(rows)


def readings(
    bench: Bench, examples: Sequence[Example], answered: Mapping[str, pd.DataFrame]
) -> record.Readings:
    """How the answers of each arm read, to the unsteered model among others."""
    logs = likelihoods(bench, examples, answered)
    return record.Readings(arms={n: text_summary(frame, logs[n]) for n, frame in answered.items()})


def other_answers(
    bench: Bench, others: Mapping[str, Asking], arms: Sequence[Arm]
) -> dict[str, Frames]:
    """By task of ``transfer``, the answers to its test questions, by arm."""
    found = {}
    for name, asking in others.items():
        options = asking.lists_options and all(e.options for e in asking.splits["test"])
        fitting = arms if options else [replace(arm, decoding=None) for arm in arms]
        found[name] = answers(bench, asking, "test", fitting, f"{name}, transfer")
    return found
