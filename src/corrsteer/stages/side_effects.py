"""What steering does besides its task: to unrelated prompts, to neutral text, to the wording of
answers, and to the other features of the SAEs.

====================  ==============================================================================
unrelated prompts     how many answers change at all
neutral text          KL divergence of the next token from the unsteered model's, text given
answers               repeated 4-grams, perplexity under the unsteered model, degenerate text
activity              active features per position and layer before and after, on the unsteered
                      model's own answers, so that other text is no part of it
====================  ==============================================================================

Each stands beside plans of random features at the same norms: any vector of that length has side
effects. Cost with the standard settings on the bundled model: about a third of the test split with
its controls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from corrsteer.errors import ConfigError
from corrsteer.records import Divergence, Plan, arm_kind
from corrsteer.stats.intervals import mean_ci, proportion_ci
from corrsteer.stats.repetition import repeated_ngrams

if TYPE_CHECKING:
    import pandas as pd

NGRAM = 4
_ROWS = 256  # positions encoded at once


@dataclass(frozen=True)
class SideEffects:
    """The settings of ``conf/side_effects/standard.yaml``, where their meaning stands."""

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


def compared(plan: Plan, controls: Mapping[str, Plan], draws: int) -> dict[str, Plan]:
    """The arms whose side effects are measured: the plan and the first random features."""
    random = [arm for arm in controls if arm_kind(arm) == "random"][:draws]
    return {"steered": plan, **{arm: controls[arm] for arm in random}}


def off_target(answers: Mapping[str, pd.DataFrame], source: str) -> dict[str, Any]:
    """Answers to unrelated prompts that are not, to the letter, the unsteered model's.

    ``answers``: arm -> answers, "baseline" among them, paired by id.
    """
    base = answers["baseline"].set_index("id")["answer"]
    arms = {}
    for arm, frame in answers.items():
        if arm == "baseline":
            continue
        after = frame.set_index("id")["answer"]
        assert after.index.equals(base.index), arm
        changed = int((after != base).sum())
        low, high = proportion_ci(changed, len(base))
        arms[arm] = {"changed": changed, "rate": changed / len(base), "ci": [low, high]}
    return {"n": len(base), "source": source, "arms": arms}


def neutral(found: Mapping[str, Sequence[Divergence]], source: str, seed: int) -> dict[str, Any]:
    """KL divergence in nats per position, with a bootstrap interval over texts, and the share of
    positions whose likeliest next token is another one. ``found``: arm -> one per text."""
    arms = {}
    for arm, parts in found.items():
        positions = np.array([d.positions for d in parts], dtype=np.float64)
        kl = np.array([d.kl for d in parts])
        mean = float(kl.sum() / positions.sum())
        # The interval of a ratio of sums, linearised: texts differ in length.
        low, high = mean_ci((kl - mean * positions) / positions.mean(), seed)
        arms[arm] = {
            "kl": mean,
            "kl_ci": [max(0.0, mean + low), mean + high],
            "top1_changed": float(sum(d.top1_changed for d in parts) / positions.sum()),
        }
    first = next(iter(found.values()))
    total = sum(d.positions for d in first)
    return {"n_texts": len(first), "n_positions": total, "source": source, "arms": arms}


def text_summary(answers: pd.DataFrame, logs: Sequence[float]) -> dict[str, Any]:
    """How one arm's answers read. ``logs``: log probability of each answer under the unsteered
    model, in nats.

    ``repetition``: mean share of repeated 4-grams (seq-rep-4 of Welleck et al. 2020) over the
    ``repetition_n`` answers that are long enough. ``perplexity``: exp of the mean over tokens of
    minus the log probability.
    """
    shares = [repeated_ngrams(list(tokens), NGRAM) for tokens in answers["tokens"]]
    long = [share for share in shares if share is not None]
    n_tokens = int(answers["n_tokens"].sum())
    return {
        "n": len(answers),
        "n_tokens": n_tokens,
        "repetition": float(np.mean(long)) if long else None,
        "repetition_n": len(long),
        "perplexity": float(np.exp(-np.sum(logs) / n_tokens)) if n_tokens else None,
        "degenerate": int(answers["degenerate"].notna().sum()),
    }


def activity(
    model: Any,
    saes: Mapping[int, Any],
    prompts: Sequence[str],
    answers: Sequence[Sequence[int]],
    plan: Plan,
    strategy: Any,
) -> list[dict[str, Any]]:
    """Active features per generation position and layer, without the plan and with it.

    ``answers``: token ids that the unsteered model wrote; they are read twice. One dict per layer:
    ``l0_before``, ``l0_after``, and how many of the active features are ``new`` or ``lost``, all
    means over ``n_positions``. The residual stream of a steered layer is read after the addition,
    as the next block reads it.
    """
    counts = {n: np.zeros(4) for n in saes}
    positions = 0
    for rows in model.batches(prompts):
        asked = [prompts[i] for i in rows], [answers[i] for i in rows], list(saes), "generated"
        before = model.replay(*asked)
        after = model.replay(*asked, plan=plan, strategy=strategy)
        positions += len(before.sample)
        for n, sae in saes.items():
            both = zip(before.layers[n].split(_ROWS), after.layers[n].split(_ROWS), strict=True)
            for x, steered in both:
                was, now = sae.encode(x) > 0, sae.encode(steered) > 0
                sums = was.sum(), now.sum(), (now & ~was).sum(), (was & ~now).sum()
                counts[n] += [float(s) for s in sums]
    names = ("l0_before", "l0_after", "new", "lost")
    return [
        {
            "layer": n,
            "n_positions": positions,
            "steered": n in plan.vectors(),
            **dict(zip(names, (counts[n] / max(positions, 1)).tolist(), strict=True)),
        }
        for n in saes
    ]
