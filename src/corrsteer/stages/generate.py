"""Answers a set of questions under any number of plans, and scores the answers.

Cost: one prompt pass per batch, shared by all plans, then one short pass per plan and new token.
A batch is the unit that is never lost: the caller can keep it, and hand it back to a later call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from corrsteer.errors import ConfigError
from corrsteer.records import LETTERS, Completion, Example, Plan
from corrsteer.tasks.base import Scorer


def generate(
    model: Any,
    examples: Sequence[Example],
    plans: Mapping[str, Plan | None],
    *,
    max_new_tokens: int,
    strategy: Any,
    known: Mapping[str, Mapping[int, Completion]] | None = None,
    on_batch: Callable[[dict[str, dict[int, Completion]], int], None] | None = None,
) -> dict[str, pd.DataFrame]:
    """Greedy answers of every arm: columns id, answer, tokens, n_tokens, n_steered.

    ``known``: answers that are there already, by arm and index of the example; they are not
    generated again. ``on_batch`` hears of every new batch: its answers in the same form, and how
    many examples are done.
    """
    prompts = [e.prompt for e in examples]
    model.check_prompts(prompts, max_new_tokens)
    answers = {arm: dict((known or {}).get(arm, {})) for arm in plans}
    done = 0
    # Batches are made of all prompts, whatever is known: an answer must not depend on where an
    # earlier job stopped.
    for rows in model.batches(prompts):
        missing = [arm for arm in plans if any(i not in answers[arm] for i in rows)]
        new: dict[str, dict[int, Completion]] = {}
        if missing:
            completions = model.generate(
                [prompts[i] for i in rows],
                [plans[arm] for arm in missing],
                max_new_tokens=max_new_tokens,
                strategy=strategy,
            )
            new = {
                arm: dict(zip(rows, column, strict=True))
                for arm, column in zip(missing, completions, strict=True)
            }
        for arm, column in new.items():
            answers[arm].update(column)
        done += len(rows)
        if on_batch is not None:
            on_batch(new, done)
    return {
        arm: _frame(examples, [column[i] for i in range(len(examples))])
        for arm, column in answers.items()
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
