"""Bad input on the command line: one clear line, exit code 2, before any compute.

Commands run in this process, which spares a start for every typo; three run in their own.
"""

import json
import os
import shutil

import pytest

from tests.command import ROOT, in_its_own_process, in_this_process

pytestmark = pytest.mark.long  # what is wrong with one is found when it is looked at

BUNDLED = ROOT / "src" / "corrsteer" / "bundled"


def refused(home, words, typed=in_this_process):
    command = f"python -m src.main {words} cache={home}/cache hydra.run.dir={home}/run"
    return typed(command).refusal


SETTINGS = [
    ("task=bqb", "did you mean bbq"),
    ("coeff=1", "did you mean coef"),
    ("task.contxt=both", "did you mean"),
    ("task.context=most", "ambig, disambig, both"),
    ("layers=9", "0..5"),
    ("layers=[1,-1]", "layers"),
    ("layers=4-2", "layers"),
    ("data=no/such/folder", "does not exist"),
    ("sae=folder sae.path=no/such/folder", "no/such/folder"),
    ("model.path=./no/such/model", "no such folder"),
    ("coef=nan", "coef"),
    ("coef=high", "coef"),
    ("limit=0", "limit"),
    ("sae.check=maybe", "strict, warn, off"),
    ("sae.budget_gb=0", "above 0"),
    ("model.dtype=float64", "auto, float32"),
    ("backend.device_map=everywhere", "balanced"),
    ("backend=ndif backend.host=nowhere", "https://"),
    ("backend=ndif strategy=lora", "needs training, weights, but backend NDIF supports"),
    ("strategy=lora strategy.data=silver", "gold, own_right, shuffled"),
    ("backend=ndif backend.api_key=secret", "unknown key"),
]


@pytest.mark.parametrize(("words", "message"), SETTINGS)
def test_settings(tmp_path, words, message):
    assert message in refused(tmp_path, words)
    assert not list(tmp_path.glob("cache/*/*/answers.parquet"))


# Hydra refuses the first, the check of settings the second, the pipeline the third.
@pytest.mark.parametrize(
    ("words", "message"),
    [case for case in SETTINGS if case[0] in ("task=bqb", "coef=nan", "data=no/such/folder")],
)
def test_settings_in_a_process_of_their_own(tmp_path, words, message):
    line = refused(tmp_path, words, in_its_own_process)
    assert message in line
    assert line == refused(tmp_path, words)


def test_classes_by_hand(tmp_path):
    (tmp_path / "mine.csv").write_text("sae,feature,class\nbundled/layer_3,947,formal\n")
    line = refused(tmp_path, f"classes={tmp_path}/mine.csv")
    assert "mine.csv, line 2: class 'formal' is unknown" in line
    assert "structural, semantic, unclear" in line
    assert "no such file" in refused(tmp_path, "classes=no_such.csv")
    assert not list(tmp_path.glob("cache/*/*"))


def test_an_sae_of_another_width(tmp_path, tiny_saes):
    line = refused(tmp_path, f"sae=folder sae.path={tiny_saes} layers=[0]")
    assert "width 32" in line
    assert "width 128" in line


def test_a_layer_without_an_sae(tmp_path):
    shutil.copytree(BUNDLED / "saes" / "layer_2", tmp_path / "saes" / "layer_2")
    line = refused(tmp_path, f"sae=folder sae.path={tmp_path}/saes layers=[2,3]")
    assert "layer 3" in line


def test_weights_that_are_not_there(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    line = refused(tmp_path, "model=gemma2_2b_it task=mmlu")
    assert "the data of task mmlu is not on this machine" in line
    line = refused(tmp_path, "model=gemma2_2b_it task=mmlu data=bundled")
    assert "accept the gemma licence at " in line
    assert "/google/gemma-2-2b-it, then" in line
    assert "hf download google/gemma-2-2b-it" in line
    line = refused(tmp_path, "sae=gemma_scope_2b_16k layers=[3]")
    assert "gemma-scope-2b-pt-res-canonical/layer_3/width_16k/canonical" in line
    assert "hf download google/gemma-scope-2b-pt-res layer_3/" in line


def test_an_sae_that_is_one_layer_off(tmp_path):
    folder = shutil.copytree(BUNDLED / "saes" / "layer_2", tmp_path / "saes" / "layer_3")
    config = json.loads((folder / "cfg.json").read_text())
    config["metadata"]["hook_name"] = "blocks.3.hook_resid_post"
    (folder / "cfg.json").write_text(json.dumps(config))
    line = refused(tmp_path, f"sae=folder sae.path={tmp_path}/saes")
    assert "of block 3's output" in line and "of block 2's output" in line
    assert "sae.check=warn" in line
    assert not list(tmp_path.glob("cache/generate/*"))


def test_a_server_that_is_not_there(tmp_path):
    line = refused(tmp_path, "backend=ndif backend.host=http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached" in line
    assert "NDIF_HOST" in line


def test_nothing_right_and_nothing_wrong(tmp_path):
    rows = "".join(f"\"{{'topic': 'x'}}\",Which hat {n}?,nothing\n" for n in range(40))
    (tmp_path / "x.csv").write_text("metadata,question,true_answer\n" + rows)
    line = refused(tmp_path, f"task=simpleqa data={tmp_path}/x.csv")
    assert "no answer is right" in line
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "failed"
    assert status["error"] in line


def test_a_malformed_row(tmp_path):
    (tmp_path / "x.jsonl").write_text("{}\n")
    assert "x.jsonl, line 1" in refused(tmp_path, f"data={tmp_path}/x.jsonl")


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "cache").write_text("a file stands in its way")
    assert "cache" in refused(tmp_path, "coef=1")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission(tmp_path):
    (tmp_path / "cache").mkdir(mode=0o500)
    assert "cannot write" in refused(tmp_path, "coef=1")
