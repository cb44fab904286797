"""The logit lens against its formula, written out for each kind of norm."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corrsteer.models.local import Local
from corrsteer.models.spec import Model

# Family -> the final norm's place, and its gains from its weight. Only GPT-2's centres.
NORMS = {
    "llama": ("model.norm", lambda w: w, False),
    "gemma2": ("model.norm", lambda w: 1 + w, False),
    "qwen3": ("model.norm", lambda w: w, False),
    "gpt2": ("transformer.ln_f", lambda w: w, True),
    "gpt_neox": ("gpt_neox.final_layer_norm", lambda w: w, True),
}


@pytest.mark.parametrize("family", NORMS)
def test_promoted_tokens_are_the_largest_of_the_lens(family, tiny_model):
    model = Local("cpu").load(Model("tiny", str(tiny_model(family))))
    place, gains, centred = NORMS[family]
    norm = model._module.get_submodule(place)
    rng = np.random.default_rng(0)
    with torch.no_grad():  # gains and biases that matter
        norm.weight.copy_(torch.from_numpy(rng.normal(1, 0.5, norm.weight.shape)))
        if getattr(norm, "bias", None) is not None:
            norm.bias.copy_(torch.from_numpy(rng.normal(size=norm.bias.shape)))
    unembed = model._module.get_output_embeddings().weight.detach().double().numpy()
    directions = 1e-3 * rng.normal(size=(3, unembed.shape[1])).astype(np.float32)
    found = model.promoted(directions, 5)
    assert len(found) == 3
    for direction, (up, down) in zip(directions.astype(np.float64), found, strict=True):
        lens = unembed @ (
            gains(norm.weight.detach().double().numpy())
            * (direction - (direction.mean() if centred else 0))
        )
        order = np.argsort(lens)
        assert up == model.token_texts(order[::-1][:5].tolist())
        assert down == model.token_texts(order[:5].tolist())
    flipped = model.promoted(-directions, 5)
    assert [(down, up) for up, down in flipped] == found


def test_a_direction_of_a_tokens_row_promotes_the_token(tiny_llama):
    model = Local("cpu").load(Model("tiny", str(tiny_llama)))
    rows = model._module.get_output_embeddings().weight.detach().numpy()
    (up, _), *_ = model.promoted(rows[[100]], 3)
    assert up[0] == model.token_texts([100])[0]
