"""``data=hub``: every task loads from a Hub cache in the layout of the repository it names.

The files are made here, with the columns and types of the published ones and rows of our own; no
network is asked.
"""

import csv
import functools
import io
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir
from test_prompts_golden import TASKS

from corrsteer import config
from corrsteer.errors import DataError

CONF = Path(__file__).parents[2] / "conf"


@functools.cache
def task(name, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [f"task={name}", "data=hub", *overrides])
    return config.instantiate(cfg.task)


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def publish(hub_cache):
    """``publish(name, {file: content})``: as if the data set of a task had been downloaded."""

    def publish(name, files):
        hub = task(name).hub
        root = hub_cache / f"datasets--{hub.repo.replace('/', '--')}"
        for file, content in files.items():
            path = root / "snapshots" / hub.revision / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    return publish


def parquet(columns, types=None):
    """A parquet file; ``types`` where the published column is not what pyarrow would choose."""
    arrays = {name: pa.array(values, (types or {}).get(name)) for name, values in columns.items()}
    out = io.BytesIO()
    pq.write_table(pa.table(arrays), out)
    return out.getvalue()


def sheet(header, *rows):
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerows([header, *rows])
    return out.getvalue().encode()


def mmlu(answers):
    return parquet(
        {
            "question": [f"Which of {n}?" for n in range(len(answers))],
            "subject": ["birds", "hats"] * (len(answers) // 2),
            "choices": [["a", "b", "c", "d"]] * len(answers),
            "answer": answers,
        },
        {"answer": pa.int64()},
    )


def mmlu_pro(numbers, **more):
    n = len(numbers)
    columns = {
        "question_id": numbers,
        "question": [f"Q{number}?" for number in numbers],
        "options": [list("abcdefghij")] * n,
        "answer": ["J"] * n,
        "answer_index": [9] * n,
        "cot_content": [""] * n,
        "category": ["law"] * n,
        "src": ["made"] * n,
    }
    return parquet(columns | more, {"question_id": pa.int64(), "answer_index": pa.int64()})


def gsm8k(*sums):
    return parquet(
        {
            "question": [f"{n} and {n}?" for n in sums],
            "answer": [f"It is {n}+{n}=<<{n}+{n}={2 * n}>>{2 * n}.\n#### {2 * n}" for n in sums],
        }
    )


BBQ_ROW = {
    "example_id": 3, "question_index": "1", "question_polarity": "neg",
    "context_condition": "ambig", "category": "Hats", "label": 1,
    "answer_info": {"ans0": ["Red", "Red"], "ans1": ["unknown", "unknown"],
                    "ans2": ["Blue", "Blue"]},
    "additional_metadata": {"subcategory": "None", "stereotyped_groups": ["Blue"],
                            "version": "x", "source": "y"},
    "context": "A Red and a Blue met.", "question": "Who hid?",
    "ans0": "The Red", "ans1": "Not known", "ans2": "The Blue",
}  # fmt: skip

FILES = {
    "bbq": {
        "data/Hats.jsonl": (json.dumps(BBQ_ROW) + "\n").encode(),
        "data/Coats.jsonl": json.dumps({**BBQ_ROW, "category": "Coats"}).encode(),
    },
    "mmlu": {
        "all/test-00000-of-00001.parquet": mmlu([0, 3, 1, 2]),
        "all/validation-00000-of-00001.parquet": mmlu([1, 1]),
        "all/dev-00000-of-00001.parquet": mmlu([2, 2]),
    },
    "mmlu_pro": {
        "data/test-00000-of-00001.parquet": mmlu_pro([5, 6]),
        "data/validation-00000-of-00001.parquet": mmlu_pro(
            [70], cot_content=["A: Let's think step by step. So it is. The answer is (J)."]
        ),
    },
    "gsm8k": {
        "main/train-00000-of-00001.parquet": gsm8k(1, 2, 3),
        "main/test-00000-of-00001.parquet": gsm8k(7),
    },
    "simpleqa": {
        "simple_qa_test_set.csv": sheet(
            ["metadata", "problem", "answer"],
            ["{'topic': 'Hats', 'answer_type': 'Other', 'urls': ['a', 'b']}", "Which\nhat?", "Red"],
            ["{'topic': 'Coats', 'answer_type': 'Number', 'urls': []}", "How many?", "1,002"],
        )
    },
    "harmbench": {
        "standard/train-00000-of-00001.parquet": parquet(
            {"prompt": ["Do it.", "Do that."], "category": ["one", "two"]}
        ),
        "contextual/train-00000-of-00001.parquet": parquet(
            {"prompt": ["Say it."], "context": ["A context."], "category": ["one"]}
        ),
        "copyright/train-00000-of-00001.parquet": parquet(
            {"prompt": ["Write it."], "tags": [["lyrics", "hash_check"]]}
        ),
    },
    "xstest": {
        "xstest_prompts.csv": sheet(
            ["id", "prompt", "type", "label", "focus", "note"],
            ["1", "Kill a lamp?", "homonyms", "safe", "kill", ""],
            ["26", "Kill?", "contrast_homonyms", "unsafe", "kill", ""],
        )
    },
}
EXPECTED = {
    "bbq": (
        {"": 2},
        "Coats-3",
        "A Red and a Blue met.\nWho hid?\nA. The Red\nB. Not known\nC. The Blue\nAnswer:",
        "B",
    ),
    "mmlu": (
        {"test": 4, "validation": 2, "shots": 2},
        "birds-0",
        "Which of 0?\nA. a\nB. b\nC. c\nD. d\nAnswer:",
        "A",
    ),
    "mmlu_pro": (
        {"test": 2, "shots": 1},
        "5",
        "Q5?\nA. a\nB. b\nC. c\nD. d\nE. e\nF. f\nG. g\nH. h\nI. i\nJ. j\nAnswer:",
        "J",
    ),
    "gsm8k": ({"train": 3, "test": 1}, "test-1", "7 and 7?\nAnswer:", "14"),
    "simpleqa": ({"": 2}, "row-3", "Question: Which\nhat?\nAnswer:", "Red"),
    "harmbench": ({"": 4}, "contextual-1", "Request: A context.\nSay it.\nReply:", "refuse"),
    "xstest": ({"": 2}, "1", "Request: Kill a lamp?\nReply:", "comply"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", TASKS)
def test_every_task_loads_from_the_cache(name, publish):
    publish(name, FILES[name])
    parts, first, prompt, gold = EXPECTED[name]
    questions = task(name).questions()
    assert Counter(q.part for q in questions) == parts
    for q in questions:
        kept = (q.id, q.gold, *q.fields.values(), *q.options, *q.meta.values())
        assert all(type(text) is str for text in kept)
    (example,) = [e for e in task(name).examples() if e.id == first]
    assert (example.prompt, example.gold) == (prompt, gold)


@pytest.mark.long
def test_the_files_are_those_that_the_config_names():
    """What is made above stands for every file of conf/task, and for no other."""
    for name, files in FILES.items():
        patterns = task(name).hub.files
        assert all(any(Path(file).match(p) for p in patterns) for file in files)
        assert all(any(Path(file).match(p) for file in files) for p in patterns)


@pytest.mark.long
def test_every_category_of_a_repository(publish):
    for name, files in FILES.items():
        publish(name, files)
    found = {
        name: Counter(q.meta.get("category") for q in task(name).questions()) for name in FILES
    }
    assert found == {
        "bbq": {"Hats": 1, "Coats": 1},
        "mmlu": {"birds": 4, "hats": 4},
        "mmlu_pro": {"law": 3},
        "gsm8k": {None: 4},
        "simpleqa": {"Hats": 1, "Coats": 1},
        "harmbench": {"standard": 2, "contextual": 1, "copyright": 1},
        "xstest": {"safe": 1, "unsafe": 1},
    }


def test_rows_are_the_same_in_the_form_of_the_original(publish, tmp_path):
    """The same MMLU and GSM8K rows as csv and jsonl: one id, so one place in the splits."""
    publish("mmlu", FILES["mmlu"])
    publish("gsm8k", FILES["gsm8k"])
    folder = tmp_path / "original"
    folder.mkdir()
    for subject, letters in (("birds", "AB"), ("hats", "DC")):
        lines = [f"Which of {2 * n + (subject == 'hats')}?,a,b,c,d,{letter}\n"
                 for n, letter in enumerate(letters)]  # fmt: skip
        (folder / f"{subject}_test.csv").write_text("".join(lines))
    original = TASKS["mmlu"](
        name="mmlu", data=str(folder), scorer=None, max_new_tokens=8, prompt="{question}"
    )
    hub = [q for q in task("mmlu").questions() if q.part == "test"]
    assert sorted(original.questions(), key=lambda q: q.id) == sorted(hub, key=lambda q: q.id)

    sums = [
        {"question": "7 and 7?", "answer": "It is 7+7=<<7+7=14>>14.\n#### 14"},
    ]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, sums)))
    original = TASKS["gsm8k"](
        name="gsm8k", data=str(folder), scorer=None, max_new_tokens=8, prompt="{question}"
    )
    assert original.questions() == [q for q in task("gsm8k").questions() if q.part == "test"]


def test_solved_questions_of_the_published_parts(publish):
    publish("mmlu_pro", FILES["mmlu_pro"])
    asked = task("mmlu_pro", "task.few_shot=1", "task.cot=true", "task.max_new_tokens=64")
    questions = asked.questions()
    dealt = {
        "test": [q for q in questions if q.part == "test"],
        "shots": [q for q in questions if q.part == "shots"],
    }
    splits, _ = asked.ask(dealt, chat=False)
    options = "\n".join(f"{letter}. {letter.lower()}" for letter in "ABCDEFGHIJ")
    think = "Answer: Let's think step by step."
    assert splits["test"][0].prompt == (
        f"Q70?\n{options}\n{think} So it is. The answer is J.\n\nQ5?\n{options}\n{think}"
    )


# -- what is wrong or not there ------------------------------------------------------------------


def refusal(name):
    with pytest.raises(DataError) as caught:
        task(name).questions()
    told = str(caught.value)
    assert "\n" not in told
    return told


@pytest.mark.parametrize("name", TASKS)
def test_data_that_is_not_there_is_one_line_with_the_command(name, hub_cache):
    told, hub = refusal(name), task(name).hub
    assert told.startswith(f"the data of task {name} is not on this machine: ")
    assert f"hf download --repo-type dataset {hub.repo} --revision {hub.revision}" in told
    assert f"/datasets/{hub.repo}" in told
    assert all(file in told for file in hub.files)
    assert ("accept the MIT licence" in told) == (name == "harmbench")


@pytest.mark.parametrize("name", ["mmlu", "gsm8k", "harmbench", "mmlu_pro"])
def test_a_file_that_is_missing_is_noticed(name, publish):
    publish(name, dict(list(FILES[name].items())[1:]))
    assert "is not on this machine" in refusal(name)


def column(table, name, values, kind=None):
    """The parquet file with one column changed, or left out where ``values`` is None."""
    found = pq.read_table(io.BytesIO(table))
    place = found.column_names.index(name)
    found = found.remove_column(place)
    if values is not None:
        found = found.add_column(place, name, pa.array(values, kind))
    out = io.BytesIO()
    pq.write_table(found, out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "file", "field", "values", "message"),
    [
        ("mmlu", "all/test-00000-of-00001.parquet", "subject", None,
         "row 1: field 'subject' is missing; fields found: question, choices, answer"),
        ("mmlu", "all/test-00000-of-00001.parquet", "answer", [0, None, 1, 2],
         "row 2: field 'answer' is null"),
        ("mmlu", "all/test-00000-of-00001.parquet", "answer", [0, 1, 1, 4],
         "row 4: field 'answer' is 4, but there are 4 choices"),
        ("mmlu", "all/test-00000-of-00001.parquet", "answer", [-1, 1, 1, 0],
         "row 1: field 'answer' is -1, but there are 4 choices"),
        ("mmlu", "all/test-00000-of-00001.parquet", "answer", list("ABCD"),
         "row 1: field 'answer' should be int, got str 'A'"),
        ("mmlu", "all/test-00000-of-00001.parquet", "answer", [0.0, 1.0, 2.0, 3.0],
         "row 1: field 'answer' should be int, got float '0.0'"),
        ("mmlu", "all/test-00000-of-00001.parquet", "choices", [["a", None, "c", "d"]] * 4,
         "row 1: field 'choices' should hold texts, got NoneType 'None'"),
        ("mmlu", "all/test-00000-of-00001.parquet", "choices", [[1, 2, 3, 4]] * 4,
         "row 1: field 'choices' should hold texts, got int '1'"),
        ("mmlu", "all/test-00000-of-00001.parquet", "choices", ["a b c d"] * 4,
         "row 1: field 'choices' should be list, got str 'a b c d'"),
        ("mmlu", "all/test-00000-of-00001.parquet", "question", ["q", "", "q", "q"],
         "row 2: field 'question' is empty"),
        ("mmlu_pro", "data/test-00000-of-00001.parquet", "options", None,
         "row 1: field 'options' is missing"),
        ("mmlu_pro", "data/test-00000-of-00001.parquet", "options", [list("abcdefghijk")] * 2,
         "row 1: field 'answer_index' is 9, but there are 11 options"),
        ("mmlu_pro", "data/test-00000-of-00001.parquet", "category", ["law", None],
         "row 2: field 'category' is null"),
        ("gsm8k", "main/test-00000-of-00001.parquet", "answer", ["14"],
         "row 1: field 'answer' has no '#### n' at its end"),
        ("gsm8k", "main/train-00000-of-00001.parquet", "question", None,
         "row 1: field 'question' is missing"),
        ("harmbench", "contextual/train-00000-of-00001.parquet", "context", [None],
         "row 1: field 'context' is null"),
        ("harmbench", "standard/train-00000-of-00001.parquet", "prompt", ["Do it.", ""],
         "row 2: field 'prompt' is empty"),
        ("harmbench", "copyright/train-00000-of-00001.parquet", "prompt", None,
         "row 1: field 'prompt' is missing"),
    ],
)  # fmt: skip
def test_malformed_columns(name, file, field, values, message, publish):
    publish(name, FILES[name] | {file: column(FILES[name][file], field, values)})
    told = refusal(name)
    assert f"{file}, {message}" in told


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int32(), pa.int64()])
def test_integers_of_any_width(kind, publish):
    file = "all/test-00000-of-00001.parquet"
    publish("mmlu", FILES["mmlu"] | {file: column(FILES["mmlu"][file], "answer", [3] * 4, kind)})
    assert {q.gold for q in task("mmlu").questions() if q.part == "test"} == {"D"}


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view()])
def test_texts_of_any_width(kind, publish):
    file = "main/test-00000-of-00001.parquet"
    changed = column(FILES["gsm8k"][file], "question", ["How many?"], kind)
    publish("gsm8k", FILES["gsm8k"] | {file: changed})
    assert "How many?" in {q.fields["question"] for q in task("gsm8k").questions()}


def test_a_file_that_is_no_parquet(publish):
    file = "main/test-00000-of-00001.parquet"
    for content in (b"", b"<html>not found</html>", FILES["gsm8k"][file][:-20]):
        publish("gsm8k", FILES["gsm8k"] | {file: content})
        assert f"{file} cannot be read as parquet" in refusal("gsm8k")
