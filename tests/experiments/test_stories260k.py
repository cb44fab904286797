"""Training SAEs on a story model still runs, and its openings have not moved."""

from __future__ import annotations

import hashlib
import json
from itertools import islice
from pathlib import Path

import pytest

from experiments.stories260k.openings import OPENINGS, openings


@pytest.fixture(scope="module")
def model(shared) -> Path:
    folder = shared / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip(f"no story model at {folder}")
    return folder


def test_openings_are_frozen():
    texts = [text for text, _ in islice(openings(), OPENINGS + 1000)]
    assert texts[0] == (
        "Amy was a little girl who lived near a lake. One day, Amy ran to get her new bag on the "
        "hill and hurt her leg. She was angry."
    )
    assert len(set(texts)) == len(texts)
    assert hashlib.sha256("\n".join(texts).encode()).hexdigest() == (
        "b55f09eea56d6377ef642a7daf3cf8b960f84500929eba10bb3b3affc4134857"
    )


@pytest.mark.night
def test_saes_are_trained_and_measured_small(model, tmp_path):
    from experiments.stories260k import train_saes

    train_saes.main([str(model), "--out", str(tmp_path), "--small"])
    measured = json.loads((tmp_path / "quality.json").read_text())
    assert [row["layer"] for row in measured] == [0, 1, 2, 3, 4]
    assert measured[0]["before"] and measured[4]["after"] is None
    assert {f.name for f in tmp_path.iterdir()} == {
        *(f"layer_{n}" for n in range(5)), "quality.json", "residuals.pt"
    }  # fmt: skip


@pytest.mark.night
def test_stories_end_at_the_first_stop_and_openings_are_new(model):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from experiments.stories260k import train_saes

    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    stream = train_saes.documents(loaded, tokenizer, OPENINGS, train_saes.SMALL)
    later = [text for text, _ in islice(openings(), OPENINGS, OPENINGS + 8)]
    for documents in islice(stream, 2):  # one greedy, one sampled
        for ids, n_prompt in documents:
            assert tokenizer.decode(ids[1:n_prompt]) == later.pop(0)
            assert not set(train_saes.STOP) & set(ids[n_prompt:-1])
            assert len(ids) - n_prompt <= train_saes.SMALL.new_tokens
