from __future__ import annotations

import hashlib
import json
import warnings

import pytest
import torch

from corrsteer.errors import ConfigError, ModelError
from corrsteer.saes.folder import Folder


@pytest.fixture(scope="module")
def residuals() -> torch.Tensor:
    return torch.randn(40, 32, generator=torch.Generator().manual_seed(1))


def change(folder, **settings) -> None:
    """Overwrite settings of a saved SAE; None takes one away."""
    config = json.loads((folder / "cfg.json").read_text()) | settings
    kept = {name: value for name, value in config.items() if value is not None}
    (folder / "cfg.json").write_text(json.dumps(kept))


def refusals(folder: Folder, layer: int = 0):
    """What ``validate`` and ``load`` say, which has to be the same."""
    told = []
    for use in (lambda: folder.validate(layer, 32), lambda: folder.load(layer)):
        with pytest.raises(ModelError) as caught:
            use()
        assert "\n" not in str(caught.value)
        told.append(str(caught.value))
    assert told[0] == told[1]
    return told[0]


def test_a_folder_says_what_it_has(tiny_saes):
    folder = Folder(str(tiny_saes), name="tiny")
    assert folder.layers() == (0, 1, 2)
    assert folder.sae_id(2) == "tiny/layer_2"
    assert len({folder.fingerprint(layer) for layer in folder.layers()}) == 3
    assert (folder.neuronpedia(2), folder.trained_on(2)) == (None, None)
    loaded = folder.load(2)
    assert (loaded.layer, loaded.width, loaded.d_model) == (2, 256, 32)
    assert loaded.sae_id == "tiny/layer_2"


def test_what_the_metadata_know_is_told(save_sae, tmp_path):
    folder = save_sae(tmp_path / "layer_0", 0)
    metadata = json.loads((folder / "cfg.json").read_text())["metadata"]
    change(folder, metadata={**metadata, "model_name": "m/x", "neuronpedia_id": "x/0-y"})
    provider = Folder(str(tmp_path))
    assert (provider.neuronpedia(0), provider.trained_on(0)) == ("x/0-y", "m/x")


def test_layers_are_numbers_and_templates_may_have_parts(tmp_path):
    for name in ("layer_2", "layer_10", "layer_1x", "layer_03", "other"):
        (tmp_path / name / "w16k").mkdir(parents=True)
    (tmp_path / "layer_7").write_text("no folder")
    assert Folder(str(tmp_path)).layers() == (2, 3, 10)
    assert Folder(str(tmp_path), template="layer_{layer}/w16k").layers() == (2, 3, 10)
    assert Folder(str(tmp_path), template="layer_{layer}/w*").layers() == (2, 3, 10)


@pytest.mark.parametrize("kind", ["jumprelu", "standard"])
def test_encode_is_the_textbook_formula(kind, save_sae, tmp_path, residuals):
    save_sae(tmp_path / "layer_0", 0, kind=kind)
    w = Folder(str(tmp_path)).load(0)
    pre = (residuals - w.b_dec).double() @ w.W_enc.double() + w.b_enc
    expected = torch.where(pre > w.threshold, pre, 0) if kind == "jumprelu" else pre.clamp(min=0)
    active = (expected > 0).float().mean()
    assert 0.05 < active < 0.95
    torch.testing.assert_close(w.encode(residuals).double(), expected, atol=1e-4, rtol=0)


def test_another_width_is_refused_before_loading(tiny_saes):
    Folder(str(tiny_saes)).validate(1, 32)
    with pytest.raises(ModelError, match=r"reads width 32, but .* has width 48"):
        Folder(str(tiny_saes)).validate(1, 48)


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("blocks.1.hook_resid_post", "the output of block 1, not of block 0: put it into layer_1"),
        ("blocks.0.hook_resid_pre", "not a block's output"),
        ("blocks.5.hook_resid_pre", "the output of block 4, not of block 0: put it into layer_4"),
        ("blocks.0.hook_resid_post_", "only the output"),
        ("blocks.0.hook_mlp_out", "only the output"),
        (None, "a site it does not name"),
    ],
)
def test_another_site_is_refused(hook, message, save_sae, tmp_path):
    save_sae(tmp_path / "layer_0", 0, hook=hook)
    assert message in refusals(Folder(str(tmp_path)))


def test_the_input_of_a_block_is_the_output_of_the_one_before(save_sae, tmp_path):
    save_sae(tmp_path / "layer_4", 4, hook="blocks.5.hook_resid_pre")
    assert Folder(str(tmp_path)).load(4).layer == 4
    save_sae(tmp_path / "layer_5", 5, hook="blocks.5.hook_resid_pre")
    assert "put it into layer_4" in refusals(Folder(str(tmp_path)), 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalize_activations": "expected_average_only_in"}, "a factor that is not stored"),
        ({"normalize_activations": "covariance_whitening"}, "'covariance_whitening'), which"),
        ({"normalize_activations": True}, "normalize_activations='expected_average_only_in'"),
        ({"architecture": "abstopk"}, "its activations can be negative"),
        ({"architecture": "matching_pursuit"}, "its activations can be negative"),
        ({"architecture": "temporal"}, "depend on earlier positions"),
        ({"architecture": "jumprelu_transcoder"}, "does not write to the site it reads"),
        ({"architecture": "batchtopk"}, "save it again with save_inference_model"),
        ({"architecture": "crosscoder"}, "has the architecture crosscoder"),
        ({"activation_fn_str": "tanh-relu"}, "the activation function 'tanh-relu'"),
        ({"reshape_activations": "hook_z"}, "reads attention heads"),
        ({"d_in": None}, "is not the config of an SAE (KeyError: 'd_in')"),
    ],
)
def test_what_cannot_be_used_is_refused_from_its_config(settings, message, save_sae, tmp_path):
    change(save_sae(tmp_path / "layer_0", 0), **settings)
    assert message in refusals(Folder(str(tmp_path)))


def test_a_scaling_that_the_trainer_stored_is_folded(save_sae, tmp_path, residuals):
    plain = save_sae(tmp_path / "plain" / "layer_0", 0)
    expected = Folder(str(plain.parent)).load(0).encode(residuals * 3)
    folder = save_sae(tmp_path / "layer_0", 0, normalize_activations="expected_average_only_in")
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 3.0}')
    before = hashlib.sha256((folder / "sae_weights.safetensors").read_bytes())
    loaded = Folder(str(tmp_path)).load(0)
    torch.testing.assert_close(loaded.encode(residuals), expected)
    # the weights are changed in memory, which must not be the file's
    after = hashlib.sha256((folder / "sae_weights.safetensors").read_bytes())
    assert before.digest() == after.digest()
    (folder / "activation_scaler.json").write_text('{"scaling_factor": null}')
    assert "a factor that is not stored" in refusals(Folder(str(tmp_path)))


def test_the_flat_config_of_older_sae_lens_is_read(save_sae, tmp_path, residuals):
    folder = save_sae(tmp_path / "layer_0", 0, kind="standard")
    new = Folder(str(tmp_path)).load(0).encode(residuals)
    hook = json.loads((folder / "cfg.json").read_text())["metadata"]["hook_name"]
    old = {"normalize_activations": False, "activation_fn_str": "relu", "architecture": None}
    change(folder, metadata=None, hook_point=hook, **old)
    assert torch.equal(Folder(str(tmp_path)).load(0).encode(residuals), new)
    # top-k was an activation function then
    change(folder, activation_fn_str="topk", activation_fn_kwargs={"k": 5})
    acts = Folder(str(tmp_path)).load(0).encode(residuals)
    assert ((acts > 0).sum(1) == 5).all()
    change(folder, activation_fn_kwargs={})  # sae_lens would take it for relu
    with pytest.raises(ModelError, match="is topk, but sae_lens reads it as standard"):
        Folder(str(tmp_path)).load(0)


def test_advice_for_another_way_of_loading_the_model_is_not_shown(save_sae, tmp_path):
    folder = save_sae(tmp_path / "layer_0", 0)
    metadata = json.loads((folder / "cfg.json").read_text())["metadata"]
    centred = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    change(folder, metadata={**metadata, **centred})
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        assert Folder(str(tmp_path)).load(0).centred
    assert not [w for w in shown if "model_from_pretrained_kwargs" in str(w.message)]


def test_missing_and_broken_files_are_refused(tmp_path, save_sae):
    with pytest.raises(ModelError, match="does not exist"):
        Folder(str(tmp_path / "nowhere")).layers()
    with pytest.raises(ModelError, match=r"cfg\.json is missing"):
        Folder(str(tmp_path)).load(0)
    folder = save_sae(tmp_path / "layer_0", 0)
    weights = folder / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"cannot be read \(.*\); save it again") as caught:
        Folder(str(tmp_path)).load(0)
    assert "\n" not in str(caught.value)
    (folder / "cfg.json").write_text("{")
    assert "is not the config of an SAE (JSONDecodeError" in refusals(Folder(str(tmp_path)))
    weights.unlink()
    with pytest.raises(ModelError, match=r"sae_weights\.safetensors is missing"):
        Folder(str(tmp_path)).fingerprint(0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"path": ""}, "sae.path=FOLDER"),
        ({"name": ""}, "sae.name=NAME"),
        ({"template": "layer"}, "must contain {layer} once"),
        ({"check": "maybe"}, "strict, warn, off"),
        ({"budget_gb": 0}, "must be above 0"),
        ({"budget_gb": float("nan")}, "must be above 0"),
    ],
)
def test_settings_are_checked_when_built(bad, message):
    with pytest.raises(ConfigError, match=message):
        Folder(**({"path": "saes"} | bad))


def test_fingerprint_follows_config_and_weights(save_sae, tmp_path):
    folder = save_sae(tmp_path / "layer_0", 0)
    provider = Folder(str(tmp_path))
    seen = {provider.fingerprint(0)}
    for name in ("cfg.json", "sae_weights.safetensors", "activation_scaler.json"):
        with (folder / name).open("ab") as file:
            file.write(b" ")
        seen.add(provider.fingerprint(0))
    assert len(seen) == 4
