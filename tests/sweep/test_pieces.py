"""What a sweep is cut into, and what waits for what."""

from __future__ import annotations

import itertools
import json
import math
import pickle

import pytest
from hydra import compose, initialize_config_dir

from corrsteer.errors import ConfigError, CorrSteerError
from corrsteer.store.runfolder import RunFolder
from corrsteer.sweep.pieces import (
    Piece,
    amounts,
    check_before,
    forget,
    job_returns,
    killed,
    pieces,
    settings,
)
from tests.report.fabricated_run import fabricate_run
from tests.test_config import CONF

pytestmark = pytest.mark.long


@pytest.fixture
def cut(tmp_path):
    """``cut("coef=1,2")``: the pieces of this sweep."""

    def cut_(words: str, first: int = 0) -> list[Piece]:
        values = [
            [f"{k}={v}" for v in vs.split(",")] for k, vs in (w.split("=") for w in words.split())
        ]

        def full(config, overrides):
            return compose("config", overrides, return_hydra_config=True)

        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = full(None, [f"hydra.sweep.dir={tmp_path}"])
            return pieces(config, full, list(itertools.product(*values)), first)

    return cut_


def plan(planned: list[Piece]) -> dict[str, tuple[str, ...]]:
    return {piece.folder: piece.after for piece in planned}


@pytest.mark.parametrize(
    "words",
    [
        "coef=0.5,1,2",
        "strategy=corrsteer_a,corrsteer_s",
        "operator._target_=my.One,my.Other",
        "gate._target_=my.One,my.Other",
        "positions=generation,all",
        "controls.random_features=5,6",
        "name=a,b",
        "tracker=none,wandb",
    ],
)
def test_jobs_that_differ_after_the_collection_share_it(cut, words):
    planned = cut(words)
    jobs = {piece.folder: ("shared/0",) for piece in planned if piece.kind == "job"}
    assert plan(planned) == {"shared/0": (), **jobs}
    assert len(jobs) >= 2


@pytest.mark.night
@pytest.mark.parametrize(
    "words",
    ["seed=0,1", "task=bbq,mmlu", "layers=1,2", "collect.pooling=max,mean", "limit=10,20",
     "splits.test=10,20", "decoding=free,constrained"],
)  # fmt: skip
def test_jobs_that_collect_differently_share_nothing(cut, words):
    assert plan(cut(words)) == {"0": (), "1": ()}


def test_every_group_waits_for_its_own_stage_only(cut):
    assert plan(cut("task=bbq,mmlu coef=1,2", first=4)) == {
        "shared/4": (),
        "shared/6": (),
        "4": ("shared/4",),
        "5": ("shared/4",),
        "6": ("shared/6",),
        "7": ("shared/6",),
    }


def test_shards_answer_then_collect_then_are_put_together(cut):
    answers = tuple(f"shared/0/answer-{n}" for n in range(3))
    collects = tuple(f"shared/0/collect-{n}" for n in range(3))
    planned = cut("coef=1 collect.shards=3")
    assert plan(planned) == {
        **dict.fromkeys(answers, ()),
        **dict.fromkeys(collects, answers),
        "shared/0": collects,
        "0": ("shared/0",),
    }
    assert [piece.index for piece in planned] == [0, 1, 2, 0, 1, 2, 0, 0]
    assert amounts(planned) == "1 job and 1 shared stage"


def test_a_wrong_job_is_named_before_anything_runs(cut):
    with pytest.raises(ConfigError, match=r"^job 1 \(coef=nan seed=0\): coef=nan: it must be"):
        cut("coef=1,nan seed=0")


def test_a_piece_travels(cut):
    piece = cut("coef=1,2")[1]
    copy = pickle.loads(pickle.dumps(piece))
    assert (copy.folder, copy.after, copy.sweep) == (piece.folder, piece.after, piece.sweep)
    assert settings(copy.cfg) == settings(piece.cfg)
    assert copy.label == "job 0 (coef=1)"


def test_what_a_stage_did_not_do_stops_those_after_it(cut):
    share, first, _ = cut("coef=1,2")
    folder = share.run_folder
    with pytest.raises(CorrSteerError, match="^the shared stage failed: it did not end"):
        check_before(first)
    folder.path.mkdir(parents=True)
    folder.start([])
    with pytest.raises(CorrSteerError, match="^the shared stage failed: "):
        check_before(first)
    folder.failed("no room")
    text = f"the shared stage failed: no room; see {folder.path}/log.txt"
    with pytest.raises(CorrSteerError, match=f"^{text}$"):
        check_before(first)
    folder.failed("the shared stage failed: no room; see shard")
    with pytest.raises(CorrSteerError, match="^the shared stage failed: no room; see shard$"):
        check_before(first)
    folder.done()
    check_before(first)


def test_what_an_earlier_sweep_left_in_the_folder_is_forgotten(cut, tmp_path):
    share, first, _ = planned = cut("coef=1,2")
    share.run_folder.path.mkdir(parents=True)
    share.run_folder.start([])
    share.run_folder.done()
    (tmp_path / "summary.csv").touch()
    forget(planned)
    assert not (tmp_path / "summary.csv").exists()
    with pytest.raises(CorrSteerError):
        check_before(first)


def test_one_that_was_killed_is_on_record_and_has_no_result(cut):
    _, first, second = sweep = cut("coef=1,2")
    killed(first, "killed by signal 9")
    assert first.run_folder.status()["error"] == "killed by signal 9"
    assert first.run_folder.status()["overrides"] == ["coef=1"]
    fabricate_run(second.run_folder.path, n_test=20)
    metrics = json.loads((second.run_folder.path / "metrics.json").read_text())
    values = [done.return_value for done in job_returns(sweep)]
    assert math.isnan(values[0])
    assert values[1] == metrics["arms"]["steered"]["accuracy"]
    assert RunFolder(first.run_folder.path).status()["state"] == "failed"


def test_workers_of_a_search_come_between_the_shared_stage_and_the_job(cut):
    planned = cut("coef=1,2 search=pareto search.workers=2")
    searching = {f"shared/{n}/search-{k}": ("shared/0",) for n in (0, 1) for k in (0, 1)}
    jobs = {f"{n}": ("shared/0", f"shared/{n}/search-0", f"shared/{n}/search-1") for n in (0, 1)}
    assert plan(planned) == {"shared/0": (), **searching, **jobs}
    assert [p.index for p in planned if p.kind == "search"] == [0, 1, 0, 1]
    alone = cut("coef=1 search=pareto search.workers=1")
    assert plan(alone) == {"0": ()}


def test_a_job_finishes_what_a_worker_of_its_search_did_not(cut):
    share, *_, job = cut("coef=1 search=pareto search.workers=2")
    share.run_folder.path.mkdir(parents=True)
    share.run_folder.start([])
    share.run_folder.done()
    check_before(job)
