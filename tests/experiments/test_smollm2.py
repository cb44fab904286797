"""The text that SmolLM2's SAEs are trained on: no test question is in it, and a stop loses none."""

from __future__ import annotations

import json

import pytest
import torch

from corrsteer.config import instantiate
from corrsteer.models.spec import Model
from corrsteer.run.build import build
from experiments.smollm2 import ifeval, quality, text
from tests.export.test_formats import plain
from tests.models.gguf_files import write_gguf

pytestmark = pytest.mark.night


@pytest.fixture
def model(monkeypatch):
    """The bundled one, which reads anything, in SmolLM2's place."""
    spec = instantiate(text.composed().model, Model)
    for script in (text, ifeval, quality):
        monkeypatch.setattr(script, "smollm2", lambda *_: spec)
    for name, small in {"BATCH": 4, "LONG": 4, "SHORT": 2}.items():
        monkeypatch.setattr(text, name, small)


WORDS = ["task=bbq", "--own=6", "--per-task=5"]


def test_a_stopped_run_goes_on_with_the_same_rows(model, tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    text.main([str(whole), *WORDS])
    rows = [json.loads(line)["text"] for line in whole.open()]
    assert len(rows) == len(set(rows)) == 11
    lines = whole.read_text().splitlines(keepends=True)
    stopped.write_text("".join(lines[:5]) + lines[5][:10])  # a batch, and some of another
    asked = []
    replies = text.replies
    monkeypatch.setattr(
        text, "replies", lambda *a, **k: asked.append(k["seed"]) or replies(*a, **k)
    )
    text.main([str(stopped), *WORDS])
    assert stopped.read_bytes() == whole.read_bytes()
    assert 0 < len(asked) < 4
    with pytest.raises(SystemExit, match="other rows"):
        text.main([str(stopped), "task=mmlu", *WORDS[1:]])
    for foreign in ('{"text": "mine"}\n', "mine\n"):
        stopped.write_text(foreign)
        with pytest.raises(SystemExit, match="other rows"):
            text.main([str(stopped), *WORDS])
        assert stopped.read_text() == foreign


def test_no_test_question_is_trained_on(model):
    bench = build(text.composed("task=bbq", "controls=few", "side_effects=none")).bench
    prompts = {split: {e.prompt for e in found} for split, found in bench.asking.splits.items()}
    asked = set(text.questions("task=bbq", 10_000))
    assert asked and asked <= prompts["selection"]
    assert not asked & (prompts["test"] | prompts["validation"])


def test_a_stopped_measurement_of_ifeval_asks_nothing_again(model, tmp_path, monkeypatch):
    pytest.importorskip("langdetect")
    rows = [
        {"key": n, "prompt": f"Say {n}.", "instruction_id_list": ["punctuation:no_comma"],
         "kwargs": [{}]}
        for n in range(5)
    ]  # fmt: skip
    data, out = tmp_path / "input_data.jsonl", tmp_path / "answers.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(ifeval, "BATCH", 2)
    numbers = ifeval.main([str(out), str(data), "--tokens=4"])
    assert 0 <= numbers["strict_prompt"] <= numbers["loose_prompt"] <= 1
    lines = out.read_text().splitlines(keepends=True)
    assert sorted(json.loads(line)["id"] for line in lines) == list("01234")
    out.write_text("".join(lines[:4]))
    assert ifeval.main([str(out), str(data), "--tokens=4"]) == numbers
    assert out.read_text().splitlines(keepends=True)[:4] == lines[:4]
    assert len(out.read_text().splitlines()) == 5


def test_sae_folders_are_judged_on_the_same_rows_of_each_text(model, tmp_path, monkeypatch):
    """Bundled SAEs beside themselves: equal rows; another text: other numbers."""
    saes = text.composed().sae.path
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    one.write_text("Tom sees a dog. " * 60)
    other.write_text("1 2 3 4 5 6 7 8 9 " * 60)
    again = tmp_path / "again"
    again.symlink_to(saes)
    words = ["--saes", str(saes), str(again), "--text", str(one), str(other), "--positions=64"]
    table = quality.main(words)
    measures = list(quality.MEASURES)
    parts = {key: part[measures].to_numpy() for key, part in table.groupby(["text", "saes"])}
    assert len(parts) == 4
    assert (parts[str(one), str(saes)] == parts[str(one), str(again)]).all()
    assert (parts[str(one), str(saes)] != parts[str(other), str(saes)]).any()
    assert (table["explained"] <= 1).all()


def test_llama_cpp_answers_as_transformers_does_whatever_is_beside(tiny_llama, tmp_path):
    pytest.importorskip(
        "llama_cpp",
        reason="llama.cpp is not installed: pip install --no-binary llama-cpp-python"
        " llama-cpp-python builds it in 20 minutes",
    )
    from experiments.smollm2 import llama_cpp

    file = write_gguf(tiny_llama, tmp_path / "tiny.gguf", kind="F32")
    model = plain(tiny_llama)
    prompts = [list(range(40, 41 + n)) for n in range(2 * llama_cpp.PLACES + 1)]

    def slow(ids, ends, tokens):
        made: list[int] = []
        while len(made) < tokens and not (made and made[-1] in ends):
            with torch.no_grad():
                made.append(int(model(torch.tensor([ids + made])).logits[0, -1].argmax()))
        return made

    free = [slow(ids, (), 12) for ids in prompts]
    ends = {free[0][0], free[3][5]}  # the first token of one, and one within another
    engine = llama_cpp.Engine(file, longest=len(prompts[-1]) + 12)
    for stops in (ends, set()):
        found = dict(engine.answers(prompts, 12, stops))
        assert found == {n: slow(ids, stops, 12) for n, ids in enumerate(prompts)}
        assert (len({len(made) for made in found.values()}) > 1) == bool(stops)
