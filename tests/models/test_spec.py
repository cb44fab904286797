from __future__ import annotations

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
        Model("m", path).location()
    assert "\n" not in str(caught.value)


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        Model("m", str(tmp_path)).fingerprint()


def test_a_hub_id_is_named_by_its_revision(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert Model("m", "google/gemma-2-2b").location() == "google/gemma-2-2b"
    assert Model("m", "google/gemma-2-2b", revision="abc").fingerprint() == "google/gemma-2-2b@abc"


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
