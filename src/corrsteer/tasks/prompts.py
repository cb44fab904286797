"""Prompt templates. Their white space is part of every result: golden tests pin it.

A prompt ends in "Answer:" or "Reply:" without a space, because BPE tokenizers merge a leading
space into the answer's first token.
"""

from __future__ import annotations

from collections.abc import Sequence

from corrsteer.records import LETTERS


def multiple_choice(question: str, options: Sequence[str]) -> str:
    lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False)]
    return "\n".join([question, *lines, "Answer:"])


def sum_prompt(question: str) -> str:
    return f"{question}\nAnswer:"


def short_answer(question: str) -> str:
    return f"Question: {question}\nAnswer:"


def request(text: str) -> str:
    return f"Request: {text}\nReply:"
