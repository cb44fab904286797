from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from corrsteer.errors import ConfigError, ModelError
from corrsteer.saes.folder import Folder


@pytest.fixture(scope="module")
def residuals() -> torch.Tensor:
    return torch.randn(40, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def sae(tiny_saes):
    return Folder(str(tiny_saes)).load(1)


def test_a_folder_says_what_it_has(tiny_saes):
    folder = Folder(str(tiny_saes), name="tiny")
    assert folder.layers() == (0, 1, 2)
    assert folder.sae_id(2) == "tiny/layer_2"
    assert len({folder.fingerprint(layer) for layer in folder.layers()}) == 3
    loaded = folder.load(2)
    assert (loaded.layer, loaded.width, loaded.d_model) == (2, 256, 32)
    assert not any(p.requires_grad for p in loaded.sae.parameters())


def test_layers_are_numbers_and_templates_may_have_parts(tmp_path):
    for name in ("layer_2", "layer_10", "layer_1x", "layer_03", "other"):
        (tmp_path / name / "w16k").mkdir(parents=True)
    assert Folder(str(tmp_path)).layers() == (2, 10)
    assert Folder(str(tmp_path), template="layer_{layer}/w16k").layers() == (2, 10)


@pytest.mark.parametrize("kind", ["jumprelu", "standard"])
def test_encode_is_the_textbook_formula(kind, save_sae, tmp_path, residuals):
    save_sae(tmp_path / "layer_0", 0, kind=kind)
    loaded = Folder(str(tmp_path)).load(0)
    w = {k: v.double() for k, v in loaded.sae.state_dict().items()}
    pre = (residuals.double() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    expected = torch.where(pre > w["threshold"], pre, 0) if kind == "jumprelu" else pre.clamp(min=0)
    active = (expected > 0).float().mean()
    assert 0.05 < active < 0.95
    got = loaded.encode(residuals)
    torch.testing.assert_close(got.double(), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(loaded.encode(residuals, features=[7, 3]), got[:, [7, 3]])


def test_directions_are_decoder_rows(sae):
    rows = sae.directions([5, 250, 0])
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, sae.sae.W_dec[[5, 250, 0]].numpy())


@pytest.mark.parametrize("n", [40, 3000])
def test_pooling_is_max_or_mean_over_each_samples_positions(sae, n):
    rng = torch.Generator().manual_seed(2)
    x = torch.randn(n, 32, generator=rng)
    sample = torch.randint(0, 6, (n,), generator=rng)
    sample[sample == 3] = 4  # sample 3 has no position
    acts = sae.encode(x)
    for pooling, reduce in (("max", lambda a: a.amax(0)), ("mean", lambda a: a.mean(0))):
        pooled = sae.pool(x, sample, 6, pooling)
        assert pooled.shape == (6, 256)
        assert torch.equal(pooled[3], torch.zeros(256))
        for row in (0, 1, 2, 4, 5):
            expected = reduce(acts[sample == row])
            torch.testing.assert_close(pooled[row], expected, atol=1e-4, rtol=1e-5)


def test_no_positions_at_all_pool_to_zero(sae):
    empty = torch.zeros(0, 32)
    assert sae.encode(empty).shape == (0, 256)
    assert not sae.pool(empty, torch.zeros(0, dtype=torch.long), 2, "max").any()


def test_unknown_pooling_is_refused(sae, residuals):
    with pytest.raises(ConfigError, match="use max or mean"):
        sae.pool(residuals, torch.zeros(40, dtype=torch.long), 1, "sum")


def test_another_width_is_refused_before_and_after_loading(tiny_saes, sae):
    sae.check_width(32)
    Folder(str(tiny_saes)).check(1, 32)
    with pytest.raises(ModelError, match=r"reads width 32, but .* has width 48"):
        sae.check_width(48)
    with pytest.raises(ModelError, match=r"reads width 32, but .* has width 48"):
        Folder(str(tiny_saes)).check(1, 48)


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("blocks.1.hook_resid_post", "trained at blocks.1.hook_resid_post, not at layer 0"),
        ("blocks.0.hook_resid_pre", "only the output"),
        ("blocks.0.hook_resid_post_", "only the output"),
        (None, "a site it does not name"),
    ],
)
def test_another_site_is_refused(hook, message, save_sae, tmp_path):
    save_sae(tmp_path / "layer_0", 0, hook=hook)
    for use in (lambda f: f.load(0), lambda f: f.check(0, 32)):
        with pytest.raises(ModelError, match=message) as caught:
            use(Folder(str(tmp_path)))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scaling", ["expected_average_only_in", "layer_norm"])
def test_an_sae_that_scales_its_input_is_refused(scaling, save_sae, tmp_path):
    save_sae(tmp_path / "layer_0", 0, normalize_activations=scaling)
    with pytest.raises(ModelError, match=f"normalize_activations='{scaling}'"):
        Folder(str(tmp_path)).load(0)


def test_the_flat_config_of_older_sae_lens_is_read(save_sae, tmp_path, residuals):
    folder = save_sae(tmp_path / "layer_0", 0, kind="standard")
    new = Folder(str(tmp_path)).load(0).encode(residuals)
    config = json.loads((folder / "cfg.json").read_text())
    config |= {"hook_name": config.pop("metadata")["hook_name"], "normalize_activations": False}
    config["activation_fn_str"] = "relu"
    (folder / "cfg.json").write_text(json.dumps(config))
    assert torch.equal(Folder(str(tmp_path)).load(0).encode(residuals), new)


def test_missing_folders_and_files_are_refused(tmp_path, save_sae):
    with pytest.raises(ModelError, match="holds no folder"):
        Folder(str(tmp_path / "nowhere")).layers()
    with pytest.raises(ModelError, match=r"cfg\.json is missing"):
        Folder(str(tmp_path)).load(0)
    folder = save_sae(tmp_path / "layer_0", 0)
    (folder / "sae_weights.safetensors").unlink()
    with pytest.raises(ModelError, match=r"sae_weights\.safetensors is missing"):
        Folder(str(tmp_path)).fingerprint(0)


def test_settings_are_checked_when_built():
    for bad in ({"path": ""}, {"name": ""}, {"template": "layer"}):
        with pytest.raises(ConfigError):
            Folder(**({"path": "saes"} | bad))


def test_fingerprint_follows_config_and_weights(save_sae, tmp_path):
    folder = save_sae(tmp_path / "layer_0", 0)
    provider = Folder(str(tmp_path))
    seen = {provider.fingerprint(0)}
    for name in ("cfg.json", "sae_weights.safetensors"):
        with (folder / name).open("ab") as file:
            file.write(b" ")
        seen.add(provider.fingerprint(0))
    assert len(seen) == 3
