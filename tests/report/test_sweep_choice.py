"""What a sweep says of the dial that validation chose, on made-up jobs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from corrsteer.report.sweep_choice import COLUMNS, choice_sentence, with_choice
from corrsteer.report.sweep_page import write_sweep_report
from corrsteer.report.sweep_table import sweep_table
from corrsteer.report.terminal import how_sure, print_summary
from tests.report.fabricated_run import Page, fabricate_run

ALIKE = ("task", "setting")


def job(n: int, coef: float, right: int, of: int = 26, start: int = 0, **more) -> tuple:
    """``right`` of the questions ``start`` on are answered right, 12 of them without steering."""
    ids = pd.Index([f"q{k}" for k in range(start, start + of)], name="id")
    asked = pd.DataFrame(
        {arm: [float(k < many) for k in range(of)] for arm, many in
         (("baseline", 12), ("steered", right))}, index=ids,
    )  # fmt: skip
    row = {"job": n, "state": "done", "task": "mine", "coef": coef, "setting": "",
           "validation_baseline": 12 / of,
           "validation_steered": right / of}  # fmt: skip
    return row | more, asked


def table_of(*jobs: tuple) -> pd.DataFrame:
    rows = pd.DataFrame([row for row, _ in jobs])
    return with_choice(rows, {row["job"]: a for row, a in jobs}, ALIKE)


def chosen(table: pd.DataFrame) -> list[int]:
    return table.loc[table["chosen"], "job"].tolist()


def test_two_questions_choose_no_dial_and_it_is_said_how_sure_that_is() -> None:
    """53.8 against 46.2 % of 26 questions."""
    table = table_of(job(0, 0.5, 12), job(1, 2, 14))
    assert chosen(table) == [0]
    assert set(COLUMNS) <= set(table)
    assert table["validation_n"].tolist() == [26, 26]
    assert table["validation_behind"].tolist() == pytest.approx([2 / 26, 0])
    assert table["chosen_share"].sum() == pytest.approx(1)
    assert 0.5 < table.loc[0, "chosen_share"] < 0.9
    text = choice_sentence(table)
    assert text.startswith("Validation chooses coef 0.5 (job 0), with a steered accuracy of 46.2")
    assert "Coef 2 (job 1) has +7.7 points more, no more than one question and the standard" in text
    share = f"{100 * table.loc[0, 'chosen_share']:.1f}\N{NO-BREAK SPACE}%"
    assert f"In {share} of 2,000 resamples of these 26 questions the same rule chooses it" in text
    assert text.endswith("That is not above the baseline.")


def test_what_is_clearly_better_is_chosen_and_sure() -> None:
    table = table_of(job(0, 0.5, 100, 200), job(1, 2, 150, 200))
    assert chosen(table) == [1] and table.loc[1, "chosen_share"] == 1
    assert "smaller dial" not in choice_sentence(table)
    assert "in 100.0" in choice_sentence(table)  # ahead of the unsteered model


def test_one_dial_alone_has_no_rival() -> None:
    text = choice_sentence(table_of(job(0, 1, 14)))
    assert "the same rule" not in text and "it is ahead of the unsteered model" in text


def test_only_the_dial_makes_jobs_comparable() -> None:
    assert chosen(table_of(job(0, 0.5, 13), job(1, 2, 14))) == [0]
    assert chosen(table_of(job(0, 0.5, 13, setting="auroc"), job(1, 2, 14))) == [0, 1]
    assert chosen(table_of(job(0, 0.5, 13, setting=None), job(1, 2, 14))) == [0, 1]
    assert chosen(table_of(job(0, 0.5, 13, task="other"), job(1, 2, 14))) == [0, 1]


def test_jobs_are_compared_on_the_questions_that_all_of_them_answered() -> None:
    wider = job(1, 2, 200, 300)
    table = table_of(job(0, 0.5, 14), wider)
    assert table["validation_n"].tolist() == [26, 26] and chosen(table) == [1]
    apart = table_of(job(0, 0.5, 13), job(1, 2, 14, start=100))
    assert chosen(apart) == [1] and apart["chosen_share"].isna().all()
    assert "resamples" not in choice_sentence(apart)


@pytest.mark.long
def test_page_terminal_and_summary_say_how_sure(tmp_path: Path, capsys) -> None:
    for n, (coef, score) in enumerate([(0.5, 0.6), (1, 0.68), (2, 0.682)]):
        fabricate_run(tmp_path / str(n), coef=coef, n_test=60, transfer=(), side_effects=False,
                      validation_steered=score)  # fmt: skip
    page = Page(write_sweep_report(tmp_path))
    table = sweep_table(tmp_path)
    assert chosen(table) == [1]
    assert "Coef 2 (job 2) has +0.2 points more, no more than one question" in page.text
    share = table.loc[1, "chosen_share"]
    assert f"In {100 * share:.1f} % of 2,000 resamples of these 500 questions" in page.text
    print_summary(tmp_path)
    said = capsys.readouterr().out
    if share < 1:
        assert f"job 1 in {100 * share:.0f} %" in said
    kept = pd.read_csv(tmp_path / "summary.csv")
    assert kept["chosen_share"].tolist() == pytest.approx(table["chosen_share"].tolist())


@pytest.mark.long
def test_a_job_without_its_validation_answers_is_unreadable(tmp_path: Path) -> None:
    for n, coef in enumerate((1, 2)):
        fabricate_run(tmp_path / str(n), coef=coef, n_test=60, transfer=(), side_effects=False)
    file = tmp_path / "0" / "answers.parquet"
    answers = pd.read_parquet(file)
    answers[(answers["split"] != "validation") | (answers["arm"] != "steered")].to_parquet(file)
    table = sweep_table(tmp_path)
    assert table["state"].tolist() == ["unreadable", "done"] and chosen(table) == [1]
    assert "validation split is missing" in table.loc[0, "error"]


def test_how_sure_is_said_where_there_was_a_rival() -> None:
    jobs = pd.DataFrame({"job": [0, 1], "chosen": [True, False], "chosen_share": [0.62, 0.38]})
    assert how_sure(jobs) == "validation would choose again, on resampled questions: job 0 in 62 %"
    assert how_sure(jobs.assign(chosen_share=[1.0, 0.0])) == ""
