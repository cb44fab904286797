"""The steering operator: which features, and the equation x + vector."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from corrsteer.errors import ConfigError
from corrsteer.records import RankedFeature
from corrsteer.steering.operators import Add


def feature(layer, rank, r, number=0):
    rates = (0.5, 0.5, 0.5)
    return RankedFeature(layer, rank, number, r, 0.3, 1.0, *rates, 1.0, 1.0, 0.0, r, 0.01, 1.0)


RANKED = [feature(4, 1, 0.2), feature(4, 2, 0.1), feature(1, 2, 0.3), feature(1, 1, 0.6)]


def test_a_takes_the_best_of_every_layer():
    assert Add().choose(RANKED) == (RANKED[3], RANKED[0])


def test_s_takes_the_one_best():
    assert Add("S").choose(RANKED) == (RANKED[3],)
    assert Add("S").choose([feature(5, 1, 0.4), feature(3, 1, 0.4)])[0].layer == 3


@pytest.mark.parametrize("variant", ["A", "S"])
def test_nothing_ranked(variant):
    assert Add(variant).choose([]) == ()


@pytest.mark.parametrize("variant", ["a", "P", "", None])
def test_unknown_variant(variant):
    with pytest.raises(ConfigError, match=r"type strategy\.variant=A") as caught:
        Add(variant)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_adds_exactly_the_vector_and_changes_nothing_in_place(shape):
    x, vector = torch.randn(shape), torch.randn(4)
    x_before, vector_before = x.clone(), vector.clone()
    out = Add().apply(x, vector)
    assert torch.equal(out, torch.stack([row + vector for row in x.reshape(-1, 4)]).reshape(shape))
    assert torch.equal(x, x_before) and torch.equal(vector, vector_before)
    assert torch.equal(Add().apply(x, 0 * vector), x)


def test_a_vector_per_sample():
    x, vectors = torch.randn(3, 4), torch.randn(3, 4)
    assert torch.equal(Add().apply(x, vectors)[1], x[1] + vectors[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_type_is_that_of_x(dtype):
    x, vector = torch.randn(3, 4, dtype=dtype), torch.randn(4, dtype=torch.float32)
    out = Add().apply(x, vector)
    assert out.dtype == dtype
    assert torch.equal(out, x + vector.to(dtype))


def test_the_vector_is_moved_to_x():
    """``Tensor.to(other)`` takes type and device of the other; no second device is at hand."""

    class Elsewhere:
        def to(self, other):
            self.moved_to = other
            return 1.0

    x, vector = torch.zeros(2), Elsewhere()
    Add().apply(x, vector)
    assert vector.moved_to is x


def test_importing_it_does_not_import_torch():
    code = "import sys, corrsteer.steering.operators; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
