"""The activation of a feature that a plan keeps is that of its SAE, of every kind."""

from __future__ import annotations

import json

import pytest
import torch

from corrsteer import config
from corrsteer.errors import ConfigError
from corrsteer.saes.folder import Folder
from corrsteer.steering.encoder import activation

SCALINGS = ["none", "expected_average_only_in", "layer_norm", "constant_norm_rescale"]
FEATURES = range(0, 256, 5)


def residuals(width: int) -> torch.Tensor:
    """[40, width], of different lengths and with a mean that is not 0, as real ones."""
    rng = torch.Generator().manual_seed(1)
    return torch.randn(40, width, generator=rng) * torch.rand(40, 1, generator=rng).mul(3) + 0.5


def compare(sae, x) -> None:
    expected = sae.encode(x, FEATURES)
    assert 0.02 < (expected > 0).float().mean() < 0.95
    encoders = sae.encoders(FEATURES)
    found = torch.stack(
        [activation(x, {n: torch.tensor(a) for n, a in e.parts().items()}) for e in encoders], 1
    )
    assert torch.equal(found > 0, expected > 0)
    assert (found - expected).abs().max() <= 1e-5 * expected.max()
    rows = torch.stack([torch.from_numpy(e.decoder) for e in encoders])
    assert torch.equal(rows, torch.from_numpy(sae.directions(FEATURES)))


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("kind", ["standard", "gated", "jumprelu"])
def test_it_is_what_encode_gives(kind, scaling, save_sae, tmp_path):
    for subtracts, centred in ((False, True), (True, False)):
        settings = {"normalize_activations": scaling, "apply_b_dec_to_input": subtracts}
        folder = save_sae(tmp_path / "layer_0", 0, kind=kind, **settings)
        if scaling == "expected_average_only_in":
            (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 0.37}))
        said = json.loads((folder / "cfg.json").read_text())
        said["metadata"]["model_from_pretrained_kwargs"] = {"center_writing_weights": centred}
        (folder / "cfg.json").write_text(json.dumps(said))
        compare(Folder(str(tmp_path)).load(0), residuals(32))


@pytest.mark.long
def test_it_is_what_the_bundled_saes_give():
    """Trained with batchtopk, whose inference form has a threshold."""
    sae = Folder(config.bundled("saes")).load(3)
    x = residuals(128) * 20 + sae.b_dec
    compare(sae, x)


def test_a_topk_sae_is_refused_before_it_is_loaded(save_sae, tmp_path):
    save_sae(tmp_path / "layer_0", 0, kind="topk", k=8)
    provider = Folder(str(tmp_path))
    for ask in (lambda: provider.check_readable(0), lambda: provider.load(0).encoders([1])):
        with pytest.raises(ConfigError, match="layer_0 is a topk SAE.* operator=add") as caught:
            ask()
        assert "\n" not in str(caught.value)
