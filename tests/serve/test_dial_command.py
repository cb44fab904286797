"""``python -m corrsteer dial``: what is refused before a model is loaded."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
from pathlib import Path

import pytest

from corrsteer.__main__ import main
from corrsteer.errors import ConfigError
from corrsteer.serve.command import _listening
from corrsteer.serve.source import read
from corrsteer.steering.plan import Plan
from corrsteer.store.runfolder import RunFolder
from tests.serve.conftest import PROMPTS, plan_of

pytestmark = pytest.mark.long


@pytest.fixture
def own(run, tmp_path) -> Path:
    """A run to spoil."""
    return shutil.copytree(run, tmp_path / "own")


def refused(capsys, *words: object) -> str:
    code = main(["dial", *map(str, words), "--port", "0"])
    said = capsys.readouterr()
    assert code == 2 and said.err.count("\n") == 1 and "loading" not in said.out
    return said.err


def test_what_cannot_be_served_is_one_line(own, capsys, tiny_gpt2, tmp_path):
    assert "there is no plan in" in refused(capsys, tmp_path)
    assert "the plan was made for a llama" in refused(capsys, own, tiny_gpt2)
    plan = shutil.copytree(own / "plan", tmp_path / "alone")
    assert "type its model, too" in refused(capsys, plan)
    plan_of(layers=()).save(tmp_path / "none")
    assert "has no layers" in refused(capsys, tmp_path / "none", tiny_gpt2)
    (own / "answers.parquet").write_bytes(b"PAR1")
    assert "answers.parquet cannot be read" in refused(capsys, own)
    RunFolder(own).start([])
    assert "the run in" in refused(capsys, own)


def test_a_key_that_no_header_can_carry_is_refused(own, capsys, monkeypatch):
    for key in ("", " x", "\xe4", "a\nb"):
        assert "the key must be" in refused(capsys, own, "--key", key)
    monkeypatch.setenv("CORRSTEER_KEY", "\xe4")
    assert "the key must be" in refused(capsys, own)


def test_a_port_that_is_taken_and_missing_packages_say_what_to_type(own, capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert main(["dial", str(own), "--port", str(other.getsockname()[1])]) == 2
    assert "type --port 0 for a free one" in capsys.readouterr().err
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "uvicorn" else find(n))
    assert "pip install -e '.[serve]'" in refused(capsys, own)


def test_a_plan_alone_takes_a_model_and_a_run_tells_more(own, tmp_path, tiny_llama):
    plan = shutil.copytree(own / "plan", tmp_path / "elsewhere" / "alone")
    bare = read(plan, str(tiny_llama))
    assert (bare.questions, bare.spec.path) == ([], str(tiny_llama))
    assert bare.chance.what == "directions" and bare.chance.why
    assert bare.plan.key() == plan_of().key()
    whole = read(own, None)
    assert [prompt for _, prompt in whole.questions] == PROMPTS
    assert (whole.tokens, whole.chance.what) == (12, "features")


def test_a_damaged_card_is_left_out(own):
    for content in ("{", "[]", "[3]", json.dumps([{"layer": 0, "feature": 10}])):
        (own / "contexts.json").write_text(content)
        found = read(own, None)
        assert isinstance(found.plan, Plan) and found.cards[0] == {}


def test_a_port_is_taken_while_its_server_still_loads_the_model():
    with _listening(0) as loading, pytest.raises(ConfigError, match="type --port 0"):
        _listening(loading.getsockname()[1])
