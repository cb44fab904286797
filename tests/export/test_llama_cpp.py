"""The control vector in llama.cpp itself: which blocks and positions it steers, against hooks.

Building it takes 20 minutes on two cores:
``pip install --no-binary llama-cpp-python llama-cpp-python``.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from corrsteer.steering.plan import load_plan
from tests.conftest import LAYERS, WIDTH
from tests.export.test_formats import adding, export, plain

pytestmark = pytest.mark.night
llama_cpp = pytest.importorskip(
    "llama_cpp",
    reason="llama.cpp is not installed: pip install --no-binary llama-cpp-python llama-cpp-python"
    " builds it in 20 minutes",
)

IDS = [1, *range(40, 60)]
CLOSE: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-3}


class Engine:
    """llama.cpp on a GGUF file."""

    def __init__(self, file) -> None:
        self._c: Any = llama_cpp.llama_cpp
        f32 = 0  # keys and values are halves otherwise
        self._model = llama_cpp.Llama(
            str(file), n_ctx=64, n_threads=1, logits_all=True, type_k=f32, type_v=f32, verbose=False
        )

    def set(self, directions: dict[int, np.ndarray] | None, coef: float = 1.0) -> None:
        """As --control-vector-scaled does: a buffer that begins with block 1."""
        buffer = np.zeros((LAYERS - 1, WIDTH), np.float32)
        for layer, vector in (directions or {}).items():
            buffer[layer - 1] = coef * vector
        pointer = buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        where = WIDTH, 1, LAYERS - 1
        code = self._c.llama_set_adapter_cvec(self._model.ctx, pointer, buffer.size, *where)
        assert code == 0

    def logits(self, ids, reset: bool = True) -> np.ndarray:
        """[ids, vocabulary]"""
        if reset:
            self._model.reset()
        before = self._model.n_tokens
        self._model.eval(ids)
        return np.array(self._model.scores[before : before + len(ids)]).copy()


def directions_of(file) -> dict[int, np.ndarray]:
    from gguf import GGUFReader

    return {int(t.name.split(".")[1]): np.array(t.data) for t in GGUFReader(file).tensors}


def with_hooks(model, vectors) -> np.ndarray:
    blocks = model.get_decoder().layers
    hooks = [blocks[n].register_forward_hook(adding(v)) for n, v in vectors.items()]
    try:
        with torch.no_grad():
            return model(torch.tensor([IDS])).logits[0].numpy()
    finally:
        for hook in hooks:
            hook.remove()


def test_llama_cpp_steers_every_position_of_all_blocks_but_block_0(run_of, tiny_llama, tmp_path):
    pytest.importorskip("gguf")
    from tests.models.gguf_files import write_gguf

    engine = Engine(write_gguf(tiny_llama, tmp_path / "tiny.gguf", kind="F32"))
    out = export(run_of("llama"), "gguf", tmp_path / "out", "--no-measure")
    directions = directions_of(out / "plan-llama.cpp.gguf")
    plan, model = load_plan(run_of("llama")), plain(tiny_llama)
    vectors = plan.vectors()
    rest = {layer: vector for layer, vector in vectors.items() if layer > 0}
    assert sorted(directions) == sorted(rest) == list(range(1, LAYERS))

    unsteered = engine.logits(IDS)
    np.testing.assert_allclose(unsteered, with_hooks(model, {}), **CLOSE)
    engine.set(directions, plan.coef)
    steered = engine.logits(IDS)
    np.testing.assert_allclose(steered, with_hooks(model, rest), **CLOSE)
    assert np.abs(steered - with_hooks(model, vectors)).max() > 0.1  # block 0 is lost
    assert np.abs(steered - unsteered).max(1).min() > 0.01  # every position is steered

    # The plan's own positions: the prompt without its last token before the vector is set.
    engine.set(None)
    engine.logits(IDS[:-1])
    engine.set(directions, plan.coef)
    last = engine.logits(IDS[-1:], reset=False)[0]
    own = plan.with_entries(tuple(e for e in plan.entries if e.layer > 0))
    with torch.no_grad(), own.steer(model):
        wanted = model(torch.tensor([IDS])).logits[0, -1].numpy()
    np.testing.assert_allclose(last, wanted, **CLOSE)
    everywhere = replace(own, positions="all")
    with torch.no_grad(), everywhere.steer(model):
        other = model(torch.tensor([IDS])).logits[0, -1].numpy()
    assert np.abs(last - other).max() > 0.1
