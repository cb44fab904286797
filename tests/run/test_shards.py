"""A collection in shares: what each does, and that together they are the whole."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from corrsteer.records import LayerStats
from corrsteer.stages import statistics as statistics_module
from corrsteer.stages.answers import answer_share
from corrsteer.stages.bench import Share
from corrsteer.stages.statistics import collect_share, statistics
from corrsteer.stats.scores import to_arrays
from tests.stages.made import Stop, bench, counted, emptied, stop_after, unsteered

__all__ = ["bench"]  # a fixture

LAYERS = (0, 2)


def in_shards(bench, shards):
    collect = dataclasses.replace(bench.collect, shards=shards)
    return dataclasses.replace(bench, layers=LAYERS, collect=collect)


def shares(of: int) -> list[Share]:
    return [Share(index, of) for index in range(of)]


def assert_close(merged: list[LayerStats], expected: list[LayerStats], rtol: float) -> None:
    for one, other in zip(merged, expected, strict=True):
        a, b = to_arrays(one), to_arrays(other)
        assert a.keys() == b.keys()
        for name, array in a.items():
            np.testing.assert_allclose(array, b[name], rtol=rtol, atol=rtol, err_msg=name)


@pytest.mark.parametrize("of", [1, 2, 3, 8])
def test_shares_are_disjoint_and_make_the_whole(of):
    batches = [[0, 1], [2], [3, 4], [5]]
    parts = [share.batches(batches) for share in shares(of)]
    assert sorted(row for part in parts for batch in part for row in batch) == [*range(6)]
    assert len({str(share) for share in shares(of)}) == of


@pytest.mark.parametrize("shards", [2, 4, 8])  # of 4 batches: with 8, four shares are empty
def test_shards_give_the_statistics_of_the_whole(bench, tmp_path, shards):
    base = unsteered(bench)
    expected = statistics(emptied(bench, tmp_path / "whole"), base, LAYERS)
    assert_close(statistics(in_shards(bench, shards), base), expected, 1e-12)
    assert not list(bench.store.root.glob("collect/.*"))


@pytest.mark.night
def test_shards_by_jobs_of_their_own_need_no_more_work(bench, tmp_path, monkeypatch):
    """Answers and statistics, in any order, then the whole: not one batch is done again."""
    bench = in_shards(bench, 3)
    alone = emptied(bench, tmp_path / "alone")
    expected = unsteered(alone)
    in_turn = statistics(alone, expected)
    generated = counted(monkeypatch, "generate")
    for share in reversed(shares(3)):
        answer_share(bench, bench.asking, "selection", share)
    assert sorted(generated) == [12, 16, 16, 16]
    base = unsteered(bench)
    assert len(generated) == 4
    assert base.equals(expected)

    replays = counted(monkeypatch, "replay")
    for share in (Share(1, 3), Share(0, 3), Share(2, 3)):
        collect_share(bench, base, share)
    assert sorted(replays) == [12, 16, 16, 16]
    monkeypatch.setattr(type(bench.sae), "load", None)  # merging needs no SAE
    merged = statistics(bench, base)
    assert len(replays) == 4
    assert_close(merged, in_turn, 0)  # the bits of one job that goes through the shares in turn
    assert not list(bench.store.root.glob("*/.*"))


def test_a_share_that_nobody_did_is_done_at_the_end(bench, monkeypatch):
    bench = in_shards(bench, 2)
    base = unsteered(bench)
    collect_share(bench, base, Share(1, 2))
    replays = counted(monkeypatch, "replay")
    statistics(bench, base)
    assert sum(replays) == 32  # batches 0 and 2 of 16, 16, 16, 12


def test_a_share_goes_on_where_it_was_stopped(bench, monkeypatch):
    bench = in_shards(bench, 2)
    monkeypatch.setattr(statistics_module, "KEEP_EVERY", 0.0)
    base = unsteered(bench)
    with monkeypatch.context() as patch:
        stopped = stop_after(1, statistics_module.keep_moments)
        patch.setattr(statistics_module, "keep_moments", stopped)
        with pytest.raises(Stop):
            collect_share(bench, base, Share(0, 2))
    replays = counted(monkeypatch, "replay")
    collect_share(bench, base, Share(0, 2))
    assert replays == [16]
    collect_share(bench, base, Share(0, 2))  # it is done
    assert replays == [16]
