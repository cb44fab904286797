"""Every option in conf/scorer says what its constructor takes, and what it takes by default."""

import importlib
import inspect
from pathlib import Path

import pytest
from omegaconf import OmegaConf

CONF = Path(__file__).parents[2] / "conf" / "scorer"
NAMES = [
    "choice",
    "contains",
    "exact",
    "function",
    "instructions",
    "numeric",
    "refusal",
    "regex",
    "token_f1",
    "words",
]


@pytest.mark.parametrize("name", NAMES)
def test_an_option_holds_every_parameter_and_a_comment_on_it(name):
    file = CONF / f"{name}.yaml"
    settings = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    module, _, target = settings.pop("_target_").rpartition(".")
    assert module == f"corrsteer.scorers.{name}"
    parameters = inspect.signature(getattr(importlib.import_module(module), target)).parameters
    assert list(settings) == list(parameters)
    for key, value in settings.items():
        default = parameters[key].default
        if value == "???":
            assert default is inspect.Parameter.empty, key
        elif not str(value).startswith("${"):
            assert value == default, key
    lines = file.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert all(" # " in line for line in lines[2:])
