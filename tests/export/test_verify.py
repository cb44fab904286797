"""``verify`` and ``inspect``: what is told of a plan, and what is refused, in a line."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from corrsteer.__main__ import main
from corrsteer.steering.identity import kind, of_folder
from corrsteer.steering.plan import load_plan
from tests.export.conftest import plan_of
from tests.export.test_refusals import moved, refused
from tests.operators import Clamp, Side

ABOUT = {
    "model": {"name": "tiny", "architecture": "llama", "fingerprint": "ab" * 32},
    "saes": {"0": "mine/layer_0"},
    "task": {"name": "bbq"},
    "selector": {"name": "Correlation", "score": "r"},
    "coefficient": "MeanRight",
    "splits": {"test": {"n": 7}},
    "seed": 3,
    "versions": {"numpy": "0.0.1", "no-such-package": "9"},
}


def test_inspect_prints_a_card_without_colours_when_piped(tmp_path, capsys):
    replace(plan_of(-0.5), about=ABOUT).save(tmp_path)
    assert main(["inspect", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    told = dict(line.split(maxsplit=1) for line in said.splitlines() if line[:1].isalpha())
    assert told["model"] == "tiny, llama" and told["dial"] == "-0.5"
    assert told["layers"] == "0, 1, 2 (width 32)" and told["gate"] == "always"
    assert told["positions"] == "generation" and told["operator"] == "Add()"
    assert (told["selector"], told["coefficient"]) == ("Correlation, by r", "MeanRight")
    assert "bbq, test 7, seed 3" in said and "no-such-package 9" in said
    (row,) = [line.split() for line in said.splitlines() if "mine/layer_0" in line]
    norm = plan_of().entries[0].norm
    assert row == ["0", "mine/layer_0", "10", "-", "0.000", "2.5", f"{norm / 2:.4g}"]


def test_inspect_calls_a_score_by_its_name(tmp_path, capsys):
    entries = tuple(replace(e, r=0.25, about={"AUROC": 0.75}) for e in plan_of().entries)
    about = {**ABOUT, "selector": {"name": "AUROC", "score": "AUROC"}}
    replace(plan_of(), entries=entries, about=about).save(tmp_path)
    assert main(["inspect", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    (titles,) = [line.split() for line in said.splitlines() if "norm at" in line]
    (row,) = [line.split() for line in said.splitlines() if "mine/layer_0" in line]
    assert titles[4:6] == ["AUROC", "r"] and row[4:6] == ["0.75", "0.250"]


def test_inspect_shows_a_plan_that_was_made_by_hand(tmp_path, capsys):
    plan_of(operator=Clamp(2.0), gate=Side(1), layers=()).save(tmp_path)
    assert main(["inspect", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "none: it was made by hand" in said
    assert sum(line.endswith("  not said") for line in said.splitlines()) == 5
    assert "Clamp(level=2.0)" in said and "Side(seed=1)" in said


def test_a_plan_alone_is_checked_as_far_as_that_goes(tmp_path, capsys):
    replace(plan_of(), about=ABOUT).save(tmp_path)
    assert main(["verify", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("whole, unchanged since it was saved, all numbers finite")
    assert said[1].split(maxsplit=1)[1].startswith("not checked: give its folder")
    assert "numpy 0.0.1 (here " in said[3] and "no-such-package 9 (here not installed)" in said[3]
    assert said[-1] == "OK, of what could be checked"


def test_what_is_no_plan_or_was_changed_is_one_line(tmp_path, capsys):
    assert "there is no folder" in refused(capsys, "verify", tmp_path / "none")
    for command in ("verify", "inspect"):
        assert "there is no plan in" in refused(capsys, command, tmp_path)
    plan_of().save(tmp_path)
    text = (tmp_path / "plan.json").read_text()
    (tmp_path / "plan.json").write_text(text.replace('"coef": 1.5', '"coef": 2.5'))
    for command in ("verify", "inspect"):
        assert "plan.json was changed since it was saved" in refused(capsys, command, tmp_path)


def test_a_model_is_compared_with_the_plan_s(run_of, tiny_model, tmp_path, capsys):
    run, tiny = run_of("llama"), tiny_model("llama")
    another = tiny_model("gpt2")  # shows how it is written
    capsys.readouterr()
    assert main(["verify", str(run)]) == 0
    assert f"{tiny}: the plan's" in capsys.readouterr().out
    assert main(["verify", str(run / "plan"), str(tiny)]) == 0
    assert f"{tiny}: the plan's" in capsys.readouterr().out
    assert "made for a llama" in refused(capsys, "verify", run, another)
    assert "no such folder" in refused(capsys, "verify", run, tmp_path / "none")
    shutil.copytree(tiny, tmp_path / "other")
    (tmp_path / "other" / "more.txt").write_text("trained on")
    assert "is not the model" in refused(capsys, "verify", run, tmp_path / "other")
    gone = moved(run, tmp_path / "gone", str(tiny), "/nowhere/model")
    assert main(["verify", str(gone)]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith("model     not checked: ") and "/nowhere/model" in line


def test_a_model_of_the_hub_or_of_a_file_is_told_by_its_commit_or_its_digest(
    tiny_model, tmp_path, capsys
):
    tiny, commit = tiny_model("llama"), "0123456789" * 4
    told = {"name": "x", "architecture": "llama", "fingerprint": f"org/x@{commit}"}
    plan = replace(plan_of(), about={"model": told})
    plan.save(tmp_path / "plan")
    snapshot = tmp_path / "models--org--x" / "snapshots" / commit
    shutil.copytree(tiny, snapshot)
    assert main(["verify", str(tmp_path / "plan"), str(snapshot)]) == 0
    assert f"{snapshot}: the plan's" in capsys.readouterr().out
    newer = snapshot.rename(snapshot.with_name("f" * 40))
    line = refused(capsys, "verify", tmp_path / "plan", newer)
    assert f"org/x@{'f' * 40}, and not org/x@{commit}" in line
    assert "cannot be told from its files" in refused(capsys, "verify", tmp_path / "plan", tiny)
    file = tmp_path / "x.gguf"
    file.write_bytes(b"GGUF")
    assert "is not the file" in refused(capsys, "verify", tmp_path / "plan", file)
    assert [kind(text) for text in ("gguf@1", "org/x@1", "ab")] == ["gguf", "hub", "files"]
    assert of_folder(tmp_path, "files") is None and of_folder(tiny, "gguf") is None


def test_saes_are_compared_with_the_plan_s(run_of, tiny_saes, tmp_path, capsys):
    from corrsteer.saes.folder import Folder

    run = moved(run_of("llama"), tmp_path / "run", "path: none", f"path: {tiny_saes}")
    saes = Folder(name="mine", path=str(tiny_saes))
    plan = load_plan(run)
    prints = {str(e.layer): saes.fingerprint(e.layer) for e in plan.entries}
    replace(plan, about={**plan.about, "sae_fingerprints": prints}).save(run / "plan")
    assert main(["verify", str(run)]) == 0
    said = capsys.readouterr().out
    assert "those of the plan" in said and said.splitlines()[-1] == "OK"
    prints["1"] = "0" * 64
    replace(plan, about={**plan.about, "sae_fingerprints": prints}).save(run / "plan")
    assert "the SAE of layer 1" in refused(capsys, "verify", run)


@pytest.mark.parametrize("words", ["verify", "inspect", "inspect a b", "verify a b c"])
def test_a_wrong_command_is_one_line(capsys, words):
    with pytest.raises(SystemExit) as end:
        main(words.split())
    assert end.value.code == 2 and capsys.readouterr().err.count("\n") == 1
