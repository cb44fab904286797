"""What tells the jobs of a sweep apart, found from their configs.

Jobs have the same *setting* if nothing differs that could change a result but the dial and the
seed: then they belong on one curve, and their seeds together. Reads ``config.yaml`` of every job:
a few milliseconds each.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

DIAL, SEEDS = "coef", ("seed", "splits.seed")
COPIES = re.compile(r"(strategy|search)(\.method)*\.coef|search\.start")
"""Where conf/ writes ${coef}: in a config.yaml, which is resolved, they are the dial once more."""
NO_RESULT = ("name", "cache", "tracker", "hydra", "collect.shards", "study.widen")
"""Where a run lies, what it is called, who hears of it, how its work is shared out, and how many
more jobs may follow it."""
BARE = ("task", "model", "method", "variant")
"""Columns whose values need no name before them."""


def leaves(home: Path) -> dict[str, str]:
    """A job's settings by dotted name, as text, but for dial, seeds and what changes no result;
    empty where there is no file that can be read."""
    own = settings(home)
    return {
        name: str(value)
        for name, value in own.items()
        if name != DIAL and name not in SEEDS and not _within(name, NO_RESULT)
        if not (COPIES.fullmatch(name) and value == own.get(DIAL))
    }


def seeds_called(varied: Sequence[str]) -> str:
    """In the plural, what jobs are that differ in these of :data:`SEEDS`."""
    if list(varied) == ["splits.seed"]:
        return "values of splits.seed"
    return "pairs of seed and splits.seed" if len(varied) > 1 else "seeds"


def splits_seed(home: Path) -> int | None:
    """What a job's splits were dealt by, where it is not the seed."""
    found = settings(home).get("splits.seed")
    return found if isinstance(found, int) else None


def settings(home: Path) -> dict[str, Any]:
    """A job's settings by dotted name; empty where there is no file that can be read."""
    try:
        return _flat("", yaml.safe_load((home / "config.yaml").read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError):
        return {}


def _flat(name: str, value: Any) -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    if not isinstance(value, dict) or not value:
        return {name: value}
    return {
        inner: leaf
        for key, part in value.items()
        for inner, leaf in _flat(f"{name}.{key}" if name else str(key), part).items()
    }


def _within(name: str, groups: Sequence[str]) -> bool:
    return any(name == group or name.startswith(f"{group}.") for group in groups)


def labels(
    done: pd.DataFrame, configs: Mapping[int, Mapping[str, str]], columns: Sequence[str]
) -> pd.Series:
    """The name of every job's setting, the same for jobs that have the same and no others.

    ``done``: jobs that are done. ``configs``: :func:`leaves` of each. ``columns``: of ``done``,
    those that a reader knows first, but for dial and seed. A name is made of as few as tell the
    settings apart; it is empty where all have the same.
    """
    numbers = done["job"].tolist()
    found: dict[str, list[Hashable]] = {name: done[name].astype(str).tolist() for name in columns}
    found["question"] = done["question"].tolist()
    for name in sorted({n for job in numbers for n in configs[job]}, key=_nearness):
        shown = name if name not in found else f"{name} in config.yaml"
        found[shown] = [configs[job].get(name) for job in numbers]
    differing = {name: values for name, values in found.items() if len(set(values)) > 1}
    whole = list(zip(*differing.values(), strict=True)) if differing else [()] * len(numbers)
    typed = _typed(done, whole)
    named = {n: v for n, v in differing.items() if n in columns} | typed
    named |= {n: v for n, v in differing.items() if n != "question"}
    kept: list[str] = []
    for name in named:
        if _parts([named[k] for k in (*kept, name)]) > _parts([named[k] for k in kept]):
            kept.append(name)
    texts = [_text({name: named[name][i] for name in kept}) for i in range(len(numbers))]
    return pd.Series(_unique(texts, whole), index=done.index, dtype=object)


def _nearness(name: str) -> tuple[int, str]:
    return name.count("."), name


def _parts(columns: Sequence[Sequence[Hashable]]) -> int:
    return len(set(zip(*columns, strict=True))) if columns else 1


def _typed(done: pd.DataFrame, whole: Sequence[Hashable]) -> dict[str, list[Hashable]]:
    """What was typed for each job, where it is the same for all jobs of a setting: ``controls=few``
    says more than the settings it stands for."""
    given = [
        dict(word.lstrip("+").split("=", 1) for word in text.split() if "=" in word)
        for text in done["overrides"].fillna("")
    ]
    left_out = (DIAL, *SEEDS)
    names = dict.fromkeys(name for words in given for name in words)
    found = {}
    for name in names:
        values = [words.get(name) for words in given]
        alike = len(set(zip(whole, values, strict=True))) == len(set(whole))
        if alike and name not in left_out and not _within(name, NO_RESULT):
            found[name] = values
    return found


def _text(values: Mapping[str, Hashable]) -> str:
    """Without settings that a job does not have, another method's, and without those that are null
    beside others."""
    some = {name: v for name, v in values.items() if v is not None}
    some = {name: v for name, v in some.items() if v != "None"} or dict.fromkeys(some, "null")
    words = (str(v) if name in BARE else f"{name} {v}" for name, v in some.items())
    return ", ".join(word for word in words if word)


def _unique(texts: Sequence[str], whole: Sequence[Hashable]) -> list[str]:
    """Settings that are called the same get a number."""
    of_text: dict[str, list[Hashable]] = {}
    for text, setting in zip(texts, whole, strict=True):
        same = of_text.setdefault(text, [])
        if setting not in same:
            same.append(setting)
    return [
        text if (n := of_text[text].index(setting)) == 0 else f"{text} ({n + 1})".strip()
        for text, setting in zip(texts, whole, strict=True)
    ]
