"""A study: which dial, layers and pooling fix many answers and break few.

Optuna's TPE (multi-objective: Ozaki et al. 2020, GECCO) asks for candidates, a batch at a time, and
is told accuracy and broken answers, or one number made of what a candidate does. The study is an
sqlite file, so a killed search can be resumed, and several processes may work on one. Asking costs
about 20 ms a candidate; what answers cost is the caller's business. Nothing here sees a split other
than the one it is told about. Workers on several machines need a shared file system whose locks
work, which not every NFS has.

What a candidate yields is a function of its parameters, and trials are told once. So whoever finds
a trial that was asked for and never told may answer it: at worst two do the same.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from corrsteer.errors import ConfigError
from corrsteer.scorers.base import ModelScorer
from corrsteer.stages.bench import Bench, answers_key, golds_digest
from corrsteer.steering.arms import steered
from corrsteer.steering.plan import Plan
from corrsteer.store.files import clear_way, is_odd, make_folder
from corrsteer.store.keys import digest, key

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

TUNED = ("scale", "switch", "none")
STEP = 0.1  # of a layer's scale
MEASURED = "measured"  # name of an attribute
PATIENCE = 600.0  # seconds to wait for another process that writes to the study


@dataclass(frozen=True)
class Candidate:
    """A dial, a pooling, and a factor for each layer; a layer without one keeps its vector."""

    coef: float
    pooling: str
    scales: Mapping[int, float]

    def applied(self, plan: Plan) -> Plan:
        """``plan`` (dial at 1, any features) with this dial and these factors.

        A layer at 0 is left out. A candidate that adds nothing keeps all layers, at dial 0.
        """
        entries = tuple(
            replace(
                e,
                coefficient=scale * e.coefficient,
                vector=e.vector if scale == 1 else np.float32(scale) * e.vector,
            )
            for e in plan.entries
            if (scale := self.scales.get(e.layer, 1.0))
        )
        if not entries:
            return plan.turned_to(0.0)
        return plan.with_entries(entries).turned_to(self.coef)


@dataclass(frozen=True)
class Space:
    """What candidates are drawn from. ``tuned``: one of ``TUNED``, what is set for each layer."""

    coef: tuple[float, float]
    tuned: str
    layers: tuple[int, ...]
    poolings: tuple[str, ...]

    def suggest(self, trial: optuna.trial.Trial) -> None:
        trial.suggest_float("coef", *self.coef)
        for layer in self.layers if self.tuned != "none" else ():
            if self.tuned == "scale":
                trial.suggest_float(f"layer_{layer}", 0.0, 1.0, step=STEP)
            else:
                trial.suggest_categorical(f"layer_{layer}", [False, True])
        if len(self.poolings) > 1:
            trial.suggest_categorical("pooling", list(self.poolings))

    def first(self, start: float) -> list[dict[str, Any]]:
        """Parameters of the unsteered model, and of each pooling's plain plan at dial ``start``.

        With them in it a study cannot end below either, on the answers it was told about.
        """
        dials = [(0.0, self.poolings[0]), *((start, pooling) for pooling in self.poolings)]
        return [self._params(coef, pooling) for coef, pooling in dials]

    def _params(self, coef: float, pooling: str) -> dict[str, Any]:
        whole = {"scale": 1.0, "switch": True}.get(self.tuned)
        layers = {f"layer_{n}": whole for n in self.layers} if whole else {}
        return {
            "coef": coef,
            **layers,
            **({"pooling": pooling} if len(self.poolings) > 1 else {}),
        }

    def candidate(self, params: Mapping[str, Any]) -> Candidate:
        scales = {
            n: round(float(params[f"layer_{n}"]), 1) for n in self.layers if f"layer_{n}" in params
        }
        # Four digits of a dial are more than any split can tell apart.
        coef = float(f"{params['coef']:.4g}")
        return Candidate(coef, params.get("pooling", self.poolings[0]), scales)


@dataclass(frozen=True)
class Trial:
    """A candidate and what it did; ``number`` from 0 on, in the order of asking. ``stray``: answers
    that changed and were neither fixed nor broken; 0 where nobody counted them."""

    number: int
    candidate: Candidate
    accuracy: float
    broken: int
    stray: int = 0


Measure = Callable[[Mapping[int, Candidate]], Mapping[int, Sequence[float]]]
"""Candidates by number -> (accuracy, broken answers) of each, and stray ones where they count."""

Objective = Callable[[Sequence[float]], float]
"""What one of those results is worth."""


def run_study(
    folder: Path,
    space: Space,
    measure: Measure,
    *,
    start: float,
    trials: int,
    batch: int,
    seed: int,
    worker: int | None = None,
    objective: Objective | None = None,
) -> list[Trial]:
    """Work on the study in ``folder`` until its first ``trials`` trials are told; return those.

    ``objective``: the one number that candidates are to maximise; None: all that is high in
    accuracy and low in broken answers is looked for.

    A ``worker`` takes up the trials that one of its number left behind, and ends when there is
    nothing left to ask; without a number, this process takes up all and ends when all are told.
    One process alone makes the same study whenever it was killed: each trial has a seed of its
    own, and batches end at multiples of ``batch``. Raises ConfigError where the file cannot be
    used.
    """
    import optuna
    from filelock import FileLock

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file, begun, answered = folder / "study.db", time.monotonic(), 0
    with _one_line(file):
        clear_way(folder)
        make_folder(folder, folder.parents[1])
        if is_odd(file):  # a link, say: what it leads to is not ours
            file.unlink(missing_ok=True)
        lock = FileLock(folder / "lock", timeout=PATIENCE, fallback_to_soft=False)
        with lock:
            study = _open(file, objective is None)
            for params in space.first(start):
                study.enqueue_trial(params, skip_if_exists=True)
    while True:
        with _one_line(file), lock:
            existing = study.get_trials(deepcopy=False)[:trials]
            asked = sum(t.state != optuna.trial.TrialState.WAITING for t in existing)
            left = [t for t in existing if t.state == optuna.trial.TrialState.RUNNING]
            if worker is not None:
                left = [t for t in left if t.user_attrs.get("worker") == worker]
            pending = {t.number: _params(study, space, seed, t) for t in left}
            to_ask = -asked % batch or (0 if pending else batch)
            for number in range(asked, min(asked + to_ask, trials)):
                study.sampler = _sampler(seed, number)
                new = study.ask()
                new.set_user_attr("worker", worker)
                space.suggest(new)
                pending[new.number] = new.params
        if not pending:
            break
        results = measure({n: space.candidate(params) for n, params in pending.items()})
        with _one_line(file):
            for number in pending:
                values = list(results[number])
                if objective is not None:
                    _note(study, number, values)
                    values = [objective(values)]
                study.tell(number, values, skip_if_finished=True)
            answered += len(pending)
            done = _finished(study, space, trials)
        best = max(done, key=lambda t: (t.accuracy, -t.broken))
        rate = answered / (time.monotonic() - begun)
        log.info(
            "search: %d of %d trials, best accuracy %.1f %% with %d broken; %.2f trials/s, %s left",
            *(len(done), trials, 100 * best.accuracy, best.broken, rate),
            timedelta(seconds=round((trials - len(done)) / rate)),
        )
    return _finished(study, space, trials)


def study_folder(
    bench: Bench, base: pd.DataFrame, plans: Mapping[str, Plan], settings: Mapping[str, Any]
) -> Path:
    """The folder of a search over the layers and dials of ``plans`` (pooling -> plan at dial 1).

    It holds scores, so what gives them is in its key; ``base``: scored answers to the validation
    split without steering. It is as unfinished as :class:`corrsteer.store.partial.Partial`, which
    it is named like: one more trial is always possible.
    """
    examples, scorer = bench.asking.splits["validation"], bench.asking.task.scorer
    plain = (str, int, float, bool, list, tuple, type(None))
    settings = {
        **settings,
        "seed": bench.seed,
        "plans": {
            name: answers_key(bench, bench.asking, examples, steered(plan))
            for name, plan in plans.items()
        },
        "golds": golds_digest(examples),
        "kind": type(scorer).__name__,
        "scorer": {name: v for name, v in vars(scorer).items() if isinstance(v, plain)},
        "scores": digest(base["score"].to_numpy(np.float64).tobytes()),
    }
    if isinstance(scorer, ModelScorer):
        settings["model"] = scorer.fingerprint()
    return bench.store.root / "search" / f".{key('search', 1, settings)}.partial"


def _open(file: Path, several: bool) -> optuna.Study:
    import optuna
    from sqlalchemy import URL

    # A path may have any character in it.
    url = URL.create("sqlite", database=str(file)).render_as_string()
    storage = optuna.storages.RDBStorage(url, {"connect_args": {"timeout": PATIENCE}})
    return optuna.create_study(
        storage=storage,
        study_name="search",
        directions=["maximize", "minimize"] if several else ["maximize"],
        load_if_exists=True,
    )


def _note(study: optuna.Study, number: int, values: Sequence[float]) -> None:
    """Keep what a trial did, of which the study is told one number."""
    from optuna.exceptions import UpdateFinishedTrialError

    storage = study._storage
    with suppress(UpdateFinishedTrialError):  # another process was faster
        trial = storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
        storage.set_trial_user_attr(trial, MEASURED, list(values))


def _sampler(seed: int, number: int) -> optuna.samplers.TPESampler:
    """The sampler of one trial. It treats running trials as bad ones (constant liar), so that those
    of a batch, and of other workers, differ."""
    import optuna

    state = np.random.SeedSequence(seed, spawn_key=(number,)).generate_state(1)
    return optuna.samplers.TPESampler(seed=int(state[0]), multivariate=True, constant_liar=True)


def _params(
    study: optuna.Study, space: Space, seed: int, left: optuna.trial.FrozenTrial
) -> Mapping[str, Any]:
    """The parameters of a trial that a process asked for, maybe killed while asking."""
    import optuna

    if set(left.params) == set(space.first(0.0)[0]):
        return left.params
    study.sampler = _sampler(seed, left.number)
    trial = optuna.trial.Trial(study, left._trial_id)
    space.suggest(trial)
    return trial.params


def _finished(study: optuna.Study, space: Space, trials: int) -> list[Trial]:
    done = [t for t in study.get_trials(deepcopy=False)[:trials] if t.values is not None]
    made = []
    for t in done:
        accuracy, *counts = t.user_attrs.get(MEASURED, t.values)
        made.append(Trial(t.number, space.candidate(t.params), accuracy, *map(int, counts)))
    return made


@contextmanager
def _one_line(file: Path) -> Iterator[None]:
    """What goes wrong with the file, as one line that says what to do."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError, OSError, NotImplementedError) as error:
        why = " ".join(str(error.__cause__ or error).split())[:200]
        raise ConfigError(
            f"cannot use the study {file} ({why}): type cache=FOLDER on a disk with free space and"
            " file locks, or delete the study: the answers of its trials are cached"
        ) from error


def front(trials: Sequence[Trial], norm: Callable[[Trial], float]) -> list[Trial]:
    """The trials that no other beats in one of accuracy and broken answers without losing in the
    other, by falling accuracy. Of trials that are alike, the one with the smallest ``norm``, then
    number."""
    ordered = sorted(trials, key=lambda t: (-t.accuracy, t.broken, norm(t), t.number))
    best: list[Trial] = []
    for trial in ordered:
        if not best or trial.broken < best[-1].broken:
            best.append(trial)
    return best


def choose(best: Sequence[Trial], n: int) -> Trial:
    """The trial of a :func:`front` with the fewest broken answers within one standard error.

    The one-standard-error rule (Breiman, Friedman, Olshen, Stone 1984, section 3.4.3): what lies
    within the standard error of the best accuracy, over ``n`` answers, counts as equally good.
    """
    bound = best[0].accuracy - standard_error(best[0].accuracy, n)
    return min((t for t in best if t.accuracy >= bound), key=lambda t: t.broken)


def standard_error(accuracy: float, n: int) -> float:
    return math.sqrt(accuracy * (1 - accuracy) / n)
