"""How a job runs and ends, and what closes a sweep.

A sweep's verdict is read from the files of its jobs, so it is the same for jobs that ran in this
process and for jobs of a cluster. ``python -m corrsteer.run.app FOLDER`` writes the report of a run
or a sweep again.
"""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from corrsteer.config import check, resolved_yaml
from corrsteer.errors import CorrSteerError
from corrsteer.store.runfolder import RunFolder
from corrsteer.trackers.sending import track


def run_in_folder(run: Callable[[DictConfig, Path], float], cfg: DictConfig) -> float:
    """Run one job in the folder Hydra made for it, and leave its settings and status there.

    A failure ends a single run with exit code 2 (one line on stderr) or 1 (a bug, with its
    traceback). A job of a sweep returns NaN instead, whatever failed: raised, its error would
    hide those of the other jobs and keep :class:`SweepReport` from running.
    """
    hydra_cfg = HydraConfig.get()
    in_sweep = hydra_cfg.mode == RunMode.MULTIRUN
    folder = RunFolder(Path(hydra_cfg.runtime.output_dir))
    folder.start(list(hydra_cfg.overrides.task))
    code = 2
    try:
        check(cfg)
        folder.write_config(resolved_yaml(cfg))
        metric = run(cfg, folder.path)
        folder.done()
        return metric
    except KeyboardInterrupt:
        folder.failed("interrupted")
        raise
    except CorrSteerError as error:
        folder.failed(str(error))
        if not in_sweep:
            print(f"error: {error}", file=sys.stderr)
    except Exception as error:
        folder.failed(f"{type(error).__name__}: {error}", traceback.format_exc())
        traceback.print_exc()
        code = 1
    if in_sweep:
        return math.nan
    sys.exit(code)


class SweepReport(Callback):
    """Ends a sweep: one table over its jobs, one report, one line per job that failed."""

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
            from corrsteer.report.sweep_page import SETTINGS, write_sweep_report

            if follow is None:
                write_sweep_report(folder)
                track(folder)
            elif not (folder / "summary.csv").exists():
                raise CorrSteerError(f"its job failed, see {folder}/slurm")
            _print_summary(folder, SETTINGS)
        except CorrSteerError as error:
            failures.append(
                f"the report of {folder} could not be written: {error}; type"
                f" python -m corrsteer.run.app {folder}"
            )
        except Exception:
            traceback.print_exc()
            failures.append(f"the report of {folder} could not be written")
        for failure in failures:
            print(f"error: {failure}", file=sys.stderr)
        if failures:
            sys.exit(1)


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


_RESULTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "validation_steered": ("vali-\ndation", lambda x: f"{100 * x:.1f}"),
    "baseline": ("base-\nline", lambda x: f"{100 * x:.1f}"),
    "steered": ("steered", lambda x: f"{100 * x:.1f}"),
    "gain": ("gain", lambda x: f"{100 * x:+.1f}"),
    "random_gain_max": ("best\nrandom", lambda x: f"{100 * x:+.1f}"),
    "control_best": ("best\ncontrol", lambda x: f"{100 * x:+.1f}"),
    "fixed": ("fixed", lambda x: f"{x:.0f}"),
    "broken": ("broken", lambda x: f"{x:.0f}"),
    "ser": ("SER", lambda x: f"{x:.2f}"),
    "p_holm": ("p\nHolm", lambda x: f"{x:.3f}" if x >= 0.001 else "<.001"),
}


def _print_summary(folder: Path, settings: Sequence[str]) -> None:
    """``summary.csv`` on the terminal: the settings that differ, and what came of them."""
    import pandas as pd
    from rich import box
    from rich.console import Console
    from rich.table import Table

    jobs = pd.read_csv(folder / "summary.csv")
    varied = [name for name in settings if jobs[name].nunique() > 1] or ["coef"]
    table = Table(
        caption="accuracies in %, gains in points over the baseline; *: chosen on validation;"
        " p: McNemar's, corrected for the number of jobs",
        caption_justify="left",
        box=box.SIMPLE,
        show_edge=False,
        padding=0,  # thirteen columns fit into 80 characters
    )
    for title in ("job", *varied, *(title for title, _ in _RESULTS.values())):
        table.add_column(title, justify="right")
    for _, job in jobs.iterrows():
        results = [
            "" if pd.isna(job[name]) else text(job[name]) for name, (_, text) in _RESULTS.items()
        ]
        number = f"{'*' if job['chosen'] else ''}{job['job']}"
        if job["state"] != "done":
            results[0] = job["state"]
        table.add_row(number, *("" if pd.isna(job[n]) else f"{job[n]}" for n in varied), *results)
    console = Console()
    if not console.is_terminal:
        console.width = 120  # rich assumes 80 in a file, and would cut the table
    console.print(table)
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True, highlight=False)


def main() -> None:
    from corrsteer.report.run_page import write_run_report
    from corrsteer.report.sweep_page import SETTINGS, write_sweep_report

    folder = Path(sys.argv[1])
    try:
        if (folder / "multirun.yaml").exists():
            write_sweep_report(folder)
            _print_summary(folder, SETTINGS)
        else:
            print(f"report: {write_run_report(folder)}")
    except CorrSteerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
