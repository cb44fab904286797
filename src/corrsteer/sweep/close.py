"""What ends a sweep: its report, its table on the terminal, a line for each job that failed.

Everything is read from the files of the jobs, so it is the same for jobs that ran in this process
and for jobs of a cluster, where the last job of the sweep writes the report
(:func:`corrsteer.sweep.slurm.close_sweep`). Hydra imports this file at every command.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from corrsteer.errors import CorrSteerError
from corrsteer.store.runfolder import RunFolder

if TYPE_CHECKING:
    from omegaconf import DictConfig


class SweepReport(Callback):  # type: ignore[misc]  # Hydra is not followed
    """Ends a sweep, as ``hydra.callbacks`` of ``conf/config.yaml``."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Leaves with exit code 1 when a job or the report itself failed.

        SystemExit, since Hydra turns any Exception of a callback into a mere warning.
        """
        folder = Path(config.hydra.sweep.dir)
        # A cluster's launcher has it: there, the last job of the sweep writes the report.
        follow = config.hydra.launcher.get("follow")
        if follow is False:
            return
        failures = failed_jobs(folder)
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
        except Exception:
            traceback.print_exc()
            failures.append(f"the report of {folder} could not be written")
        for failure in failures:
            print(f"error: {failure}", file=sys.stderr)
        if failures:
            sys.exit(1)


def publish(folder: Path) -> None:
    """Write the report of a sweep, and send it to the tracker that its jobs name."""
    from corrsteer.report.sweep_page import write_sweep_report
    from corrsteer.trackers.sending import track

    write_sweep_report(folder)
    track(folder)


def failed_jobs(folder: Path) -> list[str]:
    """One line per job of a sweep that is not done, in the order of their numbers."""
    jobs = sorted((f for f in folder.iterdir() if f.name.isdigit()), key=lambda f: int(f.name))
    failures = []
    for job in jobs:
        status = RunFolder(job).status()
        if status.get("state") != "done":
            what = " ".join(status.get("overrides", []))
            error = status.get("error") or "it did not end: see its log.txt"
            failures.append(f"job {job.name} ({what}) failed: {' '.join(error.split())}")
    return failures
