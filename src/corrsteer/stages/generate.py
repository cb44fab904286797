"""Answers a set of questions under any number of plans, and scores the answers.

Cost: one prompt pass per batch, shared by all plans, then one short pass per plan and new token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from corrsteer.errors import ConfigError
from corrsteer.records import LETTERS, Example, Plan
from corrsteer.tasks.base import Scorer


def generate(
    model: Any,
    examples: Sequence[Example],
    plans: Mapping[str, Plan | None],
    *,
    max_new_tokens: int,
    strategy: Any,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, pd.DataFrame]:
    """Greedy answers of every arm: columns id, answer, tokens, n_tokens, n_steered."""
    answers = model.generate(
        [e.prompt for e in examples],
        list(plans.values()),
        max_new_tokens=max_new_tokens,
        strategy=strategy,
        on_batch=on_batch,
    )
    return {
        arm: _frame(examples, completions) for arm, completions in zip(plans, answers, strict=True)
    }


def generate_constrained(model: Any, examples: Sequence[Example]) -> pd.DataFrame:
    """Unsteered answers restricted to the option letters: the best letter, never prose."""
    done: dict[str, Any] = {}
    for n_options in sorted({len(e.options) for e in examples}):
        if n_options == 0:
            raise ConfigError(
                "constrained decoding needs answer options; type controls.constrained=false"
            )
        group = [e for e in examples if len(e.options) == n_options]
        allowed = [f" {letter}" for letter in LETTERS[:n_options]]
        (completions,) = model.generate(
            [e.prompt for e in group], [None], max_new_tokens=1, allowed=allowed
        )
        done.update(zip([e.id for e in group], completions, strict=True))
    return _frame(examples, [done[e.id] for e in examples])


def _frame(examples: Sequence[Example], completions: Sequence[Any]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": [e.id for e in examples],
            "answer": [c.text for c in completions],
            "tokens": [list(c.tokens) for c in completions],
            "n_tokens": [len(c.tokens) for c in completions],
            "n_steered": [c.steered for c in completions],
        }
    )


def score(answers: pd.DataFrame, examples: Sequence[Example], scorer: Scorer) -> pd.DataFrame:
    """Adds prompt, gold, parsed, score and invalid to the answers of ``examples``."""
    assert list(answers["id"]) == [e.id for e in examples]
    scores = [scorer(e, text) for e, text in zip(examples, answers["answer"], strict=True)]
    return answers.assign(
        prompt=[e.prompt for e in examples],
        gold=[e.gold for e in examples],
        parsed=pd.array([s.parsed for s in scores], dtype="string"),
        score=[s.value for s in scores],
        invalid=[s.invalid for s in scores],
    )
