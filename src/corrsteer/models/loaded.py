"""What a loaded model does wherever it runs: its answers, its choices, its residuals, and how far
a plan moves its predictions.

A backend says how one batch is answered under several plans (``_answers``) and how a traced pass
gets to where the weights are (``_sent``); everything that must not differ between them is here.
torch is imported by the methods that need it.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from corrsteer.errors import ConfigError, ModelError
from corrsteer.models.spec import Model
from corrsteer.models.text import Text
from corrsteer.records import LETTERS, Completion, Divergence, Plan

if TYPE_CHECKING:
    import torch

SOURCES = ("generated", "last_prompt", "prompt", "all")

# The logits of every position of a batch in float32: with a vocabulary of 256k, those of 1,000
# positions take this much. A single sample may take more.
LOGITS_BYTES = 2**30
# Positions whose distributions are compared at a time.
_CHUNK = 64

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


class LoadedModel(Text, ABC):
    """A model that answers and is read. Not for use from several threads at once."""

    def __init__(self, wrapped: Any, model: Model, batch_size: int, eos: Any) -> None:
        """``wrapped``: the nnsight model; ``eos``: the id or ids that end an answer, or None."""
        config = wrapped._module.config.get_text_config()
        super().__init__(wrapped.tokenizer, model, batch_size, config, eos)
        self._wrapped = wrapped
        self._module = wrapped._module
        self.n_layers: int = config.num_hidden_layers
        self.d_model: int = config.hidden_size
        self._blocks = [wrapped.get(path) for path in _block_paths(self._module, model)]

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
    def _sent(self, samples: int, what: str) -> AbstractContextManager[dict[str, Any]]:
        """Around one traced pass over ``samples`` rows: the trace's options, which take it to
        the weights. ``what`` names its result in messages."""

    @property
    def _entry(self) -> torch.device:
        """Where the tensors that go into a traced pass are made."""
        return self.device

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

    # -- generating ----------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[str],
        plans: Sequence[Plan | None],
        *,
        max_new_tokens: int,
        allowed: Sequence[str] | None = None,
        stop: Sequence[str] = (),
        strategy: Steering | None = None,
    ) -> list[list[Completion]]:
        """Greedy answers, ``[plan][prompt]`` in the order given.

        A plan of None is no steering. Each vector of a plan goes through
        ``strategy.apply`` (default: added) at the generation positions of its layer.
        ``allowed`` restricts the answer to one token: exactly one of these texts, without their
        leading space where the prompt ends in white space. An answer ends at the first of the
        ``stop`` texts: they are not in its text, and the tokens that wrote them are its last.

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

        texts: dict[tuple[int, ...], tuple[tuple[int, ...], str]] = {}
        answers: list[dict[int, Completion]] = [{} for _ in plans]
        with torch.no_grad():
            for batch in self._batches([len(row) for row in rows]):
                inputs = self._pad_left([rows[i] for i in batch])
                results = self._answers(inputs, vectors, apply, options)
                for plan, found, (new, fired) in zip(vectors, answers, results, strict=True):
                    for i, row in zip(batch, new.tolist(), strict=True):
                        whole = self._until_eos(row)
                        if whole not in texts:
                            texts[whole] = self._until_stop(whole, stop)
                        tokens, text = texts[whole]
                        steered = sum(n == len(plan) for n in fired[: len(tokens)])
                        if plan and steered != len(tokens):
                            raise _unsteered(steered, len(tokens), i)
                        found[i] = Completion(text, tokens, steered)
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

    # -- choosing ------------------------------------------------------------------------

    def choose(
        self,
        prompts: Sequence[str],
        plans: Sequence[Plan | None],
        options: Sequence[Sequence[str]],
        *,
        strategy: Steering | None = None,
    ) -> list[list[Completion]]:
        """The likeliest option of each prompt, ``[plan][prompt]``: "B. its text" and its tokens.

        An option's likelihood is the sum of the log probabilities of its tokens after the prompt,
        divided by its number of characters, so that long options are not at a disadvantage. The
        first of equally likely options is taken. Steering is at the positions that predict the
        option, as if the model had written it. Cost: per plan one pass over prompt and option
        for every option. Raises what :meth:`generate` raises.
        """
        import torch

        rows = self._encode(prompts)
        vectors = [self._vectors(plan) for plan in plans]
        apply = strategy.apply if strategy else _add
        pairs = [(i, n) for i, texts in enumerate(options) for n in range(len(texts))]
        answers = [self._continuation(prompts[i], rows[i], options[i][n]) for i, n in pairs]
        self._check_room(rows, max(map(len, answers)))
        likelihood = torch.zeros(len(plans), len(pairs))
        lengths = [len(rows[i]) + len(a) for (i, _), a in zip(pairs, answers, strict=True)]
        with torch.no_grad():
            for batch in self._batches(lengths):
                new = [answers[k] for k in batch]
                inputs = self._pad_left([rows[pairs[k][0]] + answers[k] for k in batch])
                results = self._likelihoods(inputs, self._pad_targets(new), vectors, apply)
                for p, (logs, fired) in enumerate(results):
                    if vectors[p] and fired != len(vectors[p]):
                        raise _unsteered(0, len(new[0]), pairs[batch[0]][0])
                    likelihood[p, batch] = logs.float().cpu()
        likelihood /= torch.tensor([max(1, len(options[i][n].strip())) for i, n in pairs])
        chosen: list[list[Completion]] = []
        for p, plan in enumerate(vectors):
            best: dict[int, int] = {}
            for k, (i, _) in enumerate(pairs):
                if i not in best or likelihood[p, k] > likelihood[p, best[i]]:
                    best[i] = k
            column = []
            for i in range(len(rows)):
                n, tokens = pairs[best[i]][1], tuple(answers[best[i]])
                text = f"{LETTERS[n]}. {options[i][n]}"
                column.append(Completion(text, tokens, len(tokens) if plan else 0))
            chosen.append(column)
        return chosen

    def likelihood(self, prompts: Sequence[str], answers: Sequence[Sequence[int]]) -> list[float]:
        """Log probability in nats of each answer (token ids) after its prompt, unsteered.

        The sum over the answer's tokens, 0 for an empty one. Cost: one pass over prompt and
        answer. Raises DataError for a prompt that is empty or leaves no room for the answer.
        """
        import torch

        rows = self._encode(prompts)
        found = [0.0] * len(rows)
        written = [i for i, answer in enumerate(answers) if len(answer)]
        if not written:
            return found
        self._check_room(rows, max(map(len, answers)))
        lengths = [len(rows[i]) + len(answers[i]) for i in written]
        scored = [len(answers[i]) + 1 for i in written]
        with torch.no_grad():
            for batch in self._bounded(lengths, scored, self._batch_size):
                mine = [written[k] for k in batch]
                inputs = self._pad_left([rows[i] + list(answers[i]) for i in mine])
                targets = self._pad_targets([answers[i] for i in mine])
                ((logs, _),) = self._likelihoods(inputs, targets, [{}], _add)
                for i, log in zip(mine, logs.tolist(), strict=True):
                    found[i] = log
        return found

    def _bounded(self, lengths: list[int], scored: list[int], most: int) -> list[list[int]]:
        """Batches of similar length and at most ``most`` samples, whose logits in float32 stay
        below LOGITS_BYTES: ``scored`` is the number of positions of each whose logits are made,
        as many for all of a batch as for its longest."""
        batches: list[list[int]] = []
        for (i,) in self._batches(lengths, 1):
            together = [*batches[-1], i] if batches else [i]
            positions = len(together) * max(scored[k] for k in together)
            fits = positions * self._vocabulary * 4 <= LOGITS_BYTES
            if batches and fits and len(together) <= most:
                batches[-1] = together
            else:
                batches.append([i])
        return batches

    def _pad_targets(self, answers: Sequence[Sequence[int]]) -> torch.Tensor:
        """[B, L] long, the answers at the right, -1 before them."""
        import torch

        width = max(map(len, answers))
        rows = [[-1] * (width - len(a)) + list(a) for a in answers]
        return torch.tensor(rows, device=self._entry)

    def _likelihoods(
        self,
        inputs: dict[str, torch.Tensor],
        targets: torch.Tensor,
        plans: Sequence[dict[int, torch.Tensor]],
        apply: Apply,
    ) -> Iterator[tuple[torch.Tensor, int]]:
        """What :meth:`_likelihood` gives, for every plan."""
        for vectors in plans:
            with self._sent(targets.shape[0], "likelihoods") as options:
                scored = self._likelihood(inputs, targets, vectors, apply, options)
            yield scored

    def _likelihood(
        self,
        inputs: dict[str, torch.Tensor],
        targets: torch.Tensor,
        vectors: dict[int, torch.Tensor],
        apply: Apply,
        options: dict[str, Any],
    ) -> tuple[torch.Tensor, int]:
        """Log probability [B] of the targets under a plan, and how many layers were steered.

        The same rules as in :meth:`_steered` hold for the traced lines.
        """
        import nnsight
        import torch

        width = targets.shape[1]
        counted = targets >= 0
        ids = targets.clamp(min=0)[..., None]
        where = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
        where[:, -width - 1 : -1] = counted
        blocks = [(self._blocks[layer], vector) for layer, vector in vectors.items()]
        wrapped = self._wrapped
        settings = {"use_cache": False, "logits_to_keep": width + 1, **options}
        with wrapped.trace(inputs, **settings):
            layers = 0
            for block, vector in blocks:
                output = block.output
                hidden = output[0] if isinstance(output, tuple) else output
                at = where.to(hidden.device)
                hidden[at] = apply(hidden[at], vector.to(hidden))
                layers += 1
            logs = wrapped.output.logits[:, :-1].float().log_softmax(-1)
            picked = logs.gather(-1, ids.to(logs.device))[..., 0]
            total = nnsight.save((picked * counted.to(picked)).sum(-1))
            fired = nnsight.save(layers)
        return total, fired

    # -- reading -------------------------------------------------------------------------

    def replay(
        self,
        prompts: Sequence[str],
        answers: Sequence[Sequence[int]],
        layers: Sequence[int],
        source: str,
        *,
        plan: Plan | None = None,
        strategy: Steering | None = None,
    ) -> Residuals:
        """Residual streams of one batch, prompt and answer read in one teacher-forced pass.

        ``source`` names the positions: ``generated`` (the last prompt token and every generated
        token but the last), ``last_prompt``, ``prompt`` or ``all``. Padding, BOS and other
        special tokens never count. Blocks above the highest layer asked for are not run. Layer
        -1 is the residual stream that the first block reads.

        Under a plan each vector goes through ``strategy.apply`` (default: added) at the
        generation positions of its layer, special tokens among them, and what is read is read
        after that: of an answer that the steered model wrote, what it had while writing. A plan's
        layers above the highest one asked for are left out. Raises what :meth:`generate` raises.
        """
        if source not in SOURCES:
            raise ConfigError(
                f"token source {source!r} is unknown: use one of {', '.join(SOURCES)}."
            )
        import torch

        rows = self._encode(prompts)
        self._check_room(rows, max(map(len, answers)))
        vectors = self._vectors(plan)
        highest = max(layers, default=-1)
        run = {n: vector for n, vector in vectors.items() if n <= highest}
        apply = strategy.apply if strategy else _add
        inputs = self._pad_left([r + list(a) for r, a in zip(rows, answers, strict=True)])
        counted = self._positions(inputs, rows, source) & ~self._specials(inputs)
        steered = self._positions(inputs, rows, "generated")
        with torch.no_grad(), self._sent(len(rows), "residuals") as options:
            found, fired = self._residuals(
                inputs, counted, sorted(layers), steered, run, apply, options
            )
        if fired != len(run):
            raise _unsteered(0, len(answers[0]), 0)
        here = self.device
        return Residuals(
            layers={layer: x.to(here, torch.float32) for layer, x in found.items()},
            sample=counted.nonzero()[:, 0].to(here),
            token=inputs["input_ids"][counted].to(here),
            position=inputs["position_ids"][counted].to(here),
        )

    def _positions(
        self, inputs: dict[str, torch.Tensor], rows: list[list[int]], source: str
    ) -> torch.Tensor:
        """[B, T] bool: the positions of a token source, special tokens among them."""
        import torch

        position = inputs["position_ids"]
        real = inputs["attention_mask"].bool()
        last = torch.tensor([[len(row) - 1] for row in rows], device=self._entry)
        end = real.sum(1, keepdim=True) - 1
        chosen = {
            "generated": (position >= last) & (position < end),
            "last_prompt": position == last,
            "prompt": position <= last,
            "all": real,
        }[source]
        return chosen & real

    def _specials(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """[B, T] bool: BOS and other special tokens."""
        import torch

        special = torch.tensor(sorted(self._special), device=self._entry)
        return torch.isin(inputs["input_ids"], special)

    def _residuals(
        self,
        inputs: dict[str, torch.Tensor],
        counted: torch.Tensor,
        layers: Sequence[int],
        steered: torch.Tensor,
        vectors: dict[int, torch.Tensor],
        apply: Apply,
        options: dict[str, Any],
    ) -> tuple[dict[int, torch.Tensor], int]:
        """Block outputs [N, M] where ``counted`` [B, T] is set, after the vectors met them where
        ``steered`` [B, T] is set, and how many layers were steered. Layer -1 is what the first
        block reads.

        The same rules as in :meth:`_steered` hold for the traced lines.
        """
        import nnsight

        first = self._blocks[0] if -1 in layers else None
        blocks = [
            (layer, self._blocks[layer], vectors.get(layer), layer in layers)
            for layer in sorted({*layers, *vectors} - {-1})
        ]
        with self._wrapped.trace(inputs, use_cache=False, **options) as tracer:
            found = nnsight.save({})
            fired = nnsight.save([])
            if first is not None:
                hidden = first.input
                found[-1] = hidden[counted.to(hidden.device)]
            for layer, block, vector, wanted in blocks:
                output = block.output
                hidden = output[0] if isinstance(output, tuple) else output
                if vector is not None:
                    at = steered.to(hidden.device)
                    hidden[at] = apply(hidden[at], vector.to(hidden))
                    fired.append(layer)
                if wanted:
                    found[layer] = hidden[counted.to(hidden.device)]
            tracer.stop()
        return found, len(fired)

    # -- predicting ----------------------------------------------------------------------

    def divergence(
        self,
        texts: Sequence[str],
        plans: Sequence[Plan | None],
        *,
        strategy: Steering | None = None,
    ) -> list[list[Divergence]]:
        """How far each plan moves the predictions of plain texts, ``[plan][text]``.

        A text is read as it is, without the chat template. Each vector of a plan goes through
        ``strategy.apply`` (default: added) at every position of its layer that is not padding,
        BOS or another special token; the next-token distributions at these positions, the last
        one's among them, are compared with the unsteered ones. A plan of None or one whose
        vectors are all zero moves nothing and costs nothing; any other costs one pass over the
        texts twice. Raises what :meth:`generate` raises.
        """
        import torch

        rows = self._encode_plain(texts)
        self._check_room(rows, 0, what="texts")
        vectors = [self._vectors(plan) for plan in plans]
        apply = strategy.apply if strategy else _add
        found: list[dict[int, Divergence]] = [{} for _ in plans]
        twice = [2 * len(row) for row in rows]
        with torch.no_grad():
            for batch in self._bounded(twice, twice, max(1, self._batch_size // 2)):
                inputs = self._pad_left([rows[i] for i in batch])
                counted = inputs["attention_mask"].bool() & ~self._specials(inputs)
                positions = counted.sum(1).tolist()
                for plan, mine in zip(vectors, found, strict=True):
                    kl, changed = [0.0] * len(batch), [0] * len(batch)
                    if any(bool(vector.any()) for vector in plan.values()):
                        with self._sent(len(batch), "divergences") as options:
                            *sums, fired = self._diverged(inputs, counted, plan, apply, options)
                        if fired != len(plan):
                            raise _unsteered(0, positions[0], batch[0])
                        kl, changed = (x.tolist() for x in sums)
                    for i, nats, others, n in zip(batch, kl, changed, positions, strict=True):
                        mine[i] = Divergence(nats, others, n)
        return [[mine[i] for i in range(len(rows))] for mine in found]

    def _diverged(
        self,
        inputs: dict[str, torch.Tensor],
        counted: torch.Tensor,
        vectors: dict[int, torch.Tensor],
        apply: Apply,
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
        blocks = [(self._blocks[layer], vector) for layer, vector in vectors.items()]
        wrapped = self._wrapped
        with wrapped.trace(twice, use_cache=False, **options):
            layers = 0
            for block, vector in blocks:
                output = block.output
                hidden = output[0] if isinstance(output, tuple) else output
                at = steered.to(hidden.device)
                hidden[at] = apply(hidden[at], vector.to(hidden))
                layers += 1
            logits = wrapped.output.logits
            each = torch.zeros(counted.shape, dtype=torch.float64, device=logits.device)
            other = torch.zeros(counted.shape, dtype=torch.long, device=logits.device)
            for places in counted.to(logits.device).nonzero().split(chunk):
                row, column = places.unbind(1)
                p = logits[row, column].float().log_softmax(-1)
                q = logits[row + n, column].float().log_softmax(-1)
                each[row, column] = (p.exp() * (p - q)).sum(-1, dtype=torch.float64)
                other[row, column] = (p.argmax(-1) != q.argmax(-1)).long()
            kl = nnsight.save(each.sum(1))
            changed = nnsight.save(other.sum(1))
            fired = nnsight.save(layers)
        return kl, changed, fired

    def promoted(self, directions: np.ndarray, top: int) -> list[tuple[list[str], list[str]]]:
        """For each direction [K, M] the ``top`` tokens it makes likelier and unlikelier, as texts:
        the logit lens (nostalgebraist 2020), the final norm's gains included, its bias and that
        of the unembedding left out. Cost: one pass over K + 1 single tokens."""
        import torch

        # Of residual size, so that a norm's epsilon does not count; the last one is zero.
        scaled = directions / np.abs(directions).max(1, keepdims=True) * 100
        residuals = torch.from_numpy(np.concatenate([scaled, np.zeros_like(scaled[:1])]))
        inputs = self._pad_left([[self._pad]] * len(residuals))
        with torch.no_grad(), self._sent(len(directions), "promoted tokens") as options:
            up, down = self._lens(inputs, residuals.to(self._entry), top, options)
        texts = ([self.token_texts(ids) for ids in found.tolist()] for found in (up, down))
        return list(zip(*texts, strict=True))

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
        unembedding = self._wrapped.get(_path(self._module, self._module.get_output_embeddings()))
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


def _unsteered(steered: int, positions: int, prompt: int) -> ModelError:
    return ModelError(
        f"the plan fired at {steered} of {positions} positions of prompt {prompt}: nnsight and"
        " transformers do not fit together; install the versions of constraints.txt."
    )


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
    path = _path(module, lists[0])
    return [f"{path}.{n}" for n in range(n_layers)]


def _path(module: Any, part: Any) -> str:
    """nnsight's path of a part of the model."""
    (path,) = [name for name, found in module.named_modules() if found is part]
    return path
