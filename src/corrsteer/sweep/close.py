"""What ends a sweep: its report, its table on the terminal, a line for each job that failed.

Everything is read from the files of the jobs, so it is the same for jobs that ran in this process
and for jobs of a cluster, where the last job of the sweep writes the report
(:func:`corrsteer.sweep.slurm.close_sweep`). Hydra imports this file at every command.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from corrsteer.errors import ConfigError, CorrSteerError, DataError
from corrsteer.store.files import FULL, errno_of
from corrsteer.store.made import note, unmake
from corrsteer.store.runfolder import RunFolder, jobs
from corrsteer.sweep.reuse import take_run, take_sweep

if TYPE_CHECKING:
    from omegaconf import DictConfig


NUMBERED = ("${hydra.job.num}", "${hydra:job.num}")
"""What ``hydra.sweep.subdir`` may be."""


class SweepReport(Callback):  # type: ignore[misc]  # Hydra is not followed
    """Ends a sweep, as ``hydra.callbacks`` of ``conf/config.yaml``; and before a run or a sweep
    begins, refuses a folder that holds another one's results."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with refusing():
            take_run(Path(config.hydra.run.dir), list(config.hydra.overrides.task))
        note(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with refusing():
            check_subdir(config)
            take_sweep(Path(config.hydra.sweep.dir), list(config.hydra.overrides.task))
        note(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Leaves with exit code 1 when a job or the report itself failed.

        SystemExit, since Hydra turns any Exception of a callback into a mere warning.
        """
        folder = Path(config.hydra.sweep.dir)
        # A cluster's launcher has it: there, the last job of the sweep writes the report.
        follow = config.hydra.launcher.get("follow")
        if follow is False:
            return
        failures = more(config, folder) if follow is None else []
        failures += failed_jobs(folder)
        if refused := refusals(folder):
            for line in dict.fromkeys(refused):
                print(f"error: {line}", file=sys.stderr)
            unmake(folder)
            sys.exit(2)
        try:
            from corrsteer.report.terminal import print_summary

            if follow is None:
                publish(folder)
            elif not (folder / "summary.csv").exists():
                raise CorrSteerError(f"its job failed, see {folder}/slurm")
            print_summary(folder)
        except CorrSteerError as error:
            failures.append(
                f"the report of {folder} could not be written: {error}; type"
                f" python -m corrsteer report {folder}"
            )
        except Exception as error:
            number = errno_of(error)
            if number not in FULL:
                traceback.print_exc()
            why = f": {os.strerror(number)}; make room, then" if number in FULL else "; then"
            failures.append(
                f"the report of {folder} could not be written{why} type python -m corrsteer report"
                f" {folder}"
            )
        for failure in failures:
            print(f"error: {failure}", file=sys.stderr)
        if failures:
            sys.exit(1)


def more(config: DictConfig, folder: Path) -> list[str]:
    """Run the jobs that follow those of a study; a line if some could not be begun. What others
    found is reported all the same."""
    study = config.get("study")
    if not study:
        return []
    from corrsteer.sweep.matched import run_matched
    from corrsteer.sweep.widened import run_widened

    asked = {
        "jobs at further dials": (study.get("widen"), run_widened),
        "jobs at equal accuracy": ("margin" in study, run_matched),
    }
    said = []
    for what, (wanted, run) in asked.items():
        try:
            if wanted:
                run(config, folder)
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
            said.append(f"{what} did not run ({why}): type the same command again")
    return said


@contextmanager
def refusing() -> Iterator[None]:
    """A ConfigError ends the command, as one line; SystemExit, as above."""
    try:
        yield
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def check_subdir(config: DictConfig) -> None:
    """Raises ConfigError where the folders of jobs would not be found by their numbers."""
    subdir = config.hydra.sweep._get_node("subdir")._value()
    if subdir not in NUMBERED:
        raise ConfigError(
            f"hydra.sweep.subdir={subdir}: the report of a sweep finds its jobs in folders called"
            " 0, 1, 2 ...; leave it out, and type hydra.sweep.dir=FOLDER or name=NAME to name the"
            " sweep"
        )


def refusals(folder: Path) -> list[str]:
    """What each job of a sweep said where all of them were refused before they computed anything;
    else empty."""
    try:
        statuses = [RunFolder(folder / str(number)).status() for number in jobs(folder)]
    except DataError:
        return []
    refused = all(status.get("refused") for status in statuses)
    return [status["error"] for status in statuses] if refused else []


def publish(folder: Path) -> None:
    """Write the report of a sweep, and send it to the tracker that its jobs name."""
    from corrsteer.report.sweep_page import write_sweep_report
    from corrsteer.trackers.sending import track

    write_sweep_report(folder)
    track(folder)


def failed_jobs(folder: Path) -> list[str]:
    """One line per job of a sweep that is not done, in the order of their numbers."""
    failures = []
    for number in jobs(folder):
        try:
            status = RunFolder(folder / str(number)).status()
        except DataError as error:
            status = {"error": str(error)}
        if status.get("state") != "done":
            what = " ".join(status.get("overrides", []))
            reason = status.get("error") or "it did not end: see its log.txt"
            failures.append(f"job {number} ({what}) failed: {' '.join(reason.split())}")
    return failures
