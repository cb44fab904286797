"""A user's own rows: every kind of file, every form of options, and what is refused."""

import csv
import gzip
import io
import json

import pandas as pd
import pytest

from corrsteer.errors import ConfigError, DataError
from corrsteer.records import Score
from corrsteer.tasks.custom import Custom

PLAIN = [
    {"question": "What flies?", "answer": "a bird"},
    {"question": "What swims?", "answer": "a fish"},
]
LISTED = [
    {"q": "Sky?", "opts": ["red", "blue", "green"], "answer": "B"},
    {"q": "Snow?", "opts": ["white", "black"], "answer": "A"},
]
WHITE = {"q": "Snow?", "opts": ["white", "black"]}


def never(example, text):
    return Score(0.0, None)


def build(path, prompt="{question}\\nAnswer:", **settings):
    return Custom(
        name="custom", scorer=never, max_new_tokens=4, path=str(path), prompt=prompt, **settings
    )


def write(folder, rows, name="rows.jsonl"):
    if ".parquet" in name:
        pd.DataFrame(rows).to_parquet(folder / name)
        return folder / name
    if ".csv" in name:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue()
    else:
        content = "\n".join(map(json.dumps, rows))
    raw = content.encode()
    (folder / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return folder / name


def questions(folder, rows, prompt="{q}\nAnswer:", **settings):
    return build(write(folder, rows), prompt, **settings).questions()


def prompts(task, questions, chat=False):
    asked, stop = task.ask({"test": questions[1:], "shots": questions[:1]}, chat=chat)
    return [e.prompt for e in asked["test"]], stop


@pytest.mark.parametrize(
    "name", ["r.csv", "r.csv.gz", "r.jsonl", "r.jsonl.gz", "r.parquet"]
)  # fmt: skip
def test_every_kind_of_file_gives_the_same_prompts(tmp_path, name):
    task = build(write(tmp_path, PLAIN, name))
    first, second = task.questions()
    assert (first.id, first.gold, first.answer, first.part) == ("row-1", "a bird", "a bird", "")
    asked, stop = task.ask({"test": [first, second], "shots": []}, chat=False)
    assert [e.prompt for e in asked["test"]] == ["What flies?\nAnswer:", "What swims?\nAnswer:"]
    assert stop == ()


def test_solved_questions_and_chat(tmp_path):
    rows = [{**row, "why": "One looks.\n\nOne sees."} for row in PLAIN]
    settings = {"solution": "why", "chat_prompt": "{question} Say why: {why}"}
    file = write(tmp_path, rows)
    task = build(file, few_shot=1, **settings)
    assert prompts(task, task.questions()) == (
        ["What flies?\nAnswer: a bird\n\nWhat swims?\nAnswer:"],
        ("\n\n",),
    )
    ((chat,), _) = prompts(build(file, **settings), task.questions(), chat=True)
    assert chat == "What swims? Say why: One looks.\n\nOne sees."
    worked = Custom(
        name="custom", scorer=never, path=str(file), prompt="{question}", few_shot=1, cot=True,
        max_new_tokens=64, solution="why",
    )  # fmt: skip
    ((prompt,), _) = prompts(worked, worked.questions())
    assert prompt == (
        "What flies? Let's think step by step. One looks.\nOne sees. The answer is a bird."
        "\n\nWhat swims? Let's think step by step."
    )


@pytest.mark.parametrize(
    ("gold", "expected"),
    [
        (["Rome", "Roma"], ("Rome", ("Roma",))),
        (12, ("12", ())),
        (12.0, ("12", ())),
        (0.5, ("0.5", ())),
        (True, ("true", ())),
        ([1, 2], ("1", ("2",))),
        (" as it is ", (" as it is ", ())),
    ],
)
def test_right_answers_become_text(tmp_path, gold, expected):
    (question,) = questions(tmp_path, [{"q": "?", "answer": gold}])
    assert (question.gold, question.aliases) == expected


def test_every_field_may_be_named_and_numbers_become_text(tmp_path):
    rows = [{"a": 1, "b": 2.5, "c": False, "none": "", "list": [1], "right": 4}]
    (question,) = questions(tmp_path, rows, "{a} {b} {c}{none}", gold="right")
    assert dict(question.fields) == {"a": "1", "b": "2.5", "c": "false", "none": ""}
    assert question.gold == "4"


def test_tables_write_null_as_nan(tmp_path):
    rows = [{"q": "x", "answer": 3}, {"q": "y", "answer": None}]
    task = build(write(tmp_path, rows, "r.parquet"), "{q}")
    with pytest.raises(DataError, match=r"r\.parquet, row 2: field 'answer' is empty or null"):
        task.questions()
    (first,) = build(write(tmp_path, rows[:1], "s.parquet"), "{q}").questions()
    assert first.gold == "3"


@pytest.mark.parametrize("name", ["r.jsonl", "r.parquet"])
@pytest.mark.parametrize(
    ("golds", "gold_as"),
    [
        (("B", "A"), "auto"),
        (("b", " a "), "auto"),
        (("B", "A"), "letter"),
        ((1, 0), "auto"),
        (("1", "0"), "index"),
        (("blue", "white "), "auto"),
        (("blue", "white"), "text"),
    ],
)
def test_options_in_one_field(tmp_path, name, golds, gold_as):
    rows = [{**row, "answer": gold} for row, gold in zip(LISTED, golds, strict=True)]
    settings = {"options": "opts", "gold_as": gold_as, "few_shot": 1}
    task = build(write(tmp_path, rows, name), "{q}\n{options}\nAnswer:", **settings)
    first, second = task.questions()
    assert (first.gold, second.gold, first.options) == ("B", "A", ("red", "blue", "green"))
    assert first.aliases == ("blue",)
    assert prompts(task, [first, second])[0] == [
        "Sky?\nA. red\nB. blue\nC. green\nAnswer: B\n\nSnow?\nA. white\nB. black\nAnswer:"
    ]


def test_a_prompt_without_the_list_is_answered_with_the_text(tmp_path):
    task = build(write(tmp_path, LISTED), "{q}", options="opts", few_shot=1)
    assert prompts(task, task.questions())[0] == ["Sky? blue\n\nSnow?"]
    assert task.decoding("loglikelihood", task.questions()) == "loglikelihood"


def test_more_options_than_letters_may_be_weighed_but_not_listed(tmp_path):
    rows = [{"q": "Which?", "opts": [f"number {n}" for n in range(12)], "answer": 11}]
    rows.append(rows[0] | {"q": "What?", "answer": 0})
    path = write(tmp_path, rows)
    task = build(path, "{q}", options="opts")
    assert [q.gold for q in task.questions()] == ["L", "A"]
    assert task.decoding("loglikelihood", task.questions()) == "loglikelihood"
    listing = build(path, "{q}\n{options}", options="opts")
    for wanted in ("auto", "constrained", "loglikelihood"):
        with pytest.raises(ConfigError, match="12 options, more than the letters A to J: leave"):
            listing.decoding(wanted, listing.questions())


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
def test_options_in_fields_of_their_own(tmp_path, name):
    rows = [
        {"q": "Sky?", "A": "red", "B": "blue", "C": "green", "answer": "B"},
        {"q": "Snow?", "A": "white", "B": "black", "C": "", "answer": "A"},
    ]
    task = build(write(tmp_path, rows, name), "{q}\n{options}", options=["A", "B", "C"])
    first, second = task.questions()
    assert (first.gold, second.gold, second.options) == ("B", "A", ("white", "black"))


def test_numbers_as_options_are_read_in_the_way_that_fits_all_rows(tmp_path):
    sums = {"q": "1 + 1?", "opts": ["1", "2", "3"]}
    # By index; in the first row alone the number could also be a text.
    rows = [{**sums, "answer": 1}, {**WHITE, "answer": 0}]
    assert [q.gold for q in questions(tmp_path, rows, options="opts")] == ["B", "A"]
    # By text: 4 is no index.
    rows = [{"q": "2 + 2?", "opts": [3, 4, 5], "answer": 4}]
    assert [q.gold for q in questions(tmp_path, rows, options="opts")] == ["B"]
    # Both fit, and mean the same.
    rows = [{"q": "?", "opts": ["0", "1", "x"], "answer": 1}]
    assert [q.gold for q in questions(tmp_path, rows, options="opts")] == ["B"]
    # Both fit, and do not.
    rows = [{**sums, "answer": 1}]
    with pytest.raises(DataError, match="line 1") as error:
        questions(tmp_path, rows, options="opts")
    assert "type task.gold_as=index or task.gold_as=text" in str(error.value)
    (question,) = questions(tmp_path, rows, options="opts", gold_as="text")
    assert question.gold == "A"


def test_id_category_split_and_meta(tmp_path):
    rows = [
        {"q": "?", "answer": "x", "n": 7, "kind": "old", "where": "Train", "size": 1},
        {"q": "?", "answer": "x", "n": 8, "kind": "new", "where": "dev", "size": None},
        {"q": "?", "answer": "x", "n": 9, "kind": "new", "where": "val", "size": 2},
    ]
    settings = {"id": "n", "category": "kind", "part": "where", "meta": ["size"]}
    first, second, third = questions(tmp_path, rows, **settings)
    assert [q.id for q in (first, second, third)] == ["7", "8", "9"]
    assert [q.part for q in (first, second, third)] == ["train", "shots", "validation"]
    assert (first.meta, second.meta["size"]) == ({"size": "1", "category": "old"}, "")
    (old,) = questions(tmp_path, rows, **settings, subset="old")
    assert old.id == "7"


def test_files_of_a_folder_are_its_splits_where_all_names_say_so(tmp_path):
    for name in ("train.jsonl", "test.jsonl"):
        write(tmp_path, PLAIN[:1], name)
    (tmp_path / "README.md").write_text("none of these")
    found = build(tmp_path).questions()
    assert [(q.id, q.part) for q in found] == [("row-1", "test"), ("row-2", "train")]
    write(tmp_path, PLAIN[:1], "more.csv")
    assert {q.part for q in build(tmp_path).questions()} == {""}


def test_a_file_whose_name_is_no_split_among_others_is_told(tmp_path, caplog):
    for name in ("train.jsonl", "test.jsonl"):
        write(tmp_path, PLAIN, name)
    build(tmp_path).questions()
    assert not caplog.messages
    write(tmp_path, PLAIN, "README.jsonl")
    assert {q.part for q in build(tmp_path).questions()} == {""}
    (told,) = caplog.messages
    assert "the name of README.jsonl speaks of no split" in told


def test_the_name_of_a_single_file_is_no_split(tmp_path):
    assert build(write(tmp_path, PLAIN, "dev.jsonl")).questions()[0].part == ""


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        ({"answer": "x"}, {}, "field 'q' is missing; fields found: answer"),
        ({"q": ["x"], "answer": "x"}, {}, "field 'q' is ['x'], but a text is needed"),
        ({"q": "?"}, {}, "field 'answer' is missing; fields found: q"),
        ({"q": "?", "answer": None}, {}, "field 'answer' is empty or null"),
        ({"q": "?", "answer": ""}, {}, "field 'answer' is empty or null"),
        ({"q": "?", "answer": float("nan")}, {}, "field 'answer' is empty or null"),
        ({"q": "?", "answer": []}, {}, "field 'answer' is []"),
        ({"q": "?", "answer": ["x", None]}, {}, "field 'answer' is ['x', None]"),
        ({"q": "?", "answer": {"x": 1}}, {}, "field 'answer' is {'x': 1}, but a text is needed"),
        ({**WHITE, "answer": "C"}, {"options": "opts"}, "field 'answer' is 'C', which is not"),
        ({**WHITE, "answer": 2}, {"options": "opts", "gold_as": "index"}, "is '2', which is not"),
        ({**WHITE, "answer": -1}, {"options": "opts"}, "is '-1', which is not"),
        ({**WHITE, "answer": ["A"]}, {"options": "opts"}, "only one answer option is right"),
        ({**WHITE, "answer": "A"}, {"options": "choices"}, "field 'choices' is missing"),
        ({**WHITE, "answer": "A"}, {"options": "q"}, "name them all, e.g. task.options=[A,B,C,D]"),
        ({"q": "?", "opts": ["x"], "answer": "A"}, {"options": "opts"}, "gives 1 options"),
        ({"q": "?", "opts": ["x"] * 27, "answer": "A"}, {"options": "opts"}, "2 to 26"),
        (
            {"q": "?", "opts": ["x", "", "y"], "answer": "A"},
            {"options": "opts"},
            "that is empty or not a text",
        ),
        (
            {"q": "?", "opts": ["x", ["y"]], "answer": "A"},
            {"options": "opts"},
            "that is empty or not a text",
        ),
        (
            {"q": "?", "opts": ["x", "x"], "answer": "x"},
            {"options": "opts", "gold_as": "text"},
            "is 'x', which is not the text of one",
        ),
        ({"q": "?", "answer": "x"}, {"id": "n"}, "field 'n' is missing"),
        ({"q": "?", "answer": "x"}, {"meta": ["size"]}, "field 'size' is missing"),
        ({"q": "?", "answer": "x"}, {"category": "kind"}, "field 'kind' is missing"),
        ({"q": "?", "answer": "x"}, {"solution": "why"}, "field 'why' is missing"),
        ({"q": "?", "answer": "x", "s": "exam"}, {"part": "s"}, "use one of: train, training"),
    ],
)
def test_malformed_rows(tmp_path, row, settings, message):
    good = {"q": "?", "answer": "x", "opts": ["x", "y"], "n": 1, "kind": "k", "why": "w", "size": 1}
    good |= {"choices": ["x", "y"], "s": "train"}
    if "options" in settings:
        good |= {"answer": "A" if settings.get("gold_as") is None else 0}
        good |= {"answer": "y"} if settings.get("gold_as") == "text" else {}
    rows = [good, row]
    if settings.get("options") == "q":
        rows = [{**good, "q": ["x", "y"]}, row]
    with pytest.raises(DataError) as error:
        questions(tmp_path, rows, "{q}" if settings.get("options") != "q" else "{n}", **settings)
    assert f"{tmp_path}/rows.jsonl, line 2: field" in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_list_named_in_the_prompt_points_to_the_setting(tmp_path):
    rows = [{"q": "?", "options": ["x", "y"], "answer": "A"}]
    with pytest.raises(DataError, match=r"type task\.options=options"):
        questions(tmp_path, rows, "{q} {options}")


@pytest.mark.parametrize(
    ("options", "golds", "expected"),
    [
        (["True", "False"], [True, False], "AB"),
        (["True", "False"], ["TRUE", "false"], "AB"),
        ([True, False], ["true", "False"], "AB"),
        (["Yes", "yes", "no"], ["yes", "no"], "BC"),
        (["red", "blue"], ["(A)", "(B)"], "AB"),
        (["red", "blue"], ["A.", "b)"], "AB"),
        (["red", "blue"], ["[A]", "B:"], "AB"),
        ({"text": ["red", "blue"], "label": ["A", "B"]}, ["A", "B"], "AB"),
        ({"text": ["red", "blue"], "label": ["1", "2"]}, ["1", "2"], "AB"),
        ({"text": ["red", "blue"], "label": [1, 2]}, [2, 1], "BA"),
        ({"text": ["red", "blue"], "label": ["x", "y"]}, ["blue", "red"], "BA"),
        ([{"text": "red", "label": "B"}, {"text": "blue", "label": "A"}], ["A", "B"], "BA"),
        ({"A": "red", "B": "blue", "C": None}, ["B", "A"], "BA"),
        ({"a": "red", "b": "blue"}, ["b", "a"], "BA"),
        (["red", "blue", "tan"], [1, 3], "AC"),  # counted from 1: there is no option 3 from 0
        (["red", "blue", "tan"], [0, 1], "AB"),
        (["7", "8", "9"], [8, 9], "BC"),
    ],
    ids=repr,
)
def test_golds_of_real_files(tmp_path, options, golds, expected):
    rows = [{"q": f"{n}?", "opts": options, "answer": gold} for n, gold in enumerate(golds)]
    found = questions(tmp_path, rows, options="opts")
    assert "".join(q.gold for q in found) == expected
    texts = ("red", "blue", "tan") if "red" in str(options) else found[0].options
    assert all(q.options == texts[: len(q.options)] for q in found)


def test_numbers_that_may_be_counted_from_0_or_1_are_not_guessed_at(tmp_path, caplog):
    rows = [{"q": f"{n}?", "opts": ["w", "x", "y", "z"], "answer": n} for n in (1, 2, 3)]
    with pytest.raises(DataError, match="line 1") as error:
        questions(tmp_path, rows, options="opts")
    assert str(error.value).endswith("type task.gold_as=index or task.gold_as=number")
    for gold_as, expected in (("index", "BCD"), ("number", "ABC")):
        found = questions(tmp_path, rows, options="opts", gold_as=gold_as)
        assert "".join(q.gold for q in found) == expected
    assert not caplog.records
    found = questions(tmp_path, [*rows, {**rows[0], "answer": 4}], options="opts")
    assert "".join(q.gold for q in found) == "ABCD"
    assert "task.answer counts options from 1" in caplog.text  # never silent
    with pytest.raises(DataError, match=r"is '0', which is not the number \(from 1\)"):
        questions(tmp_path, [{**rows[0], "answer": 0}], options="opts", gold_as="number")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": ["red", "blue"], "label": ["A"]}, "has 2 texts and 1 labels"),
        ({"text": ["red", "blue"], "label": ["A", "A"]}, "has 2 texts and 1 labels"),
        ({"text": ["red", "blue"]}, "not a list of options"),
        ({"first": "red", "second": "blue"}, "not a list of options"),
        ([{"text": "red"}, {"text": "blue"}], "empty or not a text"),
        ({}, "gives 0 options"),
    ],
)
def test_options_that_are_no_list_of_texts(tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        questions(tmp_path, [{"q": "?", "opts": options, "answer": "A"}], options="opts")


def test_a_gold_that_no_reading_fits_names_them_all(tmp_path):
    rows = [{"q": "Wet?", "opts": ["Yes", "No"], "answer": True}]
    tried = r"'true', which is not the letter, index \(from 0\), text or number \(from 1\) of one"
    with pytest.raises(DataError, match=tried):
        questions(tmp_path, rows, options="opts")


def test_ids_must_be_unique(tmp_path):
    with pytest.raises(DataError, match="'What flies\\?' occurs more than once") as error:
        build(write(tmp_path, PLAIN[:1] * 2), id="question").questions()
    assert "rows.jsonl, line 1 and " in str(error.value)
    write(tmp_path, PLAIN[:1], "a.jsonl")
    write(tmp_path, PLAIN[:1], "rows.jsonl")
    with pytest.raises(DataError, match=r"a\.jsonl, line 1 and .*rows\.jsonl, line 1$"):
        build(tmp_path, id="question").questions()


def test_wrong_settings(tmp_path):
    for path in ("", "bundled", "hub"):
        with pytest.raises(ConfigError, match=r"type task\.path=FILE"):
            build(path)
    with pytest.raises(ConfigError, match="letter, index, text, number"):
        build("x", gold_as="digit")
    with pytest.raises(ConfigError, match=r"task\.gold is empty"):
        build("x", gold="")
    with pytest.raises(DataError, match=r"task\.path=.*nowhere.*type task\.path=FILE"):
        build(tmp_path / "nowhere").questions()
    with pytest.raises(DataError, match=r"task\.path="):
        build(tmp_path).questions()
    (tmp_path / "rows.txt").write_text("x")
    with pytest.raises(DataError, match="csv, jsonl and parquet"):
        build(tmp_path / "rows.txt").questions()
    with pytest.raises(DataError, match=r"empty\.jsonl"):
        build(write(tmp_path, [], "empty.jsonl")).questions()
