"""Other ways to add a vector after every block of a transformers model, at every position.

Each is ``(model, vectors) -> context``; ``vectors``: layer -> [M] float32. Two are libraries, which
belong beside this program's environment and not into it, since they ask for older packages:

    python -m pip install --no-deps --target outputs/rivals steering-vectors==0.12.2 repeng==0.4.0
    PYTHONPATH=outputs/rivals python -m benchmarks.generate
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corrsteer.errors import ModelError
from corrsteer.export.folded import _FOLDS, _bias
from corrsteer.steering.hooks import blocks

Vectors = Mapping[int, np.ndarray]
Rival = Callable[[Any, Vectors], AbstractContextManager[None]]
INSTALL = (
    "python -m pip install --no-deps --target outputs/rivals {}; then PYTHONPATH=outputs/rivals"
)


@contextmanager
def hooks(model: Any, vectors: Vectors) -> Iterator[None]:
    """The fewest lines that steer."""

    def hook(vector: torch.Tensor) -> Callable[[Any, Any, Any], None]:
        def add(module: Any, args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            hidden += vector

        return add

    layers = blocks(model, "the model")
    handles = [
        layers[n].register_forward_hook(hook(torch.tensor(vector))) for n, vector in vectors.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def bias(model: Any, vectors: Vectors) -> Iterator[None]:
    """In the weights, as ``corrsteer export`` folds a plan. Raises ModelError for an architecture
    with no bias right before the residual add."""
    kind = model.config.get_text_config().model_type
    if kind not in _FOLDS:
        raise ModelError(f"no bias of a {kind} stands right before the residual add")
    with torch.no_grad():
        layers = blocks(model, "the model")
        before = [{n: p for n, p in block.named_parameters()} for block in layers]
        biases = {n: _bias(layers[n], kind) for n in vectors}
        for n, vector in vectors.items():
            biases[n] += torch.tensor(vector)
    try:
        yield
    finally:
        with torch.no_grad():
            for n, vector in vectors.items():
                biases[n] -= torch.tensor(vector)
        for block, had in zip(layers, before, strict=True):
            for name in [n for n, _ in block.named_parameters() if n not in had]:
                place, _, own = name.rpartition(".")
                setattr(block.get_submodule(place), own, None)


@contextmanager
def steering_vectors(model: Any, vectors: Vectors) -> Iterator[None]:
    library = import_module("steering_vectors")
    tensors = {n: torch.tensor(vector) for n, vector in vectors.items()}
    with library.SteeringVector(tensors).apply(model):
        yield


@contextmanager
def repeng(model: Any, vectors: Vectors) -> Iterator[None]:
    wrapped = _repeng().ControlModel(model, list(vectors))
    try:
        wrapped.set_raw_control({n: torch.tensor(vector) for n, vector in vectors.items()})
        yield
    finally:
        wrapped.unwrap()


def _repeng() -> Any:
    """The file of repeng that steers: the package asks for NumPy 1, for what trains vectors."""
    package = find_spec("repeng")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'repeng'")
    file = Path(package.submodule_search_locations[0]) / "control.py"
    spec = spec_from_file_location("repeng_control", file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RIVALS: dict[str, Rival] = {
    "plain hooks": hooks,
    "bias in the weights": bias,
    "steering-vectors": steering_vectors,
    "repeng": repeng,
}
LIBRARIES = {"steering-vectors": "steering-vectors==0.12.2", "repeng": "repeng==0.4.0"}


def why_not(name: str, error: Exception) -> str:
    """One line for a rival that cannot be timed."""
    if isinstance(error, ModuleNotFoundError) and name in LIBRARIES:
        return f"{name} is not installed ({error}): " + INSTALL.format(LIBRARIES[name])
    return f"{name} is not timed: " + " ".join(f"{type(error).__name__}: {error}".split())[:200]
