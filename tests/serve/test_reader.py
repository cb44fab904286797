"""Texts that are in their chat template already, as the page and the API read them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from corrsteer.models.spec import Model
from corrsteer.serve.api import Api
from corrsteer.serve.source import Reader
from tests.models.test_local import copy_with

CONFIG = SimpleNamespace(vocab_size=512, max_position_embeddings=256)
TURNS = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'bot:' }}{% endif %}"
)


@pytest.mark.parametrize("start", ["<s>", ""])
def test_a_text_in_its_template_is_the_same_prompt_everywhere(tiny_llama, tmp_path, start):
    folder = copy_with(
        tiny_llama, tmp_path / "m", "tokenizer_config.json", chat_template=start + TURNS
    )
    reader = Reader(Model("m", str(folder), chat_template=True), CONFIG, 200)
    run, text = reader.asked("Is it?", 1), f"{start}user: Is it?\nbot:"
    assert run.count(1) == len(start and "1")
    assert reader.as_it_is(text, 1) == run
    api = Api(SimpleNamespace(source=SimpleNamespace(spec=Model("m", "x")), reader=reader), None, 9)
    assert api._asked({"model": "m", "prompt": text}, chat=False).prompt == run
    turns = [{"role": role, "content": "Is it?"} for role in ("user", "assistant", "user")]
    assert reader.chat(turns, 1).count(1) == run.count(1)
    # One that lacks what the template begins with gets it.
    assert reader.as_it_is("user: Is it?\nbot:", 1) == run


def test_without_a_template_a_text_is_read_as_the_run_reads_it(tiny_llama):
    reader = Reader(Model("m", str(tiny_llama)), CONFIG, 200)
    for text in ("Is it?", "<s>Is it?", ""):
        assert reader.as_it_is(text, 1) == reader.asked(text, 1)
