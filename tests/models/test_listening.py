"""What is read along while the model writes is what a replay of its answers gives."""

from __future__ import annotations

import pytest
import torch

from corrsteer.models import listening
from corrsteer.models.listening import Listener
from tests.models.test_local import load

PROMPTS = ["Is it A or B?\nAnswer:", "x", "the cat saw", f"{'A longer text. ' * 3}\nAnswer:"]
LAYERS = [0, 2]


@pytest.fixture(scope="module", params=["llama", "gemma2", "gpt2"])
def model(request, tiny_model):
    return load(tiny_model(request.param))


def listened(model, **settings):
    """The answers, and all that was heard: (indices, answers' tokens, residuals)."""
    told: list = []
    listener = Listener(LAYERS, lambda *heard: told.append(heard))
    (answers,) = model.generate(PROMPTS, [None], listener=listener, **settings)
    return answers, told


def test_what_is_heard_is_what_a_replay_of_the_answers_reads(model, monkeypatch):
    (plain,) = model.generate(PROMPTS, [None], max_new_tokens=6)
    ended = [plain[0].text[2:4] or "no such", "no such"]
    for settings in (
        {"max_new_tokens": 6},
        {"max_new_tokens": 6, "stop": ended},
        {"max_new_tokens": 1},
        {"max_new_tokens": 1, "allowed": [" A", " B"]},
    ):
        expected = model.generate(PROMPTS, [None], **settings)
        answers, told = listened(model, **settings)
        assert [answers] == expected
        ((rows, written, found),) = told
        assert sorted(rows) == [0, 1, 2, 3] and written == [answers[i].tokens for i in rows]
        replayed = model.replay([PROMPTS[i] for i in rows], written, LAYERS, "generated")
        for name in ("sample", "token", "position", "last", "end"):
            assert getattr(found, name).tolist() == getattr(replayed, name).tolist(), name
        for layer in LAYERS:
            torch.testing.assert_close(
                found.layers[layer], replayed.layers[layer], rtol=1e-4, atol=1e-5
            )
    monkeypatch.setattr(listening, "BYTES", 2 * 6 * len(LAYERS) * model.d_model * 4)
    answers, told = listened(model, max_new_tokens=6)
    assert [len(rows) for rows, *_ in told] == [2, 2] and answers == plain


def test_special_tokens_are_not_heard(model, monkeypatch):
    (plain,) = model.generate(PROMPTS, [None], max_new_tokens=6)
    special = {plain[0].tokens[1], *model._special}
    monkeypatch.setattr(model, "_special", special)
    _, ((rows, written, found),) = listened(model, max_new_tokens=6)
    replayed = model.replay([PROMPTS[i] for i in rows], written, LAYERS, "generated")
    assert found.token.tolist() == replayed.token.tolist()
    assert not special & set(found.token.tolist())
    assert len(found.token) < sum(map(len, written))
