"""Training SAEs on a story model still runs, and its openings have not moved."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from experiments.stories260k.openings import OPENINGS, openings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(shared) -> Path:
    folder = shared / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip(f"no story model at {folder}")
    return folder


def test_openings_are_frozen():
    texts = [text for text, _ in islice(openings(), OPENINGS + 1000)]
    assert texts[0] == (
        "Amy was a little girl who lived near a lake. One day, Amy ran to get her new bag on the "
        "hill and hurt her leg. She was angry."
    )
    assert len(set(texts)) == len(texts)
    assert hashlib.sha256("\n".join(texts).encode()).hexdigest() == (
        "b55f09eea56d6377ef642a7daf3cf8b960f84500929eba10bb3b3affc4134857"
    )


@pytest.fixture(scope="module")
def saes(model, tmp_path_factory) -> Path:
    from experiments.stories260k import train_saes

    out = tmp_path_factory.mktemp("saes")
    train_saes.main([str(model), "--out", str(out), "--small"])
    return out


@pytest.mark.night
def test_saes_are_trained_and_measured_small(saes):
    measured = json.loads((saes / "quality.json").read_text())
    assert [row["layer"] for row in measured] == [0, 1, 2, 3, 4]
    assert measured[0]["before"] and measured[4]["after"] is None
    assert {f.name for f in saes.iterdir()} == {
        *(f"layer_{n}" for n in range(5)), "quality.json", "residuals.pt"
    }  # fmt: skip


@pytest.mark.night
def test_the_page_s_commands_run_small(model, saes, tmp_path, capsys):
    from experiments.stories260k import base_rates, read_answers

    for name in ("src", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = [
        sys.executable, "-m", "src.main", "model=folder", "model.name=stories260k",
        f"model.path={model}", "model.dtype=float32", f"sae.path={saes}", "task=stories",
        "layers=all", "backend.batch_size=500", "controls=few", "side_effects=none",
        "-m", "coef=0.5,1",
        # What follows makes it small; SAEs that were hardly trained fit no site.
        "sae.check=off", "splits={selection: 40, validation: 10, test: 20}",
        "collect.shuffles=20", "task.max_new_tokens=48",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    capsys.readouterr()

    read_answers.main([str(sweep), "--model", str(model)])
    found = json.loads(capsys.readouterr().out)
    assert [job["coef"] for job in found["jobs"]] == [0.5, 1]
    for job in found["jobs"]:
        metrics = json.loads((sweep / str(found["jobs"].index(job)) / "metrics.json").read_text())
        assert job["fixed"]["n"] == metrics["flips"]["fixed"]
        for name, arm in (("unsteered", "baseline"), ("steered", "steered")):
            assert job[name]["invalid"] == round(metrics["arms"][arm]["invalid"] / 20, 3)
            assert job[name]["wrong_not_invalid"] == round(metrics["arms"][arm]["wrong"] / 20, 3)
    assert set(found["length_over_residuals"]) == {"0", "1", "2", "3", "4"}

    base_rates.main([str(model), "--small"])
    rates = json.loads(capsys.readouterr().out)
    assert rates["right"] + rates["wrong"] + rates["invalid"] == pytest.approx(100, abs=0.2)


def test_a_text_repeats_itself_when_half_its_triples_do():
    from experiments.stories260k.read_answers import repeats

    assert repeats("the dog, the dog, the dog, the dog, the dog,")
    assert not repeats("They were happy. They wanted to play with the boat.")
    assert not repeats("Oh.")


@pytest.mark.night
def test_stories_end_at_the_first_stop_and_openings_are_new(model):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from experiments.stories260k import train_saes

    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    stream = train_saes.documents(loaded, tokenizer, OPENINGS, train_saes.SMALL)
    later = [text for text, _ in islice(openings(), OPENINGS, OPENINGS + 8)]
    for documents in islice(stream, 2):  # one greedy, one sampled
        for ids, n_prompt in documents:
            assert tokenizer.decode(ids[1:n_prompt]) == later.pop(0)
            assert not set(train_saes.STOP) & set(ids[n_prompt:-1])
            assert len(ids) - n_prompt <= train_saes.SMALL.new_tokens
