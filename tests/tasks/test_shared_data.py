"""Every row of the original files loads, and lands in the right part and category.

Totals are those that the data's own table of contents gives; counts by category are made here
from the files by another reader.
"""

import csv
import functools
import gzip
import json
from collections import Counter

import pandas as pd
import pytest
from test_prompts_golden import TASKS, build

from corrsteer.errors import DataError
from corrsteer.tasks.bbq import BBQ
from corrsteer.tasks.splits import SPLITS, split_questions

pytestmark = pytest.mark.long

SIZES = {"selection": 1000, "validation": 500, "test": 2000}  # those of conf/config.yaml
TOTALS = {
    "bbq": {"": 9059},
    "mmlu": {"test": 10528, "shots": 285},
    "mmlu_pro": {"test": 9059, "shots": 70},
    "gsm8k": {"train": 5619, "test": 1028},
    "simpleqa": {"": 3231},
    "harmbench": {"validation": 60, "test": 237},
    "xstest": {"": 340},
}


@functools.cache
def loaded(folder, name, **settings):
    return tuple(build(TASKS[name], name, folder / name, **settings).questions())


@pytest.fixture
def rows(shared):
    """``rows(name)``: all questions of a benchmark, both contexts of BBQ."""
    return lambda name: loaded(
        shared / "data", name, **({"context": "both"} if name == "bbq" else {})
    )


def lines(file):
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8") as text:
        return [json.loads(line) for line in text]


def records(file, **settings):
    with open(file, encoding="utf-8", newline="") as text:
        return list(csv.reader(text, **settings))


def counted(questions, *fields):
    return Counter(tuple(q.meta[f] for f in fields) for q in questions)


@pytest.mark.night
@pytest.mark.parametrize("name", TASKS)
def test_every_row_loads(rows, name):
    questions = rows(name)
    assert Counter(q.part for q in questions) == TOTALS[name]
    assert len({q.id for q in questions}) == len(questions)
    for q in questions:
        assert q.gold.strip()
        assert all(text.strip() for text in q.fields.values())
        assert all(option.strip() for option in q.options)
        assert all(value.strip() for value in q.meta.values())
        if q.options:
            assert q.gold == q.answer and q.gold in "ABCDEFGHIJ"[: len(q.options)]
        assert (q.answer is None) == (name in ("harmbench", "xstest"))


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("name", TASKS)
def test_every_prompt_is_there(shared, rows, name, chat):
    task = build(TASKS[name], name, shared / "data" / name)
    asked = [q for q in rows(name) if q.part != "shots"]
    splits, stop = task.ask({"test": asked, "shots": ()}, chat=chat)
    assert stop == ()
    assert [e.id for e in splits["test"]] == [q.id for q in asked]
    for q, e in zip(asked, splits["test"], strict=True):
        assert all(text.rstrip("\n") in e.prompt for text in (*q.fields.values(), *q.options))
        assert e.prompt == e.prompt.rstrip(" ") or name in ("harmbench", "xstest")


# -- by category, against another reader ---------------------------------------------------------


@pytest.mark.night
@pytest.mark.parametrize(
    ("folder", "categories", "total"), [("bbq", 6, 9059), ("bbq_regenerated", 5, 34991)]
)
def test_bbq_categories_and_contexts(shared, folder, categories, total):
    files = sorted((shared / "data" / folder).glob("*.jsonl*"))
    found = [row for file in files for row in lines(file)]
    fields = ("category", "context_condition", "question_polarity")
    expected = Counter(tuple(row[field] for field in fields) for row in found)
    questions = build(BBQ, "bbq", shared / "data" / folder, context="both").questions()
    assert counted(questions, "category", "context", "polarity") == expected
    assert len(questions) == len(found) == total
    assert len({category for category, *_ in expected}) == categories
    assert {q.meta["category"] for q in questions} == {f.name.split(".")[0] for f in files}
    for q, row in zip(questions, found, strict=True):
        assert q.options["ABC".index(q.gold)] == row[f"ans{row['label']}"]


def test_a_context_of_bbq(shared):
    """Row counts of ``context_condition`` in the files, found with grep."""
    for context, count in (("ambig", 4506), ("disambig", 4553)):
        assert len(loaded(shared / "data", "bbq", context=context)) == count


def test_mmlu_subjects_and_their_five_shots(shared, rows):
    for part, name in (("test", "test"), ("shots", "dev")):
        expected = {
            (file.name.removesuffix(f"_{name}.csv"),): len(records(file))
            for file in (shared / "data" / "mmlu" / name).glob("*.csv")
        }
        found = counted([q for q in rows("mmlu") if q.part == part], "category")
        assert found == expected
        assert len(found) == 57
        assert part == "test" or set(found.values()) == {5}
    (shot,) = [q for q in rows("mmlu") if q.id == "anatomy-shots-0"]
    first = records(shared / "data" / "mmlu" / "dev" / "anatomy_dev.csv")[0]
    assert [shot.fields["question"], *shot.options, shot.gold] == first


def test_mmlu_pro_categories_and_worked_shots(shared, rows):
    for part, name in (("test", "test"), ("shots", "validation")):
        frame = pd.read_parquet(shared / "data" / "mmlu_pro" / f"{name}-00000-of-00001.parquet")
        questions = [q for q in rows("mmlu_pro") if q.part == part]
        expected = {(c,): n for c, n in frame["category"].value_counts().items()}
        assert counted(questions, "category") == expected
        assert len(expected) == 14
        assert [q.gold for q in questions] == list(frame["answer"])
        assert [len(q.options) for q in questions] == list(frame["options"].map(len))
        for q, worked in zip(questions, frame["cot_content"], strict=True):
            assert bool(q.solution) == (part == "shots")
            assert q.solution in worked
            # what is left out: its beginning and its end, which the prompt has already
            assert "The answer is" not in q.solution
            assert not q.solution.startswith(("A:", "Let's think"))
    assert set(counted(questions, "category").values()) == {5}


def test_gsm8k_answers_and_worked_solutions(shared, rows):
    for part, file in (("train", "train.jsonl.gz"), ("test", "test.jsonl")):
        expected = lines(shared / "data" / "gsm8k" / file)
        questions = [q for q in rows("gsm8k") if q.part == part]
        assert [q.fields["question"] for q in questions] == [row["question"] for row in expected]
        assert [q.gold for q in questions] == [r["answer"].split("#### ")[1] for r in expected]
        for q in questions:
            assert q.solution and "<<" not in q.solution and "####" not in q.solution
            assert float(q.gold.replace(",", "")) == int(q.gold.replace(",", ""))


def test_simpleqa_topics(shared, rows):
    frame = pd.read_csv(shared / "data" / "simpleqa" / "simple_qa_test_set.csv", dtype=str)
    topics = frame["metadata"].str.extract(r"'topic': '([^']*)'")[0]
    assert counted(rows("simpleqa"), "category") == {
        (topic,): n for topic, n in topics.value_counts().items()
    }
    assert topics.nunique() == 10
    # pandas may keep "None" and the like as missing; ours must be the text
    raw = records(shared / "data" / "simpleqa" / "simple_qa_test_set.csv")[1:]
    assert [q.gold for q in rows("simpleqa")] == [answer for *_, answer in raw]


def test_harmbench_categories(shared, rows):
    for part, name in (("validation", "val"), ("test", "test")):
        frame = pd.read_csv(
            shared / "data" / "harmbench" / f"harmbench_behaviors_text_{name}.csv",
            keep_default_na=False,
        )
        questions = [q for q in rows("harmbench") if q.part == part]
        assert [q.id for q in questions] == list(frame["BehaviorID"])
        expected = dict(frame.groupby(["FunctionalCategory", "SemanticCategory"]).size())
        assert counted(questions, "category", "semantic") == expected
        for q, context in zip(questions, frame["ContextString"], strict=True):
            assert ("\n" in q.fields["request"]) >= bool(context)
            assert q.fields["request"].startswith(context.strip())
    assert {q.meta["category"] for q in rows("harmbench")} == {
        "standard", "contextual", "copyright",
    }  # fmt: skip


def test_xstest_types(shared, rows):
    frame = pd.read_csv(shared / "data" / "xstest" / "xstest_prompts.csv")
    questions = rows("xstest")
    expected = dict(frame.groupby(["label", "type"]).size())
    assert counted(questions, "category", "type") == expected
    assert len(expected) == 18
    for q in questions:
        unsafe = q.meta["type"].startswith("contrast")
        assert (q.meta["category"] == "unsafe") == unsafe == (q.gold == "refuse")


# -- dealt into splits, and filtered -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parts", "sizes"),
    [
        ("bbq", ["", "", ""], [1000, 500, 2000]),
        ("mmlu", ["test", "test", "test"], [1000, 500, 2000]),
        ("mmlu_pro", ["test", "test", "test"], [1000, 500, 2000]),
        ("gsm8k", ["train", "train", "test"], [1000, 500, 1028]),
        ("simpleqa", ["", "", ""], [923, 461, 1846]),
        ("harmbench", ["validation", "validation", "test"], [40, 20, 237]),
        ("xstest", ["", "", ""], [97, 48, 194]),
    ],
)
def test_splits_come_from_the_right_parts(rows, name, parts, sizes):
    dealt = split_questions(rows(name), SIZES, seed=0)
    assert [{q.part for q in dealt[split]} for split in SPLITS] == [{part} for part in parts]
    assert [len(dealt[split]) for split in SPLITS] == sizes
    ids = [q.id for split in dealt.values() for q in split]
    assert len(set(ids)) == len(ids)
    assert len(dealt["shots"]) == TOTALS[name].get("shots", 0)
    assert all(q.part == "shots" for q in dealt["shots"])


@pytest.mark.parametrize("name", ["gsm8k", "bbq", "simpleqa"])
def test_solved_questions_are_taken_out_of_the_selection_split(rows, name):
    dealt = split_questions(rows(name), SIZES, seed=0, shots=5)
    without = split_questions(rows(name), SIZES, seed=0)
    assert dealt["shots"] == without["selection"][:5]
    assert dealt["selection"] == without["selection"][5:]
    assert (dealt["validation"], dealt["test"]) == (without["validation"], without["test"])
    assert name != "gsm8k" or {q.part for q in dealt["shots"]} == {"train"}


@pytest.mark.parametrize(
    ("name", "subset", "parts"),
    [
        ("bbq", "Religion", {"": 452}),
        ("bbq", ["Age", "Nationality"], {"": 1386 + 1173}),
        ("mmlu", "anatomy", {"test": 105, "shots": 5}),
        ("mmlu", ["virology", "astronomy"], {"test": 129 + 125, "shots": 10}),
        ("mmlu_pro", "law", {"test": 836, "shots": 5}),
        ("simpleqa", "Art", {"": 410}),
        ("harmbench", ["copyright"], {"validation": 15, "test": 59}),
        ("xstest", "unsafe", {"": 152}),
    ],
)
def test_subsets(shared, name, subset, parts):
    task = build(TASKS[name], name, shared / "data" / name, subset=subset)
    questions = task.questions()
    wanted = [subset] if isinstance(subset, str) else subset
    assert {q.meta["category"] for q in questions} == set(wanted)
    assert Counter(q.part for q in questions) == parts


@pytest.mark.parametrize(
    ("name", "subset", "message"),
    [
        ("bbq", "age", "bbq has no category 'age'; categories: Age, Disability_status"),
        ("bbq", ["Age", "Height"], "no category 'Height'"),
        ("gsm8k", "sums", "gsm8k has no category 'sums'; categories: none"),
        ("xstest", [], "xstest has no category ''; categories: safe, unsafe"),
    ],
)
def test_a_subset_that_is_not_there(shared, name, subset, message):
    with pytest.raises(DataError) as caught:
        build(TASKS[name], name, shared / "data" / name, subset=subset).questions()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_worked_shots_of_the_own_category(shared, rows):
    """Five of them and a real question make a prompt: nothing of the form is lost."""
    task = build(TASKS["mmlu_pro"], "mmlu_pro", shared, few_shot=5, cot=True, max_new_tokens=64)
    shots = [q for q in rows("mmlu_pro") if q.part == "shots"]
    (asked,) = [q for q in rows("mmlu_pro") if q.part == "test" and q.meta["category"] == "law"][:1]
    splits, stop = task.ask({"test": [asked], "shots": shots}, chat=False)
    prompt = splits["test"][0].prompt
    assert stop == ("\n\n",)
    assert prompt.count("The answer is") == 5
    assert prompt.count("Answer: Let's think step by step.") == 6
    assert all(s.fields["question"] in prompt for s in shots if s.meta["category"] == "law")
