from __future__ import annotations

import pytest

from corrsteer.errors import ModelError
from corrsteer.saes.site import check_block, served_block


@pytest.mark.parametrize(
    ("hook", "hf_hook", "block"),
    [
        ("blocks.5.hook_resid_post", None, 5),
        ("blocks.12.hook_resid_pre", None, 11),
        ("blocks.0.hook_resid_pre", None, -1),
        ("blocks.3.hook_resid_post", "model.layers.3.output", 3),  # Gemma Scope 2
        (None, "model.layers.3.output", 3),
        ("blocks.7.hook_resid_post", "model.layers.7", 7),  # Qwen Scope
        (None, "model.language_model.layers.7", 7),
        (None, "transformer.h.2", 2),
        (None, "model.layers.4.input", 3),
        ("blocks.4.hook_resid_pre", "model.layers.3.output", 3),
    ],
)
def test_a_site_is_the_output_of_a_block(hook, hf_hook, block):
    assert served_block("x", hook, hf_hook) == block


@pytest.mark.parametrize(
    ("hook", "hf_hook", "message"),
    [
        (None, None, "trained at a site it does not name"),
        ("", None, "trained at a site it does not name"),
        ("blocks.5.hook_mlp_out", None, "trained at blocks.5.hook_mlp_out"),
        ("blocks.5.hook_resid_mid", None, "only the output of a block"),
        ("blocks.5.hook_resid_post_", None, "only the output of a block"),
        ("blocks.5.attn.hook_z", None, "only the output of a block"),
        (None, "model.layers.3.self_attn.o_proj.input", "only the output of a block"),
        (None, "vision_tower.layers.3.output", "only the output of a block"),
        ("blocks.5.hook_resid_post", "model.layers.5.mlp.output", "trained at model.layers.5.mlp"),
        (
            "blocks.5.hook_resid_post",
            "model.layers.6.output",
            "names two sites, blocks.5.hook_resid_post and model.layers.6.output",
        ),
    ],
)
def test_another_site_is_refused(hook, hf_hook, message):
    with pytest.raises(ModelError, match=message) as caught:
        served_block("x", hook, hf_hook)
    assert "\n" not in str(caught.value)


def test_the_block_has_to_be_the_one_asked_for():
    check_block("x", 4, "blocks.5.hook_resid_pre", None, remedy="?")
    with pytest.raises(ModelError, match=r"output of block 4, not of block 5: use layer_4\."):
        check_block("x", 5, "blocks.5.hook_resid_pre", None, remedy="use layer_{block}.")
    with pytest.raises(ModelError, match="embeddings, which are not a block's output"):
        check_block("x", 0, "blocks.0.hook_resid_pre", None, remedy="?")
