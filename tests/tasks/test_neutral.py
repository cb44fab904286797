"""The unrelated prompts and neutral texts: what ships, and folders of one's own."""

from __future__ import annotations

import json

import pytest

from corrsteer.config import instantiate
from corrsteer.errors import DataError
from corrsteer.tasks.neutral import SHIPPED, read_neutral
from tests.test_config import composed


@pytest.mark.parametrize("source", SHIPPED)
def test_what_ships_is_a_fixed_set_of_a_thousand_prompts(source):
    found = read_neutral(source, 1000, 1000)
    texts = [e.prompt for e in found.prompts]
    assert len(set(texts)) == len({e.id for e in found.prompts}) == 1000
    assert len(set(found.texts)) == len(found.texts) >= 48
    assert all(text.strip() == text and "\n" not in text for text in [*texts, *found.texts])
    assert read_neutral(source, 10, 3).prompts == found.prompts[:10]
    assert read_neutral(source, 0, 3).prompts == ()


@pytest.mark.long
@pytest.mark.parametrize("source", SHIPPED)
def test_no_prompt_is_a_question_of_a_benchmark(source):
    asked = {e.prompt for e in read_neutral(source, 1000, 0).prompts}
    for task in ("bbq", "mmlu", "simpleqa", "xstest"):
        questions = instantiate(composed(f"task={task}", "data=bundled").task).examples()
        assert not asked & {e.prompt for e in questions}


def write(folder, name, *rows):
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    (folder / name).write_text(text)


def test_a_folder_of_ones_own(tmp_path):
    write(tmp_path, "prompts.jsonl", {"id": "a", "prompt": "One\nTwo"}, {"id": "b", "prompt": "?"})
    write(tmp_path, "texts.jsonl", {"id": "t", "text": "Words."})
    found = read_neutral(str(tmp_path), 9, 9)
    assert [(e.id, e.prompt) for e in found.prompts] == [("a", "One\nTwo"), ("b", "?")]
    assert found.texts == ("Words.",)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, "neutral=.*prompts.jsonl; give everyday or world, or a folder"),
        ([{"id": "a"}], "line 1: field 'prompt' is missing"),
        ([{"id": "a", "prompt": " "}], "line 1: field 'prompt' is empty"),
        ([{"id": "a", "prompt": 3}], "should be str"),
        ([{"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}], "line 2: id 'a' occurs more"),
        (["{"], "line 1: not JSON"),
    ],
)
def test_a_wrong_folder_is_one_line(tmp_path, rows, message):
    if rows is not None:
        write(tmp_path, "prompts.jsonl", *rows)
    with pytest.raises(DataError, match=message):
        read_neutral(str(tmp_path), 9, 0)
