"""A command of runs and sweeps: order the words, let Hydra compose the config, hand it to the
pipeline. ``src/main.py`` and :mod:`corrsteer.cli` call it, each with its own folder of settings.

Exit codes: 0 done, 1 a bug or a failed job of a sweep, 2 a wrong setting or input, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from corrsteer import config  # also registers the schema and the resolvers that conf/ uses
from corrsteer.run.app import leave_no_folder, run_in_folder
from corrsteer.run.interrupt import INTERRUPTED
from corrsteer.run.typed import check_command, flags_first, plain_words


def job(cfg: DictConfig) -> float:
    """One job."""

    def run(cfg: DictConfig, folder: Path) -> float:
        # Here, so that an import that fails is the job's failure, on record.
        if cfg.job:
            from corrsteer.run.train import run
        else:
            from corrsteer.run.pipeline import run

        return run(cfg, folder)

    return run_in_folder(run, cfg)


def main(conf: Path) -> None:
    """What is typed, with the settings of the folder ``conf``. Exits where it fails."""
    # Without it Hydra prints errors itself, over several lines, and exits.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        sys.argv[1:] = plain_words(flags_first(sys.argv[1:]))
        check_command(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=os.path.abspath(conf), config_name="config")(
            job
        )()
    except KeyboardInterrupt as stop:
        print(stop.args[0] if stop.args else INTERRUPTED, file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `--help | head` has read enough
        leave_no_folder()
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # as a process that SIGPIPE ends
    except config.SETTING_ERRORS as error:  # those of a job never get here
        leave_no_folder()
        print(f"error: {config.explain(error)}", file=sys.stderr)
        sys.exit(2)
