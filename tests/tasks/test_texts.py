"""Text from files of any kind, in pieces."""

from __future__ import annotations

import gzip
import json

import pytest

from corrsteer.errors import DataError
from corrsteer.tasks import texts
from corrsteer.tasks.texts import text_files, texts_digest


def test_files_are_read_side_by_side_and_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "PIECE", 20)
    long = [f"line {n} é\n" for n in range(9)]
    (tmp_path / "a.txt").write_text("".join(long), encoding="utf-8")
    rows = [{"text": "one\n\nrow", "id": 1}, {"text": "another"}]
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n\n".join(map(json.dumps, rows)))
    with gzip.open(tmp_path / "c.gz", "wt", encoding="utf-8") as file:
        file.write("packed")
    (tmp_path / "README.md").write_text("about the texts")
    (tmp_path / ".hidden").write_text("no text")
    files = text_files([str(tmp_path)], "job.text")
    pieces = list(texts.texts(files))
    assert pieces[1:3] == ["one\n\nrow", "packed"] and "another" in pieces
    assert "".join(p for p in pieces if p.startswith("line")) == "".join(long)


def test_the_digest_is_of_the_contents_alone(tmp_path):
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).write_text(text)
    a, b, c = (tmp_path / name for name in "abc")
    assert texts_digest([a, c]) == texts_digest([b, c]) != texts_digest([c, a])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"\xff\xfe\xff", "not text in UTF-8"),
        ("a.gz", b"plain", "not text in UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"txt": "y"}', "line 2: no field 'text'"),
        ("a.jsonl", b'{"text": 3}', "line 1: no field 'text'"),
        ("a.jsonl", b"not json", "line 1: no field 'text'"),
    ],
)
def test_what_is_no_text_is_refused_with_its_file(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}.*{words}"):
        list(texts.texts([tmp_path / name]))


def test_a_place_without_files_is_refused(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="job.text="):
            text_files([str(place)], "job.text")
