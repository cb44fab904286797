"""What a task and a scorer are.

Most tasks derive from :class:`corrsteer.tasks.base.Task`, which has all of this but the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from corrsteer.records import Example, Question, Score
from corrsteer.report.record import Asked, Data

if TYPE_CHECKING:
    import pandas as pd


class Scorer(Protocol):
    """How an answer is scored. Pure, unless it has a model (corrsteer.scorers.base.ModelScorer)."""

    def __call__(self, example: Example, text: str, /) -> Score: ...


class Answerable(Protocol):
    """What the stages want to know of the source of some examples."""

    @property
    def name(self) -> str: ...

    @property
    def scorer(self) -> Scorer: ...

    @property
    def max_new_tokens(self) -> int:
        """An answer is cut there."""


class Task(Answerable, Protocol):
    """Questions that can be scored right or wrong."""

    @property
    def data(self) -> str:
        """Where the rows are from: bundled, hub, or a path."""

    @property
    def shots(self) -> int:
        """How many solved questions the splits must set aside."""

    @property
    def lists_options(self) -> bool:
        """Whether the prompts show letters that an answer may be restricted to."""

    @property
    def likelihood(self) -> str:
        """How the likelihoods of options are compared, one of
        :data:`corrsteer.records.LIKELIHOODS`."""

    def questions(self) -> list[Question]:
        """All rows. Raises DataError when there are none, or an id comes twice."""

    def decoding(self, wanted: str, questions: Sequence[Question]) -> str:
        """How answers are made: free, constrained or loglikelihood. ``wanted`` may be "auto"."""

    def arranged(self, questions: Sequence[Question], seed: int) -> Sequence[Question]:
        """The questions with their options in the order in which they are listed."""

    def ask(
        self, splits: Mapping[str, Sequence[Question]], *, chat: bool
    ) -> tuple[dict[str, tuple[Example, ...]], tuple[str, ...]]:
        """The splits as prompts, and the texts that end an answer."""

    def metrics(self, examples: Sequence[Example], answers: pd.DataFrame) -> Mapping[str, float]:
        """What this benchmark reports besides accuracy, of one arm's scored answers."""

    def one_answer(self, examples: Sequence[Example]) -> str | None:
        """What is right in every example, by its meaning and not its letter; None where they
        differ."""

    def other_half(self) -> tuple[str, Task] | None:
        """The same benchmark's questions where that answer is wrong, and what they are called; None
        where it has none."""

    def about_data(self, questions: Sequence[Question]) -> Data:
        """Which rows these are."""

    def about_prompts(
        self,
        dealt: Mapping[str, Sequence[Question]],
        *,
        chat: bool,
        decoding: str,
        stop: Sequence[str],
    ) -> Asked:
        """How the questions are put."""
