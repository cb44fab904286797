"""What SLURM says of a sweep's jobs. One look is one ``squeue``."""

from __future__ import annotations

import logging
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from corrsteer.sweep.pieces import Piece

log = logging.getLogger(__name__)

ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "REVOKED", "TIMEOUT",
}  # fmt: skip
AT_WORK = {"RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SIGNALING", "SUSPENDED"}
LOOK = (1.0, 30.0)  # seconds between two looks at the queue: a tenth of the time so far, within


def follow(pieces: Sequence[Piece], ids: Mapping[str, str]) -> None:
    """A line whenever the counts change, until the report's job has left the queue."""
    started, last = time.monotonic(), ""
    while True:
        queue = look(ids)
        silent = "SLURM does not answer; still waiting"
        now = silent if queue is None else counts(pieces, ids, queue)
        if now != last:
            log.info(now)
            last = now
        if queue is not None and queue.get(ids["report"], ("COMPLETED", ""))[0] in ENDED:
            return
        shortest, longest = LOOK
        time.sleep(min(longest, max(shortest, (time.monotonic() - started) / 10)))


def counts(
    pieces: Sequence[Piece], ids: Mapping[str, str], queue: Mapping[str, tuple[str, str]]
) -> str:
    """``2 done, 1 failed, 3 running, 4 waiting``, and the shared stages while they last."""
    count = {"job": Counter[str](), "shared": Counter[str]()}
    for piece in pieces:
        state = piece.run_folder.status().get("state", "")
        if state not in ("done", "failed"):
            queued = queue.get(ids[piece.folder], ("", ""))[0]
            alive = "running" if queued in AT_WORK else "waiting"
            state = "failed" if queued in ENDED or not queued else alive
        count["job" if piece.kind == "job" else "shared"][state] += 1
    lines = [
        ", ".join(f"{states[s]} {s}" for s in ("done", "failed", "running", "waiting") if states[s])
        for states in (count["shared"], count["job"])
    ]
    going_on = any(count["shared"][state] for state in ("running", "waiting"))
    return f"shared stage: {lines[0]}; jobs: {lines[1]}" if going_on else lines[1]


def look(ids: Mapping[str, str]) -> dict[str, tuple[str, str]] | None:
    """(state, reason) by id of the jobs that SLURM still knows; None when it does not answer.

    It forgets ended jobs after ``MinJobAge``, five minutes by default.
    """
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r"]
    done = subprocess.run(
        [*command, f"--jobs={','.join(mains_of(ids))}"], capture_output=True, text=True
    )
    if done.returncode != 0:
        return {} if "Invalid job id" in done.stderr else None
    rows = (line.split("|", 2) for line in done.stdout.splitlines())
    return {job_id: (state, reason) for job_id, state, reason in rows}


def mains_of(ids: Mapping[str, str]) -> list[str]:
    """Ids of whole arrays, in the order of their submission."""
    return list(dict.fromkeys(job_id.split("_")[0] for job_id in ids.values()))


def accounted(job_id: str) -> str:
    """The state that SLURM's accounting has of a job; empty where there is no accounting."""
    command = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=State"]
    if shutil.which("sacct") is None:
        return ""
    done = subprocess.run([*command, f"--jobs={job_id}"], capture_output=True, text=True)
    return done.stdout.strip().split("\n")[-1] if done.returncode == 0 else ""
