"""A control vector of llama.cpp: a GGUF file with a tensor ``direction.L`` for block L's output.

llama.cpp rejects a file that has ``direction.0``, and has no way to reach block 0; other readers
(EasySteer) take it. So there are two files. Vectors are at dial 1; the dial is the scale that
stands behind the file's name. Needs the package gguf.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from corrsteer.errors import ConfigError
from corrsteer.export.source import Source

WHOLE, WITHOUT_0 = "plan.gguf", "plan-llama.cpp.gguf"

# transformers' name -> GGUF's, where they differ by more than how words are joined.
_CALLED = {"mistral": "llama", "mixtral": "llama", "cohere": "command-r", "phi": "phi2",
           "gptbigcode": "starcoder", "glm": "chatglm"}  # fmt: skip


def check(source: Source) -> None:
    need_gguf()
    architecture = source.architecture
    if called(architecture) is None:
        raise ConfigError(
            f"llama.cpp runs no {architecture} that its package gguf knows: choose another format,"
            " or update gguf"
        )
    if set(source.vectors()) == {0}:
        raise ConfigError("llama.cpp cannot steer block 0, and the plan has no other")


def write(source: Source, folder: Path, out: Path) -> list[str]:
    """Both files; the words to start llama.cpp with."""
    vectors, hint = source.vectors(), called(source.architecture)
    assert hint is not None
    control_vector(folder / WHOLE, vectors, hint)
    rest = {layer: vector for layer, vector in vectors.items() if layer > 0}
    control_vector(folder / WITHOUT_0, rest, hint)
    return [f"use it: llama-cli --control-vector-scaled {out / WITHOUT_0}:{source.plan.coef:g}"]


def control_vector(file: Path, vectors: dict[int, np.ndarray], hint: str) -> None:
    """``hint``: GGUF's name of the architecture, which some readers ask for. Raises ConfigError
    where the disk takes less than was written: NumPy's tofile, which gguf calls, does not say so.
    """
    from gguf import GGUFReader, GGUFWriter

    writer = GGUFWriter(file, "controlvector")
    writer.add_string("controlvector.model_hint", hint)
    writer.add_uint32("controlvector.layer_count", len(vectors))
    for layer, vector in vectors.items():
        writer.add_tensor(f"direction.{layer}", np.ascontiguousarray(vector, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    try:
        kept = {tensor.name: tensor.data.tobytes() for tensor in GGUFReader(file).tensors}
    except (ValueError, IndexError):
        kept = {}
    if kept != {f"direction.{n}": v.astype(np.float32).tobytes() for n, v in vectors.items()}:
        raise ConfigError(f"cannot write {file.name} whole: is the disk full? type --out FOLDER")


def called(architecture: str) -> str | None:
    """GGUF's name of an architecture of transformers; None where the package knows none."""
    from gguf import MODEL_ARCH_NAMES

    name = architecture.removesuffix("_text").replace("_", "").replace("-", "")
    if name in _CALLED:
        return _CALLED[name]
    known = {other.replace("_", "").replace("-", ""): other for other in MODEL_ARCH_NAMES.values()}
    return known.get(name)


def need_gguf() -> None:
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError(
            "writing this format needs the package gguf; type: python -m pip install gguf"
        )
