"""The command line: ``python -m src.main task=bbq layers=all -m coef=0.5,1,2``.

Order the arguments, let Hydra compose the config, hand it to the pipeline. Exit codes: 0 done,
1 a bug or a failed job of a sweep, 2 a wrong setting or input, 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

INTERRUPTED = "interrupted; type the same command again to go on"

if __name__ == "__main__" and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, from the first import on
try:
    import hydra

    from corrsteer import config  # also registers the schema and the resolvers that conf/ uses
    from corrsteer.run.typed import check_command, flags_first, plain_words
except KeyboardInterrupt:
    print(INTERRUPTED, file=sys.stderr)
    sys.exit(130)

if TYPE_CHECKING:
    from pathlib import Path

    from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")  # type: ignore[untyped-decorator]
def job(cfg: DictConfig) -> float:
    """One job. Launchers pickle this function by value, so it must not touch globals."""
    from corrsteer.run.app import run_in_folder

    def run(cfg: DictConfig, folder: Path) -> float:
        # Here, so that an import that fails is the job's failure, on record.
        if cfg.job:
            from corrsteer.run.train import run
        else:
            from corrsteer.run.pipeline import run

        return run(cfg, folder)

    return run_in_folder(run, cfg)


def main() -> None:
    # Without it Hydra prints errors itself, over several lines, and exits.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        sys.argv[1:] = plain_words(flags_first(sys.argv[1:]))
        check_command(sys.argv[1:])
        job()
    except KeyboardInterrupt as stop:
        print(stop.args[0] if stop.args else INTERRUPTED, file=sys.stderr)
        sys.exit(130)
    except config.SETTING_ERRORS as error:  # those of a job never get here
        from corrsteer.run.app import leave_no_folder

        leave_no_folder()
        print(f"error: {config.explain(error)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
