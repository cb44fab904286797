"""Tasks whose options no prompt lists: the answer is the one that is likeliest after the prompt.

Cost: per arm one pass over prompt and option for every option, as much as a few tokens of an
answer in words.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass

from corrsteer.records import NAMES, Question
from corrsteer.tasks.base import Task
from corrsteer.tasks.reading import Row


@dataclass(frozen=True, kw_only=True)
class WeighedTask(Task, ABC):
    """Answered by likelihood unless ``decoding`` says otherwise; ``likelihood`` says how options
    are compared."""

    def decoding(self, wanted: str, questions: Sequence[Question]) -> str:
        return super().decoding("loglikelihood" if wanted == "auto" else wanted, questions)


def right_and_wrong(row: Row, field: str, right: str, wrong: Sequence[str]) -> tuple[str, ...]:
    """The options, the right one first, wrong ones that come twice once. ``field``: the one with
    the wrong ones, named where they are none, too many, or the right one."""
    options = tuple(dict.fromkeys([right, *wrong]))
    if right in wrong:
        raise row.fail(field, f"has the right answer {right[:40]!r} among the wrong ones")
    if not 2 <= len(options) <= len(NAMES):
        raise row.fail(field, f"makes {len(options)} options; there must be 2 to {len(NAMES)}")
    return options
