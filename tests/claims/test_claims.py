"""The page of claims is what its file says, and the file is what the runs said."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from corrsteer.claims import asked, command
from corrsteer.claims.answer_file import of_experiment
from corrsteer.claims.asked import CLAIMS, STUDIES, Study
from corrsteer.claims.figure import FIGURE, LEFT, WIDE, figure
from corrsteer.claims.page import PAGE, anchor, deciding, page
from corrsteer.claims.record import FILE, Found, Kept, Number, Ran, Table, read, with_run, write
from corrsteer.errors import ConfigError, DataError
from tests.command import ROOT

DOCS = ROOT / "docs"


def found(answer="supported", value=0.05, **more):
    number = Number(what="gain", value=value, ci=(0.01, 0.09), unit="points")
    table = Table(columns=["Task", "Gain"], rows=[["a|b", "+5.0"]])
    return Found(answer=answer, sentence="It is so.", number=number, table=table, **more)


def ran(study="seeds", limit=None, **more):
    given = {
        "study": study, "model": "bundled", "words": ["src.main", "task=bbq"], "limit": limit,
        "commit": "abc", "date": "2026-11-30", "seconds": 60.0, "answers": {"seeds": found()},
    }  # fmt: skip
    return Ran(**{**given, **more})


# -- the committed page ------------------------------------------------------------------------


def test_the_page_is_what_the_file_says():
    assert (DOCS / PAGE).read_text(encoding="utf-8") == page(read(DOCS)), (
        "docs/claims.md and docs/claims.json differ: type python -m corrsteer claims --render"
    )


def test_the_figure_is_what_the_file_says():
    assert (DOCS / FIGURE).read_text(encoding="utf-8") == figure(read(DOCS))


def test_the_figure_draws_numbers_where_they_are():
    text = figure(Kept(runs=[ran()]))  # +5 points, from +1 to +9, on an axis from -10 to +10
    at = {share: f"{LEFT + WIDE * (share + 10) / 20:.1f}" for share in (1, 5, 9)}
    assert f'x1="{at[1]}" x2="{at[9]}"' in text and f'cx="{at[5]}"' in text
    assert "<circle" not in figure(Kept())
    ElementTree.fromstring(text)


def test_every_claim_has_one_study_and_every_study_a_claim():
    names = [study.name for study in STUDIES]
    assert len(set(names)) == len(names)
    assert {claim.study for claim in CLAIMS} == set(names)
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)


def test_every_row_leads_to_its_table():
    text = page(Kept())
    for claim in CLAIMS:
        assert f"(#{anchor(claim)})" in text and f"\n## {anchor(claim)}\n" in text


def test_without_a_run_no_row_has_a_number():
    rows = [line for line in page(Kept(missing=["gates"])).splitlines() if "[table](#" in line]
    assert len(rows) == len(CLAIMS)
    for claim, row in zip(CLAIMS, rows, strict=True):
        said = "no study yet" if claim.study == "gates" else "not run yet"
        assert row == f"| {claim.says} | {said} | {said} | [table](#{anchor(claim)}) |"


def test_a_row_says_number_interval_and_what_could_have_been_shown():
    undecided = ran(limit=100, answers={"seeds": found("undecided", smallest=0.04)})
    text = page(Kept(runs=[undecided]))
    row = next(line for line in text.splitlines() if line.endswith("[table](#seeds) |"))
    assert "**undecided**<br>gain: +5.0 points [+1.0, +9.0]" in row
    assert "smallest that could have been shown: 4.0 points" in row
    assert "small version, 100 questions" in row
    without = page(Kept(runs=[ran(answers={"seeds": found("undecided")})]))
    assert "too few answers differ for the corrected test to show any effect" in without
    assert "**Part of this page is a small version**" in text
    held = found("undecided", smallest=0.04, held="the dial of k lies at an end of its range")
    short = page(Kept(runs=[ran(answers={"seeds": held})]))
    assert "the dial of k lies at an end" in short and "could have been shown" not in short
    assert "| a/b | +5.0 |" in text  # in a table, a bar would begin a cell
    assert "Part of this page" not in page(Kept(runs=[ran()]))


def test_a_row_of_a_part_of_its_jobs_says_so():
    some = ran(limit=100, jobs=(10, 15), lacking=["seed=2"])
    text = page(Kept(runs=[some]))
    said = "10 of 15 jobs, none with seed=2"
    assert f"*small version, 100 questions, {said}*" in text and f"60 seconds, {said}, " in text
    assert " jobs" not in page(Kept(runs=[ran(jobs=(15, 15))])).split("## ")[0]


def test_what_an_undecided_row_could_have_shown_has_the_unit_of_its_number():
    share = Number(what="share", value=0.0, ci=(0.0, 0.434), unit="percent")
    lone = Number(what="ratio", value=1.5, ci=None, unit="number")
    for number, said in ((share, "its interval is 43.4 points wide"), (lone, ""), (None, "")):
        answer = Found(answer="undecided", sentence="So.", number=number)
        text = page(Kept(runs=[ran(answers={"seeds": answer})]))
        row = next(line for line in text.splitlines() if line.endswith("[table](#seeds) |"))
        assert said in row and "too few" not in row and "<br> |" not in row


def test_what_was_typed_can_be_typed_again():
    typed = ran(words=["src.main", "-m", "task=bbq", "data=PATH/${task.name}"])
    assert "-m task=bbq 'data=PATH/${task.name}'`" in page(Kept(runs=[typed]))


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ("points", "x: +5.0 points [+1.0, +9.0]"),
        ("percent", "x: 5.0\N{NO-BREAK SPACE}% [1.0\N{NO-BREAK SPACE}%, 9.0\N{NO-BREAK SPACE}%]"),
        ("nats", "x: 0.05 nats [0.01, 0.09]"),
        ("number", "x: 0.05 [0.01, 0.09]"),
    ],
)
def test_units(unit, said):
    assert deciding(Number(what="x", value=0.05, ci=(0.01, 0.09), unit=unit)) == said


# -- the file ----------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path):
    kept = Kept(runs=[ran(), ran("dial", limit=3)], missing=["gates"])
    write(tmp_path, kept)
    again = read(tmp_path)
    assert sorted(again.runs, key=lambda r: r.study) == sorted(kept.runs, key=lambda r: r.study)
    assert again.missing == ["gates"]
    assert page(again) == page(kept)


@pytest.mark.parametrize("change", [("0.05", "0.15"), ("supported", "refuted"), ("abc", "abd")])
def test_a_number_changed_by_hand_is_found(tmp_path, change):
    write(tmp_path, Kept(runs=[ran()]))
    text = (tmp_path / FILE).read_text()
    assert change[0] in text
    (tmp_path / FILE).write_text(text.replace(*change))
    with pytest.raises(DataError, match="was changed by hand: the study seeds of bundled"):
        read(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"version": 99}', '{"version": 1, "runs": [{}]}'])
def test_a_damaged_file_is_one_line(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(DataError, match="cannot read .*claims.json"):
        read(tmp_path)


def test_which_run_takes_the_place_of_which():
    whole, small, smaller = ran(), ran(limit=200), ran(limit=100)
    failed = ran(failed="no disk", answers={})
    assert with_run([whole], small) == [whole]
    assert with_run([small], smaller) == [small]
    assert with_run([smaller], small) == [small]
    assert with_run([small], whole) == [whole]
    assert with_run([small], failed) == [small]
    assert with_run([failed], small) == [small]
    part, less = ran(jobs=(10, 15)), ran(jobs=(5, 15))
    assert with_run([whole], part) == [whole]
    assert with_run([small], part) == [small]
    assert with_run([part], less) == [less]
    assert with_run([less], whole) == [whole]
    own = ran(words=["src.main", "task=bbq", "data=PATH"])
    assert with_run([whole], own) == [whole] and with_run([own], whole) == [own]
    assert with_run([failed], own) == [own]
    seven, several = (ran(words=["src.main", f"seed={n}"]) for n in ("7", "0,7"))
    assert with_run([whole], seven) == [whole] and with_run([several], whole) == [several]
    assert with_run([whole], several) == [several] and with_run([seven], several) == [several]
    other = ran(model="smollm2_135m_it")
    assert with_run([whole], other) == [whole, other]


def test_one_that_goes_on_keeps_the_time_of_all_of_it():
    (kept,) = with_run([ran(seconds=500.0)], ran(seconds=3.0))
    assert kept.seconds == 500.0
    (kept,) = with_run([ran(seconds=500.0)], ran(seconds=3.0, words=["src.main", "task=mmlu"]))
    assert kept.seconds == 3.0


# -- the command -------------------------------------------------------------------------------


def reads(folder: Path):
    return {"seeds": Found.model_validate_json((folder / "found.json").read_bytes())}


WRITES = "import pathlib, sys; f = pathlib.Path(sys.argv[1]); f.mkdir(); n = f / 'found.json'\n"


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A study that ends well, between one that fails and one that is not there yet."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.py").write_text(f"{WRITES}n.write_text('''{found().model_dump_json()}''')")
    (tmp_path / "bad.py").write_text("import sys; sys.exit('error: no room')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(command, "_commit", lambda: "abc")
    studies = (
        Study("bad", (), reads, module="bad", place=""),
        Study("seeds", (), reads, module="good", place=""),
        Study("gates", (), reads, needs="nowhere.yaml"),
    )
    monkeypatch.setattr(command, "STUDIES", studies)
    return studies


def test_one_study_that_fails_does_not_lose_the_others(made_up, tmp_path, capsys):
    docs = tmp_path / "docs"
    assert command.claims([], [], docs, render=False) == 1
    kept = read(docs)
    assert {r.study: r.failed for r in kept.runs} == {"bad": "no room", "seeds": None}
    assert kept.missing == ["gates"]
    assert kept.answer("seeds", "seeds", "bundled")[1] == found()
    assert (docs / PAGE).read_text() == page(kept)
    said = capsys.readouterr()
    assert "2 studies; never run like this: bad, seeds" in said.out
    assert "failed: no room" in said.out and "error: bad failed" in said.err


def test_what_ended_well_is_not_run_again_at_the_same_commit(made_up, tmp_path, monkeypatch):
    docs = tmp_path / "docs"
    command.claims([], ["seeds"], docs, render=False)
    (tmp_path / "good.py").write_text("raise SystemExit('error: ran again')")
    assert command.claims([], ["seeds"], docs, render=False) == 0
    assert not list((tmp_path / "outputs/claims").glob("*/bad*"))


def test_what_an_earlier_command_left_is_not_taken_for_its_own(made_up, tmp_path, monkeypatch):
    docs = tmp_path / "docs"
    command.claims([], ["seeds"], docs, render=False)
    (tmp_path / "good.py").write_text("raise SystemExit('error: broken')")
    monkeypatch.setattr(command, "_commit", lambda: "abd")  # it is another program now
    assert command.claims([], ["seeds"], docs, render=False) == 1
    assert [(r.commit, r.failed) for r in read(docs).runs] == [("abc", None)]


def test_a_run_that_does_not_take_the_rows_place_says_why(made_up, tmp_path, capsys):
    write(tmp_path, Kept(runs=[ran(words=["good", "data=PATH"])]))
    assert command.claims([], ["seeds"], tmp_path, render=False) == 0
    said = "the page keeps its answer, of other data (data=PATH, not the usual)"
    assert said in capsys.readouterr().out
    assert read(tmp_path).runs[0].words == ["good", "data=PATH"]


def test_the_time_is_said_before(made_up, tmp_path, capsys):
    write(tmp_path, Kept(runs=[ran(seconds=90.0), ran("gates", seconds=1000.0)]))
    command.claims([], ["seeds"], tmp_path, render=False)
    assert capsys.readouterr().out.startswith("bundled: 1 study; 1 of them took 0:01:30")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["limit=0"], "limit=0: it must be a whole number"),
        (["limit"], "settings are typed as NAME=VALUE"),
        (["-m"], "settings are typed as NAME=VALUE"),
        *(
            ([word], f"{word}: type model, data, limit, cache, seed, backend.NAME, such as")
            for word in (
                "coef=2",
                "strategy.k=2",
                "hydra.sweep.dir=x",
                "task=mmlu",
                "layers=all",
                "controls.random_features=9",
                "model.path=x",
                "backend=local",
                "+seed=1",
                "selector.top_k=3",
            )
        ),
    ],
)
def test_words_that_are_no_setting_of_all_studies_are_refused(words, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        command.settings(words)


def test_words_that_all_studies_take():
    words = ["model=x", "data=d", "limit=3", "backend.batch_size=4", "cache=c", "seed=0,1"]
    assert command.settings(words) == ("x", 3)


def test_an_unknown_study_is_refused(made_up):
    with pytest.raises(ConfigError, match="there is no study sceds: type one of bad, seeds, gates"):
        command.claims([], ["sceds"], Path("docs"), render=False)
    with pytest.raises(ConfigError, match="gates is not there yet: it needs nowhere.yaml"):
        command.claims([], ["gates"], Path("docs"), render=False)


def test_a_study_takes_what_it_does_not_set_itself():
    of = {study.name: study for study in STUDIES}
    words = ["limit=3", "seed=0,1", "model=x", "cache=c"]
    assert of["verdict"].taken(words) == of["gates"].taken(words) == words
    for name in ("seeds", "positions", "concepts", "features", "dial", "optimised", "calibration"):
        assert of[name].taken(words) == ["limit=3", "model=x", "cache=c"]
    assert of["memory"].taken(words) == ["model=x"]  # all its questions, each time an empty cache


def test_an_experiments_answer_becomes_a_row():
    gain = {"n": 100, "repeated": 0, "gain": -0.03, "ci": [-0.06, -0.01], "p": 0.01}
    row = {"name": "k", "accuracy": 0.7, "gain": gain, "p": 0.02, "smallest": 0.05}
    row |= {"equal": None, "equal_p": None, "dial": "2", "controls": {}, "facts": {}}
    content = {
        "claim": "c", "command": "x", "answer": "refuted", "sentence": "C: refuted.",
        "number": -0.03, "interval": [-0.06, -0.01], "smallest_gain": 0.05,
        "reference": {"name": "A", "accuracy": 0.73, "dial": "1", "facts": {}}, "rows": [row],
        "held": "",
    }  # fmt: skip
    made = of_experiment(json.loads(json.dumps(content)))
    assert deciding(made.number) == "k against A: −3.0 points [−6.0, −1.0]"
    assert made.smallest == 0.05 and made.answer == "refuted"
    assert made.table.rows == [
        ["A", "1", "73.0\N{NO-BREAK SPACE}%", "–", "–", "–"],
        ["k", "2", "70.0\N{NO-BREAK SPACE}%", "−3.0 [−6.0, −1.0]", "0.02", "–"],
    ]
    other = of_experiment({**content, "number": 0.5, "interval": [0.4, 0.6]}, "more that break")
    assert deciding(other.number) == "more that break: +50.0 points [+40.0, +60.0]"


def test_an_experiment_is_a_study_as_soon_as_its_file_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = asked.experiment("gating", "gates")
    assert not study.there
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/gates.yaml").touch()
    assert study.there


@pytest.mark.night
@pytest.mark.long
def test_a_claim_from_its_command_to_its_row(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setattr(command, "HOME", tmp_path / "runs")
    words = ["limit=12", f"cache={tmp_path / 'cache'}"]
    assert command.claims(words, ["positions"], tmp_path / "docs", render=False) == 0
    kept = read(tmp_path / "docs")
    run, answer = kept.answer("positions", "positions", "bundled")
    assert run.limit == 12 and run.seconds > 0
    assert [row[0] for row in answer.table.rows] == ["generation", "all", "decode"]
    low, high = answer.number.ci
    assert low <= answer.number.value <= high
    assert f"{deciding(answer.number)}" in (tmp_path / "docs" / PAGE).read_text()
