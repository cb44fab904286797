"""A sweep on a SLURM cluster: ``hydra/launcher=slurm``.

Pieces of one kind that wait for the same ones are one job array. Every dependency is
``afterany``: a job whose shared stage failed says so and ends at once, where ``afterok`` would
leave it waiting for ever. A last, small job writes the report after all others, and the end of
those that were killed. Nothing here needs SLURM's accounting, but where ``sacct`` answers it can
say why a job ended long ago. Costs: submitting is one ``sbatch`` per array; following is one
``squeue`` per look.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from corrsteer.errors import ConfigError
from corrsteer.sweep.close import publish
from corrsteer.sweep.pieces import (
    Piece,
    amounts,
    check_keys,
    killed,
    run_piece,
    terminate_as_interrupt,
    whole,
)
from corrsteer.sweep.squeue import accounted, follow, look, mains_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slurm:
    """The settings of ``conf/hydra/launcher/slurm.yaml``, where their meaning stands."""

    partition: str | None
    qos: str | None
    account: str | None
    constraint: str | None
    gpus_per_node: int | None
    cpus_per_task: int
    mem_gb: int | None
    timeout_min: int
    signal_delay_s: int
    array_parallelism: int
    setup: Sequence[str]
    additional: Mapping[str, Any]
    requeue: bool
    max_num_timeout: int
    follow: bool
    report: Mapping[str, Any]

    def __post_init__(self) -> None:
        whole("cpus_per_task", self.cpus_per_task, 1, "4")
        whole("timeout_min", self.timeout_min, 1, "240")
        whole("signal_delay_s", self.signal_delay_s, 1, "120")
        whole("array_parallelism", self.array_parallelism, 1, "8")
        whole("max_num_timeout", self.max_num_timeout, 0, "20")
        if self.mem_gb is not None:
            whole("mem_gb", self.mem_gb, 1, "32")
        if self.gpus_per_node is not None:
            whole("gpus_per_node", self.gpus_per_node, 0, "1")
        if self.timeout_min * 60 <= self.signal_delay_s:
            raise ConfigError(
                f"hydra.launcher.timeout_min={self.timeout_min} is not longer than"
                f" hydra.launcher.signal_delay_s={self.signal_delay_s}: a job would have to"
                " stop as soon as it starts"
            )
        for name, kind, example in (
            ("requeue", bool, "true"),
            ("follow", bool, "true"),
            ("setup", list | tuple, "'[module load cuda]'"),
            ("additional", dict, "'{reservation: mine}'"),
            ("report", dict, "'{partition: cpu}'"),
        ):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise ConfigError(
                    f"hydra.launcher.{name}={value}: type hydra.launcher.{name}={example}"
                )
        if self.report:
            _ = self._for_report

    @property
    def _for_report(self) -> Slurm:
        check_keys(Slurm, self.report, "hydra.launcher.report")
        others: dict[str, Any] = {"gpus_per_node": None, "constraint": None, "report": {}}
        return replace(self, **others | dict(self.report))

    def sweep(self, pieces: Sequence[Piece]) -> None:
        """Submit the pieces and the report, say how to follow them, and follow them if asked."""
        if missing := [name for name in ("sbatch", "squeue", "srun") if shutil.which(name) is None]:
            raise ConfigError(
                f"{missing[0]} is not on PATH: hydra/launcher=slurm is for a login node of a SLURM"
                " cluster; type hydra/launcher=local to use this machine"
            )
        sweep = pieces[0].sweep
        with terminate_as_interrupt():
            ids = self._submit(pieces)
        mains = mains_of(ids)
        jobs, report = mains[:-1], mains[-1]
        first = pieces[0].run_folder.path / "log.txt"
        say = (
            f"follow: squeue --jobs={','.join(mains)}; tail -F {first}\n"
            f"cancel: scancel {' '.join(jobs)}"
        )
        log.info(f"sweep {sweep}: {amounts(pieces)}, then the report as SLURM job {report}\n{say}")
        if not self.follow:
            return
        try:
            with terminate_as_interrupt():
                follow(pieces, ids)
        except KeyboardInterrupt:
            log.info(f"the jobs go on\n{say}")
            raise KeyboardInterrupt("interrupted") from None  # typed again, it would submit again

    def _submit(self, pieces: Sequence[Piece]) -> dict[str, str]:
        """SLURM's ids by folder, the report's ("report") last."""
        sweep = pieces[0].sweep
        ids: dict[str, str] = {}
        arrays: dict[tuple[str, tuple[str, ...]], list[Piece]] = {}
        for piece in pieces:
            arrays.setdefault((piece.kind, piece.after), []).append(piece)
        try:
            with _outside_jobs():
                for (_, after), alike in arrays.items():
                    executor = self._executor(sweep, [ids[folder] for folder in after])
                    jobs = executor.submit_array([OnNode(piece, self) for piece in alike])
                    ids |= {p.folder: job.job_id for p, job in zip(alike, jobs, strict=True)}
                executor = self._for_report._executor(sweep, mains_of(ids))
                ids["report"] = executor.submit(close_sweep, pieces, dict(ids)).job_id
        except BaseException as error:
            if ids:
                subprocess.run(["scancel", *mains_of(ids)])
            from submitit.core.utils import FailedJobError

            if isinstance(error, FailedJobError):
                words_of_sbatch = " ".join(str(error).replace("sbatch: error: ", "").split())
                raise ConfigError(f"sbatch refused the jobs: {words_of_sbatch}") from None
            raise
        record = json.dumps(ids, indent=2) + "\n"
        unfinished = sweep / "slurm" / ".jobs.json"
        unfinished.write_text(record, encoding="utf-8")
        unfinished.replace(sweep / "slurm" / "jobs.json")
        return ids

    def _executor(self, sweep: Path, after: Sequence[str]) -> Any:
        import submitit

        executor = submitit.AutoExecutor(
            folder=sweep / "slurm", cluster="slurm", slurm_max_num_timeout=self.max_num_timeout
        )
        threads = f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{self.cpus_per_task}}}"
        values = {
            "name": "corrsteer",
            "timeout_min": self.timeout_min,
            "cpus_per_task": self.cpus_per_task,
            "mem_gb": self.mem_gb,
            "gpus_per_node": self.gpus_per_node,
            "nodes": 1,
            "slurm_partition": self.partition,
            "slurm_qos": self.qos,
            "slurm_account": self.account,
            "slurm_constraint": self.constraint,
            "slurm_signal_delay_s": self.signal_delay_s,
            "slurm_array_parallelism": self.array_parallelism,
            "slurm_setup": [*self.setup, threads],
            "slurm_dependency": f"afterany:{':'.join(after)}" if after else None,
            "slurm_additional_parameters": {
                "requeue" if self.requeue else "no-requeue": True, **self.additional
            },
        }  # fmt: skip
        executor.update_parameters(**{k: v for k, v in values.items() if v is not None})
        return executor


@dataclass(frozen=True)
class OnNode:
    """What a node runs. A time-out or a preemption puts it back into the queue as it is: it goes
    on from what the store kept."""

    piece: Piece
    slurm: Slurm

    def __call__(self) -> None:
        run_piece(self.piece, within=self._in_time())

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        if not self.slurm.requeue:
            return None  # submitit then raises what _in_time waits for
        self.piece.run_folder.requeued()
        return DelayedSubmission(self)

    @contextlib.contextmanager
    def _in_time(self) -> Iterator[None]:
        from submitit.core.utils import UncompletedJobError

        try:
            yield
        except UncompletedJobError:
            minutes, times = self.slurm.timeout_min, self.slurm.max_num_timeout + 1
            why = f"out of time {times} times, each after {minutes} minutes"
            if not self.slurm.requeue:
                why = "out of time or preempted, and hydra.launcher.requeue is false"
            raise ConfigError(
                f"{why}: type the command again, it goes on from what was kept; for longer jobs"
                f" add hydra.launcher.timeout_min={4 * minutes}"
            ) from None


def close_sweep(pieces: Sequence[Piece], ids: Mapping[str, str]) -> None:
    """The last job: the end of those that were killed, and the sweep's report."""
    queue = look(ids) or {}
    for piece in pieces:
        if piece.run_folder.status().get("state") not in ("done", "failed"):
            job_id = ids[piece.folder]
            state, reason = queue.get(job_id) or (accounted(job_id), "")
            why = f"{state} ({reason})" if reason not in ("", "None") else state
            if state == "OUT_OF_MEMORY":
                why += ", type hydra.launcher.mem_gb=N for more"
            output = piece.sweep / "slurm" / f"{job_id}_0_log.err"
            killed(piece, f"killed: {why or 'SLURM no longer says why'}; see {output}")
    publish(pieces[0].sweep)


@contextlib.contextmanager
def _outside_jobs() -> Iterator[None]:
    """Submit as from a login node, also where this is a job itself: sbatch and srun would take
    its SLURM_ variables for options. submitit prints what sbatch says; it is in the error, too.

    Not submitit's clean_env: that one forgets SLURM_CONF and the user's SBATCH_ options.
    """
    inside = "SLURM_JOB_ID" in os.environ
    inherited = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if inside and name.startswith("SLURM_") and name != "SLURM_CONF"
    }
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        os.environ.update(inherited)
