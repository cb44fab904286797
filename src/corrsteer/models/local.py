"""A transformers model in this process, read and steered through nnsight.

``generate`` and ``choose`` compute the keys and values of each batch's prompts once and let every
intervention that leaves them alone continue from them: whose positions start at the last prompt
token or behind it. One that changes them, such as a plan at ``positions=all``, reads them itself.
``replay`` is one teacher-forced pass over prompt and answer; causal attention makes it the same
computation as generating step by step.

Cost: per batch one prompt pass, then per plan one pass of a single position per new token, and
per planned layer and step about 60 us of nnsight. Cheaper where no plan is wanted: a plan
of None takes transformers' own ``generate`` with no tracing. torch and nnsight are imported by
``Local.load``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from corrsteer.errors import ConfigError
from corrsteer.models import reading, weights
from corrsteer.models.listening import Steps, heard
from corrsteer.models.protocol import (
    PREDICTIONS,
    RESIDUALS,
    STEERING,
    TRAINED,
    UNSTEERED,
    Prepared,
    check_settings,
    chosen_device,
)
from corrsteer.models.recipe import Epoch, Recipe
from corrsteer.models.shared_prompts import SharedPrompts
from corrsteer.models.spec import Model
from corrsteer.models.text import processed
from corrsteer.models.weighing import LOGITS_BYTES, not_finite
from corrsteer.steering.adapter import Adapter
from corrsteer.steering.protocol import Intervention

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache

    from corrsteer.models.tracing import Answer

    Answered = tuple[torch.Tensor, Sequence[int]]

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
        able = STEERING | {RESIDUALS, PREDICTIONS}
        # What is spread over devices may not be on one of them at all.
        return able if self.device_map else able | TRAINED

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


class LocalModel(SharedPrompts):
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
        self._takes_columns: bool | None = None  # not known yet
        self._adapted: tuple[Adapter, Prepared] | None = None  # the last one: batches ask again
        # With a device map every block may sit elsewhere.
        self._homes = [next(b._module.parameters()).device for b in self._blocks]

    @property
    def device(self) -> torch.device:
        return next(self._module.parameters()).device

    def _sent(self, samples: int, what: str) -> AbstractContextManager[dict[str, Any]]:
        return nullcontext({})

    # -- adapters --------------------------------------------------------------------------

    def train(
        self,
        recipe: Recipe,
        prompts: Sequence[str],
        answers: Sequence[Sequence[int]],
        epochs: int,
        show: Callable[[int], None],
        done: int = 0,
        state: bytes = b"",
    ) -> Iterator[Epoch]:
        """Fine-tune a copy of the model on ``answers``, token ids, to ``prompts``; see
        :func:`corrsteer.models.training.trained`. Raises DataError for what is too long."""
        from corrsteer.models.training import trained

        rows = self._encode(prompts)
        self._check_room(rows, [len(answer) for answer in answers])
        return trained(
            self, recipe, list(zip(rows, answers, strict=True)), epochs, show, done, state
        )

    def _prepare(self, intervention: Intervention | None) -> Prepared:
        if not isinstance(intervention, Adapter):
            return super()._prepare(intervention)
        from corrsteer.models.adapters import values

        if intervention.does_nothing:
            return UNSTEERED
        if self._adapted is None or self._adapted[0] != intervention:
            self._adapted = None  # before there are two
            weights = values(self._module, intervention)
            self._adapted = intervention, Prepared({}, idle=False, weights=weights)
        return self._adapted[1]

    def _worn(self, how: Prepared) -> AbstractContextManager[None]:
        """Around a pass: the weights of an adapter, where it is one."""
        from corrsteer.models.adapters import worn

        return worn(self._module, how.weights) if how.weights else nullcontext()

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
        with self._worn(how):
            return super()._residuals(inputs, counted, layers, steered, how, options, before)

    def _likelihood(
        self,
        inputs: dict[str, torch.Tensor],
        targets: torch.Tensor,
        how: Prepared,
        options: dict[str, Any],
    ) -> tuple[torch.Tensor, int]:
        with self._worn(how):
            return super()._likelihood(inputs, targets, how, options)

    def _diverged(
        self,
        inputs: dict[str, torch.Tensor],
        counted: torch.Tensor,
        how: Prepared,
        options: dict[str, Any],
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        if not how.weights:
            return super()._diverged(inputs, counted, how, options)
        from corrsteer.models.adapters import diverged

        return *diverged(self._module, inputs, counted, how.weights), 0

    # -- answers ---------------------------------------------------------------------------

    def _answers(
        self,
        inputs: dict[str, torch.Tensor],
        interventions: Sequence[Prepared],
        options: dict[str, Any],
    ) -> Iterator[Answer]:
        steps, restricted = options["max_new_tokens"], "suppress_tokens" in options
        one = steps == 1 and not restricted and list(interventions) == [UNSTEERED]
        if one and (once := self._at_once(inputs)) is not None:
            yield *once, None
            return
        # The likelihoods of letters are kept: they must not depend on who answers beside.
        groups = {} if restricted else self._groups(inputs, interventions, steps)
        room = steps * max(map(len, groups.values()), default=1)
        shares = not all(how.changes_prompt for how in interventions)
        cache = self._prompt_cache(inputs, 1, room) if shares else None
        options = processed(options, str(self.device))
        beside: dict[int, Answered] = {}
        for n, how in enumerate(interventions):
            if n in groups and cache is not None:
                arms = {index: interventions[index] for index in groups[n]}
                beside = self._beside(inputs, cache, arms, room, options)
            if n in beside:
                yield *beside[n], None
            else:
                # Not those of passes before: a prompt of one token is only padding there.
                self._logits = self._finite = None
                shared = None if how.changes_prompt else cache
                answers = self._continue(inputs, shared, how, options)
                self._check_finite(how)
                yield *answers, self._logits if restricted else None

    def _at_once(self, inputs: dict[str, torch.Tensor]) -> Answered | None:
        """One token without steering, in one pass over whole prompts. None where rounding could
        choose another than in two passes, which is how it is answered beside other arms."""
        from corrsteer.models import beside

        if self._module.dtype.itemsize < 4:
            return None
        self._logits = self._finite = None
        # Not by ``generate``, which prepares for a quarter of the time of so short an answer.
        logits = self._module(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
        self._check_finite(UNSTEERED)
        token = beside.likeliest(logits)
        return None if token is None else (token, [])

    def _check_finite(self, how: Prepared) -> None:
        if self._finite is not None and not self._finite:
            raise not_finite(self._model.name, "logits", bool(how.layers))

    def _overheard(
        self, inputs: dict[str, torch.Tensor], options: dict[str, Any], layers: Sequence[int]
    ) -> tuple[Sequence[Answer], Steps]:
        with heard({n: self._blocks[n]._module for n in layers}) as steps:
            answers = list(self._answers(inputs, [UNSTEERED], options))
        for passes in steps.values():
            # Those before do not choose a token that is answered: the prompt's own, for one.
            more = len(passes) - answers[0][0].shape[1]
            assert more >= 0, len(passes)
            del passes[:more]
        return answers, steps

    def _groups(
        self, inputs: dict[str, torch.Tensor], interventions: Sequence[Prepared], steps: int
    ) -> dict[int, list[int]]:
        """Indices of interventions that answer beside each other, by the first of each group; in
        half precision none that changes nothing, so that dial 0 has the unsteered answers."""
        from corrsteer.models import beside

        rows, width = inputs["input_ids"].shape
        told = self._module.dtype.itemsize >= 4
        asked = enumerate(interventions)
        sharing = [n for n, how in asked if not how.changes_prompt and (told or not how.idle)]
        most = min(max(width, beside.CELLS) // steps, LOGITS_BYTES // (rows * self._vocabulary * 4))
        if width < 2 or min(most, len(sharing)) < 2:
            return {}
        if self._takes_columns is None:
            few = {name: value[-2:] for name, value in inputs.items()}
            self._takes_columns = beside.agree(self._module, few)
        if not self._takes_columns:
            return {}
        parts = [sharing[i : i + most] for i in range(0, len(sharing), most)]
        return {part[0]: part for part in parts}

    def _beside(
        self,
        inputs: dict[str, torch.Tensor],
        cache: DynamicCache,
        arms: Mapping[int, Prepared],
        room: int,
        options: dict[str, Any],
    ) -> dict[int, Answered]:
        """What arms answer beside each other. Those are left out for which rounding could have
        chosen a token: so all answers are those of one arm at a time."""
        import torch

        from corrsteer.models import beside
        from corrsteer.models.prompt_cache import continued, of_rows, with_columns

        steps, width, dtype = options["max_new_tokens"], len(arms), self._module.dtype
        roomy = with_columns(cache, room, steps)
        if roomy is None:
            return {}
        hows = [*arms.values()]
        places = beside.places(hows, self._homes, dtype)
        prompt, last = inputs["attention_mask"][:, :-1], inputs["position_ids"][:, -1:]
        past, present = continued(roomy), torch.arange(len(last), device=self.device)
        owners = torch.empty(0, dtype=torch.long, device=self.device)
        finite = torch.tensor(True, device=self.device)
        counts: list[torch.Tensor] = []

        def step(
            ids: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, n: int
        ) -> torch.Tensor:
            nonlocal owners, past, present
            if len(rows) < len(present):
                past, present = of_rows(past, torch.searchsorted(present, rows)), rows
            owners = torch.cat([owners, columns])
            new = {
                "input_ids": ids,
                "position_ids": (last[rows] + n).expand_as(ids),
                "attention_mask": beside.mask(prompt[rows], columns[:, None] == owners, dtype),
            }
            logits, fired = self._columns(
                new,
                beside.only(places, columns.tolist(), [how.where.at_step(n) for how in hows]),
                {"past_key_values": past, "use_cache": True},
            )
            logits = logits.to(self.device)
            finite.logical_and_((logits.amax(-1) < float("inf")).all())
            counts.append(torch.zeros(width, dtype=torch.long).index_copy(0, columns.cpu(), fired))
            return logits

        first = inputs["input_ids"][:, -1:].expand(-1, width)
        tokens, sure = beside.greedy(step, first, steps, self._eos)
        answered: dict[int, Answered] = {}
        if not finite:  # one arm's reach all, since 0 times infinity is none: alone it is named
            return answered
        for a, (n, how) in enumerate(arms.items()):
            if sure[a]:
                fired = [int(count[a]) for count in counts] if how.layers else []
                answered[n] = tokens[:, a], fired
        return answered

    def _watch(self, module: Any, args: Any, output: Any) -> None:
        """A hook on the model: the largest of logits that are not finite is no answer. The result
        is asked for once per batch: reading a GPU's memory at every step would wait for it."""
        self._logits = output.logits[:, -1]
        finite = (self._logits < float("inf")).all()
        self._finite = finite if self._finite is None else self._finite & finite

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
        if not how.acts(options["max_new_tokens"]):
            start = inputs["input_ids"].shape[1]
            with self._worn(how):
                return self._module.generate(**inputs, **options)[:, start:], []
        # What is added is brought into the model's type once; other operators see float32.
        dtype = self._module.dtype if how.additive and how.opens is None else None
        at_home = {
            n: {name: part.to(self._homes[n], dtype) for name, part in parts.items()}
            for n, parts in how.layers.items()
        }
        return self._steered(inputs, replace(how, layers=at_home), options)
