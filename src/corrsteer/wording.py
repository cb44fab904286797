"""The words for what is wrong with a command: one line that says what, and what to type."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

PACKAGED = ("corrsteer", "cli.py")
"""The script that pip makes, and :mod:`corrsteer.cli` as a module."""


def command() -> str:
    """What starts runs here, as it was typed: the package's command, or a checkout's."""
    return "corrsteer" if os.path.basename(sys.argv[0]) in PACKAGED else "python -m src.main"


def explain(error: BaseException) -> str:
    """One line for an error of Hydra, OmegaConf or ours: what was wrong, what is legal."""
    if isinstance(error, ValueError) and isinstance(error.__cause__, OSError):
        error = error.__cause__  # "unable to configure handler", says logging
    if isinstance(error, MissingConfigException) and error.options:
        group, _, wrong = str(error.missing_cfg_file).rpartition("/")
        group = "task.scorer" if group == "scorer" else group
        options = [option for option in error.options if option]
        return (
            f"{group}={wrong} does not exist{nearest(wrong, options)};"
            f" choose one of: {', '.join(sorted(options))}"
        )
    if isinstance(error, OverrideParseException):
        if quoted := _in_quotes(str(error.override)):
            return f"cannot read {error.override!r}: put the value in quotes, {quoted}"
        return (
            f"cannot read {error.override!r}: a setting is KEY=VALUE, such as coef=1, with quotes"
            " and brackets closed"
        )
    words = " ".join(str(error).split())
    if choice := re.match(r"You must specify '\w+@([\w.]+)'.*Available options: (.*)", words):
        names = ", ".join(choice[2].split())
        return f"{choice[1]} has no value: type {choice[1]}=NAME; choose one of: {names}"
    inner = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(inner, ConfigKeyError | ConfigAttributeError) and inner.parent_node is not None:
        parent = inner.parent_node
        mapping = isinstance(parent, DictConfig) and not parent._is_none()
        keys = [str(key) for key in parent if key != "hydra"] if mapping else []
        return unknown_key(parent._get_full_key(None), str(inner.key), keys)
    if isinstance(inner, MissingMandatoryValue):
        return f"{inner.full_key} has no value: type {inner.full_key}=VALUE"
    if missing := re.search(r"Missing mandatory value: ([\w.]+)", str(inner)):
        return f"{missing[1]} has no value: type {missing[1]}=VALUE"
    if isinstance(inner, ValidationError) and inner.full_key:
        first = str(inner).splitlines()[0]
        if unfit := _UNFIT.match(first):
            return f"{inner.full_key}={unfit[1]}: it must be {_TYPES.get(unfit[2], unfit[2])}"
        if "is not Optional" in first:
            return f"{inner.full_key}=null: it must have a value; leave it out for the default"
        return f"{inner.full_key}: {first}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot write {error.filename}: {error.strerror}; choose another folder"
    if inner is not error:
        return f"{' '.join(str(error).split())}: {str(inner).splitlines()[0]}".lstrip(": ")
    if isinstance(error, OmegaConfBaseException):
        key = error.full_key or ""
        key = f"{key}: " if key and not key.startswith("hydra.") else ""
        return key + str(error).splitlines()[0]
    if words.startswith("Config group override must be"):
        return f"an option of a group has a name, as in task=bbq: {words}"
    return " ".join(str(error).split())


_TYPES = {
    "Float": "a number, such as 1 or 0.5",
    "Integer": "a whole number",
    "Boolean": "true or false",
    "bool": "true or false",
}
"""OmegaConf's names of types."""
_UNFIT = re.compile(
    r"Value '(.*)' (?:of type '\w+' could not be converted to|is not a valid) (\w+)"
)


def quoted(text: str) -> str:
    """A text in quotes, which Hydra reads letter by letter but for backslashes before a quote."""
    doubled = re.sub(r'(\\*)("|\Z)', lambda m: 2 * m[1] + ("\\" + m[2] if m[2] else ""), text)
    return f'"{doubled}"'


def _in_quotes(override: str) -> str:
    """An override that Hydra cannot read, with its value in quotes, as it is typed into a shell;
    empty where that would not help."""
    key, equals, value = override.partition("=")
    if not value or value[0] in "[{'\"" or not value.isprintable():
        return ""
    text = f"{key}={quoted(os.path.expanduser(value))}"
    try:
        OverridesParser.create().parse_override(text)
    except HydraException:
        return ""
    return shlex.quote(text)


def unknown_key(where: str, key: str, legal: Iterable[str]) -> str:
    names = sorted(name for name in legal if not name.startswith("_"))
    known = f"the keys of {where} are" if where else "the keys are"
    known = f"{known}: {', '.join(names)}" if names else f"{where} has no keys"
    full = f"{where}.{key}" if where else key
    # The settings of a search exist only once an option of the group is chosen.
    advice = "; also type search=pareto" if where == "search" and "trials" not in names else ""
    if where == "transfer":
        advice = f"; also type transfer=[{key}]"
    return f"unknown key {full}{nearest(key, names)}; {known}{advice}"


def nearest(wrong: str, legal: Sequence[str]) -> str:
    """The first of the names that are most like a wrong one."""

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, wrong, name).ratio()

    close = max(sorted(legal), key=likeness, default="")
    return f" (did you mean {close}?)" if close and likeness(close) >= 0.6 else ""
