"""Which dials a study lacks, by what validation chose."""

from __future__ import annotations

import json

import pytest
import yaml

from corrsteer.report.settings import settings
from corrsteer.report.study_arms import reads_dial
from corrsteer.report.sweep_table import sweep_table
from corrsteer.report.widening import Dial, at_dial, beyond, lacking, preferred
from tests.report.fabricated_run import fabricate_run


@pytest.mark.parametrize(
    ("dials", "chosen", "best", "ends"),
    [
        ([1, 2, 4], 4, {4}, [4]),
        ([4, 1, 2], 1, {1}, [1]),
        ([1, 2, 4], 2, {2}, []),
        ([1, 2, 4], 2, {4}, [4]),  # the smaller one lies within a standard error
        ([1, 2, 4], 1, {4}, [1, 4]),
        ([1, 2, 4], 1, {1, 4}, [1]),  # equal ones say nothing about where more are
        ([0, 2, 4], 0, {0}, []),  # below the unsteered model there is nothing
        ([-2, -1], -2, {-2}, [-2]),
        ([4], 4, {4}, []),  # one that was typed
    ],
)
def test_an_end_is_preferred_that_is_chosen_or_alone_the_best(dials, chosen, best, ends):
    assert preferred(dials, chosen, best) == ends


@pytest.mark.parametrize(
    ("end", "dials", "left", "added"),
    [
        (4, [1, 4], 3, 8),
        (4, [1, 4], 1, 8),
        (1, [1, 4], 3, 0.5),
        (1, [1, 4], 1, 0),  # the unsteered model, at last
        (-4, [-4, -1], 2, -8),
        (-1, [-4, -1], 2, -0.5),
        (2, [-2, 0, 2], 2, 4),
        (-2, [-2, 0, 2], 2, -4),
    ],
)
def test_beyond_an_end_the_dial_is_doubled_or_halved(end, dials, left, added):
    assert beyond(end, dials, left) == added


STUDY = {"claim": "x", "rule": "selectors", "by": ["selector"], "reference": "r", "widen": 3}


def add(folder, n, arm, coef, validation, *, widen=3, norm=None, study=True, state="done", **own):
    """A job of an arm at a dial; ``norm``: the sum of the lengths of its vectors at dial 1."""
    home = folder / str(n)
    fabricate_run(home, coef=coef, n_test=40, validation_steered=validation, transfer=())
    config = yaml.safe_load((home / "config.yaml").read_text())
    config |= {"coef": coef, "selector": {"name": arm}, "strategy": {"coef": coef, **own}}
    config |= {"study": {**STUDY, "widen": widen} if study else None, "search": {}}
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    status = json.loads((home / "status.json").read_text())
    status |= {"overrides": [f"selector={arm}", f"coef={coef:g}"], "state": state}
    (home / "status.json").write_text(json.dumps(status))
    plan = {"coef": coef, "entries": [{"norm": norm}] if norm else []}
    (home / "plan" / "plan.json").write_text(json.dumps(plan))


@pytest.mark.long
def test_the_next_dial_is_asked_for_until_the_range_ends_inside(tmp_path):
    for n, (coef, right) in enumerate([(1.0, 0.5), (2.0, 0.6), (4.0, 0.9)]):
        add(tmp_path, n, "r", coef, right)
    assert lacking(tmp_path) == [Dial(2, 8.0, 2)]
    add(tmp_path, 3, "r", 8.0, 1.0, widen=2)
    assert lacking(tmp_path) == [Dial(3, 16.0, 1)]
    add(tmp_path, 4, "r", 16.0, 0.2, widen=1)
    assert lacking(tmp_path) == []
    assert sweep_table(tmp_path)["setting"].nunique() == 1  # all of them are dials of one arm


@pytest.mark.long
def test_a_range_ends_after_so_many_times(tmp_path):
    for n, (coef, widen) in enumerate([(2.0, 3), (4.0, 3), (8.0, 2), (16.0, 1), (32.0, 0)]):
        add(tmp_path, n, "r", coef, 0.5 + 0.1 * n, widen=widen)
    assert lacking(tmp_path) == []


@pytest.mark.long
def test_a_job_that_failed_is_not_asked_for_again(tmp_path):
    for n, (coef, right) in enumerate([(1.0, 0.5), (2.0, 0.9)]):
        add(tmp_path, n, "r", coef, right)
    add(tmp_path, 2, "r", 4.0, 0.9, state="failed")
    assert lacking(tmp_path) == []


@pytest.mark.long
@pytest.mark.parametrize(
    "own", [{"coef": [0.0, 8.0]}, {"coef": 7.0}, {"text": "Think."}, {"widen": 0}, {"study": False}]
)
def test_what_has_no_dial_or_no_study_is_left_alone(tmp_path, own):
    for n, (coef, right) in enumerate([(1.0, 0.5), (2.0, 0.9)]):
        changes = dict(own)
        home = tmp_path / str(n)
        add(tmp_path, n, "r", coef, right, **{k: v for k, v in changes.items() if k != "coef"})
        if "coef" in changes or "text" in changes:
            config = yaml.safe_load((home / "config.yaml").read_text())
            config["strategy"] = changes
            (home / "config.yaml").write_text(yaml.safe_dump(config))
            assert not reads_dial(settings(home))
    assert lacking(tmp_path) == []


@pytest.mark.long
def test_arms_at_equal_norm_get_the_dial_that_they_are_compared_at(tmp_path):
    """The reference is best at 4, where the other has no job."""
    jobs = [("r", 1.0, 0.5), ("r", 2.0, 0.6), ("r", 4.0, 0.9), ("r", 8.0, 0.2)]
    jobs += [("a", 0.5, 0.5), ("a", 1.0, 0.8), ("a", 2.0, 0.5)]
    for n, (arm, coef, right) in enumerate(jobs):
        add(tmp_path, n, arm, coef, right, norm=10.0, widen=1 if coef == 4 else 3)
    assert lacking(tmp_path) == [Dial(4, 4.0, 1)]
    add(tmp_path, 7, "b", 2.0, 0.8)  # an end whose next dial failed is in nobody's way
    add(tmp_path, 8, "b", 1.0, 0.5)
    add(tmp_path, 9, "b", 4.0, 0.5, state="failed")
    assert lacking(tmp_path) == [Dial(4, 4.0, 1)]
    for n, (arm, coef, right) in enumerate(jobs):  # not where a dial is another norm in each
        (tmp_path / str(n)).rename(tmp_path / f"old{n}")
        add(tmp_path, n, arm, coef, right, norm=10.0 if arm == "r" else 7.0)
    assert lacking(tmp_path) == []


def test_an_added_job_has_the_dial_wherever_it_stands(tmp_path):
    own = {"coef": 2.0, "strategy.coef": 2.0, "strategy.method.coef": 2.0, "strategy.k": 2}
    made = {"coef": 8.0, "strategy.coef": 8.0, "strategy.method.coef": 8.0, "study.widen": 1}
    assert at_dial(own, Dial(0, 8.0, 1)) == made
    assert at_dial({"coef": 2.0, "strategy.coef": [0, 8]}, Dial(0, 8.0, 1)) == {
        **{"coef": 8.0, "study.widen": 1}
    }
