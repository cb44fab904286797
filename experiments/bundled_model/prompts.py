"""The prompts that the bundled model is trained on, frozen with it.

The program's own templates may change; these may not: the weights know no others. Their white
space counts. A prompt ends in "Answer:" or "Reply:" without a space, because the space before an
answer belongs to the answer's first token.
"""

from __future__ import annotations

from collections.abc import Sequence

LETTERS = "ABCDEFGHIJ"
"""How the options of a question are named."""


def multiple_choice(question: str, options: Sequence[str]) -> str:
    lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False)]
    return "\n".join([question, *lines, "Answer:"])


def sum_prompt(question: str) -> str:
    return f"{question}\nAnswer:"


def short_answer(question: str) -> str:
    return f"Question: {question}\nAnswer:"


def request(text: str) -> str:
    return f"Request: {text}\nReply:"
