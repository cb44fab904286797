"""What people type, in the order and the words that Hydra reads."""

from __future__ import annotations

import re
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from corrsteer.errors import ConfigError
from corrsteer.wording import command, quoted

# A task's settings, and those of one of several in transfer.
A_TASK = r"\+?(?:task|transfer\.\w+)"
# Settings that are free text: braces, commas and backslashes in them are meant literally.
TEXT = re.compile(rf"{A_TASK}\.(?:prompt|chat_prompt|scorer\.pattern)")
SCORER = re.compile(rf"{A_TASK}\.scorer")

GROUPS = (
    "arm", "backend", "coefficient", "controls", "experiment", "gate", "job", "model", "operator",
    "sae", "scorer", "search", "selector", "side_effects", "strategy", "task", "tracker",
)  # fmt: skip
"""The groups of ``conf/``."""
OF_GROUP = re.compile(rf"\+?((?:{'|'.join(GROUPS)})(?:@[\w.]+)?)=\[(.*)\]$")
NAMES = re.compile(r"\s*(?!null\b)[A-Za-z_][\w-]*\s*(,\s*(?!null\b)[A-Za-z_][\w-]*\s*)*")

# What transfer=all stands for.
BENCHMARKS = ("bbq", "mmlu", "mmlu_pro", "gsm8k", "simpleqa", "harmbench", "xstest")

# What Hydra's flags ask for, in place of a run.
MODES = (
    "-m", "--multirun", "-r", "--run", "-c", "--cfg", "-i", "--info", "-h", "--help",
    "--hydra-help", "--version",
)  # fmt: skip


def flags_first(arguments: list[str]) -> list[str]:
    """Move flags, with their values, before the settings: argparse takes no positionals after a
    flag that follows one, so stock Hydra refuses ``task=bbq -m coef=0.5,1,2`` and ``task=bbq
    --config-dir D coef=2`` with "unrecognized arguments: coef=...".

    A launcher starts the jobs of a sweep, so one that is chosen asks for a sweep, if only of one
    job; Hydra alone would run that here and not say so.
    """
    known = get_args_parser()._option_string_actions
    flags: list[str] = []
    settings: list[str] = []
    words = [*arguments]
    while words:
        word = words.pop(0)
        if word[:1] != "-" or word == "--":
            settings += [word] if word != "--" else []
            continue
        flags.append(word)
        # As argparse does, --config-d for --config-dir; an ambiguous one is refused later.
        meant = [
            action
            for text, action in known.items()
            if text == word or (word[:2] == "--" and text.startswith(word))
        ]
        if len(meant) == 1 and meant[0].nargs is None:
            flags += [words.pop(0)] if words else []
        elif len(meant) == 1 and meant[0].nargs == "?":
            given = bool(words) and words[0] in (meant[0].choices or ())
            flags.append(words.pop(0) if given else str(meant[0].const))
    launched = any(word.startswith("hydra/launcher=") for word in settings)
    asked = any(flag.split("=")[0] in MODES for flag in flags)
    return [*(["-m"] if launched and not asked else []), *flags, *settings]


def check_command(arguments: list[str]) -> None:
    """Raises ConfigError for a flag that is unknown or lacks its value, where Hydra's own parser
    would print its usage over several lines, and where Python drops the assertions that Hydra
    reads settings with."""
    if not __debug__:
        raise ConfigError(
            "Python runs without assertions (-O or PYTHONOPTIMIZE), which Hydra needs to read"
            f" settings: type PYTHONOPTIMIZE= {command()} ..."
        )

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; a setting is KEY=VALUE; type {command()} --help")

    for word in arguments:
        # Hydra looks into the names of a list of options before it looks what they are.
        if (listed := OF_GROUP.match(word)) and not NAMES.fullmatch(listed[2]):
            refuse(f"{word}: an option of a group has a name, as in {listed[1]}=[a,b]")
    parser = get_args_parser()
    parser.error = refuse
    if not {"--version", "--help", "-h"} & {*arguments}:
        parser.parse_args(arguments)


def plain_words(arguments: list[str]) -> list[str]:
    """Let people type what they mean: ``task.prompt='{question}\\nAnswer:'`` without a second pair
    of quotes, ``task.scorer=exact`` for an option of the group ``scorer``, or a dotted name, and
    ``transfer=[mmlu,gsm8k]`` for several options of the group ``task`` at once."""
    words = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if SCORER.fullmatch(key) and equals and value[:1] not in "{[":
            dotted = "." in value
            words.append(f"scorer@{key}={'function' if dotted else value}")
            words += [f"{key}.path={value}"] if dotted else []
        elif key == "transfer" and equals and value[:1] != "{":
            names = [name.strip() for name in value.strip("[] ").split(",")]
            listed = BENCHMARKS if names == ["all"] else [name for name in names if name != "null"]
            words += [f"+task@transfer.{name}={name}" for name in dict.fromkeys(listed) if name]
        elif TEXT.fullmatch(key) and value[:1] not in ("'", '"') and value != "null":
            # A dollar sign before a field: ${price} would be a setting's value.
            plain = re.sub(r"(?<!\\)(?=\$\{\w+\})", r"\\", value)
            words.append(f"{key}={quoted(plain)}")
        else:
            words.append(argument)
    return words
