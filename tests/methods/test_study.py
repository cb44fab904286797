"""A study on made-up results: its optimum, its front, its choice, kills and several processes."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections import Counter

import numpy as np
import optuna
import pytest
from filelock import FileLock, Timeout
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages._cached_storage import _CachedStorage

from corrsteer.errors import ConfigError
from corrsteer.methods.study import Candidate, Space, Trial, choose, front, run_study
from corrsteer.steering.plan import Plan, PlanEntry

pytestmark = pytest.mark.long

N = 500
SPACE = Space((0.0, 3.0), "scale", (1, 3, 5), ("max",))
SWITCHES = Space((0.0, 3.0), "switch", (1, 3), ("max", "mean"))


def planted(candidates):
    """Best at dial 2 with layer 3 off; strong dials and layer 5 break answers."""
    results = {}
    for number, c in candidates.items():
        dial = c.coef if c.pooling == "max" else 0.5 * c.coef
        s1, s3 = c.scales[1], c.scales[3]
        s5 = c.scales.get(5, 0)
        fixed = 120 * math.exp(-((dial - 2) ** 2)) * (0.4 + 0.6 * s1) * (1 - 0.7 * s3)
        broken = round(25 * max(0, dial - 1.5) + 15 * s5 * dial)
        results[number] = (0.5 + (round(fixed * (dial > 0)) - broken) / N, broken)
    return results


def study(folder, space=SPACE, measure=planted, trials=32, batch=8, seed=0, **more):
    return run_study(
        folder, space, measure, start=1.0, trials=trials, batch=batch, seed=seed, **more
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """32 trials of seed 0."""
    return study(tmp_path_factory.mktemp("undisturbed"))


def beats(one, other):
    no_worse = one.accuracy >= other.accuracy and one.broken <= other.broken
    return no_worse and (one.accuracy, one.broken) != (other.accuracy, other.broken)


# -- what a study finds --------------------------------------------------------------------------


def test_the_planted_optimum_is_found(undisturbed):
    best = max(undisturbed, key=lambda t: t.accuracy)
    plain = undisturbed[1]
    assert best.accuracy > plain.accuracy + 0.12
    assert best.candidate.coef == pytest.approx(1.9, abs=0.4)
    assert best.candidate.scales[3] <= 0.3 and best.candidate.scales[5] <= 0.3
    random = sum(t.accuracy for t in undisturbed[2:10]) / 8
    late = sum(t.accuracy for t in undisturbed[-8:]) / 8
    assert late > random


def test_the_unsteered_model_and_the_plain_plans_come_first(tmp_path):
    first = study(tmp_path, SWITCHES, trials=4)
    on = {1: 1.0, 3: 1.0}
    assert [t.candidate for t in first[:3]] == [
        Candidate(0.0, "max", on),
        Candidate(1.0, "max", on),
        Candidate(1.0, "mean", on),
    ]
    assert set(first[3].candidate.scales.values()) <= {0.0, 1.0}


def test_without_layers_only_the_dial_is_searched(tmp_path):
    space = Space((0.0, 2.0), "none", (1, 3), ("max",))
    trials = study(
        tmp_path, space, lambda cs: {n: (c.coef / 2, 0) for n, c in cs.items()}, trials=6
    )
    assert all(t.candidate.scales == {} for t in trials)
    assert len({t.candidate.coef for t in trials}) == 6


def test_a_dial_has_four_digits(undisturbed):
    dials = [t.candidate.coef for t in undisturbed]
    assert dials == [float(f"{dial:.4g}") for dial in dials] and len(set(dials)) > 25


def test_scales_are_tenths_and_zero_is_one(undisturbed):
    scales = {s for t in undisturbed for s in t.candidate.scales.values()}
    assert scales <= {n / 10 for n in range(11)} and 0.0 in scales


def test_results_are_those_of_the_parameters(undisturbed):
    for t in undisturbed:
        assert planted({0: t.candidate})[0] == (t.accuracy, t.broken)
    assert [t.number for t in undisturbed] == list(range(32))


# -- the candidate's plan ------------------------------------------------------------------------


def plan(*layers):
    entries = (PlanEntry(n, 7, 0.5, 2.0, np.full(4, n + 1, np.float32)) for n in layers)
    return Plan(tuple(entries))


def test_a_candidate_scales_the_vectors_of_its_layers():
    made = Candidate(2.0, "max", {1: 0.5, 3: 0.0}).applied(plan(1, 3, 5))
    assert sorted(made.vectors()) == [1, 5]
    assert made.vectors()[1].tolist() == [2.0] * 4  # 2 * 0.5 * (1 + 1)
    assert made.vectors()[5].tolist() == [12.0] * 4
    assert [e.coefficient for e in made.entries] == [1.0, 2.0]
    assert made.vectors()[1].dtype == np.float32


def test_a_candidate_without_layers_is_the_whole_plan_at_dial_zero():
    made = Candidate(2.0, "max", {1: 0.0}).applied(plan(1))
    assert {n: v.tolist() for n, v in made.vectors().items()} == {1: [0.0] * 4}


# -- the front and the choice --------------------------------------------------------------------

points = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=40)


def made_trials(pairs):
    return [
        Trial(n, Candidate(1.0, "max", {}), right / 20, broken)
        for n, (right, broken) in enumerate(pairs)
    ]


@settings(max_examples=200, deadline=None)
@given(points)
def test_the_front_is_what_no_trial_beats(pairs):
    trials = made_trials(pairs)
    norms = {t.number: t.number % 3 for t in trials}
    best = front(trials, lambda t: norms[t.number])
    brute = {(t.accuracy, t.broken) for t in trials if not any(beats(other, t) for other in trials)}
    assert [(t.accuracy, t.broken) for t in best] == sorted(brute, reverse=True)
    for t in best:
        alike = [o for o in trials if (o.accuracy, o.broken) == (t.accuracy, t.broken)]
        assert t == min(alike, key=lambda o: (norms[o.number], o.number))


@pytest.mark.parametrize(
    ("pairs", "n", "number"),
    [
        # accuracy in twentieths; the standard error of 0.5 over 100 answers is 0.05
        ([(10, 4), (9, 1), (8, 0)], 100, 1),  # exactly one standard error below
        ([(10, 4), (9, 1), (8, 0)], 101, 0),  # a little more than one
        ([(10, 4), (9, 1), (8, 0)], 20, 2),  # all are within
        ([(10, 4), (10, 4)], 100, 0),  # alike: the first
        ([(10, 0), (9, 0)], 100, 0),  # on a front only the better one
        ([(20, 4), (19, 0)], 100, 0),  # nobody doubts 100 %
    ],
)
def test_the_choice_is_within_one_standard_error(pairs, n, number):
    assert choose(front(made_trials(pairs), lambda t: 1.0), n).number == number


# -- the same study whenever it was killed -------------------------------------------------------


class Killed(BaseException):
    pass


def test_one_seed_is_one_study(undisturbed, tmp_path):
    assert study(tmp_path / "again", trials=24) == undisturbed[:24]
    assert study(tmp_path / "other", trials=6, seed=1)[2:] != undisturbed[2:6]


def test_a_study_goes_on_from_every_batch(undisturbed, tmp_path):
    for trials in (8, 16, 24):
        assert study(tmp_path, trials=trials) == undisturbed[:trials]
    assert study(tmp_path, trials=16, measure=None) == undisturbed[:16]  # nothing is measured


def killed_after(monkeypatch, name, calls):
    """Optuna's method does its work ``calls`` times, and dies right after."""
    real, left = getattr(_CachedStorage, name), [calls]

    def method(self, *args, **kwargs):
        result = real(self, *args, **kwargs)
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return result

    monkeypatch.setattr(_CachedStorage, name, method)


@pytest.mark.night
@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("create_new_trial", 2),  # among the first candidates
        ("create_new_trial", 21),  # asked for, without parameters
        ("set_trial_param", 4 * 20 + 2),  # with half its parameters
        ("set_trial_state_values", 2 + 8 + 3),  # in the midst of telling
        ("set_trial_user_attr", 19),
    ],
)
def test_a_kill_within_a_batch_changes_nothing(undisturbed, tmp_path, monkeypatch, name, calls):
    with monkeypatch.context() as patch:
        killed_after(patch, name, calls)
        with pytest.raises(Killed):
            study(tmp_path, trials=24)
    assert study(tmp_path, trials=24) == undisturbed[:24]


def test_a_kill_while_answering_changes_nothing(undisturbed, tmp_path):
    def dying(candidates):
        if 16 in candidates:
            raise Killed
        return planted(candidates)

    with pytest.raises(Killed):
        study(tmp_path, measure=dying, trials=24)
    assert study(tmp_path, trials=24) == undisturbed[:24]


def test_a_file_that_is_no_study_is_one_line(tmp_path):
    (tmp_path / "study.db").write_bytes(b"no database" * 100)
    with pytest.raises(ConfigError, match="study.db.*delete the study") as caught:
        study(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_may_have_any_name(tmp_path):
    odd = tmp_path / "a b?c=d%20#é&{e}"
    assert len(study(odd, trials=2)) == 2
    assert (odd / "study.db").exists()


# -- several processes ---------------------------------------------------------------------------


def work(folder, worker, counts):
    def slow(candidates):
        time.sleep(0.02 * len(candidates))
        counts.put((worker, list(candidates)))
        return planted(candidates)

    study(folder, trials=30, batch=4, measure=slow, worker=worker)


def test_two_processes_share_a_study(tmp_path):
    context = multiprocessing.get_context("fork")
    counts = context.Queue()
    workers = [context.Process(target=work, args=(tmp_path, n, counts)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    measured = []
    while not counts.empty():
        measured.append(counts.get())
    assert {worker for worker, _ in measured} == {0, 1}
    each = Counter(number for _, numbers in measured for number in numbers)
    assert each == dict.fromkeys(range(30), 1)
    done = study(tmp_path, trials=30, batch=4, measure=None)
    assert [t.number for t in done] == list(range(30))
    assert all(planted({0: t.candidate})[0] == (t.accuracy, t.broken) for t in done)


def test_no_two_processes_ask_at_once(tmp_path, monkeypatch):
    """Without it, two that find one trial left would both ask for it."""
    real = optuna.Study.ask

    def ask(self):
        with pytest.raises(Timeout):
            FileLock(tmp_path / "lock").acquire(timeout=0)
        return real(self)

    monkeypatch.setattr(optuna.Study, "ask", ask)
    assert len(study(tmp_path, trials=3)) == 3


def test_a_worker_takes_up_what_its_number_left_and_the_job_takes_up_all(tmp_path):
    def dying(candidates):
        raise Killed

    for worker in (0, 1):
        with pytest.raises(Killed):
            study(tmp_path, trials=8, batch=4, measure=dying, worker=worker)
    seen = []

    def watched(candidates):
        seen.append(sorted(candidates))
        return planted(candidates)

    study(tmp_path, trials=8, batch=4, measure=watched, worker=1)
    assert seen == [[4, 5, 6, 7]]
    assert len(study(tmp_path, trials=8, batch=4, measure=watched)) == 8
    assert seen == [[4, 5, 6, 7], [0, 1, 2, 3]]
