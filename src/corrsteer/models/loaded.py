"""What a loaded model does wherever it runs: its tokens, its batches, its answers and residuals.

A backend says how one batch is answered under several plans (``_answers``) and how its residuals
are read (``_read``); everything that must not differ between them is here. torch is imported by
the methods that need it.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from corrsteer.errors import ConfigError, DataError, ModelError
from corrsteer.models.spec import Model
from corrsteer.records import Completion, Plan

if TYPE_CHECKING:
    import torch

SOURCES = ("generated", "last_prompt", "prompt", "all")

# How much of a prompt's end is tokenised together with an allowed answer. The token boundary
# before the answer depends only on the few characters around it.
_TAIL = 32


Apply = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


class Steering(Protocol):
    """How a vector meets the residual stream."""

    @property
    def apply(self) -> Apply:
        """Pure tensor arithmetic: residuals of one position [B, M] and a vector [M] to the new
        [B, M]. A backend may send it to a server as source: a plain function is best."""


def _add(x: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    return x + vector


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


def check_settings(device: str, batch_size: int) -> None:
    """Raise ConfigError for what every backend has."""
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


class LoadedModel(ABC):
    """A model that answers and is read. Not for use from several threads at once."""

    def __init__(self, wrapped: Any, model: Model, batch_size: int, eos: Any) -> None:
        """``wrapped``: the nnsight model; ``eos``: the id or ids that end an answer, or None."""
        self._wrapped = wrapped
        self._module = wrapped._module
        self._model = model
        self._batch_size = batch_size
        self._tokenizer = wrapped.tokenizer
        if model.chat_template and self._tokenizer.chat_template is None:
            raise ModelError(
                f"model.path={model.path!r} has no chat template; set model.chat_template=false."
            )

        config = self._module.config.get_text_config()
        self.n_layers: int = config.num_hidden_layers
        self.d_model: int = config.hidden_size
        self._vocabulary: int = config.vocab_size
        self._max_positions: int = config.max_position_embeddings
        self._blocks = [wrapped.get(path) for path in _block_paths(self._module, model)]

        self._eos: list[int] = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
        # Padding is always masked, so any id will do where a tokenizer has none.
        self._pad: int = self._tokenizer.pad_token_id or 0
        added = self._tokenizer.added_tokens_decoder
        self._special = set(self._tokenizer.all_special_ids) | {
            i for i, token in added.items() if token.special
        }

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where batches are made and residuals come out: the place for the SAEs."""

    @abstractmethod
    def _answers(
        self,
        inputs: dict[str, torch.Tensor],
        plans: Sequence[dict[int, torch.Tensor]],
        apply: Apply,
        options: dict[str, Any],
    ) -> Iterator[tuple[torch.Tensor, Sequence[int]]]:
        """One batch under every plan: new tokens [B, steps], and the number of steered layers
        of each step (none for a plan without vectors)."""

    @abstractmethod
    def _read(
        self, inputs: dict[str, torch.Tensor], counted: torch.Tensor, layers: Sequence[int]
    ) -> dict[int, torch.Tensor]:
        """Block outputs [N, M] float32 where ``counted`` [B, T] is set; layer -1 is what the
        first block reads."""

    # -- text ----------------------------------------------------------------------------

    def n_tokens(self, prompt: str) -> int:
        """Tokens of the prompt as the model reads it, BOS and chat template included."""
        return len(self._encode([prompt])[0])

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """Readable text of each token alone, its leading space kept."""
        return [self._token_text(int(i)) for i in ids]

    def batches(self, prompts: Sequence[str], batch_size: int | None = None) -> list[list[int]]:
        """Indices of the prompts in batches of similar length, shortest first.

        Ties keep their input order, so the result depends on the prompts alone.
        """
        return self._batches([len(row) for row in self._encode(prompts)], batch_size)

    def _batches(self, lengths: list[int], batch_size: int | None = None) -> list[list[int]]:
        size = batch_size or self._batch_size
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        return [order[i : i + size] for i in range(0, len(order), size)]

    def _render(self, prompts: Sequence[str]) -> list[str]:
        if not self._model.chat_template:
            return list(prompts)
        return self._tokenizer.apply_chat_template(
            [[{"role": "user", "content": prompt}] for prompt in prompts],
            tokenize=False,
            add_generation_prompt=True,
        )

    def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids per prompt. A chat template writes its own BOS."""
        if not prompts:
            return []
        rows = self._tokenizer(
            self._render(prompts), add_special_tokens=not self._model.chat_template
        )["input_ids"]
        empty = sum(not row for row in rows)
        if empty:
            raise DataError(
                f"{empty} of {len(rows)} prompts have no tokens: remove or fill the empty prompts."
            )
        return rows

    def check_prompts(self, prompts: Sequence[str], max_new_tokens: int) -> None:
        """Raise DataError if a prompt is empty or leaves no room for an answer."""
        self._check_room(self._encode(prompts), max_new_tokens)

    def _check_room(self, rows: list[list[int]], new_tokens: int) -> None:
        room = self._max_positions - new_tokens
        limit = min(self._model.max_prompt_tokens, room)
        long = [len(row) for row in rows if len(row) > limit]
        if not long:
            return
        message = (
            f"{len(long)} of {len(rows)} prompts have more than {limit} tokens (the longest"
            f" {max(long)}): shorten them, "
        )
        if limit < room:
            raise DataError(f"{message}or raise model.max_prompt_tokens (at most {room} here).")
        raise DataError(
            f"{message}or choose a model with more than {self._max_positions} positions"
            f" ({new_tokens} of them are kept for the answer)."
        )

    def _token_text(self, token: int) -> str:
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:  # embeddings are often padded beyond the vocabulary
            return f"<{token}>"
        text = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
        if not text or "\N{REPLACEMENT CHARACTER}" in text:
            return piece  # one byte of a longer character
        # Decoders drop a leading space at the start of a text; here it tells " A" from "A".
        return f" {text}" if piece[0] in "\u2581\u0120" and text[0] != " " else text

    def _only(self, allowed: Sequence[str], prompts: Sequence[str]) -> list[int]:
        """The ids to suppress so that one of the ``allowed`` texts must come next."""
        tails = sorted({text[-_TAIL:] for text in self._render(prompts)})
        before = self._tokenizer(tails, add_special_tokens=False)["input_ids"]
        keep = set()
        for text in allowed:
            after = self._tokenizer([t + text for t in tails], add_special_tokens=False)
            for tail, old, new in zip(tails, before, after["input_ids"], strict=True):
                if len(new) != len(old) + 1 or new[:-1] != old:
                    raise ConfigError(
                        f"allowed answer {text!r} is not one token of model {self._model.name!r}"
                        f" after {tail[-12:]!r}: choose answers that its tokenizer writes as one"
                        " token there."
                    )
                keep.add(new[-1])
        return [i for i in range(self._vocabulary) if i not in keep]

    # -- batches of tensors --------------------------------------------------------------

    def _pad_left(self, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """``input_ids``, ``attention_mask`` and ``position_ids``, each [B, T] long."""
        import torch

        width = max(map(len, rows))
        ids = torch.tensor([[self._pad] * (width - len(r)) + list(r) for r in rows])
        mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
        return {
            "input_ids": ids.to(self.device),
            "attention_mask": mask.to(self.device),
            "position_ids": (mask.cumsum(1) - 1).clamp(min=0).to(self.device),
        }

    # -- generating ----------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[str],
        plans: Sequence[Plan | None],
        *,
        max_new_tokens: int,
        allowed: Sequence[str] | None = None,
        strategy: Steering | None = None,
    ) -> list[list[Completion]]:
        """Greedy answers, ``[plan][prompt]`` in the order given.

        A plan of None is no steering. Each vector of a plan goes through
        ``strategy.apply`` (default: added) at the generation positions of its layer.
        ``allowed`` restricts the answer to one token: exactly one of these texts.

        Raises DataError for prompts that are too long or empty, ConfigError for an allowed text
        that is not one token or a plan for a layer the model has not, ModelError when a plan
        did not fire at every position.
        """
        import torch

        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens={max_new_tokens}: it must be at least 1.")
        rows = self._encode(prompts)
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens}
        if allowed is not None:
            options = {"max_new_tokens": 1, "suppress_tokens": self._only(allowed, prompts)}
        self._check_room(rows, options["max_new_tokens"])
        vectors = [self._vectors(plan) for plan in plans]
        apply = strategy.apply if strategy else _add

        texts: dict[tuple[int, ...], str] = {}
        answers: list[dict[int, Completion]] = [{} for _ in plans]
        with torch.no_grad():
            for batch in self._batches([len(row) for row in rows]):
                inputs = self._pad_left([rows[i] for i in batch])
                results = self._answers(inputs, vectors, apply, options)
                for plan, found, (new, fired) in zip(vectors, answers, results, strict=True):
                    for i, row in zip(batch, new.tolist(), strict=True):
                        tokens = self._until_eos(row)
                        if tokens not in texts:
                            texts[tokens] = self._tokenizer.decode(
                                tokens,
                                skip_special_tokens=True,
                                clean_up_tokenization_spaces=False,
                            )
                        steered = sum(n == len(plan) for n in fired[: len(tokens)])
                        if plan and steered != len(tokens):
                            raise ModelError(
                                f"the plan fired at {steered} of {len(tokens)} positions of"
                                f" prompt {i}: nnsight and transformers do not fit together;"
                                " install the versions of constraints.txt."
                            )
                        found[i] = Completion(texts[tokens], tokens, steered)
        return [[found[i] for i in range(len(rows))] for found in answers]

    def _vectors(self, plan: Plan | None) -> dict[int, torch.Tensor]:
        """Layer -> [M] float32 in layer order."""
        import torch

        if plan is None:
            return {}
        vectors = plan.vectors()
        for layer, vector in vectors.items():
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
        return {layer: torch.tensor(vectors[layer]) for layer in sorted(vectors)}

    def _steered(
        self,
        inputs: dict[str, torch.Tensor],
        vectors: dict[int, torch.Tensor],
        apply: Apply,
        options: dict[str, Any],
    ) -> tuple[torch.Tensor, Sequence[int]]:
        """New tokens [B, steps] under a plan, and for each step how many layers were steered.

        The traced lines name nothing of ours but plain values: they may be sent to a server.
        Code after an open-ended loop never runs, so a second, empty invoke reads the end. No
        comments in the block: nnsight's ``remote="local"`` loses count of its lines.
        """
        import nnsight

        start = inputs["input_ids"].shape[1]
        blocks = [(self._blocks[layer], vector) for layer, vector in vectors.items()]
        with warnings.catch_warnings():
            # An open-ended loop over steps always waits for one step more than there are.
            warnings.filterwarnings("ignore", message=".*was never reached")
            with self._wrapped.generate(**options) as tracer:
                with tracer.invoke(inputs):
                    fired = []
                    for _ in tracer.iter[:]:
                        layers = 0
                        for block, vector in blocks:
                            output = block.output
                            hidden = output[0] if isinstance(output, tuple) else output
                            hidden[:, -1] = apply(hidden[:, -1], vector.to(hidden))
                            layers += 1
                        fired.append(layers)
                with tracer.invoke():
                    counts = nnsight.save(fired)
                    tokens = nnsight.save(tracer.result[:, start:])
        return tokens, counts

    def _until_eos(self, row: list[int]) -> tuple[int, ...]:
        for n, token in enumerate(row, start=1):
            if token in self._eos:
                return tuple(row[:n])
        return tuple(row)

    # -- reading -------------------------------------------------------------------------

    def replay(
        self,
        prompts: Sequence[str],
        answers: Sequence[Sequence[int]],
        layers: Sequence[int],
        source: str,
    ) -> Residuals:
        """Residual streams of one batch, prompt and answer read in one teacher-forced pass.

        ``source`` names the positions: ``generated`` (the last prompt token and every generated
        token but the last), ``last_prompt``, ``prompt`` or ``all``. Padding, BOS and other
        special tokens never count. Blocks above the highest layer asked for are not run. Layer
        -1 is the residual stream that the first block reads.
        """
        if source not in SOURCES:
            raise ConfigError(
                f"token source {source!r} is unknown: use one of {', '.join(SOURCES)}."
            )
        rows = self._encode(prompts)
        self._check_room(rows, max(map(len, answers)))
        inputs = self._pad_left([r + list(a) for r, a in zip(rows, answers, strict=True)])
        counted = self._counted(inputs, rows, source)
        return Residuals(
            layers=self._read(inputs, counted, sorted(layers)),
            sample=counted.nonzero()[:, 0],
            token=inputs["input_ids"][counted],
            position=inputs["position_ids"][counted],
        )

    def _counted(
        self, inputs: dict[str, torch.Tensor], rows: list[list[int]], source: str
    ) -> torch.Tensor:
        """[B, T] bool: the positions of a token source."""
        import torch

        ids, position = inputs["input_ids"], inputs["position_ids"]
        real = inputs["attention_mask"].bool()
        last = torch.tensor([[len(row) - 1] for row in rows], device=self.device)
        end = real.sum(1, keepdim=True) - 1
        special = torch.isin(ids, torch.tensor(sorted(self._special), device=self.device))
        chosen = {
            "generated": (position >= last) & (position < end),
            "last_prompt": position == last,
            "prompt": position <= last,
            "all": real,
        }[source]
        return chosen & real & ~special


def _block_paths(module: Any, model: Model) -> list[str]:
    """nnsight paths of the blocks: the decoder's only list of ``num_hidden_layers`` modules.

    The decoder, so that an image encoder with as many blocks is not taken for it.
    """
    import torch

    n_layers = module.config.get_text_config().num_hidden_layers
    decoder = module.get_decoder()
    lists = [
        part
        for part in decoder.modules()
        if isinstance(part, torch.nn.ModuleList) and len(part) == n_layers
    ]
    if len(lists) != 1:
        raise ModelError(
            f"model.path={model.path!r} ({type(module).__name__}): expected one list of"
            f" {n_layers} blocks, found {len(lists)}; this architecture is not supported."
        )
    (path,) = [name for name, part in module.named_modules() if part is lists[0]]
    return [f"{path}.{n}" for n in range(n_layers)]
