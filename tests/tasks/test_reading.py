"""Malformed data ends with one line: file, line and field."""

import csv
import gzip
import io
import json

import pandas as pd
import pytest
from test_prompts_golden import BBQ_ROW, TASKS, build

from corrsteer.errors import ConfigError, DataError
from corrsteer.records import Question
from corrsteer.tasks.bbq import BBQ
from corrsteer.tasks.mmlu import COLUMNS, MMLU
from corrsteer.tasks.reading import data_files, official_part

ROWS = {
    "bbq": BBQ_ROW,
    "mmlu": dict(zip(COLUMNS, ("Which?", "a", "b", "c", "d", "D"), strict=True)),
    "mmlu_pro": {
        "question_id": 7, "question": "Pick.", "options": ["x", "y"], "answer_index": 1,
        "cot_content": "", "category": "law",
    },
    "gsm8k": {"question": "1 and 1?", "answer": "It is 2.\n#### 2"},
    "simpleqa": {"metadata": "{'topic': 'Hats'}", "question": "Which?", "true_answer": "Red"},
    "harmbench": {
        "Behavior": "Do it.", "FunctionalCategory": "standard", "SemanticCategory": "s",
        "Tags": "", "ContextString": "", "BehaviorID": "first",
    },
    "xstest": {"id": "1", "prompt": "Kill?", "type": "t", "label": "safe", "focus": "", "note": ""},
}  # fmt: skip
NAMES = {
    "bbq": "x.jsonl", "mmlu": "x_test.csv", "mmlu_pro": "test-x.parquet", "gsm8k": "test.jsonl",
    "simpleqa": "x.csv", "harmbench": "x_text_all.csv", "xstest": "x.csv",
}  # fmt: skip
IDS = {"bbq": "example_id", "mmlu_pro": "question_id", "harmbench": "BehaviorID", "xstest": "id"}
TEXTS = [name for name in TASKS if name != "mmlu_pro"]


def content(name, *rows):
    """The rows as bytes of the kind of file that the task is published in."""
    if NAMES[name].endswith("parquet"):
        out = io.BytesIO()
        pd.DataFrame(rows).to_parquet(out)
        return out.getvalue()
    if NAMES[name].endswith("jsonl"):
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    if name != "mmlu":
        writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()  # type: ignore[attr-defined]


def second(name):
    """Another good row of a task."""
    row = ROWS[name]
    if name not in IDS:
        return row
    return row | {IDS[name]: 8 if isinstance(row[IDS[name]], int) else "another"}


def at(name, number):
    """How the place of a task's row is told."""
    has_header = name in ("simpleqa", "harmbench", "xstest")
    kind = "row" if name == "mmlu_pro" else "line"
    return f"{NAMES[name]}, {kind} {number + has_header}"


def load(name, path):
    return build(TASKS[name], name, path).questions()


def refusal(name, path):
    with pytest.raises(DataError) as caught:
        load(name, path)
    told = str(caught.value)
    assert "\n" not in told
    return told


@pytest.fixture
def written(tmp_path):
    """``written(name, *rows)``, rows or bytes: the folder with a file of a task."""

    def write(name, *rows, file=None):
        raw = rows[0] if isinstance(rows[0], bytes) else content(name, *rows)
        (tmp_path / (file or NAMES[name])).write_bytes(raw)
        return tmp_path

    return write


# -- rows ----------------------------------------------------------------------------------------

WRONG = {  # task: (field, value, what is said)
    "bbq": [
        ("label", 3, "is 3, not 0, 1 or 2"),
        ("label", -1, "is -1, not 0, 1 or 2"),
        ("label", True, "should be int, got bool 'True'"),
        ("label", "1", "should be int, got str '1'"),
        ("label", 1.0, "should be int, got float '1.0'"),
        ("context_condition", "x", "is 'x', not ambig or disambig"),
        ("context_condition", 1, "should be str, got int '1'"),
        ("example_id", "7", "should be int, got str '7'"),
        ("category", "", "is empty"),
        ("context", " ", "is empty"),
        ("question", "", "is empty"),
        ("question", ["Who?"], "should be str, got list"),
        ("ans1", None, "is null"),
        ("ans2", 5, "should be str, got int '5'"),
    ],
    "mmlu": [
        ("answer", "E", "is 'E', not A, B, C or D"),
        ("answer", "d", "is 'd', not A, B, C or D"),
        ("answer", "", "is '', not A, B, C or D"),
        ("answer", "AB", "is 'AB', not A, B, C or D"),
        ("answer", "3", "is '3', not A, B, C or D"),
        ("question", "", "is empty"),
        ("question", "  ", "is empty"),
    ],
    "mmlu_pro": [
        ("answer_index", 2, "is 2, but there are 2 options"),
        ("answer_index", -1, "is -1, but there are 2 options"),
        ("options", [], "but there are 0 options"),
        ("options", list("abcdefghijk"), "but there are 11 options"),
        ("question", "", "is empty"),
        ("category", "", "is empty"),
    ],
    "gsm8k": [
        ("answer", "2", "has no '#### n' at its end"),
        ("answer", "It is 2.\n####  ", "has no '#### n' at its end"),
        ("answer", "", "has no '#### n' at its end"),
        ("answer", 2, "should be str, got int '2'"),
        ("question", "\n", "is empty"),
        ("question", None, "is null"),
    ],
    "simpleqa": [
        ("metadata", "exit(3)", "is not a dict with a 'topic'"),  # parsed, never run
        ("metadata", "{'topic': __import__('os').getcwd()}", "is not a dict with a 'topic'"),
        ("metadata", "{'kind': 'x'}", "is not a dict with a 'topic'"),
        ("metadata", "['topic']", "is not a dict with a 'topic'"),
        ("metadata", "", "is not a dict with a 'topic'"),
        ("metadata", "{", "is not a dict with a 'topic'"),
        ("metadata", "(" * 10_000, "is not a dict with a 'topic'"),
        ("metadata", "-" * 3000 + "1", "is not a dict with a 'topic'"),
        ("metadata", "{'topic': None}", "has the topic 'None', which is not a text"),
        ("metadata", "{'topic': ''}", "has the topic '', which is not a text"),
        ("question", "", "is empty"),
        ("true_answer", " ", "is empty"),
    ],
    "harmbench": [
        ("Behavior", "", "is empty"),
        ("BehaviorID", "", "is empty"),
        ("FunctionalCategory", "", "is empty"),
    ],
    "xstest": [
        ("label", "harmless", "is 'harmless', not safe or unsafe"),
        ("label", "", "is '', not safe or unsafe"),
        ("prompt", "", "is empty"),
        ("type", "", "is empty"),
        ("id", "", "is empty"),
    ],
}


@pytest.mark.parametrize(
    ("name", "field", "value", "problem"),
    [(name, *case) for name, cases in WRONG.items() for case in cases],  # type: ignore[attr-defined]
)
def test_a_wrong_value(written, name, field, value, problem):
    told = refusal(name, written(name, second(name), ROWS[name] | {field: value}))
    assert at(name, 2) in told
    assert "field '" in told and problem in told
    # a list of options is named by the answer that is not among them
    assert f"field '{field}'" in told or (name, field) == ("mmlu_pro", "options")


NEEDED = {
    "bbq": ["context_condition", "label", "category", "example_id", "context", "question", "ans0",
            "ans1", "ans2"],
    "mmlu_pro": ["question_id", "question", "options", "answer_index", "category"],
    "gsm8k": ["question", "answer"],
    "simpleqa": ["metadata", "question", "true_answer"],
    "harmbench": ["Behavior", "FunctionalCategory", "SemanticCategory", "ContextString",
                  "BehaviorID"],
    "xstest": ["prompt", "type", "label"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name, fields in NEEDED.items() for field in fields]
)
def test_a_missing_field(written, name, field):
    lacking = {key: value for key, value in ROWS[name].items() if key != field}
    told = refusal(name, written(name, lacking))
    assert f"{at(name, 1)}: field '{field}' is missing; fields found: " in told


@pytest.mark.parametrize("name", IDS)
def test_an_id_that_comes_twice(written, name):
    told = refusal(name, written(name, ROWS[name], second(name), ROWS[name]))
    assert "occurs more than once; ids must be unique" in told


def test_what_a_row_may_lack(written):
    """Options without text still have their letters, and a copy of XSTest its places as ids."""
    empty = BBQ_ROW | {"ans0": ""}
    (question,) = load("bbq", written("bbq", empty))
    assert question.options[0] == ""
    (question,) = load("mmlu", written("mmlu", ROWS["mmlu"] | {"B": ""}))
    assert question.options == ("a", "", "c", "d")
    (question,) = load("mmlu_pro", written("mmlu_pro", ROWS["mmlu_pro"] | {"options": ["", "y"]}))
    assert question.options == ("", "y")
    bare = {key: ROWS["xstest"][key] for key in ("prompt", "type", "label")}
    assert [q.id for q in load("xstest", written("xstest", bare, bare))] == ["row-2", "row-3"]


def test_numbers_as_ids_of_xstest(written):
    rows = [ROWS["xstest"] | {"id": n} for n in (3, 4)]
    path = written("xstest", "".join(json.dumps(r) + "\n" for r in rows).encode(), file="x.jsonl")
    assert [q.id for q in load("xstest", path / "x.jsonl")] == ["3", "4"]
    path = written("xstest", json.dumps(rows[0] | {"id": None}).encode(), file="x.jsonl")
    assert "line 1: field 'id' is null" in refusal("xstest", path / "x.jsonl")


def test_no_row_with_the_context(written):
    told = refusal("bbq", written("bbq", {**BBQ_ROW, "context_condition": "disambig"}))
    assert told.startswith("no BBQ rows with context ambig in '")
    assert told.endswith("type task.context=both")


# -- jsonl ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bbq", "gsm8k"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{not json", "not JSON (Expecting property name enclosed in double quotes)"),
        (b'{"a": 1} {"b": 2}', "not JSON (Extra data)"),
        (b'{"question": "a\tb"}', "not JSON (Invalid control character at)"),
        (b"[1]", "a row should be a JSON object"),
        (b"null", "a row should be a JSON object"),
        (b"[" * 100_000, "JSON nested too deeply"),
    ],
)
def test_a_line_that_is_no_json_object(written, name, line, message):
    path = written(name, content(name, ROWS[name]) + b"\n" + line + b"\n")
    assert f"{NAMES[name]}, line 3: {message}" in refusal(name, path)


def test_line_separators_inside_a_json_string_do_not_split_the_row(written):
    row = {**BBQ_ROW, "context": "a\u2028b\x85c"}
    (question,) = load("bbq", written("bbq", json.dumps(row, ensure_ascii=False).encode()))
    assert question.fields["context"] == "a\u2028b\x85c"


# -- csv -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mmlu", "simpleqa", "harmbench", "xstest"])
def test_too_few_and_too_many_cells(written, name):
    good = content(name, ROWS[name])
    columns = ", ".join(ROWS[name])
    for line, cells in ((b"a,b\n", 2), (b"a" + b"," * 9 + b"\n", 10)):
        told = refusal(name, written(name, good + line))
        assert f"{at(name, 2)}: {cells} fields, expected {len(ROWS[name])} ({columns})" in told


@pytest.mark.parametrize("name", ["mmlu", "simpleqa", "harmbench", "xstest"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'"never closed,x\n', "unexpected end of data"),
        (b'"a"b,x\n', "',' expected after '\"'"),
        (b"a\rb\n", "new-line character seen in unquoted field"),
    ],
)
def test_a_line_that_is_no_csv(written, name, line, message):
    told = refusal(name, written(name, content(name, ROWS[name]) + line))
    assert f"{at(name, 2)}: not CSV (" in told
    assert message in told


def test_the_line_is_the_last_one_of_a_record_with_line_breaks(written):
    row = ROWS["simpleqa"] | {"question": "Which\nof\nthem?"}
    (question,) = load("simpleqa", written("simpleqa", row))
    assert (question.fields["question"], question.id) == ("Which\nof\nthem?", "row-4")
    told = refusal("simpleqa", written("simpleqa", row | {"true_answer": ""}))
    assert "x.csv, line 4: field 'true_answer' is empty" in told


def test_columns_of_the_same_name(written):
    told = refusal("xstest", written("xstest", b"id,prompt,prompt,type,label\n1,a,b,t,safe\n"))
    assert "x.csv, line 1: two columns have the same name (id, prompt, prompt" in told


def test_a_header_alone_and_empty_lines(written):
    header = content("xstest", ROWS["xstest"]).split(b"\n")[0] + b"\n"
    assert "no questions of task xstest in '" in refusal("xstest", written("xstest", header))
    (question,) = load("xstest", written("xstest", b"\n" + header + b"\n\n1,Kill?,t,safe,,\n\n"))
    assert question.id == "1"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("question,A,B,C,D,answer\nWhich?,a,b,c,d,3\n",
         "line 1: field 'answer' names a column; MMLU's csv files have no header: delete it"),
        ("Which?,a,b,c,d,3\n", "line 1: field 'answer' is '3', not A, B, C or D"),
        ("question,subject,choices,answer\nWhich?,birds,\"['a' 'b' 'c' 'd']\",3\n",
         "line 1: 4 fields, expected 6 (question, A, B, C, D, answer)"),
        (",question,A,B,C,D,answer\n0,Which?,a,b,c,d,D\n", "line 1: 7 fields, expected 6"),
    ],
)  # fmt: skip
def test_mmlu_as_other_programs_export_it(written, lines, message):
    assert message in refusal("mmlu", written("mmlu", lines.encode()))


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_a_good_file(written, name):
    """What the tests here break is in order before they do."""
    first, other = load(name, written(name, ROWS[name], second(name)))
    assert isinstance(first, Question) and first.id != other.id


@pytest.mark.parametrize("name", TEXTS)
def test_a_byte_order_mark_and_windows_line_ends(written, name):
    plain = content(name, ROWS[name], second(name))
    expected = load(name, written(name, plain))
    assert load(name, written(name, b"\xef\xbb\xbf" + plain)) == expected
    windows = plain.replace(b"\n", b"\r\n")
    assert load(name, written(name, b"\xef\xbb\xbf" + windows)) == expected
    assert load(name, written(name, plain.rstrip(b"\n"))) == expected


@pytest.mark.parametrize("name", TEXTS)
def test_gzipped(tmp_path, name):
    plain = content(name, ROWS[name], second(name))
    (tmp_path / f"{NAMES[name]}.gz").write_bytes(gzip.compress(plain))
    assert len(load(name, tmp_path)) == 2
    assert len(load(name, tmp_path / f"{NAMES[name]}.gz")) == 2


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("raw", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_an_empty_file(written, name, raw):
    assert refusal(name, written(name, raw)).endswith(f"{NAMES[name]} is empty")


@pytest.mark.parametrize("name", TEXTS)
def test_text_that_is_not_in_utf_8(written, name):
    plain = content(name, ROWS[name])
    for raw in (
        b"\xff" + plain,
        plain.decode().encode("utf-16"),
        plain[:-4] + b"\xe9" + plain[-4:],
    ):
        told = refusal(name, written(name, raw))
        line = 1 if raw[0] == 0xFF else plain[:-4].count(b"\n") + 1
        assert f"{NAMES[name]}, line {line}: cannot be read as UTF-8 text: " in told


@pytest.mark.parametrize("name", TEXTS)
def test_nul_bytes(written, name):
    plain = content(name, second(name), ROWS[name])
    lines = plain.count(b"\n")
    for raw in (plain[:-3] + b"\0" + plain[-3:], plain + b"\0" * 512):
        told = refusal(name, written(name, raw))
        line = raw.count(b"\n", 0, raw.index(b"\0")) + 1
        assert f"{NAMES[name]}, line {line}: a NUL byte" in told
        assert line in (lines, lines + 1)


@pytest.mark.parametrize("name", TEXTS)
def test_a_gzip_file_that_is_none_or_not_whole(tmp_path, name):
    packed = gzip.compress(content(name, ROWS[name]))
    garbled = packed[:12] + bytes(255 - byte for byte in packed[12:-8]) + packed[-8:]
    path = tmp_path / f"{NAMES[name]}.gz"
    for raw in (packed[:-9], packed[:5], b"plain text", garbled):
        path.write_bytes(raw)
        assert f"{path.name} cannot be read as UTF-8 text: " in refusal(name, tmp_path)


@pytest.mark.parametrize("name", TASKS)
def test_a_file_that_is_not_what_its_name_says(written, name):
    parquet = content("mmlu_pro", ROWS["mmlu_pro"])
    other = b"<html>\n<p>Not found</p></html>\n"
    if name == "mmlu_pro":
        for raw in (b"", other, parquet[:-30], content("bbq", BBQ_ROW)):
            told = refusal(name, written(name, raw))
            assert "test-x.parquet cannot be read as parquet: " in told
        return
    told = refusal(name, written(name, parquet))
    assert "cannot be read as UTF-8 text" in told or "a NUL byte" in told
    assert f"{NAMES[name]}, line " in told
    assert f"{NAMES[name]}, line " in refusal(name, written(name, other))


@pytest.mark.parametrize("name", [name for name in TASKS if name != "mmlu"])
def test_a_file_of_a_kind_that_is_not_read(written, name):
    path = written(name, ROWS[name], file="rows.txt") / "rows.txt"
    told = refusal(name, path)
    assert "rows.txt: rows are read from csv, jsonl and parquet files; rename it" in told


@pytest.mark.parametrize("name", ["bbq", "gsm8k", "simpleqa", "xstest"])
def test_rows_in_another_kind_of_file(tmp_path, name):
    """Its name says what a file is, not its task: parquet is what a Hub would give."""
    frame = pd.DataFrame([ROWS[name], second(name)])
    frame.to_parquet(tmp_path / "rows.parquet")
    assert len(load(name, tmp_path / "rows.parquet")) == 2
    frame.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    assert len(load(name, tmp_path / "rows.jsonl")) == 2


def test_a_column_is_never_made_of_a_folders_name(written, tmp_path):
    folder = tmp_path / "category=law"
    folder.mkdir()
    row = {key: value for key, value in ROWS["mmlu_pro"].items() if key != "category"}
    (folder / "test-x.parquet").write_bytes(content("mmlu_pro", row))
    assert "row 1: field 'category' is missing" in refusal("mmlu_pro", tmp_path)


@pytest.mark.parametrize("name", TASKS)
def test_a_missing_path_and_a_folder_without_task_files(tmp_path, name):
    told = refusal(name, tmp_path / "nowhere")
    assert "the path does not exist; give data=bundled or the folder with the original" in told
    assert f"no {name} files in '{tmp_path}': expected " in refusal(name, tmp_path)


# -- official parts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("anatomy_test.csv", "test"),
        ("anatomy_val.csv.gz", "validation"),
        ("anatomy_dev.csv", "shots"),
        ("train.jsonl", "train"),
        ("test.jsonl.gz", "test"),
        ("test-00000-of-00001.parquet", "test"),
        ("validation-00000-of-00001.parquet", "validation"),
        ("dev-00000-of-00001.parquet", "shots"),
        ("train-00001-of-00002.parquet", "train"),
        ("harmbench_behaviors_text_val.csv", "validation"),
        ("harmbench_behaviors_text_all.csv", ""),
        ("contest.csv", ""),
        ("train_test.csv", ""),
        ("rows.csv", ""),
    ],
)
def test_official_part(tmp_path, file, part):
    assert official_part(tmp_path / "test" / file) == part


def test_harmbench_parts_and_the_file_that_repeats_them(tmp_path):
    def named(*names):
        return content("harmbench", *(ROWS["harmbench"] | {"BehaviorID": name} for name in names))

    def parts(path=tmp_path):
        return {q.id: q.part for q in load("harmbench", path)}

    (tmp_path / "x_text_all.csv").write_bytes(named("one", "two", "three"))
    assert parts() == {"one": "", "two": "", "three": ""}
    (tmp_path / "x_text_val.csv").write_bytes(named("one"))
    # a row of no part is kept: dealing them out says that its part is missing
    assert parts() == {"one": "validation", "two": "", "three": ""}
    (tmp_path / "x_text_test.csv").write_bytes(named("two", "three"))
    assert parts() == {"one": "validation", "two": "test", "three": "test"}
    assert parts(tmp_path / "x_text_test.csv") == {"two": "test", "three": "test"}
    (tmp_path / "x_text_test.csv").write_bytes(named("one", "two"))
    assert "question id 'one' occurs more than once" in refusal("harmbench", tmp_path)


# -- settings ------------------------------------------------------------------------------------


def test_bad_settings_of_a_task():
    with pytest.raises(ConfigError, match="ambig, disambig, both"):
        build(BBQ, "bbq", "bundled", context="ambiguous")
    with pytest.raises(ConfigError, match="max_new_tokens=0"):
        build(MMLU, "mmlu", "bundled", max_new_tokens=0)


def test_bundled_data_is_offered_where_there_is_some():
    with pytest.raises(DataError, match="does not exist; give the folder with the original ifeval"):
        data_files("none", "ifeval", ["*.jsonl"])
