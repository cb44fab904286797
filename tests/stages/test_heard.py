"""Statistics of what was heard while the answers were written are those of a replay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from corrsteer.errors import ConfigError
from corrsteer.methods.corrsteer import CorrSteer
from corrsteer.models.local import LocalModel
from corrsteer.models.protocol import STEERING
from corrsteer.stages import heard as heard_module
from corrsteer.stages.answers import answers
from corrsteer.stages.heard import Heard, check_heard
from corrsteer.stages.statistics import statistics
from corrsteer.steering.arms import BASELINE, baseline
from tests.stages.made import Stop, bench, emptied, stop_after, unsteered

__all__ = ["bench"]  # a fixture


def heard(bench, pooling="max", answered=None):
    """Answers and statistics of one run that listens; ``answered``: where it finds the answers."""
    collect = replace(bench.collect, way="writing", pooling=pooling)
    ears = Heard(bench, collect)
    if answered is None:
        frames = answers(bench, bench.asking, "selection", [baseline()], listen=ears.listener)
        answered = frames[BASELINE]
    return answered, statistics(bench, answered, collect=collect, heard=ears), ears


def counted(monkeypatch, name):
    calls: list = []
    real = getattr(LocalModel, name)

    def count(self, *args, **settings):
        calls.append(args)
        return real(self, *args, **settings)

    monkeypatch.setattr(LocalModel, name, count)
    return calls


def test_both_ways_choose_the_same_features_with_the_same_coefficients(
    bench, tmp_path, monkeypatch
):
    for pooling in ("max", "mean"):
        some = emptied(bench, tmp_path / pooling)
        collect = replace(bench.collect, pooling=pooling)
        replayed = statistics(some, unsteered(some), collect=collect)
        listening = emptied(bench, tmp_path / f"{pooling} heard")
        with monkeypatch.context() as patched:
            replays = counted(patched, "replay")
            passes = counted(patched, "generate")
            answered, stats, ears = heard(listening, pooling)
        assert not replays and len(passes) == 4  # batches of 16 of 60 questions
        assert answered["tokens"].map(list).tolist() == unsteered(some)["tokens"].map(list).tolist()
        for one, other in zip(stats, replayed, strict=True):
            np.testing.assert_allclose(one.r, other.r, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(one.residual, other.residual, rtol=1e-5)
        mine, theirs = (CorrSteer().choose(bench.selector.rank(some)) for some in (stats, replayed))
        assert [(f.layer, f.feature) for f in mine] == [(f.layer, f.feature) for f in theirs]
        assert [f.coefficient for f in mine] == pytest.approx(
            [f.coefficient for f in theirs], rel=1e-5
        )


def test_small_batches_are_counted_together(bench):
    ears = Heard(bench, replace(bench.collect, way="writing"))
    ones = [[i] for i in range(130)]
    assert list(map(len, ears.batches(ones))) == [64, 64, 2]
    assert ears.batches([[3], list(range(200))]) == [[3, *range(200)]]
    large = [list(range(128)), list(range(128, 256)), [256]]
    assert ears.batches(large) == large


def test_small_batches_are_encoded_together_and_the_same_ones_after_a_kill(
    bench, tmp_path, monkeypatch
):
    monkeypatch.setattr(heard_module, "TOGETHER", 16)
    groups: dict[int, tuple[int, ...]] = {}
    real = heard_module._heard

    def noted(rows, *rest):
        groups.update(dict.fromkeys(rows, tuple(rows)))
        return real(rows, *rest)

    monkeypatch.setattr(heard_module, "_heard", noted)
    alone = replace(bench, backend=replace(bench.backend, batch_size=1))
    answered, whole, _ = heard(emptied(alone, tmp_path / "whole"))
    together, groups = groups, {}
    positions = [sum(len(answered["tokens"][i]) for i in group) for group in set(together.values())]
    assert len(positions) <= 16 and sum(n >= 16 for n in positions) >= 12  # 4 are ends of 16 rows
    _, batches, _ = heard(emptied(bench, tmp_path / "batches"))
    for one, other in zip(whole, batches, strict=True):
        np.testing.assert_allclose(one.r, other.r, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one.residual, other.residual, rtol=1e-5)
    killed = emptied(alone, tmp_path / "killed")
    with monkeypatch.context() as patched:
        patched.setattr(LocalModel, "generate", stop_after(22, LocalModel.generate))
        with pytest.raises(Stop):
            heard(killed)
    groups.clear()
    _, resumed, _ = heard(killed)
    assert groups and all(together[i] == group for i, group in groups.items())
    for one, same in zip(whole, resumed, strict=True):
        assert one.r.tobytes() == same.r.tobytes()
        assert one.residual == same.residual


@pytest.mark.night
def test_what_was_cached_changes_no_bit(bench, tmp_path, monkeypatch):
    """Answers that are there already are written again; so are those after a kill, and SAEs that
    do not fit together are read in turn."""
    _, whole, ears = heard(bench)
    ears.clear()
    cached = emptied(bench, tmp_path / "cached")
    found = unsteered(cached)
    _, again, _ = heard(cached, answered=found)
    killed = emptied(bench, tmp_path / "killed")
    with monkeypatch.context() as patched:
        real, calls = LocalModel.generate, []

        def stop(self, *args, **settings):
            calls.append(args)
            if len(calls) == 3:
                raise Stop
            return real(self, *args, **settings)

        patched.setattr(LocalModel, "generate", stop)
        with pytest.raises(Stop):
            heard(killed)
    passes = counted(monkeypatch, "generate")
    _, resumed, _ = heard(killed)
    assert len(passes) in (2, 3)  # and a batch that was heard after the last saving
    paged = emptied(bench, tmp_path / "paged", sae=replace(bench.sae, budget_gb=1e-9))
    _, in_turn, _ = heard(paged)
    for other in (again, resumed, in_turn):
        for one, same in zip(whole, other, strict=True):
            assert one.r.tobytes() == same.r.tobytes()
            assert one.residual == same.residual


def test_answers_that_the_model_does_not_write_here_are_replayed(bench):
    """Of another machine, say: an outcome goes with the tokens that had it."""
    found = unsteered(bench)
    found.at[3, "tokens"] = [5, 6, 7, 8, 9]
    _, stats, _ = heard(bench, answered=found)
    for one, other in zip(stats, statistics(bench, found), strict=True):
        np.testing.assert_allclose(one.r, other.r, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one.residual, other.residual, rtol=1e-5)


def test_what_cannot_be_heard_is_refused(bench):
    listening = replace(bench, collect=replace(bench.collect, way="writing"))
    check_heard(listening, listening.backend.supports())
    check_heard(bench, frozenset())
    with pytest.raises(ConfigError, match="with backend Local: type collect.way=replay"):
        check_heard(listening, STEERING)
    weighed = replace(listening, asking=replace(listening.asking, decoding="loglikelihood"))
    with pytest.raises(ConfigError, match="not with decoding=loglikelihood"):
        check_heard(weighed, listening.backend.supports())
    prompts = replace(listening, collect=replace(listening.collect, token_source="prompt"))
    with pytest.raises(ConfigError, match="not with collect.token_source=prompt"):
        check_heard(prompts, listening.backend.supports())
