"""Malformed data ends with file, line and field."""

import gzip
import json

import pytest
from test_prompts_golden import BBQ_ROW, build

from corrsteer.errors import ConfigError, DataError
from corrsteer.tasks.bbq import BBQ
from corrsteer.tasks.mmlu import MMLU
from corrsteer.tasks.simpleqa import SimpleQA


def bbq_file(tmp_path, *rows):
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return path


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{not json", "line 2: not JSON"),
        ("[1]", "line 2: a row should be a JSON object"),
        ({**BBQ_ROW, "label": 3}, "line 2: field 'label' is 3, not 0, 1 or 2"),
        ({**BBQ_ROW, "label": True}, "line 2: field 'label' should be int, got bool"),
        ({**BBQ_ROW, "label": "1"}, "line 2: field 'label' should be int, got str"),
        ({**BBQ_ROW, "context_condition": "x"}, "field 'context_condition' is 'x'"),
        ({k: v for k, v in BBQ_ROW.items() if k != "ans2"}, "field 'ans2' is missing"),
    ],
)
def test_malformed_bbq_rows(tmp_path, row, message):
    path = bbq_file(tmp_path, BBQ_ROW, row)
    with pytest.raises(DataError, match="x.jsonl") as error:
        build(BBQ, "bbq", path).examples()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_path_and_a_folder_without_task_files(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        build(BBQ, "bbq", tmp_path / "nowhere").examples()
    with pytest.raises(DataError, match=r"expected \*\.jsonl or \*\.jsonl\.gz"):
        build(BBQ, "bbq", tmp_path).examples()


def test_no_row_with_the_context(tmp_path):
    path = bbq_file(tmp_path, {**BBQ_ROW, "context_condition": "disambig"})
    with pytest.raises(DataError, match="no BBQ rows with context ambig"):
        build(BBQ, "bbq", path).examples()


def test_a_truncated_gzip_file(tmp_path):
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(json.dumps(BBQ_ROW).encode())[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        build(BBQ, "bbq", tmp_path).examples()


def test_malformed_csv(tmp_path):
    (tmp_path / "a_test.csv").write_text("q,a,b,c,d,A\nq,a,b,c\n")
    with pytest.raises(DataError, match=r"line 2: 4 fields, expected 6"):
        build(MMLU, "mmlu", tmp_path).examples()
    (tmp_path / "a_test.csv").write_text("q,a,b,c,d,E\n")
    with pytest.raises(DataError, match="field 'answer' is 'E'"):
        build(MMLU, "mmlu", tmp_path).examples()


def test_metadata_is_parsed_as_a_literal_and_never_run(tmp_path):
    (tmp_path / "s.csv").write_text("metadata,question,true_answer\nexit(3),q,a\n")
    with pytest.raises(DataError, match="field 'metadata' is not a dict"):
        build(SimpleQA, "simpleqa", tmp_path).examples()


def test_line_separators_inside_a_json_string_do_not_split_the_row(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({**BBQ_ROW, "context": "a\u2028b\x85c"}, ensure_ascii=False))
    (example,) = build(BBQ, "bbq", path).examples()
    assert example.prompt.startswith("a\u2028b\x85c\n")


def test_bad_settings_of_a_task():
    with pytest.raises(ConfigError, match="ambig, disambig, both"):
        BBQ(name="bbq", scorer=None, max_new_tokens=4, context="ambiguous")
    with pytest.raises(ConfigError, match="max_new_tokens=0"):
        BBQ(name="bbq", scorer=None, max_new_tokens=0)
