"""What steering does besides its task: to unrelated prompts, to neutral text, to the wording of
answers, and to the other features of the SAEs.

====================  ==============================================================================
unrelated prompts     how many answers change at all
neutral text          KL divergence of the next token from the unsteered model's, text given
answers               repeated 4-grams, perplexity under the unsteered model, degenerate text
activity              active features per position and layer before and after, on the unsteered
                      model's own answers, so that other text plays no part
====================  ==============================================================================

Each stands beside plans of random features at the same norms: any vector of that length has side
effects. Cost with the standard settings on the bundled model: about a third of the test split with
its controls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from corrsteer.errors import ConfigError
from corrsteer.report.record import Changed, OffTarget, Reading, Readings
from corrsteer.stats.intervals import proportion_ci
from corrsteer.stats.repetition import repeated_ngrams
from corrsteer.steering.arms import BASELINE, STEERED, Arm

NGRAM = 4


@dataclass(frozen=True)
class SideEffects:
    """The settings of ``conf/side_effects/standard.yaml``, where they are explained."""

    unrelated: int
    new_tokens: int
    texts: int
    answers: int
    draws: int

    def __post_init__(self) -> None:
        least = {"unrelated": 0, "new_tokens": 1, "texts": 0, "answers": 0, "draws": 1}
        for name, smallest in least.items():
            value = getattr(self, name)
            if type(value) is not int or value < smallest:
                raise ConfigError(
                    f"side_effects.{name}={value}: it must be a whole number, at least {smallest}"
                )


def compared(arms: Sequence[Arm], draws: int) -> list[Arm]:
    """The arms whose side effects are measured: the steered one and the first random features."""
    return [
        *(arm for arm in arms if arm.name == STEERED),
        *[arm for arm in arms if arm.kind == "random"][:draws],
    ]


def off_target(answered: Mapping[str, pd.DataFrame], source: str, text: Readings) -> OffTarget:
    """Answers to unrelated prompts that are not the same string as the unsteered model's.

    ``answered``: arm -> answers, the baseline's among them, paired by id.
    """
    base = answered[BASELINE].set_index("id")["answer"]
    arms = {}
    for name, frame in answered.items():
        if name == BASELINE:
            continue
        after = frame.set_index("id")["answer"]
        assert after.index.equals(base.index), name
        changed = int((after != base).sum())
        interval = proportion_ci(changed, len(base))
        arms[name] = Changed(changed=changed, rate=changed / len(base), ci=interval)
    return OffTarget(n=len(base), source=source, arms=arms, text=text)


def text_summary(answered: pd.DataFrame, logs: Sequence[float]) -> Reading:
    """How one arm's answers read. ``logs``: log probability of each answer under the unsteered
    model, in nats.

    ``repetition``: mean share of repeated 4-grams (seq-rep-4 of Welleck et al. 2020) over the
    ``repetition_n`` answers that are long enough. ``perplexity``: exp of the mean over tokens of
    minus the log probability.
    """
    shares = [repeated_ngrams(list(tokens), NGRAM) for tokens in answered["tokens"]]
    long = [share for share in shares if share is not None]
    n_tokens = int(answered["n_tokens"].sum())
    return Reading(
        n=len(answered),
        n_tokens=n_tokens,
        repetition=float(np.mean(long)) if long else None,
        repetition_n=len(long),
        perplexity=float(np.exp(-np.sum(logs) / n_tokens)) if n_tokens else None,
        degenerate=int(answered["degenerate"].notna().sum()),
    )
