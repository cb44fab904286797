"""The steering operator: the equation x + dial * vector."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from corrsteer.steering.operators import Add
from corrsteer.steering.plan import PlanEntry


def applied(x, vector, dial=1.0):
    return Add().apply(x, {"vector": vector}, dial)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_adds_exactly_the_vector_and_changes_nothing_in_place(shape):
    x, vector = torch.randn(shape), torch.randn(4)
    x_before, vector_before = x.clone(), vector.clone()
    out = applied(x, vector)
    assert torch.equal(out, torch.stack([row + vector for row in x.reshape(-1, 4)]).reshape(shape))
    assert torch.equal(x, x_before) and torch.equal(vector, vector_before)
    assert torch.equal(applied(x, 0 * vector), x)


@pytest.mark.parametrize("dial", [0.0, 0.5, 1.0, -2.0])
def test_the_dial_multiplies_the_vector(dial):
    x, vector = torch.randn(3, 4), torch.randn(4)
    vector_before = vector.clone()
    assert torch.equal(applied(x, vector, dial), x + dial * vector)
    assert torch.equal(vector, vector_before)


def test_a_vector_per_sample():
    x, vectors = torch.randn(3, 4), torch.randn(3, 4)
    assert torch.equal(applied(x, vectors)[1], x[1] + vectors[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_type_is_that_of_x(dtype):
    x, vector = torch.randn(3, 4, dtype=dtype), torch.randn(4, dtype=torch.float32)
    out = applied(x, vector)
    assert out.dtype == dtype
    assert torch.equal(out, x + vector.to(dtype))


def test_the_vector_is_moved_to_x():
    """``Tensor.to(other)`` takes type and device of the other; no second device is at hand."""

    class Elsewhere:
        def to(self, other):
            self.moved_to = other
            return 1.0

    x, vector = torch.zeros(2), Elsewhere()
    applied(x, vector)
    assert vector.moved_to is x


def test_it_reads_the_vector_of_the_entry():
    vector = np.arange(4, dtype=np.float32)
    assert Add().parts(PlanEntry(1, 2, 0.5, 1.0, vector)) == {"vector": vector}
    assert Add().additive


def test_importing_it_does_not_import_torch():
    code = "import sys, corrsteer.steering.operators; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
