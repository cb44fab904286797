"""Answers a set of questions under any number of plans, and scores the answers.

Cost: one prompt pass per batch, shared by all plans, then one short pass per plan and new token.
A batch is the unit that is never lost: the caller can keep it, and hand it back to a later call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from corrsteer.records import LETTERS, Completion, Example, Plan
from corrsteer.scorers.base import ModelScorer
from corrsteer.scorers.degenerate import degenerate
from corrsteer.tasks.base import Scorer


def generate(
    model: Any,
    examples: Sequence[Example],
    plans: Mapping[str, Plan | None],
    *,
    batches: Sequence[Sequence[int]],
    max_new_tokens: int,
    strategy: Any,
    decoding: str = "free",
    stop: Sequence[str] = (),
    known: Mapping[str, Mapping[int, Completion]] | None = None,
    on_batch: Callable[[dict[str, dict[int, Completion]], int], None] | None = None,
) -> dict[str, dict[int, Completion]]:
    """Answers of every arm, by index of the example, to the examples in ``batches`` (of indices).

    ``decoding``: "free" is greedy text that ends at one of the ``stop`` texts; "constrained" takes
    the likeliest option letter; "loglikelihood" the option whose text is likeliest per character,
    and the answer is then its letter and text. ``known``: answers that are there already, by arm
    and index of the example; they are not generated again. ``on_batch`` hears of every new batch:
    its answers in the same form, and how many examples are done.
    """
    prompts = [e.prompt for e in examples]
    answers = {arm: dict((known or {}).get(arm, {})) for arm in plans}
    done = 0
    # A batch is answered as a whole or not at all: an answer must not depend on where an earlier
    # job stopped.
    for rows in batches:
        missing = [arm for arm in plans if any(i not in answers[arm] for i in rows)]
        new: dict[str, dict[int, Completion]] = {}
        if missing:
            new = {arm: {} for arm in missing}
            for group, allowed in _groups(rows, examples, decoding):
                asked = [prompts[i] for i in group], [plans[arm] for arm in missing]
                if decoding == "loglikelihood":
                    options = [examples[i].options for i in group]
                    completions = model.choose(*asked, options, strategy=strategy)
                else:
                    completions = model.generate(
                        *asked,
                        max_new_tokens=max_new_tokens,
                        allowed=allowed,
                        stop=stop,
                        strategy=strategy,
                    )
                for arm, column in zip(missing, completions, strict=True):
                    new[arm].update(zip(group, column, strict=True))
        for arm, column in new.items():
            answers[arm].update(column)
        done += len(rows)
        if on_batch is not None:
            on_batch(new, done)
    return answers


def _groups(
    rows: Sequence[int], examples: Sequence[Example], decoding: str
) -> Iterator[tuple[list[int], list[str] | None]]:
    """Rows that can be answered together, and the letters they may be answered with."""
    if decoding != "constrained":
        yield list(rows), None
        return
    for n_options in sorted({len(examples[i].options) for i in rows}):
        letters = [f" {letter}" for letter in LETTERS[:n_options]]
        yield [i for i in rows if len(examples[i].options) == n_options], letters


def answers_frame(examples: Sequence[Example], completions: Sequence[Completion]) -> pd.DataFrame:
    """Columns id, answer, tokens, n_tokens, n_steered."""
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
    """Adds prompt, gold, parsed, score, invalid and degenerate to the answers of ``examples``."""
    assert list(answers["id"]) == [e.id for e in examples]
    texts = answers["answer"].tolist()
    if isinstance(scorer, ModelScorer):
        scores = scorer.many(examples, texts)
    else:
        scores = [scorer(e, text) for e, text in zip(examples, texts, strict=True)]
    return answers.assign(
        prompt=[e.prompt for e in examples],
        gold=[e.gold for e in examples],
        parsed=pd.array([s.parsed for s in scores], dtype="string"),
        score=[s.value for s in scores],
        invalid=[s.invalid for s in scores],
        degenerate=pd.array(list(map(degenerate, texts)), dtype="string"),
    )
