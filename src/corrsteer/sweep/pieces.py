"""A sweep over several processes: its pieces, what each waits for, and how one is run.

Jobs that differ only in settings which cannot change what is collected have the *shared stage* in
common: baseline answers and statistics. It runs once, before them, as a piece of its own, so
that jobs side by side do not all compute it. With ``collect.shards=S`` it is spread over S pieces
that answer and, after those, S that collect; ``search.workers=W`` adds W pieces that work on the
study of a job's search. The plan is the same for a cluster
(:mod:`corrsteer.sweep.slurm`) and for the processes of one machine (:mod:`corrsteer.sweep.local`).
"""

from __future__ import annotations

import copy
import json
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobRuntime, JobStatus, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from corrsteer.config import check
from corrsteer.errors import ConfigError, CorrSteerError, DataError
from corrsteer.report.record import read_record
from corrsteer.run.app import run_in_folder
from corrsteer.store.runfolder import RunFolder

ALIKE = (
    "coef", "controls", "tracker", "name", "strategy", "operator", "gate", "positions", "selector",
    "coefficient", "search", "ablations", "side_effects", "neutral", "transfer", "classes",
    "descriptions",
)  # fmt: skip
"""Settings in which jobs may differ and still share a collection."""

FUNCTIONS = {
    "answer": "answer_shard",
    "collect": "collect_shard",
    "share": "share",
    "search": "search_worker",
    "job": "run",
}
"""Kind of a piece -> what it calls in :mod:`corrsteer.run.pipeline`."""


@dataclass(frozen=True)
class Piece:
    """One process's share of a sweep. Plain data: it travels to other machines as a pickle."""

    kind: str  # one of FUNCTIONS
    folder: str  # below the sweep's; says which piece it is
    cfg: DictConfig  # of a job, composed, Hydra's own settings included
    index: int = 0  # which shard, or which worker of a search
    after: tuple[str, ...] = ()  # folders of the pieces that must be done before

    @property
    def sweep(self) -> Path:
        return Path(self.cfg.hydra.sweep.dir)

    @property
    def run_folder(self) -> RunFolder:
        return RunFolder(self.sweep / self.folder)

    @property
    def label(self) -> str:
        what = " ".join(self.cfg.hydra.overrides.task)
        return f"job {self.folder} ({what})" if self.kind == "job" else self.folder


def pieces(
    config: DictConfig,
    compose: Callable[[DictConfig, list[str]], DictConfig],
    overrides: Sequence[Sequence[str]],
    first: int,
) -> list[Piece]:
    """The pieces of a sweep whose first job has the number ``first``, each after those it needs.

    ``compose`` is Hydra's ``load_sweep_config``. Raises ConfigError for the first job whose
    settings are wrong.
    """
    jobs: list[Piece] = []
    groups: dict[str, list[int]] = {}
    for number, words in enumerate(overrides, start=first):
        cfg = compose(config, list(words))
        with read_write(cfg), open_dict(cfg):
            cfg.hydra.job.id = cfg.hydra.job.num = number
            cfg.hydra.sweep.dir = str(config.hydra.sweep.dir)  # it has the time in it
        job = Piece("job", str(number), cfg)
        try:
            check(settings(cfg))
            if cfg.job:
                raise ConfigError("it runs alone: leave out -m and hydra/launcher")
        except ConfigError as error:
            raise ConfigError(f"{job.label}: {error}") from None
        groups.setdefault(_shared(cfg), []).append(len(jobs))
        jobs.append(job)
    before: list[Piece] = []
    for members in groups.values():
        shards = jobs[members[0]].cfg.collect.shards
        workers = {n: OmegaConf.select(jobs[n].cfg, "search.workers", default=1) for n in members}
        if len(members) == 1 and shards == 1 and max(workers.values()) == 1:
            continue
        stage = _shared_stage(jobs[members[0]], shards)
        before += stage
        for n in members:
            job, shared = jobs[n], stage[-1].folder
            searching = [
                Piece("search", f"shared/{job.folder}/search-{k}", job.cfg, k, after=(shared,))
                for k in range(workers[n] if workers[n] > 1 else 0)
            ]
            before += searching
            after = (shared, *(piece.folder for piece in searching))
            jobs[n] = Piece("job", job.folder, job.cfg, after=after)
    return [*before, *jobs]


def amounts(all_pieces: Sequence[Piece]) -> str:
    """``6 jobs and 2 shared stages``."""
    jobs, shared = (sum(p.kind == kind for p in all_pieces) for kind in ("job", "share"))
    text = f"{jobs} job{'s' * (jobs > 1)}"
    return f"{text} and {shared} shared stage{'s' * (shared > 1)}" if shared else text


def settings(cfg: DictConfig) -> DictConfig:
    """A job's settings without Hydra's own."""
    cfg = copy.deepcopy(cfg)
    with read_write(cfg), open_dict(cfg):
        del cfg["hydra"]
    return cfg


def _shared(cfg: DictConfig) -> str:
    values = OmegaConf.to_container(settings(cfg), resolve=True)
    assert isinstance(values, dict)
    return json.dumps({k: v for k, v in values.items() if k not in ALIKE}, sort_keys=True)


def _shared_stage(job: Piece, shards: int) -> list[Piece]:
    """The pieces that run before a group of jobs; the last one is what the jobs wait for."""
    home = f"shared/{job.folder}"
    answers, collects = (
        [
            Piece(kind, f"{home}/{kind}-{n}", job.cfg, index=n)
            for n in range(shards if shards > 1 else 0)
        ]
        for kind in ("answer", "collect")
    )
    answered, collected = (tuple(p.folder for p in stage) for stage in (answers, collects))
    collects = [Piece(p.kind, p.folder, p.cfg, p.index, after=answered) for p in collects]
    return [*answers, *collects, Piece("share", home, job.cfg, after=collected)]


def run_piece(piece: Piece, within: AbstractContextManager[Any] = nullcontext()) -> None:  # noqa: B008
    """Run one piece in this process, in a folder of its own, as Hydra runs a job.

    How it ended stands in the folder's status.json; only an interrupt is raised.
    """
    cfg = copy.deepcopy(piece.cfg)
    with read_write(cfg), open_dict(cfg):
        cfg.hydra.sweep.subdir = piece.folder
    setup_globals()
    JobRuntime.instance().set("name", cfg.hydra.job.name)

    def stage(cfg: DictConfig, folder: Path) -> float:
        with within:
            check_before(piece)
            from corrsteer.run import pipeline  # an import that fails is on record, too

            function: Callable[..., float] = getattr(pipeline, FUNCTIONS[piece.kind])
            if piece.kind in ("answer", "collect", "search"):
                function = partial(function, index=piece.index)
            return function(cfg, folder)

    from hydra._internal.callbacks import Callbacks

    run_job(
        task_function=partial(run_in_folder, stage),
        config=cfg,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=HydraContext(config_loader=None, callbacks=Callbacks(cfg)),
    )


def check_before(piece: Piece) -> None:
    """Raises CorrSteerError where a piece that this one needs is not done.

    Without it every job would compute alone what its shared stage could not. What a worker of a
    search left undone, the job does.
    """
    for folder in piece.after:
        if Path(folder).name.startswith("search-"):
            continue
        status = RunFolder(piece.sweep / folder).status()
        if status.get("state") == "done":
            continue
        error, failed = status.get("error") or "", "the shared stage failed: "
        if status.get("refused"):  # so is every job
            refusal = CorrSteerError(error)
            refusal.before_compute = True
            raise refusal
        if error.startswith(failed):  # the shard that stopped the others says why
            raise CorrSteerError(error)
        log = piece.sweep / folder / "log.txt"
        raise CorrSteerError(f"{failed}{error or 'it did not end (killed?)'}; see {log}")


def built(launcher: type, params: Mapping[str, Any]) -> Any:
    """A launcher from its settings; ConfigError for an unknown or a missing one."""
    check_keys(launcher, params, "hydra.launcher")
    if missing := [field.name for field in fields(launcher) if field.name not in params]:
        name = f"hydra.launcher.{missing[0]}"
        raise ConfigError(f"{name} is missing: type {name}=VALUE, or leave ~{name} away")
    return launcher(**params)


def check_keys(launcher: type, params: Mapping[str, Any], where: str) -> None:
    names = [field.name for field in fields(launcher)]
    for key in params:
        if key not in names:
            raise ConfigError(f"unknown key {where}.{key}; the keys are: {', '.join(names)}")


def whole(where: str, value: Any, least: int, such_as: str) -> None:
    """Raises ConfigError for a setting that is not a whole number, or smaller than ``least``."""
    if type(value) is not int or value < least:
        raise ConfigError(
            f"hydra.launcher.{where}={value}: it must be a whole number, at least {least}, such as"
            f" hydra.launcher.{where}={such_as}"
        )


def forget(all_pieces: Sequence[Piece]) -> None:
    """Remove what an earlier sweep in the same folder says about its end."""
    for piece in all_pieces:
        piece.run_folder.forget()
        (piece.sweep / "summary.csv").unlink(missing_ok=True)


def killed(piece: Piece, why: str) -> None:
    """Put on record that a piece was killed before it could do so itself."""
    folder = piece.run_folder
    if "started" not in folder.status():
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.start(list(piece.cfg.hydra.overrides.task))
    folder.failed(why)


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def job_returns(all_pieces: Sequence[Piece]) -> list[JobReturn]:
    """What Hydra wants to know of every job. A job that failed has the value NaN."""
    returns = []
    for piece in all_pieces:
        if piece.kind != "job":
            continue
        value = float("nan")
        with suppress(DataError):  # the report of the sweep says what is wrong with it
            if piece.run_folder.status().get("state") == "done":
                value = read_record(piece.run_folder.path).arms["steered"].accuracy
        returns.append(
            JobReturn(
                overrides=list(piece.cfg.hydra.overrides.task),
                cfg=settings(piece.cfg),
                working_dir=str(Path.cwd()),
                status=JobStatus.COMPLETED,
                _return_value=value,
            )
        )
    return returns
