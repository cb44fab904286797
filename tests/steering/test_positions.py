"""Which tokens a name of positions stands for; what they do to a model is tests/models's."""

from __future__ import annotations

import pytest
import torch

from corrsteer.errors import ConfigError
from corrsteer.steering.plan import Plan
from corrsteer.steering.positions import NEEDS, where


def test_the_table_of_positions():
    """Three tokens of prompt, four of answer, the last of which is read by no step."""
    position = torch.arange(7)
    table = {
        "generation": "0011110",
        "all": "1111110",
        "prompt": "1110000",
        "decode": "0001110",
        "first_1": "0010000",
        "first_3": "0011100",
        "first_9": "0011110",
    }
    last, end = torch.tensor(2), torch.tensor(6)
    for name, expected in table.items():
        found = where(name).within(position, last, end)
        assert "".join(str(int(b)) for b in found) == expected, name
        assert where(name).steps(4) == expected.count("1", 2), name
        assert [where(name).at_step(n) for n in range(4)] == [c == "1" for c in expected[2:6]]
        assert where(name).prompt == (expected[0] == "1")


def test_a_prompt_without_an_answer_has_no_generation_position():
    position, last = torch.arange(3), torch.tensor(2)
    for name in ("generation", "decode", "first_3"):
        assert not where(name).within(position, last, last).any()
    for name in ("all", "prompt"):
        assert where(name).within(position, last, last).all()


@pytest.mark.parametrize(
    "name", ["everywhere", "first_0", "first_k", "first_-1", "first_03", "first_1 ", "All", 7, None]
)
def test_a_name_that_is_none_is_refused_in_one_line(name):
    with pytest.raises(ConfigError, match="use generation, all, prompt, decode or first_k") as got:
        Plan((), positions=name)
    assert "\n" not in str(got.value) and f"positions={name!r} is unknown" in str(got.value)


@pytest.mark.parametrize("name", ["generation", "all", "prompt", "decode", "first_1", "first_12"])
def test_every_name_is_another_key_and_can_be_supported(name):
    plan = Plan((), positions=name)
    assert plan.needs <= {"vectors", *NEEDS} and plan.changes_prompt == (name in ("all", "prompt"))
    assert plan.key().get("positions", "generation") == name
