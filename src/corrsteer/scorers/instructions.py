"""Scores whether a reply follows instructions that a program can check, as IFEval does.

The right answer (``gold``) says which: a JSON list of objects, each an ``instruction`` with its
arguments, e.g. ``[{"instruction": "length_constraints:number_words", "relation": "at least",
"num_words": 300}]``. :mod:`corrsteer.scorers.instruction_rules` has all of them and how each is
counted. Right is a reply that follows every one (prompt level). An empty reply is invalid, and
follows none.

Strict: the reply as it is, but for what was thought before it
(:func:`corrsteer.scorers.reply.spoken`); a question that a base model goes on with is part of it,
since replies may hold questions. Loose: an instruction is followed where one of eight forms of the
reply does: with or without its first line, its last line, and its asterisks; so a loose score is
never the lower one.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from corrsteer.errors import ConfigError, DataError
from corrsteer.records import Example, Score
from corrsteer.scorers.instruction_rules import RULES
from corrsteer.scorers.reply import spoken

RELATIONS = ("at least", "less than")
LEAST = {"num_paragraphs": 1, "nth_paragraph": 1}  # of others 0
KINDS = {"int": int, "str": str, "Sequence[str]": list}


@dataclass(frozen=True)
class Instruction:
    """One instruction with its arguments; ``holds`` says whether a text follows it."""

    name: str
    arguments: Mapping[str, Any]

    def holds(self, text: str, *, mended: bool) -> bool:
        return bool(text.strip()) and RULES[self.name](text, mended, **self.arguments)


@dataclass(frozen=True)
class Instructions:
    """``loose``: slightly changed forms of the reply count, too. ``mended``: by what an instruction
    says where the authors' script counts something else."""

    loose: bool = False
    mended: bool = False
    version: int = 1

    def __post_init__(self) -> None:
        for name in ("loose", "mended"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"task.scorer.{name}={getattr(self, name)} must be true or false")
        if not tells_languages():
            raise ConfigError(
                "task.scorer=instructions needs langdetect, which tells languages apart; type "
                "pip install 'corrsteer[ifeval]', in a checkout "
                ".venv/bin/pip install -e '.[ifeval]'"
            )

    def __call__(self, example: Example, text: str) -> Score:
        names = [instruction.name for instruction in read(example.gold)]
        kept = self.followed(example.gold, text, loose=self.loose)
        broken = [name for name, good in zip(names, kept, strict=True) if not good]
        if not spoken(text).strip():
            return Score(0.0, None)
        told = f"{sum(kept)} of {len(kept)}" + (f", not {', '.join(broken)}" if broken else "")
        return Score(float(not broken), told)

    def check(self, gold: str) -> None:
        """Raises DataError where a right answer is not a list of known instructions."""
        read(gold)

    def followed(self, gold: str, text: str, *, loose: bool) -> tuple[bool, ...]:
        """For each instruction, whether the reply follows it."""
        said = spoken(text)
        forms = loosened(said) if loose else (said,)
        return tuple(
            any(instruction.holds(form, mended=self.mended) for form in forms)
            for instruction in read(gold)
        )


def tells_languages() -> bool:
    """Whether langdetect is installed; it is imported where a language is first asked for."""
    return importlib.util.find_spec("langdetect") is not None


@functools.cache
def languages() -> frozenset[str]:
    """The codes that langdetect knows."""
    from langdetect import PROFILES_DIRECTORY

    return frozenset(os.listdir(PROFILES_DIRECTORY))


def loosened(text: str) -> tuple[str, ...]:
    """The eight forms, the text itself first."""
    lines = text.split("\n")
    cut = ["\n".join(some).strip() for some in (lines[1:], lines[:-1], lines[1:-1])]
    forms = (text, *cut)
    return (*forms, *(form.replace("*", "") for form in forms))


@functools.lru_cache(maxsize=4096)
def read(gold: str) -> tuple[Instruction, ...]:
    """The instructions of a right answer. Raises DataError."""
    try:
        listed = json.loads(gold)
    except (ValueError, RecursionError):
        listed = None
    if not isinstance(listed, list) or not listed or not all(isinstance(o, dict) for o in listed):
        raise DataError(
            f"the right answer {gold[:60]!r} is not a JSON list of instructions such as "
            '[{"instruction": "punctuation:no_comma"}]'
        )
    return tuple(map(_instruction, listed))


def _instruction(given: Mapping[str, Any]) -> Instruction:
    arguments = dict(given)
    name = arguments.pop("instruction", None)
    if not isinstance(name, str) or name not in RULES:
        raise DataError(f"there is no instruction {name!r}; known: {', '.join(RULES)}")
    asked = {
        key: parameter.annotation
        for key, parameter in inspect.signature(RULES[name]).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    if set(arguments) != set(asked):
        raise DataError(
            f"{name} takes {', '.join(asked) or 'no arguments'}, "
            f"not {', '.join(map(str, arguments)) or 'none'}"
        )
    for key, value in arguments.items():
        if not isinstance(value, KINDS[asked[key]]) or isinstance(value, bool):
            raise DataError(f"{name} needs {asked[key]} as {key}, not {value!r:.40}")
        if isinstance(value, list) and not all(isinstance(w, str) and w.strip() for w in value):
            raise DataError(f"{name} needs texts in {key}, not {value!r:.40}")
        if value == [] or (isinstance(value, str) and not value.strip()):
            raise DataError(f"{name} has nothing as {key}")
        if isinstance(value, int) and value < (least := LEAST.get(key, 0)):
            raise DataError(f"{name} needs at least {least} as {key}, not {value}")
        if key == "language" and value not in languages():
            known = ", ".join(sorted(languages()))
            raise DataError(f"{name} knows no language {value!r:.40}; known: {known}")
        if key.endswith("relation") and value not in RELATIONS:
            raise DataError(f"{name} knows {' and '.join(RELATIONS)} as {key}, not {value!r:.40}")
    return Instruction(name, arguments)
