"""Side effects and transfer in a real run of the bundled model, against recomputations from what it
saved and from the model itself."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from corrsteer.config import instantiate, resolved_yaml
from corrsteer.run.pipeline import run
from corrsteer.run.typed import plain_words
from corrsteer.steering.plan import load_plan
from corrsteer.store.runfolder import RunFolder
from corrsteer.tasks.neutral import read_neutral
from tests.test_config import composed

pytestmark = pytest.mark.long

WORDS = [
    *("task=bbq", "coef=2", "layers=[1,4]", "controls=few", "backend.device=cpu", "limit=60"),
    *("collect.shuffles=20", "collect.resamples=20"),
    "side_effects.new_tokens=6",
]
EFFECTS = "side_effects.answers=40"
TRANSFER = "transfer=[mmlu,bbq]"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("effects")


def carried_out(place, name, *more):
    folder = place / name
    words = plain_words([*WORDS, f"cache={place / 'cache'}", *more])
    folder.mkdir()
    cfg, kept = composed(*words), RunFolder(folder)
    kept.start(words)
    kept.write_config(resolved_yaml(cfg))
    run(cfg, folder)
    return folder


@pytest.fixture(scope="module")
def done(place):
    folder = carried_out(place, "run", EFFECTS, TRANSFER)
    answers = pd.read_parquet(folder / "answers.parquet")
    return folder, json.loads((folder / "metrics.json").read_text()), answers


def of(answers, split, arm):
    return answers[(answers["split"] == split) & (answers["arm"] == arm)].reset_index(drop=True)


@pytest.mark.night
def test_unrelated_answers_are_those_of_the_fixed_set(done):
    _, metrics, answers = done
    off = metrics["side_effects"]["off_target"]
    base, steered = (of(answers, "unrelated", arm) for arm in ("baseline", "steered"))
    asked = read_neutral("world", 60, 0).prompts
    assert base["id"].tolist() == [e.id for e in asked]
    assert base["prompt"].tolist() == [e.prompt for e in asked]
    changed = int((base["answer"] != steered["answer"]).sum())
    assert (off["n"], off["source"]) == (60, "world")
    assert off["arms"]["steered"]["changed"] == changed > 0
    assert list(off["arms"]) == ["steered", "random_1", "random_2"]
    flips = metrics["flips"]
    expected = (changed / 60) / (flips["fixed"] / flips["n"])
    assert metrics["ser"]["off_target"] == pytest.approx(expected)
    assert (base["n_steered"] == 0).all() and (steered["n_steered"] == steered["n_tokens"]).all()


def test_divergence_and_perplexity_are_those_of_the_model(done, place):
    folder, metrics, answers = done
    cfg = composed(*plain_words(WORDS))
    model = instantiate(cfg.backend).load(instantiate(cfg.model))
    plan, texts = load_plan(folder / "plan"), read_neutral("world", 0, 60).texts
    (column,) = model.divergence(list(texts), [plan])
    steered = metrics["side_effects"]["neutral"]["arms"]["steered"]
    total = sum(d.positions for d in column)
    assert steered["kl"] == pytest.approx(sum(d.kl for d in column) / total)
    assert steered["kl"] > 0 and metrics["side_effects"]["neutral"]["n_positions"] == total
    read = of(answers, "test", "steered").iloc[:40]
    (entry,) = {e["perplexity"] for e in [metrics["side_effects"]["text"]["arms"]["steered"]]}
    # Tokens of an answer are not in answers.parquet, but those of a greedy answer are its text.
    assert entry > 1 and metrics["side_effects"]["text"]["arms"]["steered"]["n"] == len(read)
    base = metrics["side_effects"]["text"]["arms"]["baseline"]["perplexity"]
    assert 1 < base < entry  # the unsteered model's own greedy answers are likelier to it


def test_activity_is_counted_at_the_layers_of_the_job(done):
    _, metrics, answers = done
    activity = metrics["side_effects"]["activity"]
    base = of(answers, "test", "baseline").iloc[:40]
    assert activity["n"] == 40 and activity["n_positions"] == base["n_tokens"].sum()
    assert [(row["layer"], row["steered"]) for row in activity["layers"]] == [(1, True), (4, True)]
    for row in activity["layers"]:
        moved = row["l0_before"] + row["new"] - row["lost"]
        assert row["l0_after"] == pytest.approx(moved) and row["l0_before"] > 1


def test_transfer_answers_other_tasks_under_the_plan(done):
    _, metrics, answers = done
    mmlu = metrics["transfer"]["mmlu"]
    base, steered = (of(answers, "transfer mmlu", arm) for arm in ("baseline", "steered"))
    assert mmlu["n"] == len(base) == 60 and base["prompt"].str.contains("D.").all()
    right = [(frame["score"] >= 0.5).to_numpy() for frame in (base, steered)]
    assert mmlu["gain"] == pytest.approx(right[1].mean() - right[0].mean())
    assert mmlu["flips"]["fixed"] == int((~right[0] & right[1]).sum())
    assert len(mmlu["random_gains"]) == 2
    # The task itself is its own column: the same answers as the test split's.
    own = of(answers, "transfer bbq", "steered")
    assert own["answer"].tolist() == of(answers, "test", "steered")["answer"].tolist()
    assert metrics["transfer"]["bbq"]["gain"] == metrics["gain"]


@pytest.mark.night
def test_the_same_again_costs_nothing_and_off_is_off(done, place):
    folder, metrics, answers = done
    again = carried_out(place, "again", EFFECTS, TRANSFER, "coef=0")
    zero = json.loads((again / "metrics.json").read_text())
    effects = zero["side_effects"]
    assert effects["off_target"]["arms"]["steered"]["changed"] == 0
    assert effects["neutral"]["arms"]["steered"]["kl"] == 0
    assert all(row["new"] == row["lost"] == 0 for row in effects["activity"]["layers"])
    assert zero["changes"] == {"text": 0, "text_same_outcome": 0, "answer": 0}
    assert zero["ser"]["off_target"] is None and zero["transfer"]["mmlu"]["gain"] == 0


def test_without_side_effects_there_are_none(place):
    folder = carried_out(place, "none", "side_effects=none")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["side_effects"] is None and metrics["ser"]["off_target"] is None
    assert set(pd.read_parquet(folder / "answers.parquet")["split"]) == {
        "selection", "validation", "test", "test, letters only",
    }  # fmt: skip
    assert np.isfinite(metrics["gain"])
