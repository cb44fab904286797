"""The traced passes of a model: what happens inside nnsight, for every backend.

A backend says how one batch is answered under several interventions (``_answers``) and how a traced
pass gets to where the weights are (``_sent``). The traced lines name nothing of ours but plain
values and plain functions: they may be sent to a server. torch is imported by the methods that need
it.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from corrsteer.errors import ConfigError, ModelError
from corrsteer.models.protocol import STEERING, UNSTEERED, Asks, Prepared
from corrsteer.models.spec import Model
from corrsteer.models.text import Text
from corrsteer.steering.confidence import reads_entropy
from corrsteer.steering.hooks import blocks, changed
from corrsteer.steering.plan import Plan
from corrsteer.steering.positions import where
from corrsteer.steering.protocol import Intervention, Parts

if TYPE_CHECKING:
    import torch

    from corrsteer.models.beside import Place
    from corrsteer.models.listening import Steps

    Answer = tuple[torch.Tensor, Sequence[int], torch.Tensor | None]

# Positions whose distributions are compared at a time.
_CHUNK = 64


class Tracing(Text, ABC):
    """A model behind nnsight, and its passes over batches of tensors."""

    def __init__(self, wrapped: Any, model: Model, batch_size: int) -> None:
        """``wrapped``: the nnsight model."""
        config = wrapped._module.config.get_text_config()
        super().__init__(wrapped.tokenizer, model, batch_size, config)
        self._wrapped = wrapped
        self._module = wrapped._module
        self.n_layers: int = config.num_hidden_layers
        self.d_model: int = config.hidden_size
        paths = {id(part): path for path, part in self._module.named_modules()}
        named = f"model.path={model.path!r}"
        self._blocks = [wrapped.get(paths[id(b)]) for b in blocks(self._module, named)]
        self._unembedding = wrapped.get(paths[id(self._module.get_output_embeddings())])

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where batches are made and residuals come out: the place for the SAEs."""

    @abstractmethod
    def _answers(
        self,
        inputs: dict[str, torch.Tensor],
        interventions: Sequence[Prepared],
        options: dict[str, Any],
    ) -> Iterator[Answer]:
        """One batch under every intervention: new tokens [B, steps], the number of steered layers
        of each step (none where no layer is steered) and, of answers that are one of a few tokens,
        the logits [B, vocabulary] they were chosen by, or None where those are out of reach."""

    def _overheard(
        self, inputs: dict[str, torch.Tensor], options: dict[str, Any], layers: Sequence[int]
    ) -> tuple[Sequence[Answer], Steps]:
        """What :meth:`_answers` gives of one batch without steering, and the residuals at the
        generation positions. Only for a backend that supports ``RESIDUALS``."""
        raise NotImplementedError

    @abstractmethod
    def _sent(self, samples: int, what: str) -> AbstractContextManager[dict[str, Any]]:
        """Around one traced pass over ``samples`` rows: the trace's options, which take it to
        the weights. ``what`` names its result in messages."""

    @property
    def _entry(self) -> torch.device:
        """Where the tensors that go into a traced pass are made."""
        return self.device

    def _prepare(self, intervention: Intervention | None) -> Prepared:
        """Raises ConfigError for an intervention that this model cannot apply, or a layer it
        does not have, ModelError for vectors of another width."""
        import torch

        if intervention is None:
            return UNSTEERED
        lacking = sorted(intervention.needs - STEERING)
        if lacking or not isinstance(intervention, Plan):
            raise ConfigError(
                f"model {self._model.name!r} cannot apply a {type(intervention).__name__} that"
                f" needs {', '.join(lacking) or 'more than vectors'}; it can apply a plan that"
                f" needs {', '.join(sorted(STEERING))}"
            )
        for layer, vector in intervention.vectors().items():
            if not 0 <= layer < self.n_layers:
                raise ConfigError(
                    f"the plan steers layer {layer}, but model {self._model.name!r} has layers"
                    f" 0 to {self.n_layers - 1}: choose layers it has."
                )
            if vector.shape != (self.d_model,):
                raise ModelError(
                    f"the plan's vector at layer {layer} has {vector.size} numbers, but model"
                    f" {self._model.name!r} has width {self.d_model}: use a plan made for it."
                )
        if intervention.is_off:
            return UNSTEERED
        layers: dict[int, Parts] = {
            layer: {name: torch.tensor(part) for name, part in arrays.items()}
            for layer, arrays in intervention.parts().items()
        }
        operator, opens, asks = intervention.operator, intervention.gate.open, None
        if opens is not None and (asked := intervention.asked_at) is not None:
            read = None if reads_entropy(intervention.gate) else asked
            asks, opens = Asks(read, layers[asked], opens, intervention.dial), None
        return Prepared(
            layers=layers,
            apply=operator.apply,
            opens=opens,
            dial=intervention.dial,
            additive=operator.additive,
            idle=intervention.does_nothing,
            where=where(intervention.positions),
            asks=asks,
        )

    def _places(self, layers: Mapping[int, Parts]) -> list[tuple[Any, Parts]]:
        """The traced blocks of an intervention, with what is read there."""
        return [(self._blocks[layer], parts) for layer, parts in layers.items()]

    # -- batches of tensors --------------------------------------------------------------

    def _pad_left(self, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """``input_ids``, ``attention_mask`` and ``position_ids``, each [B, T] long."""
        import torch

        width = max(map(len, rows))
        ids = torch.tensor([[self._pad] * (width - len(r)) + list(r) for r in rows])
        mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
        return {
            "input_ids": ids.to(self._entry),
            "attention_mask": mask.to(self._entry),
            "position_ids": (mask.cumsum(1) - 1).clamp(min=0).to(self._entry),
        }

    def _steered(
        self,
        inputs: dict[str, torch.Tensor],
        how: Prepared,
        options: dict[str, Any],
    ) -> tuple[torch.Tensor, Sequence[int]]:
        """New tokens [B, steps], and for each step how many layers were steered.

        Code after an open-ended loop never runs, so a second, empty invoke reads the end. No
        comments in the block: nnsight's ``remote="local"`` loses count of its lines.
        """
        import nnsight

        start = inputs["input_ids"].shape[1]
        places = self._places(how.layers)
        change, apply, opens, dial = changed, how.apply, how.opens, how.dial
        first, stop = how.where.first, how.where.stop
        prompt = inputs["attention_mask"].bool() if how.changes_prompt else None
        with warnings.catch_warnings():
            # A loop over steps waits for one step more than there are.
            warnings.filterwarnings("ignore", message=".*was never reached")
            with self._wrapped.generate(**options) as tracer:
                with tracer.invoke(inputs):
                    fired = [0] * first
                    for _ in tracer.iter[first:stop]:
                        layers = 0
                        for block, parts in places:
                            output = block.output
                            hidden = output[0] if isinstance(output, tuple) else output
                            if prompt is None or fired:
                                hidden[:, -1] = change(hidden[:, -1], parts, dial, apply, opens)
                            else:
                                at = prompt.to(hidden.device)
                                hidden[at] = change(hidden[at], parts, dial, apply, opens)
                            layers += 1
                        fired.append(layers)
                with tracer.invoke():
                    counts = nnsight.save(fired)
                    tokens = nnsight.save(tracer.result[:, start:])
        return tokens, counts

    def _likelihood(
        self,
        inputs: dict[str, torch.Tensor],
        targets: torch.Tensor,
        how: Prepared,
        options: dict[str, Any],
    ) -> tuple[torch.Tensor, int]:
        """Log probability [B] of ``targets`` [B, L] (-1: none) under a plan, and how many layers
        were steered. ``inputs``: whole texts, which end in the targets; or, behind a prompt whose
        keys and values are in ``options``, the L tokens that predict them.

        The same rules as in :meth:`_steered` hold for the traced lines.
        """
        import nnsight
        import torch

        width, tokens = targets.shape[1], inputs["input_ids"].shape[1]
        counted = targets >= 0
        ids = targets.clamp(min=0)[..., None]
        acting = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
        predicting = acting[:, -width - 1 : -1] if tokens > width else acting
        predicting[:] = counted & how.where.of(counted.cumsum(1) - 1)
        if how.changes_prompt:
            column = torch.arange(tokens, device=acting.device)
            before = column < tokens - counted.sum(1, keepdim=True)
            acting |= inputs["attention_mask"].bool() & before
        places = self._places(how.layers)
        change, apply, opens, dial = changed, how.apply, how.opens, how.dial
        wrapped = self._wrapped
        settings = {"use_cache": False, "logits_to_keep": min(tokens, width + 1), **options}
        with wrapped.trace(inputs, **settings):
            layers = 0
            for block, parts in places:
                output = block.output
                hidden = output[0] if isinstance(output, tuple) else output
                at = acting.to(hidden.device)
                hidden[at] = change(hidden[at], parts, dial, apply, opens)
                layers += 1
            logs = wrapped.output.logits[:, :width].float().log_softmax(-1)
            picked = logs.gather(-1, ids.to(logs.device))[..., 0]
            total = nnsight.save((picked * counted.to(picked)).sum(-1))
            fired = nnsight.save(layers)
        return total, fired

    def _columns(
        self,
        inputs: dict[str, torch.Tensor],
        places: Mapping[int, Place],
        options: dict[str, Any],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [B, A, V] of one token of every arm, ``input_ids`` [B, A], and at how many layers
        each was steered, [A] long.

        The same rules as in :meth:`_steered` hold for the traced lines.
        """
        import nnsight
        import torch

        arms = inputs["input_ids"].shape[1]
        change, wrapped = changed, self._wrapped
        blocks = [(self._blocks[layer], place) for layer, place in places.items()]
        with wrapped.trace(inputs, **options):
            layers = torch.zeros(arms, dtype=torch.long)
            for block, place in blocks:
                output = block.output
                hidden = output[0] if isinstance(output, tuple) else output
                if place.added is not None:
                    hidden += place.added
                for a, how, parts in place.asked:
                    hidden[:, a] = change(hidden[:, a], parts, how.dial, how.apply, how.opens)
                layers += place.steered
            logits = nnsight.save(wrapped.output.logits)
            fired = nnsight.save(layers)
        return logits, fired

    def _residuals(
        self,
        inputs: dict[str, torch.Tensor],
        counted: torch.Tensor,
        layers: Sequence[int],
        steered: torch.Tensor,
        how: Prepared,
        options: dict[str, Any],
        before: bool = False,
    ) -> tuple[dict[int, torch.Tensor], int]:
        """Block outputs [N, M] where ``counted`` [B, T] is set, after the intervention acted where
        ``steered`` [B, T] is set, and how many layers were steered. ``before``: each before it
        acted there. Layer -1 is what the first block reads.

        The same rules as in :meth:`_steered` hold for the traced lines.
        """
        import nnsight

        first = self._blocks[0] if -1 in layers else None
        change, apply, opens, dial = changed, how.apply, how.opens, how.dial
        places = [
            (layer, self._blocks[layer], how.layers.get(layer), layer in layers)
            for layer in sorted({*layers, *how.layers} - {-1})
        ]
        with self._wrapped.trace(inputs, use_cache=False, **options) as tracer:
            residuals = nnsight.save({})
            fired = nnsight.save([])
            if first is not None:
                hidden = first.input
                residuals[-1] = hidden[counted.to(hidden.device)]
            for layer, block, parts, wanted in places:
                output = block.output
                hidden = output[0] if isinstance(output, tuple) else output
                if wanted and before:
                    residuals[layer] = hidden[counted.to(hidden.device)]
                if parts is not None:
                    at = steered.to(hidden.device)
                    hidden[at] = change(hidden[at], parts, dial, apply, opens)
                    fired.append(layer)
                if wanted and not before:
                    residuals[layer] = hidden[counted.to(hidden.device)]
            tracer.stop()
        return residuals, len(fired)

    def _diverged(
        self,
        inputs: dict[str, torch.Tensor],
        counted: torch.Tensor,
        how: Prepared,
        options: dict[str, Any],
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """KL(unsteered || steered) [B] float64 and changed likeliest tokens [B] long, summed over
        the positions ``counted`` [B, T], and how many layers were steered.

        The rows go in twice, the second time steered. The same rules as in :meth:`_steered`
        hold for the traced lines.
        """
        import nnsight
        import torch

        n = counted.shape[0]
        twice = {name: torch.cat([value, value]) for name, value in inputs.items()}
        steered = torch.cat([torch.zeros_like(counted), counted])
        chunk = _CHUNK
        places = self._places(how.layers)
        change, apply, opens, dial = changed, how.apply, how.opens, how.dial
        wrapped = self._wrapped
        with wrapped.trace(twice, use_cache=False, **options):
            layers = 0
            for block, parts in places:
                output = block.output
                hidden = output[0] if isinstance(output, tuple) else output
                at = steered.to(hidden.device)
                hidden[at] = change(hidden[at], parts, dial, apply, opens)
                layers += 1
            logits = wrapped.output.logits
            each = torch.zeros(counted.shape, dtype=torch.float64, device=logits.device)
            other = torch.zeros(counted.shape, dtype=torch.long, device=logits.device)
            for cells in counted.to(logits.device).nonzero().split(chunk):
                row, column = cells.unbind(1)
                p = logits[row, column].float().log_softmax(-1)
                q = logits[row + n, column].float().log_softmax(-1)
                each[row, column] = (p.exp() * (p - q)).sum(-1, dtype=torch.float64)
                other[row, column] = (p.argmax(-1) != q.argmax(-1)).long()
            kl = nnsight.save(each.sum(1))
            others = nnsight.save(other.sum(1))
            fired = nnsight.save(layers)
        return kl, others, fired

    def _lens(
        self,
        inputs: dict[str, torch.Tensor],
        residuals: torch.Tensor,
        top: int,
        options: dict[str, Any],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids [K, top] whose logits rise and fall most when the last block puts out a residual
        [K + 1, M] instead of the last one. Read before any soft cap.

        The same rules as in :meth:`_steered` hold for the traced lines.
        """
        import nnsight

        block = self._blocks[-1]
        unembedding = self._unembedding
        with self._wrapped.trace(inputs, use_cache=False, **options) as tracer:
            output = block.output
            hidden = output[0] if isinstance(output, tuple) else output
            hidden[:, -1] = residuals.to(hidden)
            logits = unembedding.output[:, -1]
            order = (logits[:-1] - logits[-1:]).float().argsort(stable=True)
            up = nnsight.save(order[:, -top:].flip(1))
            down = nnsight.save(order[:, :top].clone())
            tracer.stop()
        return up, down


def not_fired(steered: int, positions: int, prompt: int) -> ModelError:
    return ModelError(
        f"the plan fired at {steered} of {positions} positions of prompt {prompt}: nnsight and"
        " transformers are not compatible; install the versions in constraints.txt."
    )
