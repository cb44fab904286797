"""The maths of one SAE, against sae_lens's own encode and decode."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from corrsteer.errors import ConfigError
from corrsteer.saes import loaded as module
from corrsteer.saes.folder import Folder

KINDS = {
    "standard": {},
    "gated": {},
    "jumprelu": {},
    "topk": {"k": 8},
    "topk_by_norm": {"k": 8, "rescale_acts_by_decoder_norm": True},
}
SCALINGS = ["none", "expected_average_only_in", "layer_norm", "constant_norm_rescale"]
FACTOR = 0.37


@pytest.fixture(scope="module")
def residuals() -> torch.Tensor:
    """[40, 32], of different lengths and with a mean that is not 0, as real ones."""
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(40, 32, generator=rng) * torch.rand(40, 1, generator=rng).mul(3)
    return x + 0.5


@pytest.fixture(scope="module")
def sae(tiny_saes):
    return Folder(str(tiny_saes)).load(1)


def close(got, expected, tolerance: float = 1e-5) -> None:
    """Equal up to a share of the largest value."""
    got, expected = torch.as_tensor(got), torch.as_tensor(expected)
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("subtracts", [False, True])
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_activations_times_directions_are_sae_lens_reconstruction(
    kind, scaling, subtracts, centred, save_sae, tmp_path, residuals
):
    from sae_lens import SAE

    folder = save_sae(
        tmp_path / "layer_0",
        0,
        kind=kind.removesuffix("_by_norm"),
        normalize_activations=scaling,
        apply_b_dec_to_input=subtracts,
        **KINDS[kind],
    )
    if scaling == "expected_average_only_in":
        (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": FACTOR}))
    if centred:
        config = json.loads((folder / "cfg.json").read_text())
        config["metadata"]["model_from_pretrained_kwargs"] = {"center_writing_weights": True}
        (folder / "cfg.json").write_text(json.dumps(config))

    # sae_lens's forward, in float64; a constant factor it would skip, so that is done by hand
    with pytest.warns(UserWarning) if centred else torch.no_grad(), torch.no_grad():
        theirs = SAE.load_from_disk(folder, dtype="float64")
        factor = FACTOR if scaling == "expected_average_only_in" else 1.0
        mean = residuals.double().mean(-1, keepdim=True) * centred
        acts = theirs.encode((residuals.double() - mean) * factor)
        x_hat = theirs.decode(acts) / factor + mean
        theirs.encode((residuals.double() - mean) * factor)  # decode forgets the scale
        offset = theirs.decode(torch.zeros_like(acts)) / factor + mean

    ours = Folder(str(tmp_path)).load(0)
    mine = ours.encode(residuals)
    assert 0.02 < (mine > 0).float().mean() < 0.95
    assert torch.equal(mine > 0, acts > 0)
    got, l0 = ours.reconstruct(residuals)
    assert torch.equal(l0, (acts > 0).sum(1).float())
    close(got.double(), x_hat)
    rows = torch.from_numpy(ours.directions(range(256))).double()
    close(mine.double() @ rows + offset, x_hat)
    # and feature by feature: taking one away takes its contribution away
    position, feature = (acts > 0).nonzero()[5].tolist()
    without = acts[position : position + 1].clone()
    without[0, feature] = 0
    theirs.encode((residuals[position : position + 1].double() - mean[position]) * factor)
    with torch.no_grad():
        less = theirs.decode(without) / factor + mean[position]
    close(mine[position, feature].double() * rows[feature], x_hat[position] - less[0], 1e-4)


def test_an_activation_of_a_rescaling_sae_is_in_raw_units(save_sae, tmp_path, residuals):
    from sae_lens import SAE

    folder = save_sae(tmp_path / "layer_0", 0, "standard", normalize_activations="layer_norm")
    with torch.no_grad():
        theirs = SAE.load_from_disk(folder).encode(residuals)
    std = residuals.std(-1, keepdim=True)
    assert std.max() / std.min() > 3
    close(Folder(str(tmp_path)).load(0).encode(residuals), theirs * std)


def test_a_position_without_length_is_no_nan(save_sae, tmp_path):
    for kind in ("constant_norm_rescale", "layer_norm"):
        save_sae(tmp_path / "layer_0", 0, normalize_activations=kind)
        loaded = Folder(str(tmp_path)).load(0)
        assert not loaded.encode(torch.zeros(1, 32)).isnan().any()
        assert not loaded.reconstruct(torch.zeros(1, 32))[0].isnan().any()


@pytest.mark.parametrize("kind", KINDS)
def test_some_features_are_encoded_as_all_are(kind, save_sae, tmp_path, residuals):
    save_sae(tmp_path / "layer_0", 0, kind=kind.removesuffix("_by_norm"), **KINDS[kind])
    loaded = Folder(str(tmp_path)).load(0)
    every = loaded.encode(residuals)
    often = int((every > 0).sum(0).argmax())
    columns = [often, 3, 250, often]
    assert every[:, columns].any()
    close(loaded.encode(residuals, columns), every[:, columns])


def test_activations_held_at_once_do_not_grow_with_the_width(sae, residuals, monkeypatch):
    whole, whole_hat = sae.encode(residuals), sae.reconstruct(residuals)[0]
    assert sae._rows() == 2**24 // 256
    monkeypatch.setattr(module, "_CHUNK_ACTIVATIONS", 256 * 7)
    assert [len(acts) for acts, _ in sae._chunks(residuals)] == [7, 7, 7, 7, 7, 5]
    close(sae.encode(residuals), whole)
    close(sae.reconstruct(residuals)[0], whole_hat)
    monkeypatch.setattr(module, "_CHUNK_ACTIVATIONS", 1)
    assert sae._rows() == 1


def test_directions_are_decoder_rows(sae):
    rows = sae.directions([5, 250, 0])
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, sae.W_dec[[5, 250, 0]].numpy())


@pytest.mark.parametrize("n", [40, 3000])
def test_pooling_is_max_or_mean_over_each_samples_positions(sae, n, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_ACTIVATIONS", 256 * 1024)
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_maximum_is_that_of_encoded_positions_to_the_bit(
    kind, scaling, save_sae, tmp_path, residuals
):
    """Whether it is taken before or after the activation."""
    folder = save_sae(
        tmp_path / "layer_0", 0, kind=kind.removesuffix("_by_norm"), **KINDS[kind],
        normalize_activations=scaling, apply_b_dec_to_input=True,
    )  # fmt: skip
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": FACTOR}))
    loaded = Folder(str(tmp_path)).load(0)
    acts, sample = loaded.encode(residuals), torch.arange(40) // 8
    expected = torch.stack([acts[sample == i].amax(0) for i in range(5)])
    assert 0 < (expected > 0).sum() < expected.numel()
    assert torch.equal(loaded.pool(residuals, sample, 5, "max"), expected)


@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_active_is_what_is_pooled_to_the_bit(
    kind, pooling, save_sae, tmp_path, residuals, monkeypatch
):
    monkeypatch.setattr(module, "_CHUNK_ACTIVATIONS", 256 * 16)
    save_sae(tmp_path / "layer_0", 0, kind=kind.removesuffix("_by_norm"), **KINDS[kind])
    loaded = Folder(str(tmp_path)).load(0)
    if loaded.threshold is not None:
        loaded.threshold[:50] -= 2  # below 0, and not a number
        loaded.threshold[7] = torch.nan
    for sample, n in ((torch.arange(40), 40), (torch.arange(40) // 9 + 1, 7)):
        pooled = loaded.pool(residuals, sample, n, pooling)
        row, feature, value = loaded.active(residuals, sample, n, pooling)
        assert 0 < len(value) < pooled.numel()
        places = torch.stack([torch.from_numpy(row), torch.from_numpy(feature)], 1)
        assert torch.equal(places, pooled.nonzero())
        assert torch.equal(torch.from_numpy(value), pooled[pooled != 0])
    broken = residuals.clone()
    broken[3, 5] = torch.nan
    row, _, value = loaded.active(broken, torch.arange(40), 40, pooling)
    assert set(row[np.isnan(value)]) <= {3}
    assert np.isnan(value).any() == loaded.pool(broken, torch.arange(40), 40, pooling).isnan().any()


def test_no_positions_at_all_pool_to_zero(sae):
    empty = torch.zeros(0, 32)
    assert sae.encode(empty).shape == (0, 256)
    assert not sae.pool(empty, torch.zeros(0, dtype=torch.long), 2, "max").any()
    assert [len(part) for part in sae.reconstruct(empty)] == [0, 0]


def test_unknown_pooling_is_refused(sae, residuals):
    with pytest.raises(ConfigError, match="use max or mean"):
        sae.pool(residuals, torch.zeros(40, dtype=torch.long), 1, "sum")


def test_residuals_of_half_precision_are_read_in_float32(sae, residuals):
    half = residuals.to(torch.bfloat16)
    assert torch.equal(sae.encode(half), sae.encode(half.float()))


def test_what_it_holds(sae):
    m, d = 32, 256
    assert (sae.layer, sae.width, sae.d_model, sae.architecture) == (1, d, m, "jumprelu")
    assert sae.nbytes == 4 * (2 * m * d + 2 * d + m)
    tensors = [v for v in vars(sae).values() if isinstance(v, torch.Tensor)]
    assert len(tensors) == 5
    assert not any(t.requires_grad for t in tensors)


def test_on_another_device_only_the_decoder_stays_behind(tiny_saes, residuals):
    """ "meta" stands for a GPU: tensors of two devices do not mix, but nothing is computed."""
    loaded = Folder(str(tiny_saes)).load(1, device="meta")
    assert loaded.W_dec.device.type == "cpu"
    tensors = {k: v for k, v in vars(loaded).items() if isinstance(v, torch.Tensor)}
    assert {k for k, v in tensors.items() if v.device.type == "cpu"} == {"W_dec"}
    assert loaded.encode(residuals).device.type == "meta"
    sample = torch.arange(40) // 10
    assert loaded.pool(residuals, sample, 4, "max").shape == (4, 256)
    assert loaded.directions([1, 2]).shape == (2, 32)
