"""SAE folders as other tools leave them, against the formulas of those tools, and hostile ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from corrsteer.errors import ModelError
from corrsteer.saes.folder import Folder

pytestmark = pytest.mark.long

M, D = 32, 64


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


RESIDUALS = random(40, M, seed=9)
ENC, DEC = random(D, M, seed=1), random(D, M, seed=2)
B_ENC, B_DEC = random(D, seed=3), random(M, seed=4)
PRE = (RESIDUALS - B_DEC) @ ENC.T + B_ENC


def top(pre: torch.Tensor, k: int) -> torch.Tensor:
    values, where = pre.relu().topk(k, dim=1)
    return torch.zeros_like(pre).scatter(1, where, values)


def agrees(folder: Folder, layer: int, acts: torch.Tensor) -> None:
    folder.validate(layer, M)
    sae = folder.load(layer)
    torch.testing.assert_close(sae.encode(RESIDUALS), acts, atol=1e-4, rtol=1e-4)
    assert 0 < (acts > 0).float().mean() < 1
    torch.testing.assert_close(
        sae.reconstruct(RESIDUALS)[0], acts @ DEC + B_DEC, atol=1e-3, rtol=1e-4
    )
    np.testing.assert_array_equal(sae.directions([3, 1]), DEC[[3, 1]].numpy())


def told(folder: Folder, layer: int | None = None) -> str:
    with pytest.raises(ModelError) as caught:
        folder.layers() if layer is None else folder.load(layer)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sparsify(folder: Path, **changes) -> Path:
    """As sparsify's ``Sae.save_to_disk`` writes it."""
    folder.mkdir(parents=True)
    tensors = {"encoder.weight": ENC, "encoder.bias": B_ENC, "W_dec": DEC, "b_dec": B_DEC}
    save_file(tensors, folder / "sae.safetensors")
    config = {"expansion_factor": 2, "normalize_decoder": True, "num_latents": 0, "k": 5}
    config |= {"multi_topk": False, "signed": False, "d_in": M}
    (folder / "cfg.json").write_text(json.dumps(config | changes))
    return folder


def learned(folder: Path, dict_class: str, tensors, **changes) -> Path:
    """As dictionary_learning's ``trainSAE`` writes it."""
    folder.mkdir(parents=True)
    torch.save(tensors, folder / "ae.pt")
    trainer = {"dict_class": dict_class, "layer": 3, "activation_dim": M, "dict_size": D}
    trainer |= {"submodule_name": "resid_post_layer_3", "lm_name": "org/m"}
    config = {"trainer": trainer | changes, "buffer": {"ctx_len": 128}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_sparsify_is_read(tmp_path):
    sparsify(tmp_path / "layers.3")
    folder = Folder(str(tmp_path))
    assert folder.layers() == (3,)
    assert folder.sae_id(3) == "folder/layers.3"
    agrees(folder, 3, top(PRE, 5))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("layers.3", {"transcode": True}, "it is a transcoder"),
        ("layers.3", {"signed": True}, "its activation is signed topk"),
        ("layers.3", {"activation": "groupmax"}, "its activation is groupmax"),
        ("layers.3.mlp", {}, "was trained at layers.3.mlp: only the output of a block"),
    ],
)
def test_what_of_sparsify_cannot_be_used_is_refused(tmp_path, name, changes, message):
    sparsify(tmp_path / name, **changes)
    assert message in told(Folder(str(tmp_path), template=name.replace("3", "{layer}")), 3)


LINEAR = {"encoder.weight": ENC, "encoder.bias": B_ENC, "decoder.weight": DEC.T.contiguous()}
LEARNED = {
    "AutoEncoder": (LINEAR | {"bias": B_DEC}, {}, PRE.relu()),
    "AutoEncoderTopK": (
        LINEAR | {"b_dec": B_DEC, "threshold": torch.tensor(7.0)},
        {"k": 5},
        top(PRE, 5),
    ),
    "BatchTopKSAE": (
        LINEAR | {"b_dec": B_DEC, "threshold": torch.tensor(3.0)},
        {"k": 5},
        torch.where(PRE > 3, PRE, 0),
    ),
    "MatryoshkaBatchTopKSAE": (
        {"W_enc": ENC.T.contiguous(), "W_dec": DEC, "b_enc": B_ENC, "b_dec": B_DEC}
        | {"threshold": torch.tensor(3.0)},
        {"k": 5},
        torch.where(PRE > 3, PRE, 0),
    ),
    "GatedAutoEncoder": (
        {"encoder.weight": ENC, "decoder.weight": DEC.T.contiguous(), "decoder_bias": B_DEC}
        | {"gate_bias": B_ENC, "mag_bias": B_ENC / 2, "r_mag": B_ENC / 4},
        {},
        ((PRE - B_ENC) * (B_ENC / 4).exp() + B_ENC / 2).relu() * (PRE > 0),
    ),
}


@pytest.mark.parametrize("kind", LEARNED)
def test_dictionary_learning_is_read(tmp_path, kind):
    tensors, changes, acts = LEARNED[kind]
    learned(tmp_path / "resid_post_layer_3" / "trainer_0", kind, tensors, **changes)
    folder = Folder(str(tmp_path))
    assert folder.layers() == (3,)
    assert folder.sae_id(3) == "folder/resid_post_layer_3/trainer_0"
    assert folder.trained_on(3) == "org/m"
    agrees(folder, 3, acts)


def test_what_of_dictionary_learning_cannot_be_used_is_refused(tmp_path):
    tensors, _, _ = LEARNED["AutoEncoder"]
    place = tmp_path / "resid_post_layer_3" / "trainer_0"
    learned(place, "JumpReluAutoEncoder", tensors)
    assert "JumpReluAutoEncoder is none of AutoEncoder," in told(Folder(str(tmp_path)), 3)
    learned(tmp_path / "a_3", "AutoEncoder", tensors, submodule_name="mlp_out_layer_3")
    message = told(Folder(str(tmp_path), template="a_{layer}"), 3)
    assert "was trained at mlp_out_layer_3: only the output of a block" in message
    ran = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return (ran.write_text, ("",))

    learned(tmp_path / "b_3", "AutoEncoder", tensors | {"x": Bomb()})
    assert "cannot be read" in told(Folder(str(tmp_path), template="b_{layer}"), 3)
    assert not ran.exists()


def test_gemma_scope_is_read_where_its_repository_is_named(tmp_path):
    threshold = random(D, seed=6).abs() * 3
    arrays = {"W_enc": ENC.T, "W_dec": DEC, "b_enc": B_ENC, "b_dec": B_DEC, "threshold": threshold}
    pre = RESIDUALS @ ENC.T + B_ENC
    for root in ("gemma-scope-2b-pt-res", "gemma-scope-2b-pt-mlp", "saes"):
        for layer, l0 in ((3, 59), (11, 71)):
            place = tmp_path / root / f"layer_{layer}" / "width_16k" / f"average_l0_{l0}"
            place.mkdir(parents=True)
            np.savez(place / "params.npz", **{k: v.numpy() for k, v in arrays.items()})
    folder = Folder(str(tmp_path / "gemma-scope-2b-pt-res"))
    assert folder.layers() == (3, 11)
    assert folder.sae_id(11) == "folder/layer_11/width_16k/average_l0_71"
    for layer in (3, 11):
        agrees(folder, layer, torch.where(pre > threshold, pre, 0))
    assert "gemma-scope-2b-pt-mlp is another one" in told(
        Folder(str(tmp_path / "gemma-scope-2b-pt-mlp")), 3
    )
    assert "params.npz does not say its site" in told(Folder(str(tmp_path / "saes")), 3)
    # Several of a layer: the template says which.
    more = tmp_path / "gemma-scope-2b-pt-res" / "layer_3" / "width_65k" / "average_l0_61"
    more.mkdir(parents=True)
    np.savez(more / "params.npz", **{k: v.numpy() for k, v in arrays.items()})
    message = told(folder)
    assert "has 2 SAEs of layer 3" in message
    assert "sae.template='layer_{layer}/width_16k/average_l0_59'" in message
    assert Folder(folder.path, template="layer_{layer}/width_16k/*").layers() == (3, 11)


def test_numbers_may_have_zeros_in_front(tmp_path, save_sae):
    for name, layer in (("layer_02", 2), ("layer_11", 11)):
        save_sae(tmp_path / name, layer)
    folder = Folder(str(tmp_path))
    assert folder.layers() == (2, 11)
    assert folder.sae_id(2) == "folder/layer_02"
    assert folder.load(2).layer == 2
    save_sae(tmp_path / "layer_2", 2)
    assert "has 2 SAEs of layer 2 (layer_02, layer_2)" in told(folder)


def test_a_path_that_holds_no_layers_says_why(tmp_path, save_sae):
    assert "does not exist" in told(Folder(str(tmp_path / "nowhere")))
    (tmp_path / "file").write_text("")
    assert "is a file" in told(Folder(str(tmp_path / "file")))
    save_sae(tmp_path / "saes" / "layer_1", 1)
    inner = told(Folder(str(tmp_path / "saes" / "layer_1")))
    assert f"is itself one SAE: give its parent, sae.path={str(tmp_path / 'saes')!r}" in inner
    assert "(it holds saes)" in told(Folder(str(tmp_path)))
    for name in ("layers.1", "resid_post_layer_1"):
        (tmp_path / "two" / name).mkdir(parents=True)
    assert "layers.1 and resid_post_layer_1: say by sae.template" in told(
        Folder(str(tmp_path / "two"))
    )


def test_a_byte_order_mark_does_no_harm(tmp_path, save_sae):
    folder = save_sae(tmp_path / "layer_0", 0)
    plain = Folder(str(tmp_path)).load(0).encode(RESIDUALS)
    file = folder / "cfg.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert torch.equal(Folder(str(tmp_path)).load(0).encode(RESIDUALS), plain)


def test_weights_of_other_shapes_than_the_config_are_refused(tmp_path, save_sae):
    folder = save_sae(tmp_path / "layer_0", 0)
    file = folder / "sae_weights.safetensors"
    weights = load_file(file)
    for name in weights:
        save_file(weights | {name: weights[name][:-1].clone()}, file)
        assert "cannot be read" in told(Folder(str(tmp_path)), 0), name
    save_file({k: v for k, v in weights.items() if k != "W_dec"}, file)
    assert "cannot be read" in told(Folder(str(tmp_path)), 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_vectors_that_are_no_numbers_are_refused(tmp_path, save_sae, value):
    folder = save_sae(tmp_path / "layer_0", 0, kind="standard")
    file = folder / "sae_weights.safetensors"
    weights = load_file(file)
    for name in weights:
        broken = weights[name].clone()
        broken.view(-1)[0] = value
        save_file(weights | {name: broken}, file)
        with pytest.raises(ModelError, match=rf"{name} is not finite \(nan or inf\)"):
            sae = Folder(str(tmp_path)).load(0)
            sae.directions([0])  # a decoder is read row by row
    with pytest.raises(ModelError, match="W_dec is not finite"):
        save_file(weights | {"W_dec": torch.full_like(weights["W_dec"], value)}, file)
        Folder(str(tmp_path)).load(0).reconstruct(RESIDUALS)


def test_a_change_of_any_file_is_another_sae(tmp_path, save_sae):
    tensors, changes, _ = LEARNED["AutoEncoderTopK"]
    places = [
        save_sae(tmp_path / "a" / "layer_3", 3),
        sparsify(tmp_path / "b" / "layers.3"),
        learned(tmp_path / "c" / "resid_post_layer_3", "AutoEncoderTopK", tensors, **changes),
    ]
    for root, place in zip("abc", places, strict=True):
        folder = Folder(str(tmp_path / root))
        before = folder.fingerprint(3)
        for file in place.iterdir():
            content = file.read_bytes()
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            assert folder.fingerprint(3) != before, file
            file.write_bytes(content)
        assert folder.fingerprint(3) == before
