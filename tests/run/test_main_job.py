"""The main job on the bundled model, as people type it: what it leaves, and that it is true.

At night the command as it stands, on a test split of 400 where that of the project has 2,000 and
100 unrelated prompts where it has 1,000 (experiments/main_job has the whole), and by day one of a
few samples in this process, serve all tests of this file; numbers are checked against a
recomputation from the answers that were saved.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from corrsteer.stats.choice import choose
from corrsteer.steering.plan import load_plan
from tests.command import ROOT, Ended, in_its_own_process, in_this_process

pytestmark = pytest.mark.long

BY_NIGHT = "python -m src.main task=bbq layers=all -m coef=0.5,1,2"
FEW = "limit=12 collect.shuffles=20 collect.resamples=20 side_effects=none"
BY_DAY = f"python -m src.main task=bbq layers=all -m coef=0.5,2 {FEW}"


@dataclass(frozen=True)
class Sweep:
    home: Path
    """An empty folder with links to src and conf, so that outputs/ is made there."""
    ended: Ended
    coefs: tuple[float, ...]
    sizes: dict[str, int]
    """Samples by split."""

    @property
    def folder(self) -> Path:
        (folder,) = (self.home / "outputs" / "sweeps").iterdir()
        return folder

    @property
    def jobs(self) -> list[Path]:
        return [self.folder / str(n) for n in range(len(self.coefs))]

    def single_run(self, words: str) -> Path:
        """The folder of another run of the day's size, in the same home."""
        runs = self.home / "outputs" / "runs"
        before = set(runs.iterdir()) if runs.exists() else set()
        command = f"python -m src.main task=bbq {words} controls=few side_effects=none {FEW}"
        ended = in_this_process(command, cwd=self.home)
        assert ended.code == 0, ended.err
        (run,) = set(runs.iterdir()) - before
        return run


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("day", marks=pytest.mark.day_only),
        pytest.param("night", marks=pytest.mark.night),
    ],
)
def sweep(request, tmp_path_factory):
    home = tmp_path_factory.mktemp(request.param)
    if request.param == "night":
        (home / "src").mkdir()
        shutil.copy(ROOT / "src" / "main.py", home / "src")  # Hydra finds conf/ beside the folder
        shutil.copytree(ROOT / "conf", home / "conf")
        for name, whole, fewer in (
            ("config.yaml", "\n  test: 2000 ", "\n  test: 400 "),
            ("side_effects/standard.yaml", "\nunrelated: 1000 ", "\nunrelated: 100 "),
        ):
            settings = home / "conf" / name
            assert settings.read_text().count(whole) == 1
            settings.write_text(settings.read_text().replace(whole, fewer))
        sizes = {"selection": 1000, "validation": 500, "test": 400}
        found = Sweep(home, in_its_own_process(BY_NIGHT, home), (0.5, 1.0, 2.0), sizes)
    else:
        for name in ("src", "conf"):
            (home / name).symlink_to(ROOT / name)
        sizes = dict.fromkeys(("selection", "validation", "test"), 12)
        found = Sweep(home, in_this_process(BY_DAY, home), (0.5, 2.0), sizes)
    assert found.ended.code == 0, found.ended.err
    return found


@pytest.fixture
def jobs(sweep):
    return sweep.jobs


def metrics(job):
    return json.loads((job / "metrics.json").read_text())


def answers(job):
    return pd.read_parquet(job / "answers.parquet")


def arm(table, name, split="test"):
    return table[(table["arm"] == name) & (table["split"] == split)].set_index("id")


def gains(job, kind="random"):
    return metrics(job)["controls"][kind]["gains"]


def drawn(job, kind):
    """Names of its arms: how many there are depends on how well they do."""
    return [f"{kind}_{n + 1}" for n in range(len(gains(job, kind)))]


def test_the_sweep_prints_its_table_and_leaves_one_report(sweep):
    assert "report.html" in sweep.ended.out
    table = pd.read_csv(sweep.folder / "summary.csv")
    assert table["coef"].tolist() == list(sweep.coefs)
    assert (table["state"] == "done").all()
    assert (sweep.folder / "report.html").stat().st_size > 100_000


AGAIN = """
import atexit, runpy, sys
heavy = {"nnsight", "sae_lens", "transformer_lens", "wandb", "optuna"}
atexit.register(lambda: print("heavy", sorted(heavy & set(sys.modules))))
sys.argv[0] = "src/main.py"
runpy.run_module("src.main", run_name="__main__", alter_sys=True)
"""


@pytest.mark.night
def test_a_run_that_finds_everything_imports_nothing_to_read_models_and_saes_with(sweep):
    few = FEW.split() if sweep.sizes["test"] == 12 else []
    words = ["task=bbq", "layers=all", "coef=0.5", "hydra.run.dir=again", *few]
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, *words], cwd=sweep.home, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy []"


def test_every_job_leaves_all_its_files(sweep):
    for job, coef in zip(sweep.jobs, sweep.coefs, strict=True):
        for name in (
            "config.yaml", "metrics.json", "answers.parquet", "features.csv", "contexts.json",
            "classes.csv", "report.html", "status.json", "log.txt", "plan/plan.json",
            "plan/vectors.safetensors",
        ):  # fmt: skip
            assert (job / name).is_file(), name
        assert json.loads((job / "status.json").read_text())["state"] == "done"
        plan = load_plan(job / "plan")
        assert plan.coef == coef
        assert [e.layer for e in plan.entries] == [0, 1, 2, 3, 4, 5]


def test_the_sweep_collects_once(jobs):
    misses = [(job / "log.txt").read_text().count("cache miss collect") for job in jobs]
    assert misses == [6, *(0 for _ in jobs[1:])]  # one entry per layer


def test_answers_hold_every_sample_of_every_arm(sweep):
    for job in sweep.jobs:
        table = answers(job)
        assert list(table.columns) == [
            "id", "split", "arm", "prompt", "answer", "parsed", "gold", "score", "invalid",
            "degenerate", "n_tokens", "n_steered", "option_log", "option_characters",
            "option_tokens", "margin",
        ]  # fmt: skip
        counts = table.groupby(["split", "arm"]).size()
        assert (counts["test"] == sweep.sizes["test"]).all()
        assert sorted(counts["test"].index) == [
            "baseline", "constrained", "flipped", "instruction", "layers_1",
            *sorted(drawn(job, "random") + drawn(job, "shuffled")), "steered",
        ]  # fmt: skip
        for half in ("test, letters only", "test, disambiguated"):
            assert sorted(counts[half].index) == ["baseline", "steered"]
            assert (counts[half] == sweep.sizes["test"]).all()
        assert counts["selection"]["baseline"] == sweep.sizes["selection"]
        same = table["split"].str.startswith("test, letters")
        assert (table[~same].groupby("id")["split"].nunique() == 1).all()  # splits do not overlap
        plain = table["arm"].isin(["baseline", "constrained", "instruction"])
        assert (table[~plain]["n_steered"] == table[~plain]["n_tokens"]).all()
        assert (table[plain]["n_steered"] == 0).all()
        asked, told = (arm(table, name)["prompt"] for name in ("baseline", "instruction"))
        assert (
            told == "Read the question carefully and give the correct answer.\n\n" + asked
        ).all()
        assert not arm(table, "constrained")["invalid"].any()


def test_metrics_are_what_the_answers_say(jobs):
    for job in jobs:
        m, table = metrics(job), answers(job)
        base, steered = arm(table, "baseline"), arm(table, "steered")
        steered = steered.loc[base.index]
        assert m["arms"]["baseline"]["accuracy"] == pytest.approx(base["score"].mean())
        assert m["arms"]["steered"]["accuracy"] == pytest.approx(steered["score"].mean())
        fixed = int(((base["score"] == 0) & (steered["score"] == 1)).sum())
        broken = int(((base["score"] == 1) & (steered["score"] == 0)).sum())
        assert (m["flips"]["fixed"], m["flips"]["broken"]) == (fixed, broken)
        assert fixed + broken > 0
        assert m["flips"]["ser"] == pytest.approx(broken / (fixed + broken))
        assert m["flips"]["mcnemar_p"] == pytest.approx(binomtest(fixed, fixed + broken).pvalue)
        random = [
            arm(table, name)["score"].mean() - base["score"].mean() for name in drawn(job, "random")
        ]
        np.testing.assert_allclose(gains(job), random, atol=1e-12)
        null = m["controls"]["random"]
        good = sum(gain >= m["gain"] - 1e-12 for gain in random)
        assert null["at_least_as_good"] == good and null["asked"] == 39
        assert len(random) == 39 or good == 10
        assert null["p"] == pytest.approx(10 / len(random) if good == 10 else (1 + good) / 40)
        invalid = base["invalid"]
        assert m["format"]["fixed_from_invalid"] == int((invalid & (steered["score"] == 1)).sum())
        assert m["format"]["fixed_from_invalid"] + m["format"]["fixed_from_wrong"] == fixed
        restricted = [arm(table, a, "test, letters only")["score"] for a in ("baseline", "steered")]
        letters = (restricted[1] - restricted[0]).mean()
        assert m["constrained_gain"]["gain"] == pytest.approx(letters)
        assert m["constrained_gain"]["difference"] == pytest.approx(letters - m["gain"])
        half = [arm(table, a, "test, disambiguated")["score"] for a in ("baseline", "steered")]
        assert m["one_answer"]["answer"] == "unknown"
        assert m["one_answer"]["half"]["gain"] == pytest.approx((half[1] - half[0]).mean())


def test_features_hold_the_chosen_one_of_every_layer(jobs):
    table = pd.read_csv(jobs[0] / "features.csv")
    chosen = table[table["chosen"]]
    assert chosen["layer"].tolist() == [0, 1, 2, 3, 4, 5]
    assert (chosen["rank"] == 1).all()
    assert (chosen["coefficient"] == chosen["mean_right"]).all()
    assert (table["noise"] == (table["r"] <= table["ceiling"])).all()


@pytest.mark.parametrize("sweep", [pytest.param("night", marks=pytest.mark.night)], indirect=True)
def test_steering_beats_its_controls_at_the_coef_chosen_on_validation(jobs):
    """Fixed beforehand: at least 5 points on ambiguous items, p < 0.001, above all random draws.
    That was with five draws, at the coef with the best validation accuracy, which is 2; three of
    39 do better there. Here it is the coef that is chosen by the rule of today."""
    right = [arm(answers(job), "steered", "validation")["score"].sort_index() for job in jobs]
    m = metrics(jobs[choose(np.array(right), [0.5, 1.0, 2.0]).chosen])
    assert m["gain"] >= 0.05
    assert m["flips"]["mcnemar_p"] < 0.001
    assert m["controls"]["random"]["at_least_as_good"] == 0


by_day = pytest.mark.parametrize("sweep", ["day"], indirect=True)


@by_day
def test_coef_0_is_the_baseline_answer_for_answer(sweep):
    run = sweep.single_run("layers=all coef=0")
    table = answers(run)
    base, steered = arm(table, "baseline"), arm(table, "steered")
    assert steered.loc[base.index, "answer"].tolist() == base["answer"].tolist()
    assert (steered["n_steered"] > 0).all()
    assert metrics(run)["flips"]["ser"] is None


@by_day
def test_a_layer_subset_reuses_what_all_layers_collected(sweep):
    run = sweep.single_run("layers=[1,3] name=two")
    assert run.name.endswith("_two")
    assert "cache miss collect" not in (run / "log.txt").read_text()
    assert [e.layer for e in load_plan(run / "plan").entries] == [1, 3]


@pytest.mark.night
def test_all_seven_tasks_run_end_to_end(tmp_path):
    for name in ("src", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    names = "bbq,mmlu,mmlu_pro,gsm8k,simpleqa,harmbench,xstest"
    ended = in_its_own_process(
        f"python -m src.main -m task={names} transfer=[bbq,gsm8k] limit=16 controls=few"
        " side_effects=none hydra.sweep.dir=outputs/seven",
        cwd=tmp_path,
    )
    assert ended.code == 0, ended.err
    seven = tmp_path / "outputs" / "seven"
    rows = (seven / "verdict.md").read_text().splitlines()
    assert len([row for row in rows if row.startswith("|")]) == 2 + 7
    for n, name in enumerate(names.split(",")):
        m = metrics(seven / str(n))
        assert m["task"] == name
        assert m["n"]["test"] == 16
        assert ("constrained" in m["arms"]) == (name in ("bbq", "mmlu", "mmlu_pro"))
        assert m["data"]["source"] == "bundled"
        assert m["data"]["rows"] == sum(m["data"]["categories"].values()) >= 1800
        assert len(m["data"]["fingerprint"]) == 32
        assert list(m["transfer"]) == ["bbq", "gsm8k"] and m["transfer"]["gsm8k"]["n"] == 16
        if name in m["transfer"]:
            assert m["transfer"][name]["gain"] == m["gain"]
        assert m["scorer"]["version"] >= 1
        own = {"bbq": {"bias_ambig"}, "xstest": {"over_refusal", "under_refusal"}}
        assert own.get(name, set()) <= set(m["task_metrics"]["baseline"])
