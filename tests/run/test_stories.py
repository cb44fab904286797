"""The pipeline on a small model trained by others, with random SAEs and the task ``stories``.

The model (shared/models/stories260K) has what the bundled one has not: float16 weights, no
padding token, two tokens that end a text, one of which is BOS. Independent reference: a greedy
loop over plain transformers, one prompt at a time.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

from corrsteer import config
from corrsteer.models.local import Local
from corrsteer.models.spec import Model
from corrsteer.steering.plan import Plan, PlanEntry
from tests.command import ROOT, in_this_process

LAYERS, WIDTH = 5, 64
BOS, EOS = 1, 2

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def folder(shared) -> Path:
    folder = shared / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip(f"no story model at {folder}")
    return folder


@pytest.fixture(scope="module")
def saes(tmp_path_factory, save_sae) -> Path:
    root = tmp_path_factory.mktemp("story_saes")
    for layer in range(LAYERS):
        save_sae(root / f"layer_{layer}", layer, width=WIDTH, features=64)
    return root


def model_settings(folder: Path) -> list[str]:
    return ["model=folder", "model.name=stories", f"model.path={folder}", "model.dtype=float32"]


@pytest.fixture(scope="module")
def task():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return config.instantiate(compose("config", ["task=stories"]).task)


@pytest.fixture(scope="module")
def prompts(task):
    prompts = [e.prompt for e in task.examples()[:10]]
    assert len({len(p) for p in prompts}) > 5  # else a batch would need little padding
    return prompts


@pytest.fixture(scope="module")
def model(folder):
    return Local(device="cpu", batch_size=10).load(Model("stories", str(folder), dtype="float32"))


def plan(coef: float) -> Plan:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(LAYERS, WIDTH)).astype(np.float32) / np.sqrt(WIDTH)
    return Plan(tuple(PlanEntry(n, 0, 0.0, 1.0, v) for n, v in enumerate(vectors)), coef)


@pytest.fixture(scope="module")
def written(model, prompts):
    """Answers of ten prompts in one batch: unsteered, dial at 0, dial at 1."""
    return model.generate(prompts, [None, plan(0.0), plan(1.0)], max_new_tokens=300)


def alone(folder, prompt: str, n: int) -> tuple[int, ...]:
    """The greedy answer to one prompt, by a loop without cache, batch or generate."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = [BOS, *tokenizer(prompt, add_special_tokens=False).input_ids]
    answer: list[int] = []
    while len(answer) < n and not {BOS, EOS} & set(answer):
        with torch.no_grad():
            logits = module(input_ids=torch.tensor([ids + answer])).logits[0, -1]
        answer.append(int(logits.argmax()))
    return tuple(answer)


@pytest.mark.night
@pytest.mark.parametrize("n", [0, *(pytest.param(n, marks=pytest.mark.night) for n in (3, 7))])
def test_a_batch_answers_as_a_plain_loop_over_each_prompt_alone(folder, written, prompts, n):
    assert written[0][n].tokens == alone(folder, prompts[n], 300)


@pytest.mark.night
@pytest.mark.parametrize(
    ("arm", "length"),
    [
        pytest.param(2, 45, id="steered"),
        pytest.param(0, 90, id="unsteered, longer", marks=pytest.mark.night),
        pytest.param(2, 90, id="steered, longer", marks=pytest.mark.night),
    ],
)
def test_answers_do_not_depend_on_the_batch_size(model, folder, prompts, written, arm, length):
    single = Local(device="cpu", batch_size=1).load(Model("stories", str(folder), dtype="float32"))
    of_one = [[None, plan(0.0), plan(1.0)][arm]]
    (one_by_one,) = single.generate(prompts, of_one, max_new_tokens=length)
    assert [c.tokens for c in one_by_one] == [c.tokens[:length] for c in written[arm]]


@pytest.mark.night
def test_dial_at_0_reproduces_the_baseline_token_for_token(written):
    baseline, off, on = written
    assert [c.tokens for c in off] == [c.tokens for c in baseline]
    assert [c.steered for c in off] == [len(c.tokens) for c in off]
    assert [c.tokens for c in on] != [c.tokens for c in baseline]


def test_a_story_stops_at_the_first_bos_or_eos(written):
    ended = [c for c in written[0] if c.tokens[-1] == BOS]
    assert len(ended) >= 5  # at 300 tokens four in five stories have ended
    for completion in (c for arm in written for c in arm):
        assert not {BOS, EOS} & set(completion.tokens[:-1])
        assert len(completion.tokens) == 300 or completion.tokens[-1] in (BOS, EOS)
        assert "<s>" not in completion.text and "</s>" not in completion.text


@pytest.fixture(scope="module")
def jobs(folder, saes, tmp_path_factory):
    """Run folders of coef 0 and 2, from one command."""
    home = tmp_path_factory.mktemp("home")  # outputs/ is made here
    for name in ("src", "conf"):
        (home / name).symlink_to(ROOT / name)
    words = [
        *model_settings(folder), f"sae.path={saes}",
        "sae.check=off",  # random SAEs fit no site
        "task=stories", "layers=all", "-m", "coef=0,2", "task.max_new_tokens=96",
        "splits={selection: 24, validation: 6, test: 16}", "collect.shuffles=20",
        "controls=few",
        "side_effects=none",
    ]  # fmt: skip
    ended = in_this_process(f"python -m src.main {shlex.join(words)}", cwd=home)
    assert ended.code == 0, ended.err
    (sweep,) = (home / "outputs" / "sweeps").iterdir()
    return {0: sweep / "0", 2: sweep / "1"}


def table(job: Path, arm: str, split: str = "test") -> pd.DataFrame:
    answers = pd.read_parquet(job / "answers.parquet")
    return answers[(answers["arm"] == arm) & (answers["split"] == split)].set_index("id")


def metrics(job: Path) -> dict:
    return json.loads((job / "metrics.json").read_text())


@pytest.mark.night
def test_the_pipeline_runs_with_every_arm_but_the_letters(jobs):
    values = metrics(jobs[2])
    assert values["n"] == {"selection": 24, "validation": 6, "test": 16}
    assert list(values["arms"]) == ["baseline", "steered", "random_1", "random_2"]
    assert (jobs[2] / "report.html").is_file()
    assert set(pd.read_csv(jobs[2] / "features.csv")["layer"]) == set(range(LAYERS))


def test_invalid_answers_are_counted_apart(jobs, task):
    values = metrics(jobs[2])["arms"]
    for arm in ("baseline", "steered"):
        rows = table(jobs[2], arm)
        example = task.examples()[0]
        parsed = [task.scorer(example, text).parsed for text in rows["answer"]]
        counts = {name: parsed.count(name) for name in ("wanted", "unwanted", None)}
        counted = values[arm]
        assert (counted["right"], counted["wrong"], counted["invalid"]) == tuple(counts.values())
        assert counted["accuracy"] == counts["wanted"] / len(rows)
    assert values["baseline"]["invalid"] > 0 and values["baseline"]["wrong"] > 0


def test_coef_0_changes_nothing_and_coef_2_fires_at_every_token(jobs):
    off = metrics(jobs[0])
    assert off["gain"] == 0 and off["flips"]["fixed"] == off["flips"]["broken"] == 0
    assert off["flips"]["ser"] is None
    assert table(jobs[0], "steered")["answer"].equals(table(jobs[0], "baseline")["answer"])
    on = table(jobs[2], "steered")
    assert (on["n_steered"] == on["n_tokens"]).all()
    assert (on["answer"] != table(jobs[2], "baseline")["answer"]).any()
    assert (table(jobs[2], "baseline")["n_steered"] == 0).all()
