"""A transformers model in this process, read and steered through nnsight.

``generate`` and ``choose`` compute the keys and values of each batch's prompts once and let every
intervention that leaves them alone continue from them: a plan's positions start at the last prompt
token.
``replay`` is one teacher-forced pass over prompt and answer; causal attention makes it the same
computation as generating step by step.

Cost: per batch one prompt pass, then per plan one pass of a single position per new token, and
per planned layer and step about 60 us of nnsight. Cheaper where no plan is wanted: a plan
of None takes transformers' own ``generate`` with no tracing. torch and nnsight are imported by
``Local.load``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from corrsteer.errors import ConfigError
from corrsteer.models import reading, weights
from corrsteer.models.loaded import LoadedModel, not_finite
from corrsteer.models.protocol import STEERING, Prepared, check_settings, chosen_device
from corrsteer.models.spec import Model

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True)
class Local:
    """Run on this machine. ``device`` is ``auto`` (a GPU if there is one), ``cpu``, ``cuda:1``.

    ``device_map`` spreads the blocks of a large model over all GPUs instead: ``auto`` or another
    word of accelerate's.
    """

    device: str = "auto"
    batch_size: int = 128
    device_map: str | None = None

    def __post_init__(self) -> None:
        check_settings(self.device, self.batch_size)
        if self.device_map not in (None, *DEVICE_MAPS):
            raise ConfigError(
                f"backend.device_map={self.device_map!r} is unknown: use null or one of"
                f" {', '.join(DEVICE_MAPS)}."
            )
        if self.device_map and self.device != "auto":
            raise ConfigError(
                f"backend.device_map={self.device_map} chooses the devices itself: leave out"
                f" backend.device={self.device}."
            )

    def key(self, model: Model) -> dict[str, Any]:
        """What identifies the model's computation in a cache key: weights, dtype, template."""
        return {
            "model": model.fingerprint(),
            "dtype": self.dtype(model),
            **reading.key(model),
        }

    def supports(self) -> frozenset[str]:
        return STEERING

    def dtype(self, model: Model) -> str:
        """The model's dtype; ``auto`` becomes bfloat16 on a GPU that has it, else float32."""
        if model.dtype != "auto":
            return model.dtype
        import torch

        on_gpu = self.device_map is not None or chosen_device(self.device).startswith("cuda")
        # bfloat16 is a hundred times slower than float32 on most CPUs, and emulated on old GPUs.
        bfloat16 = on_gpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported(False)
        return "bfloat16" if bfloat16 else "float32"

    def load(self, model: Model) -> LocalModel:
        """Weights and tokenizer in memory. Raises ModelError when they cannot be loaded, or are not
        all there."""
        from nnsight import TransformersModel

        place: dict[str, Any] = {}
        if not self.device_map:
            place["device"] = chosen_device(self.device)
        module = weights.load(model, self.dtype(model), self.device_map)
        wrapped = TransformersModel(
            module, task="text-generation", tokenizer=reading.tokenizer(model), **place
        )
        weights.check_numbers(model, module)
        return LocalModel(wrapped, model, self.batch_size)


class LocalModel(LoadedModel):
    """A model in this process. Made by :meth:`Local.load`."""

    def __init__(self, wrapped: Any, model: Model, batch_size: int) -> None:
        from transformers import GenerationConfig

        module = wrapped._module
        super().__init__(wrapped, model, batch_size)
        # A checkpoint's sampling settings (temperature, repetition penalty) would be merged into
        # every call: greedy decoding here means the largest logit and nothing else.
        module.generation_config = GenerationConfig(
            eos_token_id=self._eos or None, pad_token_id=self._pad, do_sample=False
        )
        self._module.register_forward_hook(self._watch)
        self._finite: torch.Tensor | None = None
        self._logits: torch.Tensor | None = None  # of the last pass
        # With a device map every block may sit elsewhere.
        self._homes = [next(b._module.parameters()).device for b in self._blocks]

    @property
    def device(self) -> torch.device:
        return next(self._module.parameters()).device

    def _sent(self, samples: int, what: str) -> AbstractContextManager[dict[str, Any]]:
        return nullcontext({})

    def _answers(
        self,
        inputs: dict[str, torch.Tensor],
        interventions: Sequence[Prepared],
        options: dict[str, Any],
    ) -> Iterator[tuple[torch.Tensor, Sequence[int], torch.Tensor | None]]:
        cache = self._prompt_cache(inputs, 1, options["max_new_tokens"])
        restricted, options = "suppress_tokens" in options, self._processed(options)
        self._finite = None  # a prompt of one token has only padding in that pass
        for how in interventions:
            self._logits = None
            answers = self._continue(inputs, None if how.changes_prompt else cache, how, options)
            if self._finite is not None and not self._finite:
                raise not_finite(self._model.name, "logits", bool(how.layers))
            yield *answers, self._logits if restricted else None

    def _watch(self, module: Any, args: Any, output: Any) -> None:
        """A hook on the model: the largest of logits that are not finite is no answer. The result
        is asked for once per batch: reading a GPU's memory at every step would wait for it."""
        self._logits = output.logits[:, -1]
        finite = (self._logits < float("inf")).all()
        self._finite = finite if self._finite is None else self._finite & finite

    def _processed(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options with suppressed tokens as an object. nnsight walks through all that it is
        given, and as a list they are nearly the whole vocabulary."""
        from transformers import LogitsProcessorList, SuppressTokensLogitsProcessor

        if "suppress_tokens" not in options:
            return options
        others = {name: value for name, value in options.items() if name != "suppress_tokens"}
        processor = SuppressTokensLogitsProcessor(options["suppress_tokens"], str(self.device))
        return {**others, "logits_processor": LogitsProcessorList([processor])}

    def _likelihoods(
        self,
        inputs: dict[str, torch.Tensor],
        targets: torch.Tensor,
        interventions: Sequence[Prepared],
    ) -> Iterator[tuple[torch.Tensor, int]]:
        """The prompts are read once, and every intervention goes on from there."""
        from corrsteer.models.prompt_cache import continued, takes_many

        tail = targets.shape[1] + 1
        several = len(interventions) > 1 and not any(how.changes_prompt for how in interventions)
        cache = self._prompt_cache(inputs, tail, tail) if several else None
        if cache is None or not takes_many(cache):
            yield from super()._likelihoods(inputs, targets, interventions)
            return
        rest = {name: value[:, -tail:] for name, value in inputs.items()}
        rest["attention_mask"] = inputs["attention_mask"]
        for how in interventions:
            options = {"past_key_values": continued(cache), "use_cache": True}
            yield self._likelihood(rest, targets, how, options)

    def _prompt_cache(
        self, inputs: dict[str, torch.Tensor], left: int, room: int
    ) -> DynamicCache | None:
        """Keys and values of all tokens but the last ``left``; None when there are no more."""
        from corrsteer.models.prompt_cache import with_room

        if inputs["input_ids"].shape[1] <= left:
            return None
        head = {name: value[:, :-left] for name, value in inputs.items()}
        output = self._module(**head, use_cache=True, logits_to_keep=1)
        return with_room(output.past_key_values, room)

    def _continue(
        self,
        inputs: dict[str, torch.Tensor],
        cache: DynamicCache | None,
        how: Prepared,
        options: dict[str, Any],
    ) -> tuple[torch.Tensor, Sequence[int]]:
        """New tokens [B, steps], and for each step the number of layers that were steered."""
        from corrsteer.models.prompt_cache import continued

        options = {**options, "streamer": None}
        if cache is not None:
            options["past_key_values"] = continued(cache)
        if not how.layers:
            start = inputs["input_ids"].shape[1]
            return self._module.generate(**inputs, **options)[:, start:], []
        # What is added is brought into the model's type once; other operators see float32.
        dtype = self._module.dtype if how.additive and how.opens is None else None
        at_home = {
            n: {name: part.to(self._homes[n], dtype) for name, part in parts.items()}
            for n, parts in how.layers.items()
        }
        return self._steered(inputs, replace(how, layers=at_home), options)
