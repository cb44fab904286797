"""A collection in shares: what each does, and that together they are the whole."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from corrsteer.records import LayerStats
from corrsteer.stages import bench as cached
from corrsteer.stages.resume import Share, shares
from corrsteer.store.entries import Store
from tests.stages.test_stages import COLLECT, Stop, counted, stages, stop_after

__all__ = ["stages"]  # a fixture

LAYERS = (0, 2)


def baseline(stages):
    examples = stages.task.examples()
    return examples, stages.answers(examples, {"baseline": None}, "x")["baseline"]


def close(found: list[LayerStats], expected: list[LayerStats], rtol: float) -> None:
    for one, other in zip(found, expected, strict=True):
        for field in dataclasses.fields(LayerStats):
            a, b = (np.asarray(getattr(s, field.name)) for s in (one, other))
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol, err_msg=field.name)


@pytest.mark.parametrize("of", [1, 2, 3, 8])
def test_shares_are_disjoint_and_make_the_whole(of):
    batches = [[0, 1], [2], [3, 4], [5]]
    parts = [share.batches(batches) for share in shares(of)]
    assert sorted(row for part in parts for batch in part for row in batch) == [*range(6)]
    assert len({str(share) for share in shares(of)}) == of


@pytest.mark.parametrize("shards", [2, 4, 8])  # of 4 batches: with 8, four shares are empty
def test_shards_give_the_statistics_of_the_whole(stages, tmp_path, shards):
    examples, base = baseline(stages)
    whole = dataclasses.replace(stages, store=Store(tmp_path / "whole"))
    expected = whole.statistics(examples, base, LAYERS, **COLLECT)
    close(stages.statistics(examples, base, LAYERS, **COLLECT, shards=shards), expected, 1e-12)
    assert not list(stages.store.root.glob("collect/.*"))


def test_shards_by_jobs_of_their_own_need_no_more_work(stages, tmp_path, monkeypatch):
    """Answers and statistics, in any order, then the whole: not one batch is done again."""
    alone = dataclasses.replace(stages, store=Store(tmp_path / "alone"))
    examples, expected = baseline(alone)
    in_turn = alone.statistics(examples, expected, LAYERS, **COLLECT, shards=3)
    generated = counted(monkeypatch, "generate")
    for share in reversed(shares(3)):
        stages.answer_share(examples, "x", share)
    assert sorted(generated) == [12, 16, 16, 16]
    _, base = baseline(stages)
    assert len(generated) == 4
    assert base.equals(expected)

    replays = counted(monkeypatch, "replay")
    for share in (Share(1, 3), Share(0, 3), Share(2, 3)):
        stages.collect_share(examples, base, LAYERS, share, **COLLECT)
    assert sorted(replays) == [12, 16, 16, 16]
    monkeypatch.setattr(type(stages.sae), "load", None)  # merging needs no SAE
    merged = stages.statistics(examples, base, LAYERS, **COLLECT, shards=3)
    assert len(replays) == 4
    close(merged, in_turn, 0)  # the very bits of one job that goes through the shares in turn
    assert not list(stages.store.root.glob("*/.*"))


def test_a_share_that_nobody_did_is_done_at_the_end(stages, monkeypatch):
    examples, base = baseline(stages)
    stages.collect_share(examples, base, LAYERS, Share(1, 2), **COLLECT)
    replays = counted(monkeypatch, "replay")
    stages.statistics(examples, base, LAYERS, **COLLECT, shards=2)
    assert sum(replays) == 32  # batches 0 and 2 of 16, 16, 16, 12


def test_a_share_goes_on_where_it_was_stopped(stages, monkeypatch):
    monkeypatch.setattr(cached, "KEEP_EVERY", 0.0)
    examples, base = baseline(stages)
    with monkeypatch.context() as patch:
        patch.setattr(cached, "keep_moments", stop_after(1, cached.keep_moments))
        with pytest.raises(Stop):
            stages.collect_share(examples, base, LAYERS, Share(0, 2), **COLLECT)
    replays = counted(monkeypatch, "replay")
    stages.collect_share(examples, base, LAYERS, Share(0, 2), **COLLECT)
    assert replays == [16]
    stages.collect_share(examples, base, LAYERS, Share(0, 2), **COLLECT)  # it is done
    assert replays == [16]
