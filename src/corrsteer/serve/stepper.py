"""A model that writes one token at a time, for several panes that are steered in their own ways.

The hooks lie on the blocks once; what they do is set before each pass, so that a dial that is
turned acts at the next token. Every pane keeps its own keys and values. The same tokens as
``plan.steer(model)`` with ``generate``. Cost: a pass per pane and token. Not for several threads.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corrsteer.errors import ConfigError, ModelError
from corrsteer.steering.hooks import blocks, changed
from corrsteer.steering.plan import Plan
from corrsteer.steering.positions import where
from corrsteer.steering.protocol import Apply, Open, Parts

if TYPE_CHECKING:
    import torch

LARGEST = 100.0
"""Dials beyond it, either way, are refused: no plan is of use there."""


@dataclass(frozen=True)
class Turned:
    """How far a plan is turned up. ``factors``: by layer, what the dial is multiplied by there; 1
    where a layer is not in it, and 0 switches it off."""

    coef: float
    factors: Mapping[int, float]
    positions: str

    def __post_init__(self) -> None:
        where(self.positions)
        for value in (self.coef, *self.factors.values()):
            if not (math.isfinite(value) and abs(value) <= LARGEST):
                raise ConfigError(
                    f"a dial of {value:g}: use a number from {-LARGEST:g} to {LARGEST:g}"
                )

    def at(self, layer: int) -> float:
        """The dial of a layer."""
        return self.coef * self.factors.get(layer, 1.0)


@dataclass(frozen=True)
class Sampling:
    """``temperature`` 0 takes the likeliest token; ``top_p`` as in nucleus sampling."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


class Stepper:
    """Owns a model: puts hooks on its blocks, for good."""

    def __init__(self, module: torch.nn.Module) -> None:
        """Raises ModelError for an architecture without one list of blocks."""
        self.module: Any = module
        self._do: dict[int, tuple[Parts, float, Apply, Open | None]] = {}
        self._at: Any = False  # [T] bool; True for the last position of the pass, False for none
        self._seen: dict[int, torch.Tensor] | None = None
        keeps = "logits_to_keep" in inspect.signature(self.module.forward).parameters
        self._last_only = {"logits_to_keep": 1} if keeps else {}
        self.layers = blocks(module, "the model")
        for n, block in enumerate(self.layers):
            block.register_forward_hook(self._hook(n))

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.module.parameters()).device
        return device

    def _hook(self, layer: int) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            if self._seen is not None:
                self._seen[layer] = hidden[0, -1].float()
            if self._at is False or layer not in self._do:
                return
            parts, dial, apply, opens = self._do[layer]
            if self._at is True:
                hidden[:, -1] = changed(hidden[:, -1], parts, dial, apply, opens)
            else:
                at = self._at.to(hidden.device).expand(hidden.shape[0], -1)
                hidden[at] = changed(hidden[at], parts, dial, apply, opens)

        return hook

    def parts(self, plan: Plan, turned: Turned) -> dict[int, Any]:
        """What the hooks do at each layer under a plan."""
        import torch

        do = {}
        for entry in plan.entries:
            one = plan.with_entries((entry,)).turned_to(turned.at(entry.layer))
            if one.does_nothing or one.is_off:
                continue
            home = next(self.layers[entry.layer].parameters()).device
            (arrays,) = one.parts().values()
            tensors = {name: torch.tensor(part, device=home) for name, part in arrays.items()}
            do[entry.layer] = (tensors, one.dial, plan.operator.apply, plan.gate.open)
        return do

    def residuals(self, ids: list[int]) -> dict[int, torch.Tensor]:
        """Layer -> [M] float32, of the unsteered model at the last of some tokens."""
        seen: dict[int, torch.Tensor] = {}
        self._seen = seen
        try:
            self.logits(ids, None, {}, False)
        finally:
            self._seen = None
        return seen

    def logits(
        self, ids: list[int], cache: Any, do: Mapping[int, Any], at: Any
    ) -> tuple[torch.Tensor, Any]:
        """[vocabulary] float32 after the last of ``ids``, which follow those in ``cache``, and the
        cache with them. ``at``: where it acts among them."""
        import torch

        self._do, self._at = dict(do), at
        try:
            with torch.no_grad():
                output = self.module(
                    input_ids=torch.tensor([ids], device=self.device),
                    past_key_values=cache,
                    use_cache=True,
                    **self._last_only,
                )
        finally:
            self._do, self._at = {}, False
        return output.logits[0, -1].float(), output.past_key_values


class Pane:
    """One answer that is being written. ``plan``: None for the unsteered model."""

    def __init__(
        self, stepper: Stepper, prompt: list[int], plan: Plan | None, sampling: Sampling
    ) -> None:
        self._stepper, self._prompt, self._plan, self._sampling = stepper, prompt, plan, sampling
        self._cache: Any = None
        self._made: tuple[Turned, dict[int, Any]] | None = None
        self._random: torch.Generator | None = None
        self.tokens: list[int] = []

    def step(self, turned: Turned) -> int:
        """Write one more token, with the dial as it is now. Raises ModelError where the model's
        logits are no numbers."""
        n = len(self.tokens)
        new = self.tokens[-1:] or self._prompt
        do, at = self._acts(turned, len(new), n)
        logits, self._cache = self._stepper.logits(new, self._cache, do, at)
        if not bool((logits < math.inf).all()):
            raise ModelError(
                "the model gives no numbers any more: turn the dial nearer to 0, or run it in"
                " float32"
            )
        self.tokens.append(self._chosen(logits))
        return self.tokens[-1]

    def _acts(self, turned: Turned, width: int, n: int) -> tuple[dict[int, Any], Any]:
        """What is done in the pass of step ``n``, over ``width`` tokens, and where."""
        import torch

        if self._plan is None:
            return {}, False
        if self._made is None or self._made[0] != turned:
            self._made = turned, self._stepper.parts(self._plan, turned)
        acts = where(turned.positions)
        if width > 1 and acts.prompt:
            return self._made[1], acts.of(torch.arange(n + 1 - width, n + 1))
        return self._made[1], acts.at_step(n)

    def _chosen(self, logits: torch.Tensor) -> int:
        import torch

        how = self._sampling
        if how.temperature == 0:
            return int(logits.argmax())
        if self._random is None:
            self._random = torch.Generator()
            if how.seed is None:
                self._random.seed()
            else:
                self._random.manual_seed(how.seed)
        chances = (logits.cpu() / how.temperature).softmax(-1)
        some, order = chances.sort(descending=True)
        some[some.cumsum(-1) - some >= how.top_p] = 0  # the likeliest always stays
        return int(order[torch.multinomial(some, 1, generator=self._random)])
