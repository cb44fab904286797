"""Scores with a Python function of the user's own, ``(Example, str) -> Score | float | bool``.

    def shorter_than_gold(example, text):
        return len(text) <= len(example.gold)

An example has ``id``, ``prompt``, ``gold`` (the right answer; with options, its letter),
``options`` (their texts), ``aliases`` (other right answers), ``meta`` and ``notes``. The text is
all that the model wrote: :func:`corrsteer.scorers.reply.reply` gives what of it is the reply.

The path is ``module.function``; the module must be importable where the command is typed. It is
imported while the settings are checked, so keep heavy imports inside the function. A number or a
bool becomes the score as it is; only a :class:`Score` can say that an answer is invalid. Results
are recorded with ``version``: raise it when the function changes.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

import numpy as np

from corrsteer.errors import ConfigError, DataError
from corrsteer.records import Example, Score

_HELP = "type task.scorer.path=MODULE.FUNCTION, e.g. task.scorer.path=my_scorers.polite"


@dataclass(frozen=True)
class Function:
    path: str
    version: int = 1

    def __post_init__(self) -> None:
        parts = self.path.split(".") if isinstance(self.path, str) else []
        if len(parts) < 2 or not all(part.isidentifier() for part in parts):
            raise ConfigError(f"task.scorer.path={self.path!r} is not a dotted path; {_HELP}")
        _load(self.path)

    def __call__(self, example: Example, text: str) -> Score:
        try:
            returned = _load(self.path)(example, text)
        except Exception as error:
            known = f"an Example has {', '.join(f.name for f in fields(Example))}"
            advice = known if "'Example' object" in str(error) else "correct the function"
            raise DataError(
                f"{self.path} failed on example {example.id!r}: {_in_a_line(error)}; {advice}"
            ) from error
        score = _as_score(returned)
        if score is None:
            raise DataError(
                f"{self.path} returned {' '.join(repr(returned).split())[:80]} for example"
                f" {example.id!r}: return a bool, a number from 0 to 1,"
                " or corrsteer.records.Score(value, parsed), with parsed None only where value is 0"
            )
        return score


@functools.cache
def _load(path: str) -> Callable[[Example, str], Any]:
    module, _, name = path.rpartition(".")
    try:
        function: Callable[[Example, str], Any] = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"task.scorer.path={path} cannot be imported: {_in_a_line(error)}; {_HELP}"
        ) from error
    if not callable(function):
        raise ConfigError(
            f"task.scorer.path={path} is a {type(function).__name__}, not a function; {_HELP}"
        )
    try:
        inspect.signature(function).bind("example", "text")
    except TypeError:
        raise ConfigError(
            f"task.scorer.path={path} cannot be called with (example, text):"
            f" write def {name}(example, text)"
        ) from None
    except ValueError:  # some built-in functions do not say what they take
        pass
    return function


def _as_score(returned: Any) -> Score | None:
    """None for anything that is not a score."""
    if isinstance(returned, Score):
        value = _unit(returned.value)
        parsed = returned.parsed
        legal = isinstance(parsed, str) or (parsed is None and value == 0)
        return Score(value, parsed) if value is not None and legal else None
    value = _unit(returned)
    return None if value is None else Score(value, f"{value:g}")


def _unit(value: Any) -> float | None:
    legal = isinstance(value, Real | np.bool_) and bool(0 <= value <= 1)  # type: ignore[operator]
    return float(value) if legal else None  # NaN is in no interval


def _in_a_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
