"""``layers=`` in every form a user may type, and every slip."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from corrsteer.errors import ConfigError
from corrsteer.layers import parse_layers


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("all", (0, 1, 2, 3, 4, 5, 6, 7)),
        (0, (0,)),
        (7, (7,)),
        ("7", (7,)),
        ([1, 3], (1, 3)),
        ((3, 1, 3), (1, 3)),
        (OmegaConf.create([5, 1]), (1, 5)),
        (OmegaConf.create(["2-4", 7]), (2, 3, 4, 7)),  # layers=[2-4,7] on the command line
        ("2-4", (2, 3, 4)),
        ("2-2", (2,)),
        ("1,3", (1, 3)),
        (" 2 - 4 , 7 ", (2, 3, 4, 7)),
        ("4,2-5,2", (2, 3, 4, 5)),
    ],
)
def test_accepts(spec, expected):
    layers = parse_layers(spec, 8)
    assert layers == expected
    assert all(type(layer) is int for layer in layers)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (8, "layer 8 is out of range"),
        (-1, "layer -1 is out of range"),
        ("-1", "layer -1 is out of range"),
        ([1, 9], "layer 9 is out of range"),
        ("6-8", "layer 8 is out of range"),
        ("0-99999999999999", "layer 99999999999999 is out of range"),
        ("4-2", "the range 4-2 is reversed"),
        ("", "no layer is named"),
        ("  ", "no layer is named"),
        ([], "no layer is named"),
        (True, "True is neither"),
        ([1, False], "False is neither"),
        (1.0, "1.0 is neither"),
        (None, "None is neither"),
        ("al", "'al' is neither"),
        ("1,,3", "'' is neither"),
        ("1;3", "'1;3' is neither"),
        ("2-4-6", "'2-4-6' is neither"),
        ("2-", "'2-' is neither"),
        ([[1]], "[1] is neither"),
        ({"a": 1}, "{'a': 1} is neither"),
    ],
)
def test_refuses_in_one_line(spec, why):
    with pytest.raises(ConfigError) as caught:
        parse_layers(spec, 8)
    message = str(caught.value)
    assert message.startswith(f"layers={spec}: {why}")
    assert "layers 0..7" in message and "type layers=all" in message
    assert "\n" not in message


def test_the_advice_can_be_typed_on_a_model_of_one_layer():
    with pytest.raises(ConfigError, match=r"layers 0\.\.0"):
        parse_layers(1, 1)
    for advice in ("all", 0, [0, 0], "0-0"):
        assert parse_layers(advice, 1) == (0,)
