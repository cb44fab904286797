"""The published models and SAEs that conf/ names, against what their makers published.

The numbers of blocks are from the models' own configs (num_hidden_layers, n_layer). Nothing is
downloaded: sae_lens's registry says what a release holds.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from hydra import compose, initialize_config_dir

from corrsteer import config
from corrsteer.models.spec import Model
from corrsteer.saes.folder import Folder
from corrsteer.saes.pretrained import Pretrained
from corrsteer.saes.provider import same_model

pytestmark = pytest.mark.long

CONF = Path(__file__).parents[2] / "conf"


class Published(NamedTuple):
    path: str
    blocks: int
    sae: str
    licence: str | None = None
    trained_on: str | None = None  # where the SAEs are of another model


GEMMA, LLAMA = "gemma", "llama3.1"
MODELS = {
    "gemma2_2b": Published("google/gemma-2-2b", 26, "gemma_scope_2b_16k", GEMMA),
    "gemma2_2b_it": Published(
        "google/gemma-2-2b-it", 26, "gemma_scope_2b_16k", GEMMA, "google/gemma-2-2b"
    ),
    "gemma2_9b": Published("google/gemma-2-9b", 42, "gemma_scope_9b_16k", GEMMA),
    "gemma2_9b_it": Published(
        "google/gemma-2-9b-it", 42, "gemma_scope_9b_16k", GEMMA, "gemma-2-9b"
    ),
    "llama31_8b": Published("meta-llama/Llama-3.1-8B", 32, "llama_scope_8x", LLAMA),
    "llama31_8b_it": Published(
        "meta-llama/Llama-3.1-8B-Instruct", 32, "llama_scope_8x", LLAMA, "meta-llama/Llama-3.1-8B"
    ),
    "gemma3_270m_pt": Published("google/gemma-3-270m", 18, "gemma_scope_2_270m_pt_16k", GEMMA),
    "gemma3_270m_it": Published("google/gemma-3-270m-it", 18, "gemma_scope_2_270m_it_16k", GEMMA),
    "gemma3_1b_pt": Published("google/gemma-3-1b-pt", 26, "gemma_scope_2_1b_pt_16k", GEMMA),
    "gemma3_1b_it": Published("google/gemma-3-1b-it", 26, "gemma_scope_2_1b_it_16k", GEMMA),
    "gemma3_4b_pt": Published("google/gemma-3-4b-pt", 34, "gemma_scope_2_4b_pt_16k", GEMMA),
    "gemma3_4b_it": Published("google/gemma-3-4b-it", 34, "gemma_scope_2_4b_it_16k", GEMMA),
    "gemma3_12b_pt": Published("google/gemma-3-12b-pt", 48, "gemma_scope_2_12b_pt_16k", GEMMA),
    "gemma3_12b_it": Published("google/gemma-3-12b-it", 48, "gemma_scope_2_12b_it_16k", GEMMA),
    "gemma3_27b_pt": Published("google/gemma-3-27b-pt", 62, "gemma_scope_2_27b_pt_16k", GEMMA),
    "gemma3_27b_it": Published("google/gemma-3-27b-it", 62, "gemma_scope_2_27b_it_16k", GEMMA),
    "qwen3_1_7b": Published("Qwen/Qwen3-1.7B-Base", 28, "qwen_scope_3_1_7b_l50"),
    "qwen3_8b": Published("Qwen/Qwen3-8B-Base", 36, "qwen_scope_3_8b_l50"),
    "qwen3_30b_a3b": Published("Qwen/Qwen3-30B-A3B-Base", 48, "qwen_scope_3_30b_a3b_l50"),
    "qwen35_2b": Published("Qwen/Qwen3.5-2B-Base", 24, "qwen_scope_35_2b_l50"),
    "qwen35_9b": Published("Qwen/Qwen3.5-9B-Base", 32, "qwen_scope_35_9b_l50"),
    "qwen35_27b": Published("Qwen/Qwen3.5-27B", 64, "qwen_scope_35_27b_l50"),
    "qwen35_35b_a3b": Published("Qwen/Qwen3.5-35B-A3B-Base", 40, "qwen_scope_35_35b_a3b_l50"),
    "gpt2_small": Published("openai-community/gpt2", 12, "gpt2_post_32k"),
    "pythia_70m": Published("EleutherAI/pythia-70m-deduped", 6, "pythia_70m"),
}
OWN = {"bundled", "folder"}
SHIPPED = {"smollm2"}  # SAEs that were trained here
FILES = {"gguf", "smollm2_135m_it"}  # models in GGUF files, whose SAEs are no published ones
PARTIAL = {  # SAEs that do not cover every block
    "gemma_scope_9b_it_16k": (9, 20, 31),
    "gemma_scope_9b_it_131k": (9, 20, 31),
    "gpt2_res_jb": tuple(range(11)),
}


def options(group: str) -> set[str]:
    return {file.stem for file in (CONF / group).glob("*.yaml")}


def composed(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", list(overrides))
    config.check(cfg)
    return cfg


@cache
def provider(option: str) -> Pretrained:
    built = config.instantiate(composed(f"sae={option}").sae)
    assert isinstance(built, Pretrained)
    return built


def test_the_table_holds_every_option():
    assert options("model") == set(MODELS) | OWN | FILES
    assert {published.sae for published in MODELS.values()} | set(PARTIAL) | OWN <= options("sae")


@pytest.mark.parametrize("name", MODELS)
def test_a_model_brings_saes_of_all_its_blocks(name):
    published = MODELS[name]
    cfg = composed(f"model={name}")
    model, saes = config.instantiate(cfg.model), config.instantiate(cfg.sae)
    assert isinstance(model, Model) and isinstance(saes, Pretrained)
    assert (model.name, saes.name) == (name, published.sae)
    assert (model.path, model.licence, model.dtype) == (published.path, published.licence, "auto")
    assert model.chat_template == name.endswith("_it")
    assert saes.layers() == tuple(range(published.blocks))
    trained_on = saes.trained_on(0)
    assert trained_on is not None
    if published.trained_on is None:
        assert same_model(trained_on, model.path)
    else:
        assert trained_on == published.trained_on
        assert not same_model(trained_on, model.path)
        text = " ".join((CONF / "model" / f"{name}.yaml").read_text().replace("#", "").split())
        base = model.path.removesuffix("-it").removesuffix("-Instruct")
        assert f"trained on the base model, {base}" in text


@pytest.mark.parametrize("name", sorted(options("sae") - OWN - SHIPPED))
def test_saes_are_of_one_model_and_one_kind(name):
    saes = provider(name)
    assert saes.name == name
    (model,) = {m for m in MODELS.values() if same_model(saes.trained_on(0) or "", m.path)}
    assert saes.layers() == PARTIAL.get(name, tuple(range(model.blocks)))
    # What the name says stands in the release or the template, so sweeps compare what they say.
    says = f"{saes.release} {saes.template}".replace("3.5", "35").replace("3.1", "31")
    for part in re.findall(r"\d+k|\d+x|l\d+|(?<=_)\d+m?b?_(?:pt|it)", name):
        assert part.replace("_", "-") in says, part


@pytest.mark.parametrize("name", sorted(options("sae") - OWN - SHIPPED))
def test_neuronpedia_knows_the_sae_of_the_same_layer(name):
    saes = provider(name)
    shift = name == "gpt2_res_jb"  # numbered by the block that they are before
    known = {layer: saes.neuronpedia(layer) for layer in saes.layers()}
    if name.startswith(("gemma_scope_2_", "qwen_scope_")):
        assert set(known.values()) == {None}
    else:
        for layer, page in known.items():
            assert page is not None
            assert re.fullmatch(rf"[\w.-]+/{layer + shift}-[\w-]+", page), page


def test_the_command_line_chooses_other_saes():
    for order in (1, -1):
        overrides = ["model=gemma2_2b_it", "sae=folder", "sae.path=x"][::order]
        cfg = composed(*overrides)
        assert (cfg.model.name, cfg.sae.name) == ("gemma2_2b_it", "folder")
    assert composed("model=gemma2_2b_it", "sae=gemma_scope_2b_65k").sae.name.endswith("65k")
    assert composed().sae.name == "bundled"


def test_a_model_of_ones_own_asks_for_saes_of_ones_own():
    cfg = composed("model=folder", "model.path=m", "sae.path=s")
    assert isinstance(config.instantiate(cfg.sae), Folder)


def test_models_of_a_sweep_bring_their_own_saes(tmp_path):
    """Through Hydra's own sweeper, which composes each job anew."""
    import subprocess
    import sys

    app = tmp_path / "app.py"
    app.write_text(
        "import hydra\n"
        "from corrsteer import config\n"
        f"@hydra.main(version_base='1.3', config_path={str(CONF)!r}, config_name='config')\n"
        "def main(cfg):\n"
        "    print('job', cfg.model.name, cfg.sae.name)\n"
        "main()\n"
    )
    models = "model=bundled,gemma2_2b_it,qwen3_8b"
    command = [sys.executable, str(app), "-m", models, "~hydra.callbacks.sweep_report"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    jobs = [line[4:] for line in done.stdout.splitlines() if line.startswith("job ")]
    assert jobs == [
        "bundled bundled",
        "gemma2_2b_it gemma_scope_2b_16k",
        "qwen3_8b qwen_scope_3_8b_l50",
    ], done.stderr
