"""Operators, and gates that read a feature: their equations, against a slow textbook form."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from corrsteer.errors import ConfigError
from corrsteer.steering.encoder import activation
from corrsteer.steering.gates import FeatureActive, FeatureInactive
from corrsteer.steering.hooks import changed
from corrsteer.steering.operators import Ablate, Add, Clamp, Fill, NormPreserving, ProjectOut
from corrsteer.steering.plan import Plan, PlanEntry
from tests.operators import made_encoder


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


# -- the others, one residual at a time, in plain numbers ----------------------------------------

WIDTH = 8
KINDS = {
    "relu": {"threshold": -math.inf, "slope": 1.0, "offset": 0.1},
    "above a threshold": {},
    "layer_norm": {"scaling": "layer_norm"},
    "rescaled and centred": {"scaling": "constant_norm_rescale", "centred": True},
    "never active": {"threshold": math.inf},
}
OPERATORS = [Clamp(), Clamp(-2.5), Fill(), Fill(2.5), Ablate(), ProjectOut(), NormPreserving()]


def entry_of(kind="above a threshold", coefficient=1.7):
    encoder = made_encoder(3, WIDTH, **KINDS[kind])
    vector = (np.float32(coefficient) * encoder.decoder).astype(np.float32)
    return PlanEntry(1, 5, 0.5, coefficient, vector, encoder=encoder)


def residuals(n=40):
    """Of different lengths, with a mean that is not 0."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(n, WIDTH)) * rng.uniform(0.5, 3, size=(n, 1)) + 0.3
    return torch.tensor(x, dtype=torch.float32)


def z_of(h, e) -> float:
    """The activation at one residual, a list of numbers."""
    u, scale = list(h), 1.0
    if e.centred or e.scaling == "layer_norm":
        mean = sum(u) / len(u)
        u = [a - mean for a in u]
    if e.scaling == "layer_norm":
        scale = math.sqrt(sum(a * a for a in u) / (len(u) - 1))
        u = [a / (scale + 1e-5) for a in u]
    if e.scaling == "constant_norm_rescale":
        scale = math.sqrt(sum(a * a for a in u)) / math.sqrt(len(u))
        u = [a / scale for a in u]
    p = sum((a - float(s)) * float(w) for a, s, w in zip(u, e.shift, e.row, strict=True))
    return scale * max(0.0, e.slope * p + e.offset) if p > e.threshold else 0.0


def textbook(operator, h, entry, c):
    z, d, v = (
        z_of(h, entry.encoder),
        entry.encoder.decoder.astype(float),
        entry.vector.astype(float),
    )
    h = np.array(h, float)
    if isinstance(operator, Clamp):  # Fill is one, too
        missing = c * (entry.coefficient if operator.level is None else operator.level) - z
        return h + (max(0.0, missing) if isinstance(operator, Fill) else missing) * d
    if isinstance(operator, Ablate):
        return h - c * z * d
    if isinstance(operator, ProjectOut):
        return h - c * (h @ v) * v / (v @ v)
    return (h + c * v) * math.sqrt(h @ h) / math.sqrt((h + c * v) @ (h + c * v))


def acts(operator, x, entry, dial):
    parts = {n: torch.tensor(np.asarray(a, np.float32)) for n, a in operator.parts(entry).items()}
    return operator.apply(x, parts, dial)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operator", OPERATORS, ids=repr)
def test_an_operator_is_its_equation(operator, kind):
    x, entry = residuals(), entry_of(kind)
    before = x.clone()
    for dial in (1.0, 0.5, -2.0):
        expected = [textbook(operator, h, entry, dial) for h in x.tolist()]
        found = acts(operator, x, entry, dial)
        assert found.dtype == torch.float32 and torch.equal(x, before)
        np.testing.assert_allclose(found.numpy(), expected, rtol=2e-5, atol=2e-5)
        in_a_batch = acts(operator, x.reshape(2, 20, WIDTH), entry, dial)
        torch.testing.assert_close(in_a_batch.reshape(40, WIDTH), found)
    assert not operator.additive and acts(operator, x[:0], entry, 1.0).shape == (0, WIDTH)
    half = x.to(torch.bfloat16)
    found = acts(operator, half, entry, 1.0)
    expected = torch.stack([torch.tensor(textbook(operator, h, entry, 1)) for h in half.tolist()])
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_is_open_where_the_feature_is_active(kind):
    x, entry = residuals(), entry_of(kind)
    z = [z_of(h, entry.encoder) for h in x.tolist()]
    for above in (0.0, 0.7):
        gates = FeatureActive(above), FeatureInactive(above)
        opened = []
        for gate in gates:
            parts = {n: torch.tensor(a) for n, a in gate.parts(entry).items()}
            opened.append(gate.open(x, parts, 1.0).tolist())
        assert opened[0] == [a > above for a in z]
        assert opened[1] == [a <= above for a in z]
        assert any(opened[0]) == (kind != "never active") and any(opened[1])


def test_what_the_operators_promise():
    x, entry = residuals(), entry_of()
    vector = torch.tensor(entry.vector)
    out = acts(ProjectOut(), x, entry, 1.0)
    assert (out @ vector).abs().max() < 1e-4 * vector.norm()
    shorter = replace(entry, vector=-0.01 * entry.vector)
    torch.testing.assert_close(acts(ProjectOut(), x, shorter, 1.0), out)
    lengths = acts(NormPreserving(), x, entry, 1.5).norm(dim=-1)
    torch.testing.assert_close(lengths, x.norm(dim=-1))
    assert torch.equal(acts(Fill(-1.0), x, entry, 1.0), x)  # all are active enough
    silent = torch.tensor([z_of(h, entry.encoder) == 0 for h in x.tolist()])
    assert torch.equal((acts(Ablate(), x, entry, 1.0) == x).all(-1), silent)
    # A search that scales a layer's vector scales the level.
    scaled = replace(entry, vector=np.float32(0.5) * entry.vector)
    torch.testing.assert_close(acts(Clamp(), x, scaled, 1.0), acts(Clamp(), x, entry, 0.5))


def test_fill_where_the_feature_is_silent_is_add():
    """A gate reads, by its own names, what the operator reads, too."""
    x, entry = residuals(), entry_of()
    plan = Plan((entry,), operator=Fill(), gate=FeatureInactive())
    (arrays,) = plan.parts().values()
    parts = {name: torch.tensor(a) for name, a in arrays.items()}
    filled = changed(x, parts, plan.dial, plan.operator.apply, plan.gate.open)
    z = activation(x, parts)
    expected = torch.where((z > 0)[:, None], x, x + torch.tensor(entry.vector))
    torch.testing.assert_close(filled, expected)
    assert 0 < (z > 0).sum() < len(x)


@pytest.mark.parametrize("reader", [Clamp(), Fill(), Ablate(), FeatureActive(), FeatureInactive()])
def test_an_entry_without_an_encoder_is_refused_in_one_line(reader):
    with pytest.raises(ConfigError, match=f"{type(reader).__name__} reads how active") as caught:
        reader.parts(replace(entry_of(), encoder=None))
    assert "\n" not in str(caught.value) and reader.reads_feature


@pytest.mark.parametrize(
    ("kind", "value"),
    [(Clamp, math.nan), (Fill, math.inf), (FeatureActive, -0.1), (FeatureInactive, math.nan)],
)
def test_a_number_out_of_range_is_refused(kind, value):
    with pytest.raises(ConfigError, match="it must be a finite number"):
        kind(value)


def test_no_two_settings_share_a_key():
    entry = entry_of()
    how = [{"operator": o} for o in (Add(), *OPERATORS)]
    how += [{"gate": g} for g in (FeatureActive(), FeatureActive(0.5), FeatureInactive())]
    other = replace(entry, encoder=made_encoder(4, WIDTH))
    plans = [Plan((entry,), **h) for h in how]
    plans += [Plan((other,), operator=Clamp()), Plan((entry,), coef=2.0, operator=Clamp())]
    assert len({str(plan.key()) for plan in plans}) == len(plans)
    # Whoever reads no feature does not depend on an encoder.
    assert Plan((other,)).key() == Plan((entry,)).key()
