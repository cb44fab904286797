"""The errors a user can meet. Every message ends with what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class CorrSteerError(Exception):
    """Base of all errors that are the input's fault, not the program's.

    ``main`` prints the message as one line and exits with code 2; anything else is a bug
    and keeps its traceback.
    """

    before_compute = False
    """Whether it was found before anything was computed: such a run leaves no folder."""


class ConfigError(CorrSteerError):
    """A setting is unknown, misspelt or out of range."""


def check_known(setting: str, value: object, known: Iterable[str]) -> None:
    """Raises ConfigError where a setting is none of the ``known`` choices."""
    choices = list(known)
    if value not in choices:
        raise ConfigError(f"{setting}={value} is unknown; choose one of: {', '.join(choices)}")


class DataError(CorrSteerError):
    """A data file is missing, malformed or too small for what was asked of it."""


class ModelError(CorrSteerError):
    """A model or SAE cannot be loaded, or the two do not fit together."""


class DegenerateOutcomesError(CorrSteerError):
    """All answers of the selection split are right, or all are wrong: nothing correlates.

    ``answers``: the scored answers, a frame, where there are some to look at.
    """

    def __init__(self, message: str, answers: Any = None) -> None:
        super().__init__(message)
        self.answers = answers
