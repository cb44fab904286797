"""A sweep in several processes of this machine: ``hydra/launcher=local``.

A process keeps its model from piece to piece, so it costs one model's memory and one start
(about 10 s of imports) each. One that is killed takes only its piece with it. What the jobs say is
in their log.txt; the terminal gets a line for each that ended.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from corrsteer.sweep.pieces import Piece, amounts, killed, run_piece, terminate_as_interrupt, whole

log = logging.getLogger(__name__)

GRACE = 30.0  # seconds that an interrupted process has to say so


@dataclass(frozen=True)
class Processes:
    """The settings of ``conf/hydra/launcher/local.yaml``, where their meaning stands."""

    processes: int | None

    def __post_init__(self) -> None:
        if self.processes is not None:
            whole("processes", self.processes, 1, "2")

    def sweep(self, pieces: Sequence[Piece]) -> None:
        """Run all pieces, each after those it needs. Raises KeyboardInterrupt when they were."""
        cores = len(os.sched_getaffinity(0))
        limit = self.processes or max(1, cores // 2)
        home = pieces[0].sweep / "local"
        home.mkdir(parents=True, exist_ok=True)
        log.info(f"sweep {pieces[0].sweep}: {amounts(pieces)}, {limit} at once")
        waiting, ended = list(pieces), set[str]()
        workers: list[_Worker] = []
        try:
            with terminate_as_interrupt():
                while waiting or any(worker.piece for worker in workers):
                    for piece in [p for p in waiting if ended >= set(p.after)]:
                        idle = [worker for worker in workers if worker.piece is None]
                        if not idle and len(workers) == limit:
                            break
                        if not idle:
                            idle = [_Worker(home, max(1, cores // limit))]
                            workers += idle
                        idle[0].start(piece)
                        waiting.remove(piece)
                    wait([worker.connection for worker in workers], timeout=1)
                    for worker in workers:
                        if worker.piece and worker.has_ended():
                            ended.add(worker.piece.folder)
                            _say_end(worker.piece)
                            worker.piece = None
                    workers = [w for w in workers if w.piece or w.process.is_alive()]
        except KeyboardInterrupt:
            for worker in workers:
                worker.process.terminate()
            raise
        finally:
            for worker in workers:
                worker.stop()


def _say_end(piece: Piece) -> None:
    status = piece.run_folder.status()
    log.info(f"{piece.label}: {status['state']} in {status['seconds']} s")


class _Worker:
    """A process that runs one piece after another."""

    def __init__(self, home: Path, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other_end = context.Pipe()
        self.piece: Piece | None = None
        self.process: SpawnProcess = context.Process(target=_work, args=(other_end, home, threads))
        # Ctrl-C reaches all processes of a terminal: this one passes it on, once, as SIGTERM.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.process.start()
        self.output = home / f"{self.process.pid}.txt"
        signal.signal(signal.SIGINT, before)
        other_end.close()

    def start(self, piece: Piece) -> None:
        self.piece = piece
        with contextlib.suppress(BrokenPipeError):  # it died idle: has_ended finds that out
            self.connection.send(piece)

    def has_ended(self) -> bool:
        """Whether the piece at work has. The end of one that was killed is put on record."""
        assert self.piece is not None
        try:
            if self.connection.poll():
                self.connection.recv()
                return True
            if self.process.is_alive():
                return False
        except (EOFError, ConnectionResetError):
            self.process.join()
        self._record_end()
        return True

    def stop(self) -> None:
        self.connection.close()
        self.process.join(GRACE)
        self.process.kill()
        self.process.join()
        if self.piece is not None:
            self._record_end()

    def _record_end(self) -> None:
        assert self.piece is not None and self.process.exitcode is not None
        if self.piece.run_folder.status().get("state") not in ("done", "failed"):
            code = self.process.exitcode
            how = f"killed by signal {-code}" if code < 0 else f"its process ended with code {code}"
            killed(self.piece, f"{how}; see {self.output}")


def _work(connection: Connection, home: Path, threads: int) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    output = os.open(home / f"{os.getpid()}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        while True:
            run_piece(connection.recv())
            connection.send(None)
