"""The command line: ``python -m src.main task=bbq layers=all -m coef=0.5,1,2``.

Order the arguments, let Hydra compose the config, hand it to the pipeline. Exit codes: 0 done,
1 a bug or a failed job of a sweep, 2 a wrong setting or input, 130 interrupted.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

import hydra

from corrsteer import config  # also registers the schema and the resolvers that conf/ uses

if TYPE_CHECKING:
    from pathlib import Path

    from omegaconf import DictConfig


# A task's settings, and those of one of several in transfer.
A_TASK = r"\+?(?:task|transfer\.\w+)"
# Settings that are free text: braces, commas and backslashes in them are meant literally.
TEXT = re.compile(rf"{A_TASK}\.(?:prompt|chat_prompt|scorer\.pattern)")
SCORER = re.compile(rf"{A_TASK}\.scorer")

# What transfer=all stands for.
BENCHMARKS = ("bbq", "mmlu", "mmlu_pro", "gsm8k", "simpleqa", "harmbench", "xstest")

# What Hydra's flags ask for, in place of a run.
MODES = (
    "-m", "--multirun", "-r", "--run", "-c", "--cfg", "-i", "--info", "-h", "--help",
    "--hydra-help", "--version",
)  # fmt: skip


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")  # type: ignore[untyped-decorator]
def job(cfg: DictConfig) -> float:
    """One job. Launchers pickle this function by value, so it must not touch globals."""
    from corrsteer.run.app import run_in_folder

    def run(cfg: DictConfig, folder: Path) -> float:
        # Here, so that an import that fails is the job's failure, on record.
        from corrsteer.run.pipeline import run

        return run(cfg, folder)

    return run_in_folder(run, cfg)


def sweep_flag_first(arguments: list[str]) -> list[str]:
    """Move ``-m`` to the front: argparse takes no positionals after the flag, so stock Hydra
    refuses ``task=bbq -m coef=0.5,1,2`` with "unrecognized arguments: coef=0.5,1,2".

    A launcher starts the jobs of a sweep, so one that is chosen asks for a sweep, if only of one
    job; Hydra alone would run that here and not say so.
    """
    ordered = sorted(arguments, key=lambda argument: argument not in ("-m", "--multirun"))
    launched = any(argument.startswith("hydra/launcher=") for argument in arguments)
    asked = any(argument.split("=")[0] in MODES for argument in arguments)
    return ["-m", *ordered] if launched and not asked else ordered


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
            # Hydra reads backslashes only before a quote.
            doubled = re.sub(
                r'(\\*)("|$)', lambda m: 2 * m[1] + ("\\" + m[2] if m[2] else ""), plain
            )
            words.append(f'{key}="{doubled}"')
        else:
            words.append(argument)
    return words


def main() -> None:
    # Without it Hydra prints errors itself, over several lines, and exits.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv[1:] = plain_words(sweep_flag_first(sys.argv[1:]))
    try:
        job()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except config.SETTING_ERRORS as error:  # those of a job never get here
        print(f"error: {config.explain(error)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
