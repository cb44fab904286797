"""Settings that a strategy does not read: refused in a line, whichever strategy and setting."""

from __future__ import annotations

import logging

import pytest
from omegaconf import OmegaConf

from corrsteer.config import instantiate
from corrsteer.errors import ConfigError
from corrsteer.methods.protocol import Method
from corrsteer.run.unread import CONF, OF_PLANS, _read, check_unread, default

CHANGED = {
    "operator": {"_target_": "corrsteer.steering.operators.Ablate"},
    "gate": {"_target_": "corrsteer.steering.gates.FeatureActive", "above": 0.0},
    "coefficient": {"_target_": "corrsteer.steering.coefficients.MeanActive"},
    "positions": "decode",
    "selector": {"_target_": "mine.Other"},
    "ablations": True,
}
LOOKED_AT = {  # of what is no part of a strategy
    "corrsteer_a": {"selector", "ablations"},
    "corrsteer_p": {"selector", "ablations"},  # holds another one
    "raw_residual": {"selector", "ablations"},
    "caa": {"selector", "ablations"},  # controls have the selector's features
    "spare": {"ablations"},
    "dsg": {"ablations"},
    "bias_only": {"selector", "ablations"},
    "lora": set(),
    "finetune": set(),
    "instruction": set(),
    "constrained": set(),
}


def node(strategy):
    """As Hydra composes it."""
    made = {**_read(CONF / "strategy" / f"{strategy}.yaml")}
    first, *_ = made.pop("defaults", [""])
    name, _, place = first.partition("@")
    if not name:
        return made
    return {place: node(name), **made} if place else {**node(name), **made}


def config(strategy, **changes):
    root = {name: default(name) for name in CHANGED}
    return OmegaConf.create(
        {**root, "coef": 1.0, "study": None, **changes, "strategy": node(strategy)}
    )


def refused(cfg):
    try:
        check_unread(cfg, instantiate(cfg.strategy, Method))
    except ConfigError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


@pytest.mark.parametrize("strategy", LOOKED_AT)
def test_a_setting_that_a_strategy_does_not_read_is_refused_and_no_other(strategy):
    assert refused(config(strategy)) == ""
    plain = instantiate(config(strategy).strategy, Method)
    for name, value in CHANGED.items():
        cfg = config(strategy, **{name: value})
        # What is typed there either makes another strategy of it, or is not read.
        made = instantiate(cfg.strategy, Method)
        read = made != plain if name in OF_PLANS else name in LOOKED_AT[strategy]
        line = refused(cfg)
        assert bool(line) != read, (name, line)
        assert read or f"does not read {name}=" in line


def test_a_config_that_is_resolved_is_read_as_it_was_typed():
    cfg = config("corrsteer_p", operator=CHANGED["operator"], positions="decode")
    OmegaConf.resolve(cfg)
    assert refused(cfg) == ""


def test_the_line_says_what_to_type():
    line = refused(config("bias_only", positions="decode", operator=CHANGED["operator"]))
    assert line == (
        "strategy Bias-gold does not read operator=Ablate, positions=decode: leave them out, or"
        " type strategy.positions=decode for its own"
    )


def test_what_an_experiment_may_have_set_is_told_by_its_default():
    study = {"claim": "x"}
    total = {"_target_": "corrsteer.steering.coefficients.TotalNorm"}
    line = refused(config("spare", study=study, coefficient=total, gate=CHANGED["gate"]))
    assert line.endswith(": type gate=always coefficient=mean_right")


def test_where_rivals_are_compared_it_is_for_those_that_read_it(caplog):
    with caplog.at_level(logging.INFO):
        assert refused(config("lora", positions="decode", study={"margin": 2})) == ""
    assert "LoRA-gold does not read positions: it answers as without" in caplog.text
