"""Scores what a pattern of the user's own finds in the answer.

The pattern is Python's ``re``; flags go in front of it, such as ``(?m)`` or ``(?s)``. What it finds
is compared with the right answer and its aliases as ``exact`` compares: folded. An answer in which
it finds nothing, or nothing but white space, is invalid. What is thought before the reply is not
searched; what runs on after it is: a pattern of one's own says where it ends.

It is searched in every answer and may be as slow as it is written: nested repetitions such as
``(a+)+`` can take for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from corrsteer.errors import ConfigError, check_known
from corrsteer.records import Example, Score
from corrsteer.scorers.exact import compare
from corrsteer.scorers.folding import first_lines, last_of
from corrsteer.scorers.reply import spoken

TAKES = ("first", "last")
_HELP = r"type e.g. 'task.scorer.pattern=\"Answer: (\\w+)\"'"


@dataclass(frozen=True)
class Regex:
    """``group``: the number or name of the group that holds the answer; None is the first group,
    or the whole match where there is none. ``take``: which match counts, "first" or "last"."""

    pattern: str
    group: int | str | None = None
    take: str = "last"
    ignore_case: bool = False
    version: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, str) or not self.pattern:
            raise ConfigError(f"task.scorer.pattern={self.pattern!r} is not a pattern; {_HELP}")
        try:
            compiled = self._compiled()
        except (re.error, OverflowError, RecursionError) as error:
            what = str(error) or "nested too deeply"
            raise ConfigError(
                f"task.scorer.pattern={self.pattern!r} does not compile: {what}; {_HELP}"
            ) from error
        groups = [str(n) for n in range(compiled.groups + 1)] + list(compiled.groupindex)
        if self.group is not None and str(self.group) not in groups:
            raise ConfigError(
                f"task.scorer.group={self.group} is not a group of {self.pattern!r};"
                f" choose one of: {', '.join(groups)}"
            )
        check_known("task.scorer.take", self.take, TAKES)

    def __call__(self, example: Example, text: str) -> Score:
        answer = self._answer(self._compiled().finditer(spoken(text)))
        if answer is None or not answer.strip():
            return Score(0.0, None)
        score = compare(example, answer)
        # Found, so it was read, even where folding leaves nothing of it.
        return score if score.parsed else replace(score, parsed=first_lines(answer))

    def _answer(self, matches: Iterator[re.Match[str]]) -> str | None:
        match = last_of(matches) if self.take == "last" else next(matches, None)
        if match is None:
            return None
        group = self.group if self.group is not None else min(1, match.re.groups)
        # A number that came as text, as from a command line, is a number.
        return match[int(group) if str(group).isdecimal() else group]

    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern, re.IGNORECASE if self.ignore_case else 0)
