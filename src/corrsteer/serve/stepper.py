"""A model that writes one token at a time, for several panes that are steered in their own ways.

The hooks lie on the blocks once; what they do is set before each pass, so that a dial that is
turned acts at the next token. Every pane keeps its own keys and values. The same tokens as
``plan.steer(model)`` with ``generate``. Cost: a pass per pane and token. Not for several threads.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from corrsteer.errors import ConfigError, ModelError
from corrsteer.steering.confidence import reads_entropy
from corrsteer.steering.encoder import activation
from corrsteer.steering.gates import Always
from corrsteer.steering.hooks import blocks, changed
from corrsteer.steering.plan import Plan
from corrsteer.steering.positions import where
from corrsteer.steering.protocol import Apply, Open, Parts

if TYPE_CHECKING:
    import torch

COLD = 1e-4
"""Temperatures below it take the likeliest token."""
LARGEST = 100.0
"""Dials beyond it, either way, are refused: no plan is of use there."""


@dataclass(frozen=True)
class Turned:
    """How far a plan is turned up. ``factors``: by layer, what the dial is multiplied by there; 1
    where a layer is not in it, and 0 switches it off. ``gate``: a name of
    :data:`corrsteer.serve.gates.GATES`."""

    coef: float
    factors: Mapping[int, float]
    positions: str
    gate: str = "plan"

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
    """``temperature`` 0, or below :data:`COLD`, takes the likeliest token; ``top_p`` as in nucleus
    sampling."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    @property
    def is_greedy(self) -> bool:
        return self.temperature < COLD


@dataclass(frozen=True)
class Doing:
    """What a hook does at its layer. ``acts``: False where the dial is off there, and the layer is
    only read. ``reads``: of the feature's encoder, empty where there is none."""

    acts: bool
    parts: Parts
    dial: float
    apply: Apply
    opens: Open | None
    reads: Parts


@dataclass(frozen=True)
class Reading:
    """Of one layer at the position that wrote a token. ``on``: whether it was steered there;
    ``before`` and ``after``: its feature's activation around that, None where it cannot be read."""

    on: bool
    before: float | None = None
    after: float | None = None


class Stepper:
    """Owns a model: puts hooks on its blocks, for good."""

    def __init__(self, module: torch.nn.Module) -> None:
        """Raises ModelError for an architecture without one list of blocks."""
        self.module: Any = module
        self._do: dict[int, Doing] = {}
        self._at: Any = False  # [T] bool; True for the last position of the pass, False for none
        self._seen: dict[int, torch.Tensor] | None = None
        self.readings: dict[int, Reading] = {}  # of the last pass
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
            if (do := self._do.get(layer)) is None:
                return
            last = hidden[0, -1].clone()
            on = do.acts and self._steer(hidden, do, last)
            if not do.reads:
                self.readings[layer] = Reading(on)
                return
            before, after = (float(activation(x, do.reads)) for x in (last, hidden[0, -1]))
            self.readings[layer] = Reading(on, before, after)

        return hook

    def _steer(self, hidden: torch.Tensor, do: Doing, last: torch.Tensor) -> bool:
        """Whether the last position, ``last`` [M] as it was, is steered."""
        how = do.parts, do.dial, do.apply, do.opens
        if self._at is False:
            return False
        if self._at is True:
            hidden[:, -1] = changed(hidden[:, -1], *how)
        else:
            at = self._at.to(hidden.device).expand(hidden.shape[0], -1)
            hidden[at] = changed(hidden[at], *how)
            if not bool(self._at[-1]):
                return False
        return do.opens is None or bool(do.opens(last[None], do.parts, do.dial))

    def parts(self, plan: Plan, turned: Turned) -> dict[int, Doing]:
        """What the hooks do at each layer under a plan."""
        do = {}
        for entry in plan.entries:
            one = plan.with_entries((entry,)).turned_to(turned.at(entry.layer))
            acts = not (one.does_nothing or one.is_off)
            reads = {} if entry.encoder is None else entry.encoder.parts()
            arrays = one.parts()[entry.layer] if acts else {}
            parts, read = (self._there(entry.layer, some) for some in (arrays, reads))
            do[entry.layer] = Doing(
                acts, parts, one.dial, plan.operator.apply, plan.gate.open, read
            )
        return do

    def _there(self, layer: int, arrays: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """On the device of a layer."""
        import torch

        home = next(self.layers[layer].parameters()).device
        return {name: torch.tensor(part, device=home) for name, part in arrays.items()}

    def decides(self, plan: Plan, prompt: list[int]) -> bool:
        """Whether a gate that decides for a whole answer is open: it is asked at the last prompt
        token, unsteered. True for any other gate. Cost: a pass over the prompt."""
        if plan.asked_at is None or plan.gate.open is None:
            return True
        layer = plan.asked_at
        parts = self._there(layer, plan.parts()[layer])
        if reads_entropy(plan.gate):
            p = self.logits(prompt, None, {}, False)[0][None].softmax(-1)
            x = p.xlogy(p).sum(-1).neg().clamp(min=0)
        else:
            x = self.residuals(prompt)[layer][None]
        return bool(plan.gate.open(x, parts, plan.dial))

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

        self._do, self._at, self.readings = dict(do), at, {}
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


def as_made(plan: Plan, gate: str) -> Plan:
    """A plan under its own gate."""
    return plan


class Pane:
    """One answer that is being written. ``plan``: None for the unsteered model; ``under``: the
    plan under a gate by name."""

    def __init__(
        self,
        stepper: Stepper,
        prompt: list[int],
        plan: Plan | None,
        sampling: Sampling,
        under: Callable[[Plan, str], Plan] = as_made,
    ) -> None:
        self._stepper, self._prompt, self._plan, self._sampling = stepper, prompt, plan, sampling
        self._under = under
        self._cache: Any = None
        self._made: tuple[Turned, dict[int, Doing]] | None = None
        self._decided: dict[str, bool] = {}  # by gates that decide for a whole answer
        self.readings: Mapping[int, Reading] = {}  # of the last token
        self._random: torch.Generator | None = None
        self.tokens: list[int] = []

    def step(self, turned: Turned) -> int:
        """Write one more token, with the dial as it is now. Raises ModelError where the model's
        logits are no numbers."""
        n = len(self.tokens)
        new = self.tokens[-1:] or self._prompt
        do, at = self._acts(turned, len(new), n)
        logits, self._cache = self._stepper.logits(new, self._cache, do, at)
        self.readings = self._stepper.readings
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
            self._made = turned, self._doing(self._plan, turned)
        acts = where(turned.positions)
        if width > 1 and acts.prompt:
            return self._made[1], acts.of(torch.arange(n + 1 - width, n + 1))
        return self._made[1], acts.at_step(n)

    def _doing(self, plan: Plan, turned: Turned) -> dict[int, Doing]:
        plan = self._under(plan, turned.gate)
        is_on = True
        if plan.asked_at is not None:
            if turned.gate not in self._decided:
                self._decided[turned.gate] = self._stepper.decides(plan, self._prompt)
            is_on = self._decided[turned.gate]
            plan = replace(plan, gate=Always())
        do = self._stepper.parts(plan, turned)
        return do if is_on else {n: replace(one, acts=False) for n, one in do.items()}

    def _chosen(self, logits: torch.Tensor) -> int:
        import torch

        how = self._sampling
        if how.is_greedy:
            return int(logits.argmax())
        if self._random is None:
            self._random = torch.Generator()
            if how.seed is None:
                self._random.seed()
            else:
                self._random.manual_seed(how.seed)
        # From the largest down, so that a low temperature does not divide them into infinity.
        chances = ((logits.cpu() - logits.max().cpu()) / how.temperature).softmax(-1)
        some, order = chances.sort(descending=True)
        some[some.cumsum(-1) - some >= how.top_p] = 0  # the likeliest always stays
        return int(order[torch.multinomial(some, 1, generator=self._random)])
