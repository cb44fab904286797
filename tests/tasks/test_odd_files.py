"""Files as they lie on disks: hidden copies, odd bytes, long fields, many rows. What is read is
what was written, and everything else is refused in one line that names file, line and field."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import resource
import shutil
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_custom import build
from test_prompts_golden import BBQ_ROW
from test_prompts_golden import build as build_task

from corrsteer.errors import CorrSteerError, DataError
from corrsteer.tasks.base import HubData
from corrsteer.tasks.bbq import BBQ
from corrsteer.tasks.reading import read_rows

ROWS = [{"question": f"What is {n}?", "answer": str(n)} for n in range(30)]
HIDDEN = [
    ".ipynb_checkpoints/rows-checkpoint.jsonl",
    ".hidden.jsonl",
    ".cache/huggingface/rows.jsonl",
    "deep/.git/rows.jsonl",
    "__pycache__/rows.jsonl",
    "__MACOSX/._rows.jsonl",
    "._rows.jsonl",
    "rows.jsonl~",
]


def put(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


def refusal(path, **settings):
    with pytest.raises(DataError) as caught:
        build(path, **settings).questions()
    told = str(caught.value)
    assert "\n" not in told and told.isprintable()
    return told


# -- which files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", HIDDEN)
def test_hidden_files_caches_and_copies_are_no_data(tmp_path, hidden):
    put(tmp_path / "rows.jsonl", ROWS)
    put(tmp_path / "more" / "rows.jsonl", ROWS[:5])
    before = build(tmp_path).questions()
    put(tmp_path / hidden, ROWS)
    assert build(tmp_path).questions() == before
    assert len(before) == 35


def test_neither_are_they_of_a_benchmark_or_a_download(tmp_path, monkeypatch):
    put(tmp_path / "x.jsonl", [BBQ_ROW])
    put(tmp_path / ".ipynb_checkpoints" / "x-checkpoint.jsonl", [BBQ_ROW])
    task = build_task(BBQ, "bbq", tmp_path)
    assert len(task.questions()) == 1
    source = HubData("made/rows", "a" * 40, ["*.jsonl"], "MIT")
    monkeypatch.setattr("corrsteer.hub.dataset", lambda *_, **__: tmp_path)
    assert [f.name for f in source.paths("bbq")] == ["x.jsonl"]
    put(tmp_path / "copy" / "x.jsonl", [BBQ_ROW])
    with pytest.raises(DataError, match=r"copy/x\.jsonl, line 1 and .*x\.jsonl, line 1"):
        task.questions()


def test_a_folder_that_is_itself_hidden_may_hold_data(tmp_path):
    put(tmp_path / ".cache" / "mine" / "rows.jsonl", ROWS)
    assert len(build(tmp_path / ".cache" / "mine").questions()) == 30


def test_what_is_no_file_in_a_folder_is_told(tmp_path, caplog):
    folder, other = tmp_path / "data", tmp_path / "other"
    put(folder / "rows.jsonl", ROWS)
    put(folder / "deep.jsonl" / "more.jsonl", ROWS)
    put(other / "rows.jsonl", ROWS)
    (folder / "linked.jsonl").symlink_to(other / "rows.jsonl")
    assert len(build(folder).questions()) == 90
    assert not caplog.messages
    (folder / "dangling.jsonl").symlink_to(tmp_path / "nowhere")
    (folder / "sub").symlink_to(other)
    (folder / ".hidden").symlink_to(other)
    (folder / "notes.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe.jsonl")
    assert len(build(folder).questions()) == 90
    (told,) = caplog.messages
    assert "no files: dangling.jsonl, pipe.jsonl, sub (" in told


def fingerprint(path):
    task = build(path)
    return task.about_data(task.questions()).fingerprint


NAMES = ["a.jsonl", "b/c.jsonl", "train.jsonl", *HIDDEN]


@settings(max_examples=40)
@given(
    files=st.lists(st.sampled_from(NAMES[:3]), min_size=1, unique=True),
    changed=st.sampled_from(NAMES),
    row=st.integers(0, 2),
    field=st.sampled_from(["question", "answer"]),
)
def test_a_change_of_any_data_file_changes_the_fingerprint(
    tmp_path_factory, files, changed, row, field
):
    folder = tmp_path_factory.mktemp("files")
    for n, name in enumerate(files):
        put(folder / name, ROWS[3 * n : 3 * n + 3])
    before = fingerprint(folder)
    there = changed in files
    if there:
        rows = [json.loads(line) for line in (folder / changed).read_text().splitlines()]
        rows[row][field] += "!"
        put(folder / changed, rows)
    else:
        put(folder / changed, [{**ROWS[20 + row], field: "!"}])
    is_file_of_data = all(not p.startswith((".", "__")) for p in changed.split("/"))
    is_file_of_data = is_file_of_data and not changed.endswith("~")
    assert (fingerprint(folder) != before) == is_file_of_data
    shutil.rmtree(folder)


# -- values --------------------------------------------------------------------------------------


def test_numbers_of_low_precision_mean_what_was_written(tmp_path):
    table = pa.table(
        {
            "q": ["a", "b", "c", "d"],
            "single": pa.array([0.2, 3.0, 1234.5678, None], pa.float32()),
            "half": pa.array(np.array([0.1, 2, 65504, 0.333], np.float16)),
            "listed": pa.array([[0.2, 0.3], [1.5], [], None], pa.list_(pa.float32())),
            "inner": pa.array([{"x": 0.7}] * 3 + [None], pa.struct([("x", pa.float32())])),
            "double": [0.2, 1 / 3, 1e22, float("nan")],
            "dated": pa.array([0.1] * 4, pa.float32()).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "r.parquet")
    rows = [row.values for row in read_rows([tmp_path / "r.parquet"])]
    assert [r["single"] for r in rows] == [0.2, 3.0, 1234.5677, None]
    assert [r["half"] for r in rows] == [0.1, 2.0, 65504.0, 0.333]
    assert [r["listed"] for r in rows] == [[0.2, 0.3], [1.5], [], None]
    assert [r["inner"] for r in rows] == [{"x": 0.7}] * 3 + [None]
    assert [r["double"] for r in rows][:3] == [0.2, 1 / 3, 1e22]
    assert [r["dated"] for r in rows] == [0.1] * 4
    golds = build(tmp_path / "r.parquet", "{q}", gold="half").questions()
    assert [q.gold for q in golds] == ["0.1", "2", "65504", "0.333"]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_number_of_single_precision_is_read_as_the_shortest_text_of_it(number):
    from corrsteer.tasks.reading import _as_written

    read = _as_written(number, pa.float32())
    assert np.float32(read) == np.float32(number)
    assert len(repr(read)) <= len(repr(float(np.float32(number))))


@pytest.mark.parametrize(
    ("line", "field", "what"),
    [
        (
            r'{"question": "A \ud83d ?", "answer": "1"}',
            "question",
            r"half a surrogate pair (\ud83d)",
        ),
        (r'{"question": "A", "answer": "\uDC00"}', "answer", r"half a surrogate pair (\udc00)"),
        (r'{"question": "A", "answer": ["1", "\ud800"]}', "answer", r"surrogate pair (\ud800)"),
        (r'{"question": "A", "answer": "1", "x": {"y": "\ud800"}}', "x", r"pair (\ud800)"),
        (r'{"question": "A", "answer": "1", "\ud800": 2}', r"\ud800", r"pair (\ud800)"),
        (r'{"question": "A\u0000", "answer": "1"}', "question", r"a NUL character (\u0000)"),
    ],
)
def test_a_character_that_is_in_no_text(tmp_path, line, field, what):
    (tmp_path / "r.jsonl").write_text(json.dumps(ROWS[0]) + "\n" + line + "\n")
    told = refusal(tmp_path / "r.jsonl")
    assert f"r.jsonl, line 2: field '{field}' holds " in told and what in told


def test_a_whole_pair_is_a_character(tmp_path):
    (tmp_path / "r.jsonl").write_text(r'{"question": "\ud83d\ude00?", "answer": "\\ud800"}')
    (question,) = build(tmp_path / "r.jsonl").questions()
    assert (question.fields["question"], question.gold) == ("😀?", r"\ud800")


def test_a_nul_in_a_table(tmp_path):
    pd.DataFrame([ROWS[0], {**ROWS[1], "answer": "1\0"}]).to_parquet(tmp_path / "r.parquet")
    assert "r.parquet, row 2: field 'answer' holds a NUL" in refusal(tmp_path / "r.parquet")


def test_a_text_in_a_table_that_is_not_in_utf_8(tmp_path):
    raw = pa.array([b"ok", b"\xff\xfe"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"question": ["a", "b"], "answer": raw}), tmp_path / "r.parquet")
    assert "field 'answer' cannot be read as parquet: " in refusal(tmp_path / "r.parquet")


def test_columns_of_one_name_in_a_table(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, ["question", "answer", "answer"])
    pq.write_table(table, tmp_path / "r.parquet")
    assert "two columns have the same name" in refusal(tmp_path / "r.parquet")


def test_numbers_longer_than_python_reads(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"question": "a", "answer": ' + "9" * 5000 + "}")
    assert "r.jsonl, line 1: a number too long to read" in refusal(tmp_path / "r.jsonl")
    put(tmp_path / "s.jsonl", [{"question": "a", "answer": "9" * 5000, "o": ["x", "y"]}])
    assert "which is not the" in refusal(tmp_path / "s.jsonl", options="o")


@pytest.mark.parametrize("line", [
    '{"question": "a", "answer": "1", "answer": "2"}',
    '{"question": "a", "answer": "1", "o": {"answer": "x", "answer": "y"}}',
])  # fmt: skip
def test_a_field_that_stands_twice(tmp_path, line):
    (tmp_path / "r.jsonl").write_text(json.dumps(ROWS[0]) + "\n" + line)
    assert "r.jsonl, line 2: field 'answer' stands there twice" in refusal(tmp_path / "r.jsonl")


def test_long_fields_and_lines(tmp_path):
    long = "word " * 28_000
    for name, text in (("r.csv", f'question,answer\n"{long}",1\n'),
                       ("r.jsonl", json.dumps({"question": long * 36, "answer": 1}))):  # fmt: skip
        (tmp_path / name).write_text("\ufeff" + text, encoding="utf-8")
        (question,) = build(tmp_path / name).questions()
        assert len(question.fields["question"]) in (140_000, 5_040_000)
    (tmp_path / "r.csv").write_text(f'question,answer\n"{long},1\n')
    assert "r.csv, line 2: not CSV (unexpected end of data)" in refusal(tmp_path / "r.csv")


# -- many of them --------------------------------------------------------------------------------


@pytest.mark.night
@pytest.mark.parametrize("name", ["r.csv", "r.jsonl", "r.parquet"])
def test_a_hundred_thousand_rows(tmp_path, name):
    rows = [{"question": f"What is {n} and {n}?", "answer": 2 * n} for n in range(100_000)]
    frame = pd.DataFrame(rows)
    {"r.csv": lambda f: frame.to_csv(f, index=False), "r.parquet": frame.to_parquet,
     "r.jsonl": lambda f: put(f, rows)}[name](tmp_path / name)  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    questions = build(tmp_path / name).questions()
    assert time.process_time() - began < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # kB
    assert (len(questions), questions[-1].gold) == (100_000, "199998")


VALUES = [
    "x", "", " ", "7", 7, 7.0, 0.2, -0.0, True, False, None, [], ["a", "b"], ["a", None], {"k": 1},
    [["a"]], float("nan"), float("inf"), 10**30, "\ud83d", "\0", "\ufeffx", "ß", "A", "(B)",
    "x" * 200_000, {"text": ["a", "b"], "label": ["1", "2"]}, "\u2028", "a,b", 'a"b', "a\nb",
]  # fmt: skip


def made_file(folder, dice):
    """A file of 1 to 6 rows, odd values among them; its path, its rows, and of which kind it is."""

    def odd(usual):
        return dice.choice(VALUES) if dice.random() < 0.15 else usual

    rows = [
        {"question": odd(f"{n}?"), "answer": odd("A"), "opts": odd(["a", "b"])}
        for n in range(dice.randint(1, 6))
    ]
    kind = dice.choice(["jsonl", "csv", "bytes"])
    if kind == "csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator=dice.choice(["\n", "\r\n"]))
        writer.writerow(rows[0])
        for row in rows:
            writer.writerow(row.values())
        raw = out.getvalue().encode(dice.choice(["utf-8", "utf-8-sig"]), errors="surrogatepass")
    else:
        text = "\n".join(json.dumps(row, ensure_ascii=dice.random() < 0.5) for row in rows)
        raw = text.encode(dice.choice(["utf-8", "utf-8-sig", "utf-16"]), errors="surrogatepass")
    if kind == "bytes":
        spoilt = bytearray(raw)
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(spoilt))
            spoilt[at : at + dice.randint(0, 2)] = dice.randbytes(dice.randint(0, 3))
        raw = bytes(spoilt)
    file = folder / f"r.{'csv' if kind == 'csv' else 'jsonl'}"
    file.write_bytes(raw)
    return file, rows, kind


@pytest.mark.night
@pytest.mark.parametrize("seed", range(200))
def test_any_file_is_read_as_it_is_or_refused_in_one_line(tmp_path, seed):
    dice = random.Random(seed)
    file, rows, kind = made_file(tmp_path, dice)
    task = build(file, options=dice.choice([None, None, "opts"]))
    try:
        questions = task.questions()
    except CorrSteerError as error:
        told = str(error)
        assert "\n" not in told and str(file) in told
        told.encode()
        return
    for question in questions:
        (*question.fields.values(), question.gold, *question.options)[0].encode()
        replace(task).ask({"test": [question], "shots": ()}, chat=False)
    if kind == "bytes":
        return
    assert len(questions) == len(rows)
    for question, row in zip(questions, rows, strict=True):
        if isinstance(row["question"], str):
            assert question.fields["question"] == row["question"]


def test_most_files_of_that_kind_are_read(tmp_path):
    """Else the test above would see refusals alone."""
    read = 0
    for seed in range(40):
        file, *_ = made_file(tmp_path, random.Random(seed))
        with contextlib.suppress(CorrSteerError):
            read += bool(build(file).questions())
        file.unlink()
    assert read >= 10
