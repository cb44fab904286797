"""What the benchmarks measure with: three models, and random SAEs of any width in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from benchmarks import published_size
from benchmarks.published_size import PROMPT, build_model
from benchmarks.train_saes import spec_of
from corrsteer.models.local import Local, LocalModel
from corrsteer.models.spec import Model
from corrsteer.saes.loaded import LoadedSAE
from corrsteer.scorers.choice import Choice
from corrsteer.stages.bench import load_model
from corrsteer.tasks.bbq import BBQ

GEMMA = "gemma_220m"
MODELS = ("bundled", "smollm2_135m_it", GEMMA)
"""Options of conf/model, and a random model of Gemma-2's shape, 221 million parameters, all of them
in 14 blocks; the prompts' tokenizer is the bundled one."""
SHAPE = replace(
    published_size.FULL, blocks=14, width=1024,
    shape={
        "vocab_size": 1200, "intermediate_size": 4096, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 128,
    },
)  # fmt: skip
FOLDER = Path("outputs/bench")
SHARE = 3.0
"""A feature is active where a random direction is in 0.13 % of positions: a normal variable above
3, so 22 features of 16,384."""


def made(name: str, *, small: bool = False) -> Model:
    """A model of ``MODELS``, without a chat template; the random one is made in ``FOLDER`` once.
    ``small``: a tiny one."""
    if name != GEMMA:
        return replace(spec_of(name), chat_template=False)
    folder = FOLDER / ("tiny" if small else name)
    if not (folder / "config.json").is_file():
        build_model(folder, published_size.SMALL if small else SHAPE)
    return Model(name, str(folder))


def endless(spec: Model, batch_size: int) -> tuple[Local, Model, LocalModel]:
    """A model under a name of its own none of whose tokens ends an answer: so all cases write as
    many."""
    backend = Local(device="cpu", batch_size=batch_size)
    spec = replace(spec, name=f"{spec.name}, endless")
    model: Any = load_model(backend, spec)
    model._eos.clear()
    model._module.generation_config.eos_token_id = None
    return backend, spec, model


def prompts(n: int) -> list[str]:
    task = BBQ(name="bbq", prompt=PROMPT, scorer=Choice(), max_new_tokens=1)
    return [example.prompt for example in task.examples()[:n]]


@dataclass(frozen=True)
class RandomSAEs:
    """Jumprelu SAEs for all layers, of ``width`` features whose rows are random.

    They stay in memory, so that no case is charged for reading them. ``lengths``: of residuals by
    layer, which the thresholds are multiples of.
    """

    width: int
    d_model: int
    lengths: tuple[float, ...]
    name: str = "random"
    check: str = "off"
    budget_gb: float = 64.0

    def layers(self) -> tuple[int, ...]:
        return tuple(range(len(self.lengths)))

    def sae_id(self, layer: int) -> str:
        return f"random/{layer}"

    def fingerprint(self, layer: int) -> str:
        return f"{self.width}/{layer}/{self.lengths[layer]!r}"

    def neuronpedia(self, layer: int) -> None:
        return None

    def trained_on(self, layer: int) -> None:
        return None

    def validate(self, layer: int, d_model: int) -> None:
        assert d_model == self.d_model

    def load(self, layer: int, device: str = "cpu") -> LoadedSAE:
        return _sae(self.width, self.d_model, layer, self.lengths[layer], device)


@lru_cache(maxsize=64)
def _sae(width: int, d_model: int, layer: int, length: float, device: str) -> LoadedSAE:
    random = torch.Generator().manual_seed(layer)
    rows = torch.randn(d_model, width, generator=random)
    rows = torch.nn.functional.normalize(rows, dim=0).to(device)
    return LoadedSAE(
        sae_id=f"random/{layer}", layer=layer, architecture="jumprelu", W_enc=rows,
        b_enc=torch.zeros(width, device=device), W_dec=rows.T.cpu(),
        b_dec=torch.zeros(d_model, device=device),
        threshold=torch.full((width,), SHARE * length / d_model**0.5, device=device),
    )  # fmt: skip


def random_saes(model: LocalModel, width: int) -> RandomSAEs:
    """For all layers of a model, by the lengths of its residuals at the ends of 8 prompts."""
    some = prompts(8)
    layers = range(model.n_layers)
    read = model.replay(some, [[0]] * len(some), layers, "last_prompt")
    lengths = (float(read.layers[n].norm(dim=1).mean()) for n in layers)
    return RandomSAEs(width, model.d_model, tuple(lengths))
