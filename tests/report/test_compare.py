"""Rivals at equal accuracy: which jobs are compared, the numbers, and the page."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from corrsteer.claims.answer_file import of_comparison, study_file
from corrsteer.claims.page import deciding
from corrsteer.methods.prompted import Prompted
from corrsteer.report.compare import Match, Pair, _needed, compare
from corrsteer.report.compare_answer import answer
from corrsteer.report.compare_jobs import BROKEN, KL, OFF_TARGET, RESTRICTED, Asked, Job, questions
from corrsteer.report.compare_jobs import asked as asked_of
from corrsteer.report.compare_page import (
    HALF,
    MATCHES,
    called,
    controls,
    explained,
    halves,
    markdown,
    plane,
    price,
    sentence,
    sentences,
    shown,
    turned,
)
from corrsteer.report.compare_wanted import Wanted, nearer, wanted
from corrsteer.report.numbers import pct
from corrsteer.report.record import read_record
from corrsteer.report.sweep_page import write_sweep_report
from corrsteer.report.sweep_table import sweep_table
from corrsteer.report.terminal import told
from corrsteer.stats.matching import (
    REFUTED,
    SUPPORTED,
    UNDECIDED,
    Equivalence,
    PriceRatio,
    equivalence,
    verdict,
)
from corrsteer.stats.seeds import GainBySample
from tests.report.fabricated_run import fabricate_run

STUDY = {"claim": "<b>A</b> matches", "subject": "CorrSteer-A", "margin": 2}
JOBS = [  # variant, coef, validation accuracy, share of wrong answers fixed on test, KL per text
    ("A", 1.0, 0.60, 0.1, 0.2),
    ("A", 2.0, 0.70, 0.4, 0.4),
    ("LoRA", 1.0, 0.71, 0.3, 0.9),
    ("LoRA", 2.0, 0.80, 0.6, 1.0),
]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    for n, (variant, coef, validation, fixed, kl) in enumerate(JOBS):
        home = folder / str(n)
        fabricate_run(
            home, coef=coef, n_test=80, fixed=fixed, validation_steered=validation, transfer=()
        )
        config = yaml.safe_load((home / "config.yaml").read_text())
        text = yaml.safe_dump({**config, "study": STUDY, "strategy": {"variant": variant}})
        (home / "config.yaml").write_text(text)
        metrics = json.loads((home / "metrics.json").read_text())
        (home / "metrics.json").write_text(json.dumps({**metrics, "variant": variant}))
        texts = {"arm": "steered", "text": range(30), "kl": kl, "positions": 10}
        pd.DataFrame(texts).to_csv(home / "divergence.csv", index=False)
        spent = {"seconds": 2.0 + n, "peak_mb": 900.0}
        learns = "gold answers" if variant == "LoRA" else "outcomes"
        method = {"learns_from": learns, "fit": spent, "answer": spent}
        (home / "method.json").write_text(json.dumps(method))
    return folder


def jobs(sweep, chosen=(0, 3)):
    return [
        (("0",), Job(n, sweep / str(n), read_record(sweep / str(n)), n in chosen)) for n in range(4)
    ]


@pytest.mark.long
def test_a_pair_is_matched_on_validation_and_measured_on_test(sweep):
    made = compare(Asked("a claim", "CorrSteer-A", 0.02), jobs(sweep))
    (match,) = made.matches
    to_rival, to_subject = match.pairs
    assert [j.number for j in (*to_rival.subject, *to_rival.rival)] == [1, 3]
    assert [j.number for j in (*to_subject.subject, *to_subject.rival)] == [0, 2]
    records = [read_record(sweep / str(n)) for n in range(4)]
    accuracy = [r.arms["steered"].accuracy for r in records]
    assert to_rival.accuracies == pytest.approx((accuracy[1], accuracy[3]))
    assert to_rival.equal.difference == pytest.approx(accuracy[1] - accuracy[3])
    for pair, a, b in ((to_rival, 3, 1), (to_subject, 2, 0)):
        prices = [r.flips.broken / r.flips.fixed for r in (records[a], records[b])]
        if prices[1]:
            assert pair.prices[BROKEN].ratio == pytest.approx(prices[0] / prices[1])
        rates = [r.side_effects.off_target.arms["steered"].rate for r in (records[a], records[b])]
        assert pair.prices[OFF_TARGET].ratio == pytest.approx(rates[0] / rates[1])
    assert to_subject.prices[KL].ratio == pytest.approx(0.9 / 0.2)
    rows = {row.name: row for row in made.rows}
    assert rows["CorrSteer-A"].jobs[0].number == 0 and rows["CorrSteer-LoRA"].jobs[0].number == 3
    assert rows["CorrSteer-LoRA"].learns_from == "gold answers"
    assert rows["CorrSteer-LoRA"].cost["fit_seconds"] == 5.0
    assert rows["CorrSteer-A"].cost["fit_seconds"] == 3.0  # of the job that found nothing cached
    assert rows["CorrSteer-A"].prices[KL] == pytest.approx(0.02)
    assert KL in rows["CorrSteer-A"].best and KL not in rows["CorrSteer-LoRA"].best
    top = max(rows.values(), key=lambda row: row.accuracy)
    assert top.front and all(row.front or row.accuracy < top.accuracy for row in rows.values())
    assert len(plane(made).rows) == 2 and explained(match)


@pytest.mark.long
def test_a_price_that_was_not_measured_of_both_is_none(sweep, tmp_path):
    some = jobs(sweep)
    (sweep / "3" / "divergence.csv").rename(tmp_path / "kept")
    try:
        made = compare(Asked("a claim", "CorrSteer-A", 0.02), some)
    finally:
        (tmp_path / "kept").rename(sweep / "3" / "divergence.csv")
    assert made.matches[0].pairs[0].prices[KL] is None and "–" in markdown(made)


def made_pair(equal, answer):
    """A pair of no jobs: what is said of it does not ask them."""
    return Pair("", [], [], (0.7, 0.7), equal, {}, answer)


def test_less_accurate_is_said_only_of_a_subject_that_is_behind():
    behind, ahead = (Equivalence(99, d, (d, d), REFUTED, d > 0, None) for d in (-0.1, 0.1))
    even = Equivalence(99, 0.0, (-0.01, 0.01), SUPPORTED, False, None)
    said = explained(Match("B", [made_pair(behind, REFUTED)], REFUTED, ""))
    assert said == "less accurate by more than the margin at the dial nearest on validation"
    pairs = [made_pair(ahead, UNDECIDED), made_pair(even, REFUTED)]
    assert "less accurate" not in explained(Match("B", pairs, REFUTED, ""))
    at_margin = Equivalence(99, 0.02, (0.01, 0.03), UNDECIDED, False, None)
    assert _needed(made_pair(at_margin, UNDECIDED), 0.02).startswith("no number of questions")


def test_what_is_needed_would_decide_the_whole_claim():
    lower = PriceRatio(50, 0.1, 0.05, 0.5, (0.3, 0.9), REFUTED, None)
    changed = np.repeat([-1.0, 0.0, 1.0], [12, 179, 9])  # 1.5 points behind

    def made(differences):
        equal = equivalence(differences, 0.02)
        pair = replace(made_pair(equal, UNDECIDED), prices={KL: lower})
        assert verdict(equal, [lower]) == UNDECIDED
        return equal, pair

    equal, pair = made(changed)
    assert _needed(pair, 0.02) == f"about {equal.bounding:,} test questions (now 200)"
    assert equal.bounding < equal.questions / 5  # at most equal is enough
    more = np.tile(changed, math.ceil(1.1 * equal.bounding / 200))
    assert verdict(equivalence(more, 0.02), [lower]) == REFUTED
    # Ahead by over the margin, however surely: its prices say nothing.
    equal, pair = made(np.repeat([-1.0, 0.0, 1.0], [12, 166, 22]))
    assert equal.questions and _needed(pair, 0.02).startswith("a dial at which both")


def test_both_parts_of_the_claim_are_told_apart():
    def price(ratio, low, high, answer, units=None):
        return PriceRatio(50, 0.1, 0.1 * ratio, ratio, (low, high), answer, units)

    even = Equivalence(99, 0.0, (-0.01, 0.01), SUPPORTED, False, None)
    open_ended = Equivalence(99, 0.0, (-0.05, 0.05), UNDECIDED, False, 800)
    twice, unsure = price(3.0, 1.5, 6.0, SUPPORTED), price(2.5, 0.9, 7.0, UNDECIDED, 70)
    less = price(0.5, 0.3, 0.9, REFUTED)

    def told(equal, *prices):
        names = dict(zip((BROKEN, OFF_TARGET), prices, strict=True))
        return halves(Match("B", [replace(made_pair(equal, ""), prices=names)], "", ""))

    assert told(even, twice, twice) == {
        MATCHES: "supported, +0.0 points [−1.0, +1.0]",
        HALF: "supported (broken per fixed 3 [1.5, 6], off-target 3 [1.5, 6])",
    }
    assert told(even, twice, less)[HALF].startswith("refuted (")
    behind = Equivalence(99, -0.1, (-0.15, -0.05), REFUTED, False, None)
    assert told(behind, twice, twice)[MATCHES] == "refuted, −10.0 points [−15.0, −5.0]"
    found = told(open_ended, twice, unsure)
    assert found[MATCHES].endswith("to decide it: about 800 test questions (now 99)")
    assert "not shown to be equal" in found[HALF]
    assert found[HALF].endswith("to decide it: about 70 unrelated prompts (now 50)")


def write_training(home, rows):
    """``rows``: epoch and accuracy on validation."""
    rest = {"lr": 0.1, "loss": 1.0, "seconds": 1.0, "fixed": 1, "broken": 0, "chosen": False}
    table = pd.DataFrame(rows, columns=["epoch", "accuracy"]).assign(**rest)
    table.to_csv(home / "training.csv", index=False)


def test_a_checkpoint_is_wanted_only_where_it_is_nearer_than_every_job(tmp_path):
    rows = [(0, 0.70), (1, 0.70), (1, 0.81), (2, 0.78), (3, 0.90)]
    for n in (4, 5):
        (tmp_path / str(n)).mkdir()
        write_training(tmp_path / str(n), rows)
    made: list[Any] = [
        SimpleNamespace(number=n, folder=tmp_path / str(n), validation=0.9, coef=1.0)
        for n in (4, 5)
    ]
    assert nearer(made, 0.795) == [Wanted(4, 0.81)]  # of two as near the less trained one
    assert nearer(made, 0.77) == [Wanted(4, 0.78)]
    assert nearer(made, 0.60) == [Wanted(4, 0.70)]  # not the model without training
    assert nearer(made, 0.95) == []
    made[1].validation = 0.78
    assert nearer(made, 0.77) == []
    for dial, found in ((2.0, [Wanted(4, 0.78)]), (0.5, [])):  # as near, turned up or down
        made[1].coef = dial
        assert nearer(made, 0.77) == found
    made[:] = [SimpleNamespace(number=7, folder=tmp_path, validation=0.1, coef=1.0)]
    assert nearer(made, 0.9) == []


@pytest.mark.long
def test_a_job_for_a_checkpoint_is_in_pairs_and_not_in_the_table(sweep, tmp_path):
    folder = tmp_path / "sweep"
    shutil.copytree(sweep, folder)
    write_training(folder / "2", [(0, 0.5), (1, 0.701), (2, 0.8)])
    assert wanted(folder) == [Wanted(2, 0.701)]  # A has 70 % at its dial, a job of LoRA 71 %
    shutil.copytree(folder / "2", folder / "4")
    config = yaml.safe_load((folder / "4" / "config.yaml").read_text())
    config["strategy"]["match"] = 0.701
    (folder / "4" / "config.yaml").write_text(yaml.safe_dump(config))
    table = sweep_table(folder)
    what, (some,) = questions(folder, table, {n: read_record(folder / str(n)) for n in range(5)})
    job = some[4][1]
    assert (job.match, job.chosen) == (0.701, False)
    adapter = replace(some[2][1], record=job.record.model_copy(update={"operator": ""}))
    assert not adapter.turns and adapter.dial == ""  # as a prompt's job, which reads no dial
    assert replace(adapter, turns=True).dial == "1"
    made = compare(what, some)
    assert {row.name: row.jobs[0].number for row in made.rows}["CorrSteer-LoRA"] == 3
    assert all(j.number != 4 for j in made.dials["CorrSteer-LoRA"])
    pair = replace(made.matches[0].pairs[0], rival=[job])
    assert turned(pair).endswith(f"against the checkpoint with {pct(0.71)} on validation")


@pytest.mark.long
def test_the_pair_that_is_closer_on_validation_decides_whatever_test_says(sweep):
    for chosen, decides in (((0, 3), 0), ((1, 3), 1)):  # 10 against 11 points, 10 against 1
        made = compare(Asked("a claim", "CorrSteer-A", 0.02), jobs(sweep, chosen))
        (match,) = made.matches
        assert (match.decides, match.answer) == (decides, match.pairs[decides].answer)
        told = [line for line in markdown(made).split("\n") if "| CorrSteer-LoRA | dial" in line]
        assert [f"**{match.answer}**" in line for line in told] == [n == decides for n in (0, 1)]


@pytest.mark.long
def test_nothing_off_target_is_said_of_answers_restricted_to_letters(sweep):
    some = jobs(sweep)
    letters = {"method": "Prompt", "variant": "constrained"}
    for n in (2, 3):
        seed, job = some[n]
        some[n] = seed, replace(job, record=job.record.model_copy(update=letters))
    assert Prompted(variant="constrained").name == letters["method"]
    made = compare(Asked("a claim", "CorrSteer-A", 0.02), some)
    (row,) = (r for r in made.rows if r.name == RESTRICTED)
    assert row.prices[OFF_TARGET] is None and made.axis == BROKEN
    assert all(p.prices[OFF_TARGET] is None for p in made.matches[0].pairs)


@pytest.mark.long
def test_a_question_of_several_seeds_counts_once_in_an_interval(sweep):
    (row, _) = compare(Asked("a claim", "CorrSteer-A", 0.02), jobs(sweep)).rows
    for axis in (BROKEN, OFF_TARGET):
        once, twice = (price(replace(row, jobs=row.jobs[:1] * n), axis) for n in (1, 2))
        assert twice[0] == once[0]
        assert twice[1][1] - twice[1][0] > 0.9 * (once[1][1] - once[1][0])


@pytest.mark.long
def test_several_tasks_and_models_are_named(sweep):
    def made(**names):
        some = [
            (seed, replace(job, record=job.record.model_copy(update=names)))
            for seed, job in jobs(sweep)
        ]
        return compare(Asked("a claim", "CorrSteer-A", 0.02), some)

    one, other = made(task="<bbq>"), made(task="mmlu")
    assert called([one]) == [""] and called([one, one]) == ["<bbq>", "<bbq> (2)"]
    assert [text.split(":")[0] for text in sentences([one, other])] == ["<bbq>", "mmlu"]
    assert called([one, made(task="mmlu", model="big")])[1] == "mmlu, big"
    heads = [str(part["heading"]) for part in shown([one, other])]
    assert heads[0] == "<bbq>: rivals at equal accuracy"


@pytest.mark.long
def test_without_the_subject_it_is_undecided(sweep):
    made = compare(Asked("a claim", "CorrSteer-P", 0.02), jobs(sweep))
    assert made.matches == [] and sentence(made).startswith(f"A claim: {UNDECIDED}, since no job")
    assert compare(Asked("a claim", "CorrSteer-P", 0.02), []) is None
    assert asked_of(sweep, [7]) is None


@pytest.mark.long
def test_a_sweep_says_so_on_page_terminal_and_table(sweep):
    page = write_sweep_report(sweep).read_text()
    assert "&lt;b&gt;A&lt;/b&gt; matches: " in page and "Rivals at equal accuracy" in page
    assert told(pd.read_csv(sweep / "summary.csv"))[0].startswith("<b>A</b> matches: ")
    verdict = (sweep / "verdict.md").read_text()
    assert "| CorrSteer-LoRA |" in verdict and "gold answers" in verdict


@pytest.mark.long
def test_programs_read_the_same_answer(sweep):
    write_sweep_report(sweep)
    content = json.loads((sweep / "study.json").read_text())
    table = pd.read_csv(sweep / "summary.csv")
    chosen = table.loc[table["chosen"].astype(bool), "job"].tolist()
    made = compare(Asked("a claim", "CorrSteer-A", 0.02), jobs(sweep, chosen))
    (match,), (told,) = made.matches, content["matches"]
    assert (content["answer"], told["why"]) == (match.answer, explained(match))
    assert content["jobs"] == 4 and content["reference"] == {"name": "CorrSteer-A"}
    assert told["difference"] == match.deciding.equal.difference
    assert told["half"] == match.deciding.half
    assert told["prices"][KL]["ratio"] == pytest.approx(match.deciding.prices[KL].ratio)
    found = study_file("fine_tuning")(sweep)["fine_tuning"]
    assert found.answer == match.answer and found.sentence in content["sentence"]
    assert found.table.rows[0][0] == "CorrSteer-LoRA" and len(found.table.columns) == 9
    assert found.number is None  # there is no dial of equal accuracy


def test_all_rivals_have_one_answer_or_it_is_undecided():
    def match(answer):
        return Match("x", [], answer, "")

    assert answer([match("refuted"), match("refuted")]) == "refuted"
    assert answer([match("refuted"), match("supported")]) == UNDECIDED == answer([])


def test_the_number_is_the_smallest_ratio_at_equal_accuracy():
    def price(ratio, low, high):
        return {"subject": 0.1, "rival": 0.3, "ratio": ratio, "interval": [low, high]}

    prices = {BROKEN: None, OFF_TARGET: price(3.0, 2.0, 4.0), KL: price(None, 1.0, None)}
    told = {"rival": "LoRA", "answer": "supported", "why": "so", "compared": "dial 1 against 2"}
    told |= {"accuracies": [0.7, 0.7], "difference": 0.0, "interval_90": [-0.01, 0.01]}
    content = {
        "answer": "supported", "sentence": "It is so.", "number": 3.0, "interval": [2.0, 4.0],
        "of": "LoRA, off-target", "reference": {"name": "A"},
        "matches": [{**told, "equal": "supported", "prices": prices}],
    }  # fmt: skip
    found = of_comparison(content)
    assert deciding(found.number) == "smallest ratio of a price (LoRA, off-target): 3 [2, 4]"
    assert found.table.rows[0][5:] == ["–", "3 [2, 4]", "–", "supported: so"]


@pytest.fixture(scope="module")
def with_control(sweep, tmp_path_factory):
    """The same sweep with a job more, trained on shuffled answers, which pays almost nothing."""
    folder = tmp_path_factory.mktemp("sweep") / "with_control"
    shutil.copytree(sweep, folder)
    home = folder / "4"
    fabricate_run(
        home, coef=1.0, n_test=80, fixed=0.1, broken=0.1, validation_steered=0.70, transfer=()
    )
    config = yaml.safe_load((home / "config.yaml").read_text())
    strategy = {"variant": "shuffled", "data": "shuffled", "coef": 1.0}
    text = yaml.safe_dump({**config, "study": STUDY, "strategy": strategy})
    (home / "config.yaml").write_text(text)
    metrics = json.loads((home / "metrics.json").read_text())
    text = json.dumps({**metrics, "method": "LoRA", "variant": "shuffled"})
    (home / "metrics.json").write_text(text)
    texts = {"arm": "steered", "text": range(30), "kl": 1e-6, "positions": 10}
    pd.DataFrame(texts).to_csv(home / "divergence.csv", index=False)
    write_training(home, [(0, 0.5), (1, 0.7)])
    return folder


def compared_in(folder):
    table = sweep_table(folder)
    records = {n: read_record(folder / str(n)) for n in table["job"]}
    what, (some,) = questions(folder, table, records)
    return compare(what, some)


@pytest.mark.long
def test_a_control_is_shown_and_decides_nothing(sweep, with_control):
    without, made = compared_in(sweep), compared_in(with_control)
    assert [m.rival for m in made.matches] == ["CorrSteer-LoRA"] and wanted(with_control) == []
    rows = {row.name: row for row in made.rows}
    control = rows.pop("LoRA-shuffled")
    assert {row.name: (row.p, row.best, row.front) for row in without.rows} == {
        name: (row.p, row.best, row.front) for name, row in rows.items()
    }
    assert control.title == "LoRA-shuffled (control)" and rows["CorrSteer-A"].control is None
    assert (control.against, control.p, control.best, control.front) == (None, None, set(), False)
    record = control.jobs[0].record
    assert control.control.gain == pytest.approx(record.gain)
    assert control.control.p == pytest.approx(record.flips.mcnemar_p)


@pytest.mark.long
def test_what_a_control_gains_is_said_everywhere(with_control):
    page = write_sweep_report(with_control).read_text()
    (told,) = controls(compared_in(with_control))
    assert told.startswith("LoRA-shuffled, a control") and told in page
    assert page.count("LoRA-shuffled (control)") >= 2  # in table and figure
    verdict = (with_control / "verdict.md").read_text()
    assert told in verdict and "| LoRA-shuffled (control) |" in verdict
    (one,) = json.loads((with_control / "study.json").read_text())["controls"]
    assert one["name"] == "LoRA-shuffled" and set(one) == {"name", "gain", "interval", "p"}


@pytest.mark.parametrize(
    ("gain", "p", "says"),
    [
        (0.05, 0.2, "not shown to gain anything"),
        (0.05, 0.01, "by the form of an answer"),
        (-0.05, 0.01, "fewer answers are right"),
    ],
)
def test_a_control_gains_nothing_or_it_is_told(gain, p, says):
    found = GainBySample(n=100, repeated=0, gain=gain, ci=(gain - 0.1, gain + 0.1), p=p)
    made: Any = SimpleNamespace(rows=[SimpleNamespace(name="x", control=found)])
    (told,) = controls(made)
    assert says in told
