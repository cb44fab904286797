"""What a backend is, and what goes into and comes out of a model.

A *backend* says where a model runs and makes a :class:`~corrsteer.models.loaded.LoadedModel` of it.
Costs nothing to import.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from corrsteer.errors import ConfigError
from corrsteer.models.spec import Model
from corrsteer.records import Completion
from corrsteer.steering.operators import add
from corrsteer.steering.positions import NEEDS, Where
from corrsteer.steering.protocol import Apply, Open, Parts

if TYPE_CHECKING:
    import torch

    from corrsteer.models.loaded import LoadedModel

SOURCES = ("generated", "last_prompt", "prompt", "all")
WHOLE = frozenset({"prompt", "all"})
"""Token sources that begin where the text does, where attention sinks are."""

SINK = 10.0
"""A position whose residual is more than this many times as long as the median of its text is an
attention sink: models that write no BOS use their first word as one, with 50 to 150 times the norm
from some block on (Xiao et al. 2024, "Efficient streaming language models with attention sinks";
Sun et al. 2024, "Massive activations in large language models"). Ordinary positions differ by a
factor of two or three."""


class Backend(Protocol):
    """Where a model runs. A frozen dataclass, so that a model is loaded once for equal ones."""

    def key(self, model: Model) -> dict[str, Any]:
        """What identifies the model's computation in a cache key."""

    def supports(self) -> frozenset[str]:
        """What interventions may need (:attr:`corrsteer.steering.protocol.Intervention.needs`)."""

    def load(self, model: Model) -> LoadedModel:
        """Raises ModelError when it cannot be loaded."""


STEERING = frozenset({"vectors"}) | NEEDS
"""What every backend supports: plans, wherever they act."""
RESIDUALS = "residuals while it writes"
"""What a backend supports whose answers can be listened to."""

PREDICTIONS = "next-token distributions"
"""What a backend supports that predicts with many directions added, one after the other."""

TRAINED = frozenset({"weights", "training"})
"""What a backend supports that has the weights at hand: adapters, and the making of them."""


@dataclass(frozen=True)
class Asks:
    """A gate that is asked once per answer: at the last prompt token, unsteered."""

    layer: int | None
    """Whose residual it reads; None: it reads the entropy of the next-token distribution."""
    parts: Parts
    opens: Open
    dial: float


@dataclass(frozen=True)
class Prepared:
    """An intervention as a pass of the model needs it. Without layers it is none."""

    layers: Mapping[int, Parts]
    """Layer -> what ``apply`` and ``opens`` read there, in layer order."""
    apply: Apply = add
    opens: Open | None = None
    dial: float = 1.0
    additive: bool = True
    idle: bool = True
    """Whether it is known to change nothing."""
    where: Where = Where()
    asks: Asks | None = None
    """What decides whether an answer is steered at all; None: all are."""
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Parameter of the model -> its value under an adapter."""

    @property
    def changes_prompt(self) -> bool:
        """Whether it acts on prompt tokens before the last one, whose keys are then its own."""
        return self.where.prompt or bool(self.weights)

    def acts(self, steps: int) -> bool:
        """Whether it acts at all on answers of at most so many tokens."""
        return bool(self.layers) and (self.where.prompt or self.where.steps(steps) > 0)

    def steered(self, tokens: int) -> int:
        """At how many generation positions of an answer of so many tokens it acts."""
        return self.where.steps(tokens) if self.layers else 0

    def up_to(self, highest: int) -> Prepared:
        """Without the layers above ``highest``."""
        return replace(self, layers={n: p for n, p in self.layers.items() if n <= highest})


UNSTEERED = Prepared({})


@dataclass(frozen=True)
class Residuals:
    """Residual streams of one batch at the positions of a token source.

    All tensors share their first axis: the N positions, ordered by sample, then position.
    """

    layers: dict[int, torch.Tensor]
    """Layer -> [N, M] float32, the output of that block."""
    sample: torch.Tensor
    """[N] long, row of the batch."""
    token: torch.Tensor
    """[N] long, id of the token at the position."""
    position: torch.Tensor
    """[N] long, index in the sample's own tokens (BOS is 0 where there is one, no padding)."""
    last: torch.Tensor
    """[N] long, the index of its sample's last prompt token."""
    end: torch.Tensor
    """[N] long, the index of its sample's last token."""

    def within(self, source: str) -> torch.Tensor:
        """[N] bool: which positions belong to a token source."""
        return in_source(source, self.position, self.last, self.end)


def in_source(
    source: str, position: torch.Tensor, last: torch.Tensor, end: torch.Tensor
) -> torch.Tensor:
    """Bool: whether ``position``, of a text whose last prompt token is at ``last`` and whose last
    token is at ``end``, belongs to a token source. The tensors are broadcast."""
    if source == "generated":
        return (position >= last) & (position < end)
    if source == "last_prompt":
        return position == last
    return position <= last if source == "prompt" else position <= end


def merged(
    acts: Sequence[Sequence[bool]], columns: list[list[Completion]]
) -> list[list[Completion]]:
    """``columns`` [intervention][prompt], with the unsteered model's, the last of them, where an
    intervention does not act."""
    return [
        [
            one if on else columns[-1][i]
            for i, (one, on) in enumerate(zip(column, some, strict=True))
        ]
        for column, some in zip(columns, acts, strict=False)
    ]


def sinks(x: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """[N] bool: which residuals ``x`` [N, M] are those of attention sinks (``SINK``).

    ``sample`` [N] long, ascending: whose they are. A text is judged by its own positions alone, so
    the answer does not depend on what is in a batch with it. The median of two is the smaller.
    """
    import torch

    norms = x.float().norm(dim=1)
    counts = sample.unique_consecutive(return_counts=True)[1].tolist()
    long = [part > SINK * part.median() for part in norms.split(counts)]
    return torch.cat(long) if long else torch.zeros_like(norms, dtype=torch.bool)


def check_settings(device: str, batch_size: int) -> None:
    """Raise ConfigError for a wrong value of a setting that every backend has."""
    if device.split(":")[0] not in ("auto", "cpu", "cuda", "mps"):
        raise ConfigError(
            f"backend.device={device!r} is unknown: use auto, cpu, cuda, cuda:N or mps."
        )
    if batch_size < 1:
        raise ConfigError(f"backend.batch_size={batch_size}: it must be at least 1.")


def chosen_device(device: str) -> str:
    """The device that a setting names; ``auto`` is a GPU where there is one."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
