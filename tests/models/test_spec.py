from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from corrsteer.errors import ConfigError, ModelError
from corrsteer.models.spec import Model


def test_settings_are_checked_when_built():
    for bad in ({"path": ""}, {"name": ""}, {"dtype": "float64"}, {"max_prompt_tokens": 0}):
        with pytest.raises(ConfigError):
            Model(**({"name": "m", "path": "org/m"} | bad))


@pytest.mark.parametrize("path", ["./nothing", "/nothing/here", "~/nothing", "a/b/c", "tests/nope"])
def test_a_folder_that_is_not_there_is_one_clear_line(path, monkeypatch, tmp_path):
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="no such folder") as caught:
        Model("m", path).folder()
    assert "\n" not in str(caught.value)


@pytest.mark.long
@pytest.mark.parametrize(
    "text",
    [
        '{"model_type": "llama", "hidden_size": "128"}',
        '{"model_type": "llama", "num_hidden_layers": null}',
        "2",
        "[]",
        "[" * 5000,
    ],
)
def test_a_config_that_cannot_be_read_is_one_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="config of model") as caught:
        Model("m", str(tmp_path)).shape()
    assert "\n" not in str(caught.value)


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        Model("m", str(tmp_path)).fingerprint()


@pytest.fixture
def hub_cache(monkeypatch, tmp_path):
    """An empty cache of the Hub; ``add(repo, commit, **files)`` puts a snapshot into it."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)

    def add(repo: str, commit: str, files: dict[str, str]):
        root = cache / f"models--{repo.replace('/', '--')}"
        snapshot = root / "snapshots" / commit
        for name, content in files.items():
            (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            (snapshot / name).write_text(content)
        (root / "refs").mkdir(parents=True, exist_ok=True)
        (root / "refs" / "main").write_text(commit)
        return snapshot

    return add


SMALL = {"config.json": "{}", "tokenizer.json": "{}"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_hub_id_is_named_by_its_commit(hub_cache):
    model = Model("m", "google/gemma-2-2b")
    snapshot = hub_cache("google/gemma-2-2b", COMMIT, {**SMALL, "model.safetensors": ""})
    assert model.folder() == snapshot
    assert model.fingerprint() == f"google/gemma-2-2b@{COMMIT}"


def test_the_config_is_enough_where_the_weights_are_elsewhere(hub_cache):
    model = Model("m", "google/gemma-2-2b")
    snapshot = hub_cache("google/gemma-2-2b", COMMIT, SMALL)
    assert model.folder(weights=False) == snapshot
    with pytest.raises(ModelError, match="is not on this machine"):
        model.folder()
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    hub_cache("google/gemma-2-2b", COMMIT, {"model.safetensors.index.json": json.dumps(index)})
    hub_cache("google/gemma-2-2b", COMMIT, {"one.safetensors": ""})
    with pytest.raises(ModelError, match="is not on this machine"):
        model.folder()
    hub_cache("google/gemma-2-2b", COMMIT, {"two.safetensors": ""})
    assert model.folder() == snapshot


def test_missing_weights_say_what_to_download_and_which_licence_to_accept(hub_cache):
    with pytest.raises(ModelError) as caught:
        Model("m", "google/gemma-2-2b-it", licence="gemma").folder()
    message = str(caught.value)
    assert "\n" not in message
    assert "accept the gemma licence at " in message
    assert "/google/gemma-2-2b-it, then" in message
    assert "hf auth login && hf download google/gemma-2-2b-it" in message
    with pytest.raises(ModelError) as caught:
        Model("m", "openai-community/gpt2").folder()
    assert "licence" not in str(caught.value)
    assert "hf download openai-community/gpt2" in str(caught.value)


def test_fingerprint_follows_content_and_file_names_only(tiny_llama, tmp_path):
    def fingerprint_of(folder):
        return Model("m", str(folder)).fingerprint()

    copy = shutil.copytree(tiny_llama, tmp_path / "copy")
    original = fingerprint_of(tiny_llama)
    assert fingerprint_of(copy) == original
    (copy / "README.md").write_text("notes")
    assert fingerprint_of(copy) == original
    seen = {original}
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        with (copy / name).open("ab") as file:
            file.write(b" ")
        assert fingerprint_of(copy) not in seen
        seen.add(fingerprint_of(copy))
    (copy / "model.safetensors").rename(copy / "other.safetensors")
    assert fingerprint_of(copy) not in seen


def test_importing_the_parts_imports_no_heavy_library():
    code = (
        "import sys, corrsteer.models.spec, corrsteer.models.local, corrsteer.saes.folder;"
        "print(sorted({'torch', 'nnsight', 'transformers', 'sae_lens'} & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"
