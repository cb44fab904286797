"""What every task has: a name, its data, a scorer and the length of an answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from corrsteer.errors import ConfigError
from corrsteer.records import Example, Score

Scorer = Callable[[Example, str], Score]


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """``data``: "bundled", or the file or folder with the benchmark's own rows.

    ``max_new_tokens``: an answer is cut there; it must be long enough to hold a right one.
    """

    name: str
    scorer: Scorer
    max_new_tokens: int
    data: str = "bundled"

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(
                f"task.max_new_tokens={self.max_new_tokens} must be at least 1, "
                "e.g. task.max_new_tokens=8"
            )

    @abstractmethod
    def examples(self) -> list[Example]:
        """Every row, in file order. Raises DataError naming file, line and field."""
