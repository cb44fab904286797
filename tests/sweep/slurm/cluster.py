"""A SLURM cluster of several logical nodes on this machine, from Debian's packages.

No root and no systemd are needed: all files are below one folder, and the daemons run in the
foreground as children of this process and die with it. There is no accounting, as on many a
small cluster: ``sacct`` answers with an error.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
DAEMONS = ":/usr/sbin:/sbin"  # not on everybody's PATH

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job starts again when the credential of its first start has expired: 5 s at least.
AuthInfo=socket={root}/munge.sock,cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
ReturnToService=2
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.%n.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobRequeue=0
KillWait=2
MinJobAge=3600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PartitionName=main Nodes=ALL Default=YES State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=15
PartitionName=high Nodes=ALL State=UP PriorityTier=10 PreemptMode=OFF
"""
NODE = "NodeName=n{n} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=32000\n"


def missing() -> list[str]:
    """The programs that a cluster needs and this machine lacks."""
    path = os.environ["PATH"] + DAEMONS
    return [program for program in PROGRAMS if shutil.which(program, path=path) is None]


class Cluster:
    """Nodes n1 to n4 of 2 cores each; the partition high preempts main, which requeues.

    ``root`` must be open to all: munged refuses its socket in a folder of mode 0700.
    """

    def __init__(self, root: Path, nodes: int = 4) -> None:
        self.root, self.nodes = root, [f"n{n}" for n in range(1, nodes + 1)]
        self.env = {
            "SLURM_CONF": str(root / "slurm.conf"),
            "PATH": os.environ["PATH"] + DAEMONS,
        }
        self._daemons: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._user = pwd.getpwuid(os.geteuid()).pw_name

    def run(self, *command: str, check: bool = True) -> str:
        """What a command of SLURM prints."""
        env = os.environ | self.env
        return subprocess.run(command, env=env, text=True, capture_output=True, check=check).stdout

    def start(self) -> None:
        for folder in ("log", "state", *(f"spool/{node}" for node in self.nodes)):
            (self.root / folder).mkdir(parents=True)
        key = self.root / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        host = os.uname().nodename
        control_port, *ports = _free_ports(1 + len(self.nodes))
        conf = CONF.format(host=host, user=self._user, root=self.root, control_port=control_port)
        for n, port in enumerate(ports, start=1):
            conf += NODE.format(n=n, host=host, port=port)
        (self.root / "slurm.conf").write_text(conf)
        # Otherwise slurmd looks for cgroups and ends where, as in a container, there are none.
        (self.root / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        munge = {
            name: self.root / file
            for name, file in (
                ("socket", "munge.sock"), ("key-file", "munge.key"), ("pid-file", "munged.pid"),
                ("seed-file", "munged.seed"), ("log-file", "log/munged.log"),
            )
        }  # fmt: skip
        self._spawn("munged", "--foreground", *(f"--{name}={file}" for name, file in munge.items()))
        self._until(munge["socket"].exists)
        self._spawn("slurmctld", "-D", "-f", self.env["SLURM_CONF"])
        self._until(lambda: _answers(control_port))
        for node in self.nodes:
            self._spawn("slurmd", "-D", "-f", self.env["SLURM_CONF"], "-N", node)
        idle = ("sinfo", "--noheader", "--partition=main", "--states=idle", "--format=%D")
        self._until(lambda: self.run(*idle, check=False).strip() == str(len(self.nodes)))

    def stop(self) -> None:
        """Cancels all jobs; then nodes, controller and munge end in this order."""
        self.run("scancel", f"--user={self._user}", check=False)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self.run("squeue", "--noheader", check=False):
            time.sleep(0.1)
        for _, daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _spawn(self, program: str, *words: str) -> None:
        with (self.root / "log" / "daemons.txt").open("ab") as log:
            daemon = subprocess.Popen(
                [program, *words],
                env=os.environ | self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self._daemons.append((program, daemon))

    def _until(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not ready():
            ended = [program for program, daemon in self._daemons if daemon.poll() is not None]
            if ended or time.monotonic() > deadline:
                logs = (self.root / "log").iterdir()
                contents = "\n".join(f"{log.name}:\n{log.read_text()[-2000:]}" for log in logs)
                raise RuntimeError(f"the cluster did not start; ended: {ended}\n{contents}")
            time.sleep(0.03)


def _die_with_parent() -> None:
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
