"""What the report of a run says, without a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from corrsteer.errors import DataError
from corrsteer.report import numbers, pages
from corrsteer.report import run_page as report
from corrsteer.report.examples import LIMITS, examples
from corrsteer.report.record import read_record
from corrsteer.report.verdict import verdict
from tests.report.fabricated_run import DRAWS, HOSTILE, Page, edit, fabricate_run, set_status

pytestmark = pytest.mark.long


@pytest.fixture
def run(tmp_path: Path) -> Path:
    fabricate_run(tmp_path / "run")
    return tmp_path / "run"


def flips_of(page: Page) -> list[dict[str, str]]:
    return [e for e in page.data["example-data"] if e["kind"] in ("fixed", "broken")]


def test_run_report_says_what_the_metrics_say(run: Path) -> None:
    metrics = edit(run)
    page = Page(report.write_run_report(run))
    arms, flips = metrics["arms"], metrics["flips"]
    kinds = {"flipped": "flipped sign", "direction": "random directions", "layers": "other layers"}
    kinds |= {
        "random": "random features",
        "constrained": "constrained decoding",
        "shuffled": "shuffled outcomes",
    }
    by_kind: dict[str, list[dict]] = {}
    for arm in arms.values():
        by_kind.setdefault(arm["kind"], []).append(arm)
    for kind, same in by_kind.items():
        label = kinds.get(kind, kind).capitalize()
        ends = [f"{100 * f(arm['accuracy'] for arm in same):.1f} %" for f in (min, max)]
        accuracy = " to ".join(dict.fromkeys(ends))
        if len(same) == 1:
            low, high = same[0]["ci"]
            assert f"{label} {accuracy} {100 * low:.1f} % to {100 * high:.1f} %" in page.text
        else:
            assert page.text.count(f"{label} ×{len(same)} {accuracy}") == 1
    null = metrics["controls"]["random"]
    rank = null["at_least_as_good"] + 1
    assert f"rank {rank} of {DRAWS + 1}, p = {null['p']:.2g}" in page.text
    assert f"Rank among {DRAWS} plans of random features {rank} of {DRAWS + 1}" in page.text
    assert f"{flips['fixed']} answers fixed, {flips['broken']} broken" in page.text
    assert f"chance {100 / 3:.1f} %" in page.text
    assert "bbq with CorrSteer-A at coef 1" in page.text
    assert "layers 0-5" in page.text and "2025-11-22 13:05" in page.text
    assert "torch 2.13.0" in page.text and "_target_: corrsteer.tasks.bbq" in page.text
    for group in metrics["groups"]:
        assert group in page.text


def test_verdict_comes_before_any_number(run: Path) -> None:
    verdict = edit(run)["verdict"]
    assert 1 < len(verdict) <= 6
    text = Page(report.write_run_report(run)).text
    verdict = [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in verdict]
    places = [text.index(s) for s in (*verdict, "Accuracy, baseline to steered", "Chosen features")]
    assert places == sorted(places)


def test_flips_listed_are_the_flips_counted(run: Path) -> None:
    flips = edit(run)["flips"]
    page = Page(report.write_run_report(run))
    kinds = [flip["kind"] for flip in flips_of(page)]
    assert (kinds.count("fixed"), kinds.count("broken")) == (flips["fixed"], flips["broken"])
    moves = [(f["from"], f["to"]) for f in flips_of(page)]
    states = ("right", "wrong", "invalid")
    for before, row in zip(states, flips["counts"], strict=True):
        for after, count in zip(states, row, strict=True):
            flipped = (before == "right") != (after == "right")
            assert moves.count((before, after)) == (count if flipped else 0)


def test_flips_pair_by_id_and_not_by_row(run: Path) -> None:
    before = flips_of(Page(report.write_run_report(run)))
    answers = pd.read_parquet(run / "answers.parquet")
    answers.sample(frac=1, random_state=3).to_parquet(run / "answers.parquet", index=False)
    after = flips_of(Page(report.write_run_report(run)))
    assert sorted(before, key=str) == sorted(after, key=str)


def test_noise_is_named_on_table_and_cards(run: Path) -> None:
    features = pd.read_csv(run / "features.csv")
    features["noise"] = features["layer"] == 2
    features.to_csv(run / "features.csv", index=False)
    edit(run, noise={"features": 6, "below_ceiling": 1, "unstable": 0})
    text = Page(report.write_run_report(run)).text
    assert text.count("noise: not above its ceiling") == 1
    assert text.count("above ceiling") == 5
    assert "1 of 6 chosen features is at or below the noise ceiling of its layer" in text


def test_without_flips_ser_is_undefined(tmp_path: Path) -> None:
    fabricate_run(tmp_path / "run", coef=0.0, fixed=0, broken=0)
    page = Page(report.write_run_report(tmp_path / "run"))
    assert "SER undefined: no answer flipped." in page.text
    assert flips_of(page) == []


def test_open_questions_have_no_chance_constrained_or_groups(tmp_path: Path) -> None:
    fabricate_run(tmp_path / "run", options=False)
    text = Page(report.write_run_report(tmp_path / "run")).text
    assert "The task has no chance level." in text
    assert "no constrained decoding" in text
    assert "Accuracy by group" not in text


def test_empty_plan_and_absent_passages(run: Path) -> None:
    (run / "contexts.json").write_text("[]")
    assert "No pooled token activated this feature." in Page(report.write_run_report(run)).text
    features = pd.read_csv(run / "features.csv").assign(chosen=False)
    features.to_csv(run / "features.csv", index=False)
    assert "No feature was chosen" in Page(report.write_run_report(run)).text


def test_controls_are_tested_in_the_table_as_in_the_verdict(run: Path) -> None:
    controls = edit(run)["controls"]
    others = {kind: c | {"paired_p": 0.031} for kind, c in controls.items() if kind != "random"}
    edit(run, controls=others | {"random": controls["random"]})
    text = Page(report.write_run_report(run)).text
    assert "p = 0.031" not in text and text.count("p = 0.19") == len(others) == 6


def test_plan_of_noise_is_told_on_top_and_once(run: Path) -> None:
    record = read_record(run)
    assert not any("noise ceiling" in sentence for sentence in verdict(record))
    noise = {"features": 6, "below_ceiling": 6, "unstable": 0}
    edit(run, noise=noise)
    told = verdict(read_record(run))
    assert told[1].startswith("6 of 6 chosen features are at or below the noise ceiling")
    edit(run, verdict=told)
    assert Page(report.write_run_report(run)).text.count(told[1]) == 1


def test_words_of_small_things(run: Path) -> None:
    values = edit(run, side_effects=None)
    flips = values["flips"] | {"fixed": 1}
    edit(run, flips=flips, scorer=values["scorer"] | {"settings": {"path": "mine.polite"}})
    text = Page(report.write_run_report(run)).text
    assert "1 answer fixed," in text and "scored by Choice mine.polite (version 2)" in text
    assert "Side effects beyond the test questions were not measured (side_effects=none)." in text
    assert text.count("length correlates") == 1 and "Bias ambig: " in text
    assert "“ oil” , “↵”" in text


def test_a_run_that_trained_shows_its_checkpoints(run: Path) -> None:
    rows = [
        "lr,epoch,loss,seconds,accuracy,fixed,broken,chosen",
        ",0,,0,0.5,0,0,False",
        "0.0003,1,0.25,61.5,0.625,9,2,True",
    ]
    (run / "training.csv").write_text("\n".join(rows))
    text = Page(report.write_run_report(run)).text
    assert "not trained 0 – 0 50.0 % 0 0 no 0.0003 1 0.25 61.5 62.5 % 9 2 yes" in text
    (run / "training.csv").write_text("\n".join(row.rpartition(",")[0] for row in rows))
    with pytest.raises(DataError, match="training.csv is damaged"):
        report.write_run_report(run)


def test_failed_run_shows_its_error(run: Path) -> None:
    set_status(run, "failed", "out of <memory>")
    assert "This run failed: out of <memory>" in Page(report.write_run_report(run)).text


def test_unfinished_run_is_refused(run: Path) -> None:
    (run / "metrics.json").unlink()
    with pytest.raises(DataError, match=r"no metrics\.json"):
        report.write_run_report(run)


def test_page_is_self_contained(run: Path) -> None:
    path = report.write_run_report(run)
    page = Page(path)
    assert sum("plotly.js v" in script for script in page.scripts) == 1
    linked = [(t, n, v) for t, n, v in page.attributes if n in ("src", "href", "srcset", "action")]
    assert len(linked) == 3  # a link costs no request until it is followed
    assert all(t == "a" and v.startswith("https://www.neuronpedia.org/") for t, _, v in linked)
    (policy,) = [v for t, n, v in page.attributes if t == "meta" and n == "content" and "src" in v]
    assert "default-src 'none'" in policy
    scripts = policy.split("script-src ")[1].split(";")[0]
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in page.scripts]
    assert scripts.split() == [f"'sha256-{digest}'" for digest in digests]
    style = re.search(r"<style>(.*?)</style>", path.read_text(encoding="utf-8"), re.DOTALL)
    assert style and not re.search(r"url\(|@import", style[1])


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    fabricate_run(tmp_path / "run", n_test=120, fixed=0.3, hostile=True)
    page = Page(report.write_run_report(tmp_path / "run"))
    assert len(page.scripts) == 2  # plotly.js and ours
    links = [value for _, name, value in page.attributes if name == "href"]
    assert len(links) == 2 and all(link.startswith("https://") for link in links)  # no javascript:
    assert not any(tag == "img" or name.startswith("on") for tag, name, _ in page.attributes)
    prompts = " ".join(e["prompt"] for e in page.data["example-data"])
    tasks = [row[0] for row in page.data["fig-transfer-data"]["rows"]]
    assert pages.visible(HOSTILE[3]) in tasks
    unrelated = [e for e in page.data["example-data"] if e["kind"] == "unrelated"]
    shown = "".join(e["prompt"] + e["steered"] for e in unrelated)
    assert all(pages.visible(text) in shown for text in HOSTILE)
    for where in ("mentions of places", "most of its tokens are punctuation"):
        assert where + HOSTILE[0] in page.text
    for text in (
        "<script>alert(1)</script>",
        "</script><script>",
        "{{ 7 * 7 }}",
        "nul \\x00 bell \\x07",
    ):
        assert text in prompts
        assert text in page.text


def test_run_report_is_fast(tmp_path: Path) -> None:
    fabricate_run(tmp_path / "run", n_test=1000)
    report.write_run_report(tmp_path / "run")
    start = time.process_time()
    report.write_run_report(tmp_path / "run")
    assert time.process_time() - start < 1.5


# -- text --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (numbers.pct, 0.5234, "52.3 %"),
        (numbers.pct, None, "–"),
        (numbers.points, 0.0604, "+6.0"),
        (numbers.points, -0.0604, "−6.0"),
        (numbers.points, -0.0001, "+0.0"),
        (numbers.p_value, 3.2e-12, "p = 3e-12"),
        (numbers.p_value, 4.1e-5, "p = 4e-5"),
        (numbers.p_value, 0.0341, "p = 0.034"),
        (numbers.p_value, 0.62, "p = 0.62"),
        (numbers.p_value, 1.0, "p = 1.00"),
        (numbers.p_value, 0.0, "p < 1e-300"),
        (numbers.r_value, -0.1234, "−0.123"),
        (numbers.short, 1.0, "1"),
        (numbers.short, 0.012345, "0.0123"),
        (numbers.whole, 12345, "12,345"),
        (numbers.layer_text, [0, 1, 2, 5], "0-2, 5"),
        (numbers.layer_text, [3], "3"),
        (pages.visible, "a\x00b\tc\nd", "a\\x00b\tc\nd"),
    ],
)
def test_numbers_as_text(write, value, text: str) -> None:
    assert write(value).replace("\N{NO-BREAK SPACE}", " ") == text


def test_a_number_reads_the_same_from_numpy_and_from_python():
    assert numbers.points(pd.Series([0.0715])[0]) == numbers.points(0.0715) == "+7.1"


def test_the_site_check_is_shown_and_its_absence_said(run: Path) -> None:
    text = report.write_run_report(run).read_text(encoding="utf-8")
    assert "Do the SAEs fit?" in text
    assert "fits block 2 better" in text and "fits best here" in text
    edit(run, sites=[])
    text = report.write_run_report(run).read_text(encoding="utf-8")
    assert "Do the SAEs fit?" not in text
    assert "fit not checked" in text


# -- side effects, transfer, meaning -----------------------------------------------------------


def test_side_effects_are_shown_beside_random_draws(run: Path) -> None:
    m = edit(run)
    text = Page(report.write_run_report(run)).text
    off, neutral = m["side_effects"]["off_target"], m["side_effects"]["neutral"]
    for label, arm in (("Steered", "steered"), ("Random features", "random_1")):
        rate, (low, high) = off["arms"][arm]["rate"], off["arms"][arm]["ci"]
        changed = off["arms"][arm]["changed"]
        row = f"{label} {changed} of {off['n']} {1000 * rate:.0f} "
        row += f"{1000 * low:.0f} to {1000 * high:.0f}"
        assert row in text
        assert f"{100 * neutral['arms'][arm]['top1_changed']:.1f} %" in text
    assert f"{m['ser']['off_target']:.2f} of these change" in text
    for name, formula in (
        ("flips", "broken / (fixed + broken)"),
        ("right", "broken / answers that were right"),
        ("negative_flip_rate", "broken / all answers"),
    ):
        assert f"{formula} {numbers.short(m['ser'][name])} " in text
    changes = m["changes"]
    assert f"text of {changes['text']} of {m['n']['test']} answers changed" in text
    for layer in m["side_effects"]["activity"]["layers"]:
        assert f"{layer['l0_before']:.2f} {layer['l0_after']:.2f} {layer['new']:.2f}" in text


def test_transfer_is_one_row_of_the_matrix(run: Path) -> None:
    m = edit(run)
    text = Page(report.write_run_report(run)).text
    for task, tested in m["transfer"].items():
        arms, flips = tested["arms"], tested["flips"]
        words = [f"{task} 60"]
        words += [f"{100 * arms[arm]['accuracy']:.1f} %" for arm in ("baseline", "steered")]
        words += [numbers.points(tested["gain"])]
        words += [" to ".join(map(numbers.points, tested["gain_ci"]))]
        words += [str(flips["fixed"]), str(flips["broken"]), numbers.ratio(flips["ser"])]
        words += [numbers.points(max(tested["random_gains"]))]
        assert " ".join(words) in text


def test_what_was_not_measured_has_no_section(run: Path) -> None:
    edit(run, side_effects=None, transfer={})
    page = Page(report.write_run_report(run))
    for words in ("Transfer", "Neutral text", "Unrelated", "off-target", "Active features"):
        assert words not in page.text
    assert set(page.data) >= {"fig-arms", "example-data"}
    edit(run, side_effects={"off_target": None, "neutral": None, "text": None, "activity": None})
    assert "Unrelated prompts" not in Page(report.write_run_report(run)).text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ser": None}, r"\(ser: Input should be"),
        ({"gian": 0.1}, r"\(gian: Extra inputs are not permitted"),
        ({"arms": {"baseline": {"n": 3}}}, r"\(arms\.baseline\.kind: Field required"),
    ],
)
def test_a_record_of_another_version_is_refused_in_one_line(
    run: Path, change: dict, words: str
) -> None:
    values = json.loads((run / "metrics.json").read_text()) | change
    (run / "metrics.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=words) as raised:
        report.write_run_report(run)
    assert "type the run's command again" in str(raised.value) and "\n" not in str(raised.value)


def test_an_arm_of_an_unknown_kind_is_refused(run: Path) -> None:
    arms = json.loads((run / "metrics.json").read_text())["arms"]
    edit(run, arms=arms | {"later_1": arms["random_1"] | {"kind": "later"}})
    with pytest.raises(DataError, match="later_1 is of the unknown kind 'later'.*random"):
        report.write_run_report(run)


def test_cards_say_class_description_and_stability(run: Path) -> None:
    page = Page(report.write_run_report(run))
    assert page.text.count("mentions of places Neuronpedia") == 3
    assert page.text.count("Class by rule: most of its tokens are punctuation") == 3
    assert page.text.count("stability 80.0 %") == 6
    assert "of 200 bootstrap resamples" in page.text


def test_cards_tell_what_was_pooled_from_the_text_around(run: Path) -> None:
    cards = json.loads((run / "contexts.json").read_text())
    page = Page(report.write_run_report(run))
    around = sum(not w for c in cards for p in c["contexts"] for w in p["within"])
    passages = [p for c in cards for p in c["contexts"]]
    peaks = sum(p["activations"][p["peak"]] > 0 for p in passages)
    kinds = [v for t, n, v in page.attributes if t in ("mark", "span") and n == "class"]
    assert (kinds.count("around"), kinds.count("peak")) == (around, peaks)
    # Shading is relative to what was pooled, and what is stronger is no darker.
    levels = [float(v[4:]) for t, n, v in page.attributes if t == "mark" and n == "style"]
    assert max(levels) == 1
    assert page.text.count("Elsewhere, where it was not pooled, it fires on “ oil” , “↵”") == 4
    assert page.text.count("(up to 12.5), and on attention sinks (up to 631).") == 2


def test_cards_of_an_earlier_version_are_read(run: Path) -> None:
    cards = json.loads((run / "contexts.json").read_text())
    for card in cards:
        del card["elsewhere"]
        for passage in card["contexts"]:
            del passage["within"], passage["pooled"]
    (run / "contexts.json").write_text(json.dumps(cards))
    page = Page(report.write_run_report(run))
    assert "around" not in [v for _, n, v in page.attributes if n == "class"]
    assert "Elsewhere" not in page.text


def test_a_count_is_of_what_was_asked_and_a_rate_says_so(run: Path) -> None:
    off = edit(run)["side_effects"]["off_target"]
    text = Page(report.write_run_report(run)).text
    assert "Rate per 1,000" in text
    assert f"Steered {off['arms']['steered']['changed']} of {off['n']} " in text
    assert f"{1000 * off['arms']['steered']['rate']:.0f} of 1,000" not in text


def test_positions_that_the_site_check_left_out_are_counted(run: Path) -> None:
    sites = edit(run)["sites"]
    text = Page(report.write_run_report(run)).text
    assert "over 512 prompt positions. An SAE" in text
    edit(run, sites=[{**s, "left_out": 30 + s["layer"]} for s in sites])
    text = Page(report.write_run_report(run)).text
    assert "512 prompt positions. 30 to 35 more are left out: the first of each prompt, and" in text


def test_draws_of_a_control_span_a_band(run: Path) -> None:
    """Many have a bar from 5 to 95 % on it, few a mark each."""
    arms = edit(run)["arms"]
    figure = Page(report.write_run_report(run)).data["fig-arms"]
    ticks = figure["layout"]["yaxis"]["ticktext"]
    for label, kind in (
        (f"Random features ×{DRAWS}", "random"),
        ("Shuffled outcomes ×2", "shuffled"),
    ):
        row = ticks.index(label)
        draws = [100 * arm["accuracy"] for arm in arms.values() if arm["kind"] == kind]
        shapes = figure["layout"]["shapes"]
        band = next(b for b in shapes if b.get("y0") == pytest.approx(row - 0.32))
        assert (band["x0"], band["x1"]) == (min(draws), max(draws))
        (marks,) = [t for t in figure["data"] if set(t["y"]) == {row}]
        many = np.quantile(draws, [0.05, 0.5, 0.95]).tolist()
        assert marks["x"] == pytest.approx(draws if len(draws) < 10 else many)


def test_details_stand_in_their_sections(run: Path) -> None:
    m = edit(run)
    selection = {**m["selection"], "length_r": -0.4}
    noise = {"features": 6, "below_ceiling": 2, "unstable": 1}
    edit(run, selection=selection, noise=noise, odometer={"plans": 37, "best_null_gain": 0.021})
    page = Page(report.write_run_report(run))
    places = [
        page.text.index(words)
        for words in (
            "Accuracy and its controls",
            f"above chance ({100 * m['arms']['baseline']['accuracy']:.1f} % against 33.3 %)",
            "This test split has answered 37 steered plans; the best of 37 plans of random "
            "features like those of this run, at its dial, would be expected to reach +2.1 points.",
            "Correlation by layer",
            "2 of 6 chosen features are at or below the noise ceiling of their layers",
            "1 of 6 chosen features is the best of its layer in fewer than half of 200",
            "Answer length correlates with the outcome at r = −0.400, so",
            "What changed",
            "unrelated answers change (exact string comparison)",
            "nats per token",
        )
    ]
    assert places == sorted(places)
    assert all("steered plans" not in sentence for sentence in m["verdict"])


def test_the_splits_have_a_seed_of_their_own(run: Path) -> None:
    assert "400 test, seed 0" in Page(report.write_run_report(run)).text
    (run / "config.yaml").write_text("seed: 0\nsplits:\n  seed: 5\n", encoding="utf-8")
    assert "400 test, seed 5" in Page(report.write_run_report(run)).text


def test_every_figure_has_its_data_and_a_button(run: Path) -> None:
    page = Page(report.write_run_report(run))
    figures = [v for t, n, v in page.attributes if n == "data-spec"]
    buttons = [v for t, n, v in page.attributes if n == "data-csv"]
    assert sorted(buttons) == sorted([*figures, "examples"]) and len(figures) == 7
    for name in figures:
        table = page.data[f"{name}-data"]
        assert table["rows"] and all(len(row) == len(table["columns"]) for row in table["rows"])
    arms = edit(run)["arms"]
    table = page.data["fig-arms-data"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    assert [row["accuracy"] for row in rows if row["arm"] == "Steered"] == [
        arms["steered"]["accuracy"]
    ]
    assert len(rows) == len(arms)


# -- examples ----------------------------------------------------------------------------------


def answer_rows(split: str, n: int, changed: int) -> pd.DataFrame:
    """``changed`` of ``n`` answers have another text, none another outcome."""
    return pd.DataFrame(
        [
            {"id": f"{split}-{k}", "split": split, "arm": arm, "prompt": "?", "gold": "C",
             "answer": "A" if arm == "baseline" or k >= changed else "B", "score": 0.0,
             "invalid": False}
            for k in range(n) for arm in ("baseline", "steered")
        ]
    )  # fmt: skip


def test_examples_of_common_kinds_are_a_fixed_sample() -> None:
    answers = pd.concat([answer_rows("test", 1000, 400), answer_rows("unrelated", 500, 250)])
    listed, totals = examples(answers)
    assert totals == {
        "fixed": 0,
        "broken": 0,
        "moved": 0,
        "text": 400,
        "unrelated": 250,
        "same": 600,
    }
    kinds = [e["kind"] for e in listed]
    assert {kind: kinds.count(kind) for kind in LIMITS} == {**LIMITS, "moved": 0}
    assert examples(answers)[0] == listed
    numbers = [int(e["id"].split("-")[1]) for e in listed if e["kind"] == "text"]
    assert numbers == sorted(numbers) and numbers[-1] > 350


def test_examples_have_the_right_kind(run: Path) -> None:
    metrics = edit(run)
    page = Page(report.write_run_report(run))
    kinds = [e["kind"] for e in page.data["example-data"]]
    assert kinds.count("text") == metrics["changes"]["text_same_outcome"]
    off = metrics["side_effects"]["off_target"]["arms"]["steered"]
    assert kinds.count("unrelated") == off["changed"]
    for e in page.data["example-data"]:
        assert e["kind"] != "same" or e["baseline"] == e["steered"]
        assert e["kind"] not in ("text", "unrelated") or e["baseline"] != e["steered"]
        assert (e["from"] == "") == (e["kind"] == "unrelated")
    same = metrics["n"]["test"] - sum(kinds.count(k) for k in ("fixed", "broken", "moved", "text"))
    assert f"unchanged (50 of {same})" in page.text


def test_the_settings_say_how_a_chat_was_written(run: Path) -> None:
    asked = edit(run)["asked"] | {
        "chat_template": True,
        "chat_template_kwargs": {"enable_thinking": False},
        "system_prompt": "Be <brief>.",
    }
    edit(run, asked=asked)
    page = Page(report.write_run_report(run))
    how = 'in the chat template with {"enable_thinking": false}'
    assert f"{how}, behind the system prompt Be <brief>." in page.text
    edit(run, asked=edit(run)["asked"] | {"chat_template": False, "empty_prompt": "<s>"})
    assert "read as <s> where it is empty" in Page(report.write_run_report(run)).text


MARGIN = {
    "likelihood": "per_token", "n": 500, "baseline": -0.12, "steered": 0.0523, "shift": 0.1723,
    "ci": [0.101, 0.2436], "controls": {"random": [0.01, -0.0312, 0.002], "instruction": [0.5]},
}  # fmt: skip


def test_the_margin_of_the_right_option_stands_beside_its_controls(run: Path) -> None:
    edit(run, margin=MARGIN, asked=edit(run)["asked"] | {"likelihood": "per_token"})
    text = Page(report.write_run_report(run)).text
    assert "(nats per token), is on average −0.12 without and +0.0523 with steering" in text
    assert "a shift of +0.172 [+0.101, +0.244] over 500 questions (95 %, paired t)." in text
    assert "The controls shift it by: random features −0.0312 to +0.01; instruction +0.5." in text
    assert "0 of 3 plans of random features shift it as far up." in text
    assert "of options, per token" in text
    one = MARGIN | {"likelihood": "sum", "n": 1, "ci": None, "controls": {}}
    edit(run, margin=one, asked=edit(run)["asked"] | {"likelihood": None})
    text = Page(report.write_run_report(run)).text
    assert "one's (nats), is on" in text and "a shift of +0.172 over 1 question (95" in text
    assert "The controls shift it" not in text and "of options," not in text
    edit(run, margin=None)
    assert "The margin" not in Page(report.write_run_report(run)).text


def test_another_selectors_score_has_its_name_everywhere(run: Path) -> None:
    features = pd.read_csv(run / "features.csv")
    features.insert(3, "AUROC", 0.5 + features["r"] / 2)
    features["r"] = -0.123  # where it still stands, it says so
    features.to_csv(run / "features.csv", index=False)
    noise = {"features": 6, "below_ceiling": 2, "unstable": 1}
    edit(run, selector="AUROC", score="AUROC", noise=noise)
    page = Page(report.write_run_report(run))
    assert "AUROC by layer" in page.text and "Layer Feature AUROC Ceiling" in page.text
    assert "The noise ceiling is the AUROC that a layer's best feature exceeds" in page.text
    assert "features that have the highest AUROC on shuffled outcomes" in page.text
    assert "shuffled outcomes give features that do as well by AUROC" in page.text
    assert "Correlation by layer" not in page.text and "correlate as well" not in page.text
    drawn = json.dumps(page.data["fig-correlation"])
    assert "AUROC = " in drawn and "r = " not in drawn and "correlation with success" not in drawn
    cards = page.text.split("Chosen features")[1]
    assert cards.count("AUROC ") >= 6 and cards.count("r −0.123") == 6


def test_where_no_ceiling_is_known_the_page_says_so(run: Path) -> None:
    features = pd.read_csv(run / "features.csv")
    features.insert(3, "random number", 0.5)
    features[["ceiling", "stability", "q"]] = np.nan
    features["noise"] = False
    features.to_csv(run / "features.csv", index=False)
    noise = {"features": 6, "below_ceiling": None, "unstable": None}
    edit(run, selector="Random", score="random number", noise=noise)
    text = Page(report.write_run_report(run)).text
    assert "No noise ceiling is known for the random number" in text
    for wrong in ("exceeds its ceiling", "above ceiling", "nan", "false discovery", "stability"):
        assert wrong not in text.lower(), wrong
