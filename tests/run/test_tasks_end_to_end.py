"""The benchmarks' real rows through the whole pipeline, and other ways to ask and to answer.

One process, so that model and imports are paid once. On real rows the bundled model's answers are
just wrong, which ends a run with a plain error and not before. test_main_job.py has the invented
rows.
"""

from __future__ import annotations

import json
import shutil
import time

import pandas as pd
import pytest

from corrsteer.config import bundled, resolved_yaml
from corrsteer.errors import DegenerateOutcomesError
from corrsteer.models import reading
from corrsteer.run.build import build
from corrsteer.run.pipeline import run
from corrsteer.run.typed import plain_words
from corrsteer.stages.bench import ANSWERS, answers_key
from corrsteer.steering.arms import baseline
from corrsteer.store.runfolder import RunFolder
from tests.test_config import composed

pytestmark = pytest.mark.long

TASKS = ("bbq", "mmlu", "mmlu_pro", "gsm8k", "simpleqa", "harmbench", "xstest")
WEIGHED = ("truthfulqa", "openbookqa", "blimp", "crows_pairs", "model_written_evals")
SHORT = {
    "bbq": ["limit=16", "task.max_new_tokens=8"],
    "harmbench": ["limit=5", "task.max_new_tokens=12"],
}
SMALL = [
    "controls=few",
    "side_effects=none",
    "collect.shuffles=20",
    "backend.device=cpu",
    "layers=[1,4]",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("end_to_end")


def results(place, name, *overrides):
    folder = place / name
    words = [f"cache={place / 'cache'}", *SMALL, *plain_words(list(overrides))]
    folder.mkdir()
    cfg, kept = composed(*words), RunFolder(folder)
    kept.start(words)
    kept.write_config(resolved_yaml(cfg))
    run(cfg, folder)
    return json.loads((folder / "metrics.json").read_text()), pd.read_parquet(
        folder / "answers.parquet"
    )


@pytest.mark.parametrize(
    ("task", "size"),
    [
        *((task, "day") for task in ("bbq", "harmbench")),
        *(pytest.param(task, "night", marks=pytest.mark.night) for task in (*TASKS, *WEIGHED)),
    ],
)
def test_real_rows(place, shared, task, size):
    words = [f"task={task}", f"data={shared / 'data' / task}"]
    words += ["limit=20"] if size == "night" else SHORT.get(task, ["limit=8"])
    # The SAEs have never seen such text, which the check says rightly; some prompts are long.
    words += ["sae.check=warn", "task.max_chars=1200"]
    words += ["controls.instruction='Be right.'"] if task in WEIGHED else []
    try:
        metrics, answers = results(place, f"real-{task}-{size}", *words)
    except DegenerateOutcomesError as error:
        assert "no answer is right on the selection split (0 of" in str(error)
    else:
        assert metrics["data"]["source"] == str(shared / "data" / task)
        assert len(answers) > 0
        decodings = {task: "loglikelihood" for task in WEIGHED}
        assert metrics["asked"]["decoding"] == decodings.get(task, "free")
        assert (metrics["margin"] is not None) == (task in WEIGHED)
        assert answers["margin"].notna().all() == (task in WEIGHED)


@pytest.mark.night
@pytest.mark.parametrize("decoding", ["constrained", "loglikelihood"])
def test_other_decodings_of_multiple_choice(place, decoding):
    metrics, answers = results(place, decoding, "task=mmlu", "limit=24", f"decoding={decoding}")
    assert metrics["asked"]["decoding"] == decoding
    assert all(arm["invalid"] == 0 for arm in metrics["arms"].values())
    # Restricting restricted answers would be no control.
    assert "constrained" not in metrics["arms"]
    steered = answers[(answers["arm"] == "steered") & (answers["split"] == "test")]
    assert (steered["n_steered"] == steered["n_tokens"]).all()
    if decoding == "constrained":
        assert (steered["n_tokens"] == 1).all()
    else:
        assert steered["answer"].str.match(r"[A-D]\. ").all()
    for row in answers.itertuples():
        each = [log / n for log, n in zip(row.option_log, row.option_characters, strict=True)]
        assert len(each) == len(row.option_tokens) == 4
        assert row.answer.strip()[0] == "ABCD"[each.index(max(each))]
        assert decoding == "loglikelihood" or list(row.option_tokens) == [1] * 4


def test_sentences_without_a_prompt_are_scored_from_their_first_token(place):
    names = ["Ben", "Tom", "Ann", "Eva", "Max"]
    pairs = [(a, b) for a in names for b in names if a != b]
    rows = [{"good": f"{a} is glad. {b} is sad.", "bad": f"{b} glad {a}."} for a, b in pairs]
    rows = [row | {"gold": ("good", "bad")[n % 3 == 0]} for n, row in enumerate(rows)]
    for row in rows:
        row["gold"] = row[row["gold"]]
    (place / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    metrics, answers = results(
        place, "pairs", "task=custom", f"task.path={place / 'pairs.jsonl'}", "task.prompt=",
        "task.options=[good,bad]", "task.gold=gold", "task.scorer=choice", "decoding=loglikelihood",
        "limit=6", "sae.check=warn", "task.likelihood=sum",
    )  # fmt: skip
    assert metrics["asked"]["empty_prompt"] == "<s>"
    assert metrics["asked"]["likelihood"] == "sum"
    for row in answers.itertuples():
        assert row.answer[0] == "AB"[row.option_log.argmax()]
        right, wrong = row.option_log[["AB".index(row.gold), "BA".index(row.gold)]]
        assert row.margin == pytest.approx(right - wrong)
    test = answers[answers["split"] == "test"].set_index("id")
    means = {arm: test[test["arm"] == arm]["margin"].mean() for arm in ("baseline", "steered")}
    margin = metrics["margin"]
    assert (margin["likelihood"], margin["n"]) == ("sum", 6)
    assert margin["shift"] == pytest.approx(means["steered"] - means["baseline"])
    assert len(margin["controls"]["random"]) == len(metrics["controls"]["random"]["gains"])
    assert (answers["prompt"] == "").all()
    assert answers["option_tokens"].map(len).eq(2).all()
    assert metrics["sites"][0]["n"] > 10  # the sentences are what its SAEs read


@pytest.mark.night
def test_a_date_in_a_chat_template_is_never_stale(place, monkeypatch):
    model = place / "model"
    shutil.copytree(bundled("model"), model)
    (model / "chat_template.jinja").write_text(
        "{{ bos_token }}Today is {{ strftime_now('%d %B %Y') }}.\n"
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    words = [
        "task=gsm8k", "model=folder", f"model.path={model}", f"sae.path={bundled('saes')}",
        "model.chat_template=true", r"task.chat_prompt='{question}\nAnswer:'", "data=bundled",
        "limit=16", "sae.check=off",
    ]  # fmt: skip
    kept = []
    for zone in ("Etc/GMT+12", "Etc/GMT-14"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        reading._in_chat.cache_clear()  # another day is another process
        if not kept:
            metrics, answers = results(place, "day", *words)
        bench = build(composed(*SMALL, *plain_words(words), f"cache={place / 'cache'}")).bench
        key = answers_key(bench, bench.asking, bench.selection, baseline())
        kept.append(bench.store.has(ANSWERS, key))
    monkeypatch.undo()
    time.tzset()
    assert kept == [True, False]
    assert answers["prompt"].str.match(r"<s>Today is \d\d \w+ \d{4}\.\n").all()
    assert metrics["asked"]["chat_template"] and metrics["asked"]["ends"] == ["</s>"]


def test_few_shot_prompts_with_another_scorer_and_template(place):
    metrics, answers = results(
        place, "few", "task=simpleqa", "limit=30", "task.few_shot=2", "task.scorer=token_f1",
        r"task.prompt=Q: {question}\nA:",
    )  # fmt: skip
    prompts = answers["prompt"]
    assert prompts.str.count("Q: ").eq(3).all() and prompts.str.endswith("\nA:").all()
    assert metrics["scorer"]["name"] == "TokenF1"
    assert metrics["asked"]["stop"] == ["\n\n"]
    assert metrics["asked"]["shots"] == "selection"
    assert answers["score"].between(0, 1).all()
    assert not answers["answer"].str.contains("\n\n").any()


def test_official_splits_of_real_rows(place, shared):
    words = ["task=gsm8k", f"data={shared / 'data' / 'gsm8k'}", "limit=6", "sae.check=off"]
    with pytest.raises(DegenerateOutcomesError) as caught:
        results(place, "official", *words, "task.max_chars=900", "task.few_shot=1")
    # What there is to look at is kept, and the message says where.
    file = place / "official" / "answers.parquet"
    assert str(caught.value).endswith(f"; all answers are in {file}")
    kept = pd.read_parquet(file)
    assert set(zip(kept["split"], kept["arm"], strict=True)) == {("selection", "baseline")}
    assert len(kept) == 6 and (kept["score"] == 0).all()
