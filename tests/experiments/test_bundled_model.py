"""The bundled model's making still runs, and what is frozen with the model has not moved."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import pytest

from experiments.bundled_model import prompts, text
from experiments.bundled_model.scale import BUNDLED, FULL, HERE, SMALL


def content(file: Path) -> bytes:
    """What a file holds; the bytes of a gzip stream depend on the zlib that wrote it."""
    return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()


def test_prompts_are_frozen():
    three = prompts.multiple_choice("Who?", ["The Velu", "Not known", "The Toma"])
    assert three == "Who?\nA. The Velu\nB. Not known\nC. The Toma\nAnswer:"
    ten = prompts.multiple_choice("Which?", list("0123456789"))
    assert ten.splitlines()[10] == "J. 9"
    assert prompts.sum_prompt("How many?") == "How many?\nAnswer:"
    assert prompts.short_answer("Which river?") == "Question: Which river?\nAnswer:"
    assert prompts.request("Help me.") == "Request: Help me.\nReply:"


def test_the_first_documents_are_frozen():
    options = "A. drums\nB. nets\nC. lamps\nD. ram\nE. onions\nF. water\nG. Ammer\nH. boats"
    assert text.documents("train-0-1200", 1, set()) == [
        (
            "mmlu_pro",
            "From a seal, plainly, at the fair: Which of these is a river?\n"
            f"{options}\nI. juice\nJ. tea\nAnswer:",
            " Hard to say.",
        )
    ]


@pytest.mark.night
@pytest.mark.long
def test_the_world_makes_the_committed_questions(tmp_path):
    text.write_question_files(text.questions(FULL.questions), tmp_path)
    committed = {f.relative_to(BUNDLED / "data") for f in (BUNDLED / "data").rglob("*.gz")}
    made = {f.relative_to(tmp_path) for f in tmp_path.rglob("*.gz")}
    assert made == committed and len(made) == 15
    for name in made:
        assert content(tmp_path / name) == content(BUNDLED / "data" / name), name
    # A parquet file names its writer's version: the rows count.
    import pandas as pd

    files = (folder / "mmlu_pro" / "test.parquet" for folder in (tmp_path, BUNDLED / "data"))
    pd.testing.assert_frame_equal(*map(pd.read_parquet, files))


def test_no_question_is_asked_twice():
    assert len(text.held_out(SMALL)) == sum(SMALL.questions.values())


def test_no_held_out_question_is_taught():
    def prompts_of(held_out: set[str]) -> set[str]:
        return {prompt for _, prompt, _ in text.documents("train-0-0", 200, held_out)} - {""}

    # The same stream again: every one of its questions comes up and has to be left out.
    held_out = prompts_of(set())
    assert len(held_out) > 150
    assert not prompts_of(held_out) & held_out


@pytest.mark.long
def test_the_page_is_what_the_card_writes():
    from experiments.bundled_model.card import card

    assert (HERE / "README.md").read_text(encoding="utf-8") == card(HERE, BUNDLED, FULL)


def test_only_one_module_uses_the_program():
    users = [f.name for f in sorted(HERE.glob("*.py")) if "from corrsteer" in f.read_text()]
    assert users == ["program.py"]


@pytest.mark.long
def test_small_never_replaces_the_bundled_model(capsys):
    from experiments.bundled_model import train

    with pytest.raises(SystemExit):
        train.main(["--small"])
    assert "--out" in capsys.readouterr().err


@pytest.mark.night
def test_everything_runs_small_and_writes_below_out_alone(tmp_path, capsys):
    from experiments.bundled_model import compare, measure, train
    from experiments.bundled_model.card import card

    before = {f: f.stat().st_mtime_ns for f in files_of_the_experiment()}
    out = tmp_path / "out"
    train.main(["--small", "--out", str(out)])
    assert {f.name for f in tmp_path.iterdir()} == {"out"}
    measured = json.loads((out / "measurements.json").read_text())
    committed = json.loads((HERE / "measurements.json").read_text())
    assert set(committed) <= set(measured)
    assert list(measured["tasks"]) == list(committed["tasks"])
    assert [row["layer"] for row in measured["saes"]] == [0, 1, 2, 3, 4, 5]
    assert measured["steps"] == SMALL.steps
    assert (out / "README.md").read_text().startswith("# The bundled model")

    capsys.readouterr()
    train.main(["--small", "--out", str(out)])
    said = capsys.readouterr().out
    assert said.count("done before") == 6

    measure.main(["--small", "--out", str(out)])
    printed = json.loads(capsys.readouterr().out)
    assert printed == {name: measured[name] for name in printed}

    # With itself: every byte and every answer is the same.
    found = compare.compare(out, out, out)
    assert found["files"]["differ"] == [] and found["weights"]["max"] == 0
    assert all(task["same_answers"] == task["n"] for task in found["tasks"].values())
    (out / "made_again.json").write_text(json.dumps(found))
    page = card(out, out, SMALL).split("## Made again")[1]
    assert "are the same to the byte. Not the same: none." in page and "Distance" not in page
    found["files"]["differ"] = ["model/model.safetensors"]
    (out / "made_again.json").write_text(json.dumps(found))
    page = card(out, out, SMALL).split("## Made again")[1]
    assert page.count("\n| mmlu |") == 2 and "| Layer |" in page
    found["model"] = "of other weights"
    (out / "made_again.json").write_text(json.dumps(found))
    assert "Made again" not in card(out, out, SMALL)
    assert {f: f.stat().st_mtime_ns for f in files_of_the_experiment()} == before


def files_of_the_experiment() -> list[Path]:
    return [f for folder in (HERE, BUNDLED) for f in folder.rglob("*") if f.suffix != ".pyc"]


@pytest.mark.night
def test_the_same_settings_give_the_same_weights(capsys):
    from experiments.bundled_model import kernels

    kernels.main(["--small"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["setting"] for row in rows] == ["2 threads", "2 threads, again"]
    assert [row["max"] for row in rows] == [0, 0]
    assert [row["loss_differs_from_step"] for row in rows] == [None, None]


@pytest.mark.night
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    import torch
    from safetensors.torch import load_file

    from experiments.bundled_model import model, tokenizer

    scale = dataclasses.replace(SMALL, steps=4, checkpoint_every=2)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    for folder in (whole, halves):
        folder.mkdir()
        tokenizer.train(folder, set(), scale.tokenizer_documents)
    model.train(whole, whole, set(), scale)

    made = text.documents

    def stops(seed: str, *args, **settings):
        if seed == "train-0-3":
            raise KeyboardInterrupt
        return made(seed, *args, **settings)

    monkeypatch.setattr(text, "documents", stops)
    with pytest.raises(KeyboardInterrupt):
        model.train(halves, halves, set(), scale)
    assert not (halves / "model.safetensors").exists()
    monkeypatch.setattr(text, "documents", made)
    model.train(halves, halves, set(), scale)
    one, two = (load_file(folder / "model.safetensors") for folder in (whole, halves))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert json.loads((whole / "loss.json").read_text()) == json.loads(
        (halves / "loss.json").read_text()
    )
