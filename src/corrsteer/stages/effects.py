"""What a plan does besides its task: side effects, and what it does to other tasks.

Everything is measured beside plans of random features at the same norms, since any vector of that
length does something. The test split's own flips are :mod:`corrsteer.stages.evaluate`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from corrsteer.records import Example, Plan
from corrsteer.run.build import Job
from corrsteer.stages.bench import Cached
from corrsteer.stages.evaluate import transfer_summary
from corrsteer.stages.measured import active_features, divergences, likelihoods, unrelated_stages
from corrsteer.stages.side_effects import compared, neutral, off_target, text_summary

if TYPE_CHECKING:
    import pandas as pd

Arms = dict[str, "pd.DataFrame"]


def unrelated_answers(job: Job, plans: Mapping[str, Plan | None]) -> Arms:
    """Answers to the unrelated prompts, by arm; none where none were asked for."""
    if not job.neutral.prompts:
        return {}
    stages = unrelated_stages(job.stages, job.effects.new_tokens)
    return stages.answers(job.neutral.prompts, plans, "unrelated prompts")


def side_effects(
    job: Job, plan: Plan, controls: Mapping[str, Plan], test: Mapping[str, pd.DataFrame]
) -> tuple[dict[str, Any] | None, Arms]:
    """The measures of ``side_effects``, and the answers to unrelated prompts.

    ``test``: scored answers to the test split, of which the first ``side_effects.answers`` are
    read again. None where nothing is to be measured.
    """
    effects, stages, texts = job.effects, job.stages, job.neutral.texts
    arms = compared(plan, controls, effects.draws)
    answered = unrelated_answers(job, {"baseline": None, **arms})
    examples = job.splits["test"][: effects.answers]
    if not (answered or texts or examples):
        return None, answered
    found: dict[str, Any] = dict.fromkeys(("off_target", "neutral", "text", "activity"))
    source = job.neutral.source
    if answered:
        read = read_again(stages, job.neutral.prompts, answered)
        found["off_target"] = {**off_target(answered, source), "text": read}
    if texts:
        found["neutral"] = neutral(divergences(stages, texts, arms), source, stages.seed)
    if examples:
        again = {arm: test[arm].iloc[: len(examples)] for arm in ("baseline", *arms)}
        found["text"] = read_again(stages, examples, again)
        layers = active_features(stages, examples, again["baseline"], plan, job.layers)
        positions = layers[0]["n_positions"]
        found["activity"] = {"n": len(examples), "n_positions": positions, "layers": layers}
    return found, answered


def read_again(
    stages: Cached, examples: Sequence[Example], answers: Mapping[str, pd.DataFrame]
) -> dict[str, Any]:
    """How the answers of each arm read, to the unsteered model among others."""
    logs = likelihoods(stages, examples, answers)
    return {"arms": {arm: text_summary(frame, logs[arm]) for arm, frame in answers.items()}}


def other_answers(job: Job, plans: Mapping[str, Plan | None]) -> dict[str, Arms]:
    """By task of ``transfer``, the answers to its test questions, by arm."""
    return {
        name: other.stages.answers(other.examples, plans, f"{name}, transfer")
        for name, other in job.others.items()
    }


def transfer(
    job: Job, plan: Plan, controls: Mapping[str, Plan]
) -> tuple[dict[str, dict[str, Any]], dict[str, Arms]]:
    """By task of ``transfer``, what the plan does to its test questions; and its answers."""
    answers = other_answers(job, {"baseline": None, **compared(plan, controls, job.effects.draws)})
    found = {
        name: transfer_summary(arms, job.others[name].examples, seed=job.stages.seed)
        for name, arms in answers.items()
    }
    return found, answers
