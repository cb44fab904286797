"""IFEval: what a row becomes, and the authors' four numbers."""

import json
from collections import Counter

import pandas as pd
import pytest
from test_hub_forms import hub_cache, parquet, publish, task  # noqa: F401  (fixtures)
from test_prompts_golden import build

from corrsteer.errors import DataError
from corrsteer.records import Score
from corrsteer.scorers import instructions
from corrsteer.scorers.instructions import Instructions
from corrsteer.tasks.ifeval import IFEval

ROW = {
    "key": 7,
    "prompt": "Write a title.\nUse no commas.",
    "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
    "kwargs": [{}, {"relation": "at least", "num_words": 3}],
}
GOLD = [
    {"instruction": "punctuation:no_comma"},
    {"instruction": "length_constraints:number_words", "relation": "at least", "num_words": 3},
]


@pytest.fixture(autouse=True)
def _langdetect(monkeypatch):
    """No text here is asked for its language."""
    if not instructions.tells_languages():
        monkeypatch.setattr(instructions, "tells_languages", lambda: True)


@pytest.fixture
def written(tmp_path):
    def write(*rows):
        (tmp_path / "input_data.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return build(IFEval, "ifeval", tmp_path, scorer=Instructions())

    return write


def test_a_row(written):
    title = {**ROW, "key": 8, "instruction_id_list": ["detectable_format:title"], "kwargs": [None]}
    first, second = written(ROW, title).examples()
    assert (first.id, first.prompt) == ("7", "Write a title.\nUse no commas.")
    assert json.loads(first.gold) == GOLD
    assert first.meta == {"category": "several", "instructions": "2"}
    assert second.meta == {"category": "detectable_format", "instructions": "1"}
    assert json.loads(second.gold) == [{"instruction": "detectable_format:title"}]


def test_arguments_that_a_table_filled_up(written):
    """A column for every argument of any row: null where a row has none, 3.0 for 3."""
    wide = {"num_words": None, "relation": None, "keywords": None}
    row = ROW | {"kwargs": [wide, wide | {"relation": "at least", "num_words": 3.0}]}
    assert written(row).questions()[0].gold == written(ROW).questions()[0].gold


def test_another_scorer_reads_any_row(tmp_path):
    row = ROW | {"instruction_id_list": ["mine:own", "mine:other"]}
    (tmp_path / "input_data.jsonl").write_text(json.dumps(row))
    other = build(IFEval, "ifeval", tmp_path, scorer=lambda example, text: Score(1.0, text))
    (question,) = other.questions()
    assert question.meta["category"] == "mine"
    assert other.metrics([], pd.DataFrame({"answer": []})) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": " "}, "field 'prompt' is empty"),
        ({"key": None}, "field 'key' is null"),
        ({"kwargs": [{}]}, "field 'kwargs' has 1 entries for 2 instructions"),
        ({"kwargs": "[]"}, "field 'kwargs' should be list, got str"),
        (
            {"kwargs": [{"instruction": "x"}, {}]},
            "field 'kwargs' names an instruction itself: instruction_id_list does that",
        ),
        ({"kwargs": [1, {}]}, "field 'kwargs' should hold objects, got 1"),
        (
            {"kwargs": [{}, {}]},
            "field 'kwargs' does not fit: length_constraints:number_words takes",
        ),
        ({"instruction_id_list": ["a", "b"]}, "does not fit: there is no instruction 'a'; known: "),
        ({"instruction_id_list": [], "kwargs": []}, "field 'instruction_id_list' is empty"),
        ({"instruction_id_list": [1, 2]}, "field 'instruction_id_list' should hold texts, got int"),
    ],
)
def test_malformed_rows(written, change, message):
    with pytest.raises(DataError) as caught:
        written(ROW, {**ROW, "key": 8, **change}).questions()
    told = str(caught.value)
    assert "input_data.jsonl, line 2: " in told and message in told and "\n" not in told


def test_the_authors_four_numbers(written):
    asked = written(ROW, {**ROW, "key": 8}, {**ROW, "key": 9})
    answers = pd.DataFrame({"answer": ["one two three", "Sure, so:\none two three", "a, b"]})
    assert asked.metrics(asked.examples(), answers) == {
        "strict_prompt": pytest.approx(1 / 3),
        "strict_instruction": pytest.approx(3 / 6),
        "loose_prompt": pytest.approx(2 / 3),
        "loose_instruction": pytest.approx(4 / 6),
    }
    score = asked.scorer(asked.examples()[1], answers["answer"][1])
    assert score == Score(0.0, "1 of 2, not punctuation:no_comma")


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_rows_of_the_hub(publish, tmp_path, form):  # noqa: F811
    row = ROW | {"key": 7}
    if form == "jsonl":
        publish("ifeval", {"ifeval_input_data.jsonl": json.dumps(row).encode()})
        asked = task("ifeval")
    else:  # as another copy has them: one struct with a column for every argument
        columns = {name: [value] for name, value in row.items()}
        (tmp_path / "rows.parquet").write_bytes(parquet(columns))
        asked = build(IFEval, "ifeval", tmp_path / "rows.parquet", scorer=Instructions())
    (question,) = asked.questions()
    assert (question.id, json.loads(question.gold)) == ("7", GOLD)
    (example,) = asked.examples()
    assert example.prompt == ROW["prompt"]


@pytest.mark.long
def test_every_row_of_the_authors_loads(shared):
    asked = build(IFEval, "ifeval", shared / "data" / "ifeval", scorer=Instructions())
    questions = asked.questions()
    assert len(questions) == 398
    file = shared / "data" / "ifeval" / "input_data.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for question, row in zip(questions, rows, strict=True):
        assert (question.id, question.fields["prompt"]) == (str(row["key"]), row["prompt"])
        found = json.loads(question.gold)
        assert [one.pop("instruction") for one in found] == row["instruction_id_list"]
        assert found == row["kwargs"]
    assert Counter(q.meta["instructions"] for q in questions) == {"1": 234, "2": 123, "3": 41}
