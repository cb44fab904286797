"""A task of one's own, typed on the real command line and run on the bundled model."""

import csv
import gzip
import io
import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from corrsteer.config import instantiate
from corrsteer.models.spec import Model
from corrsteer.run import build
from corrsteer.run.typed import plain_words
from tests.command import ROOT, in_its_own_process, in_this_process
from tests.test_config import composed

BUNDLED = ROOT / "src" / "corrsteer" / "bundled"
SMALL = (
    "layers=[2] controls=few side_effects=none limit=20 collect.shuffles=20 cache=cache"
    " hydra.run.dir=run"
)

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def rows():
    """Questions that the bundled model can answer in part."""
    text = gzip.decompress((BUNDLED / "data" / "mmlu" / "farming_test.csv.gz").read_bytes())
    return [
        {"ask": q, "choices": options, "answer": letter, "right": "ABCD".index(letter)}
        for q, *options, letter in csv.reader(io.StringIO(text.decode()))
    ][:240]


@pytest.fixture
def home(tmp_path, rows):
    for name in ("src", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    write(tmp_path / "my.jsonl", rows)
    (tmp_path / "my_module.py").write_text(
        "def short(example, text):\n    return len(text) % 2 == 0\n"
    )
    return tmp_path


def write(file, rows):
    file.write_text("\n".join(map(json.dumps, rows)))


def run(home, command, typed=in_this_process):
    """(metrics, baseline answers of the test split) of a run that must end well."""
    ended = typed(f"{command} {SMALL}", cwd=home)
    assert ended.code == 0, ended.err
    answers = pd.read_parquet(home / "run" / "answers.parquet")
    answers = answers[(answers["split"] == "test") & (answers["arm"] == "baseline")]
    return json.loads((home / "run" / "metrics.json").read_text()), answers


def run_alone(home, command):
    return run(home, command, in_its_own_process)


def test_rows_of_ones_own_in_one_command(home, rows):
    metrics, answers = run(
        home,
        "python -m src.main task=custom task.path=my.jsonl task.scorer=choice"
        r" task.prompt='{ask}\n{options}\nAnswer:' task.options=choices",
    )
    assert (metrics["task"], metrics["data"]["source"]) == ("my", "my.jsonl")
    assert metrics["data"]["rows"] == len(rows)
    assert metrics["n"] == {"selection": 20, "validation": 20, "test": 20}
    row = rows[int(answers["id"].iloc[0].removeprefix("row-")) - 1]
    letters = "\n".join(f"{x}. {text}" for x, text in zip("ABCD", row["choices"], strict=True))
    assert answers["prompt"].iloc[0] == f"{row['ask']}\n{letters}\nAnswer:"
    assert 0 < answers["score"].mean() < 1


@pytest.mark.night
def test_a_scorer_of_ones_own(home):
    metrics, answers = run(
        home,
        r"python -m src.main task=custom data=my.jsonl 'task.prompt={ask}\nAnswer:'"
        " task.scorer=my_module.short task.max_new_tokens=4",
    )
    assert metrics["scorer"]["settings"]["path"] == "my_module.short"
    assert answers["score"].tolist() == [len(text) % 2 == 0 for text in answers["answer"]]


@pytest.mark.night
def test_a_yaml_file_of_ones_own(home):
    (home / "mine" / "task").mkdir(parents=True)
    (home / "mine" / "task" / "farm.yaml").write_text(
        "defaults:\n- custom\n- override /scorer@scorer: choice\n- _self_\n"
        "name: farm\npath: my.jsonl\nprompt: '{ask}\\n{options}\\nAnswer:'\noptions: choices\n"
        "gold: right\ngold_as: index\n"
    )
    metrics, answers = run(home, "python -m src.main --config-dir mine task=farm")
    assert metrics["task"] == "farm"
    assert set(answers["gold"]) <= set("ABCD")


def test_a_python_task_of_ones_own(home):
    (home / "my_tasks.py").write_text(
        "from dataclasses import dataclass\n"
        "from corrsteer.records import Question\n"
        "from corrsteer.tasks.base import Task\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Counting(Task):\n"
        "    upto: int\n"
        "    def rows(self):\n"
        "        for n in range(self.upto):\n"
        "            yield Question(id=str(n), fields={'n': str(n)}, gold=str(n + 1))\n"
    )
    (home / "mine" / "task").mkdir(parents=True)
    (home / "mine" / "task" / "counting.yaml").write_text(
        "defaults:\n- /scorer@scorer: function\n- _self_\n"
        "_target_: my_tasks.Counting\nname: counting\nupto: 120\nprompt: 'After {n}:'\n"
        "max_new_tokens: 4\nscorer: {path: my_module.short}\n"
    )
    metrics, answers = run(home, "python -m src.main --config-dir mine task=counting")
    assert (metrics["task"], metrics["data"]["rows"]) == ("counting", 120)
    assert answers["prompt"].iloc[0] == f"After {answers['id'].iloc[0]}:"


def test_what_is_told_at_the_door(home, rows, caplog):
    always = [{"ask": r["ask"], "best": r["choices"][0], "worst": r["choices"][1]} for r in rows]
    write(home / "always.jsonl", [*always, *always[:7]])

    def told(prompt, *more):
        words = ["task=custom", f"task.path={home}/always.jsonl", "task.scorer=choice"]
        words += ["task.options=[best,worst]", "task.gold=best", f"task.prompt={prompt}", *more]
        cfg = composed(*plain_words(words))
        caplog.clear()
        build._dealt(cfg, cfg.task, instantiate(cfg.model, Model))
        return caplog.text

    listed = told(r"{ask}\n{options}\nAnswer:")
    assert "(of 247 rows A in 100 %, B in 0 %)" in listed
    assert "type task.shuffle_options=true" in listed and "shows no options" not in listed
    assert "7 of 247 rows ask what another row asks" in listed
    hidden = told(r"{ask}\nAnswer:")
    assert "write {options} in task.prompt, or type decoding=loglikelihood" in hidden
    assert "equally often" not in hidden  # without letters no letter is preferred
    quiet = [told(r"{ask}\n{options}", "task.shuffle_options=true"),
             told("{ask}", "decoding=loglikelihood"), told("{ask} {best} {worst}")]  # fmt: skip
    assert all(text.count("WARNING") == 1 for text in quiet)  # of the rows that repeat others


def test_answers_that_are_all_wrong_are_shown_and_kept(home):
    typed = "python -m src.main task=custom task.path=my.jsonl"
    settings = r"task.prompt='{ask}\n{options}\nAnswer:' task.options=choices"
    settings += " task.scorer=my_module.never task.max_new_tokens=4"
    (home / "my_module.py").write_text("def never(example, text):\n    return False\n")
    told = in_this_process(f"{typed} {settings} {SMALL}", cwd=home).refusal
    assert "no answer is right on the selection split (0 of 20)" in told
    assert " is right; " in told and "run/answers.parquet" in told
    assert len(pd.read_parquet(home / "run" / "answers.parquet")) == 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("task.scorer=exact", "task.prompt has no value: type task.prompt=VALUE"),
        ("task.scorer=exact 'task.prompt={ask}'", "type task.path=FILE"),
        ("task.scorer=exact 'task.prompt={ask}' data=no.jsonl", "task.path=no.jsonl: no csv"),
        ("data=my.jsonl 'task.prompt={ask}'", "scorer"),
        (
            "task.scorer=exact 'task.prompt={asks}' task.path=my.jsonl",
            "my.jsonl, line 1: field 'asks' is missing; fields found: ask, choices, answer, right",
        ),
    ],
)
def test_a_wrong_command_ends_in_one_line(home, words, message):
    ended = in_this_process(f"python -m src.main task=custom {words} {SMALL}", cwd=home)
    assert message in ended.refusal


@pytest.fixture
def kinds(home, rows, monkeypatch):
    """A task of lm-eval on the rows, with a solved question before each prompt. It is run in a
    process of its own, since lm-eval's libraries read the place of their cache when imported."""
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    for name, part in (("train", rows[:120]), ("test", rows[120:])):
        write(home / f"{name}.jsonl", part)
    (home / "tasks").mkdir()
    (home / "tasks" / "kinds.yaml").write_text(
        "task: kinds\ndataset_path: json\ndataset_kwargs:\n"
        f"  data_files: {{train: {home}/train.jsonl, test: {home}/test.jsonl}}\n"
        f"  cache_dir: {home}/hf\n"
        "training_split: train\ntest_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{ask}}\\nA. {{choices[0]}}\\nB. {{choices[1]}}\\nC. {{choices[2]}}\\n'
        'D. {{choices[3]}}\\nAnswer:"\n'
        "doc_to_choice: choices\ndoc_to_target: right\n"
        "num_fewshot: 1\nmetadata: {version: 1.0}\n"
        "metric_list:\n- {metric: acc_norm, aggregation: mean, higher_is_better: true}\n"
    )
    return home / "tasks"


# lm-eval itself, on the same model and task; prints the outcome of every row.
LM_EVAL = """
import json, sys
import lm_eval
from lm_eval.tasks import TaskManager
results = lm_eval.simple_evaluate(
    model="hf", model_args={"pretrained": sys.argv[1], "device": "cpu", "dtype": "float32"},
    tasks=["kinds"], task_manager=TaskManager(include_path="tasks", include_defaults=False),
    log_samples=True, bootstrap_iters=0, batch_size=8,
)
samples = results["samples"]["kinds"]
print(json.dumps({s["doc_id"]: [s["arguments"][0][0], s["acc_norm"]] for s in samples}))
"""


@pytest.mark.night
def test_a_task_of_lm_eval_scores_as_lm_eval_does(home, kinds):
    metrics, answers = run_alone(
        home,
        "python -m src.main task=lm_eval task.name=kinds task.include_path=tasks controls=few"
        " side_effects=none",
    )
    assert (metrics["task"], metrics["asked"]["decoding"]) == ("kinds", "loglikelihood")
    assert metrics["asked"]["few_shot"] == 1
    assert metrics["data"]["parts"] == {"test": 120, "train": 120}
    assert metrics["scorer"]["version"].endswith("kinds 1.0, acc_norm")
    done = subprocess.run(
        [sys.executable, "-c", LM_EVAL, str(BUNDLED / "model")],
        cwd=home, env=os.environ, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = json.loads(done.stdout.splitlines()[-1])
    for row in answers.itertuples():
        prompt, outcome = expected[row.id.removeprefix("test-")]
        assert (row.prompt, row.score) == (prompt, outcome), row.id
    assert 0 < answers["score"].mean() < 1


@pytest.mark.night
def test_texts_of_a_task_of_lm_eval(home, kinds):
    file = kinds / "kinds.yaml"
    settings = file.read_text().replace("multiple_choice", "generate_until")
    settings = settings.replace("acc_norm", "exact_match").replace("doc_to_choice: choices\n", "")
    settings = settings.replace("doc_to_target: right", "doc_to_target: answer")
    settings += (
        "filter_list:\n- name: letter\n  filter:\n"
        "  - {function: regex, regex_pattern: '([A-D])'}\n  - {function: take_first}\n"
        'generation_kwargs: {until: ["\\n"]}\n'
    )
    file.write_text(settings)
    metrics, answers = run_alone(
        home,
        "python -m src.main task=lm_eval task.name=kinds task.include_path=tasks"
        " task.max_new_tokens=6 controls=few side_effects=none",
    )
    assert metrics["scorer"]["name"] == "OwnScore"
    assert metrics["asked"]["stop"] == ["\n"]
    first = [next((c for c in text if c in "ABCD"), None) for text in answers["answer"]]
    assert answers["parsed"].tolist() == [letter if letter else pd.NA for letter in first]
    assert answers["score"].tolist() == [
        letter == gold for letter, gold in zip(first, answers["gold"], strict=True)
    ]
    assert 0 < answers["score"].mean() < 1
