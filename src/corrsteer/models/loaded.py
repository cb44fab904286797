"""What a loaded model is asked, wherever it runs: its answers, its choices, its residuals, and how
far an intervention moves its predictions.

Everything that must not differ between backends is here or in :mod:`corrsteer.models.tracing`.
torch is imported by the methods that need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from corrsteer.errors import ConfigError
from corrsteer.models.listening import Listener, Steps, residuals
from corrsteer.models.protocol import SOURCES, UNSTEERED, Residuals, in_source, merged
from corrsteer.models.tracing import not_fired
from corrsteer.models.weighing import Weighing, not_finite
from corrsteer.records import Completion, Divergence, Weighed
from corrsteer.steering.protocol import Intervention

if TYPE_CHECKING:
    import torch

    from corrsteer.models.tracing import Answer


class LoadedModel(Weighing):
    """A model that answers and is read. Not for use from several threads at once."""

    # -- generating ----------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[str],
        interventions: Sequence[Intervention | None],
        *,
        max_new_tokens: int,
        allowed: Sequence[str] | None = None,
        stop: Sequence[str] = (),
        listener: Listener | None = None,
    ) -> list[list[Completion]]:
        """Greedy answers, ``[intervention][prompt]`` in the order given; None is no steering.

        ``allowed`` restricts the answer to one token: exactly one of these texts, without their
        leading space where the prompt ends in white space. An answer ends at the first of the
        ``stop`` texts: they are not in its text, and the tokens that wrote them are its last.
        ``listener``: who reads along while no intervention writes, batch by batch.

        Raises DataError for prompts that are too long or empty, ConfigError for an allowed text
        that is not one token or for what :meth:`_prepare` refuses, ModelError when a plan
        did not fire at every position.
        """
        import torch

        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens={max_new_tokens}: it must be at least 1.")
        rows = self._encode(prompts)
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens}
        letters: list[list[int]] = [[]] * len(rows)
        if allowed is not None:
            suppressed, letters = self._only(allowed, prompts)
            options = {"max_new_tokens": 1, "suppress_tokens": suppressed}
        self._check_room(rows, options["max_new_tokens"])
        prepared, acts = self._asked(rows, interventions)
        texts: dict[tuple[int, ...], tuple[tuple[int, ...], str]] = {}
        answers: list[dict[int, Completion]] = [{} for _ in prepared]
        with torch.no_grad():
            batches = self._batches([len(row) for row in rows])
            if listener is not None:
                assert prepared == [UNSTEERED], interventions
                batches = listener.halved(batches, options["max_new_tokens"], self.d_model)
            for batch in batches:
                inputs = self._pad_left([rows[i] for i in batch])
                heard: Steps = {}
                results: Iterable[Answer]
                if listener is None:
                    results = self._answers(inputs, prepared, options)
                else:
                    results, heard = self._overheard(inputs, options, listener.layers)
                for how, column, (new, fired, logits) in zip(
                    prepared, answers, results, strict=True
                ):
                    weighed = _weighed(allowed or (), [letters[i] for i in batch], logits)
                    for i, row, options_of in zip(batch, new.tolist(), weighed, strict=True):
                        whole = self._until_eos(row)
                        if whole not in texts:
                            texts[whole] = self._until_stop(whole, stop)
                        tokens, text = texts[whole]
                        steered = sum(n == len(how.layers) for n in fired[: len(tokens)])
                        if how.layers and steered != how.steered(len(tokens)):
                            raise not_fired(steered, how.steered(len(tokens)), i)
                        column[i] = Completion(text, tokens, steered, options_of)
                if listener is not None:
                    written = [answers[0][i].tokens for i in batch]
                    found = residuals(heard, [rows[i] for i in batch], written, self._special)
                    listener.hear(batch, written, self._checked(found, steered=False))
        columns = [[column[i] for i in range(len(rows))] for column in answers]
        return merged(acts, columns)

    # -- reading -------------------------------------------------------------------------

    def replay(
        self,
        prompts: Sequence[str],
        answers: Sequence[Sequence[int]],
        layers: Sequence[int],
        source: str,
        *,
        intervention: Intervention | None = None,
        before: bool = False,
    ) -> Residuals:
        """Residual streams of one batch, prompt and answer read in one teacher-forced pass.

        ``source`` names the positions: ``generated`` (the last prompt token and every generated
        token but the last), ``last_prompt``, ``prompt`` or ``all``. Padding, BOS and other
        special tokens never count. Blocks above the highest layer asked for are not run. Layer
        -1 is the residual stream that the first block reads.

        A plan acts at its positions (:mod:`corrsteer.steering.positions`), special tokens among
        them, and what is read is read after that: of an answer that the steered model wrote, what
        it had while writing. A plan's layers above the highest one asked for are left out. Raises
        what :meth:`generate` raises.
        """
        if source not in SOURCES:
            raise ConfigError(
                f"token source {source!r} is unknown: use one of {', '.join(SOURCES)}."
            )
        import torch

        rows = self._encode(prompts)
        self._check_room(rows, max(map(len, answers)))
        how = self._prepare(intervention).up_to(max(layers, default=-1))
        inputs = self._pad_left([r + list(a) for r, a in zip(rows, answers, strict=True)])
        counted = self._positions(inputs, rows, source) & ~self._specials(inputs)
        steered = how.where.within(inputs["position_ids"], *self._ends(inputs, rows))
        steered = steered & inputs["attention_mask"].bool()
        acts = torch.tensor(self._decisions(rows, how), device=steered.device)
        steered = steered & acts[:, None]
        with torch.no_grad(), self._sent(len(rows), "residuals") as options:
            read, fired = self._residuals(
                inputs, counted, sorted(layers), steered, how, options, before
            )
        if fired != len(how.layers):
            raise not_fired(0, len(answers[0]), 0)
        device = self.device
        last, end = (x.expand_as(counted)[counted].to(device) for x in self._ends(inputs, rows))
        found = Residuals(
            layers={layer: x.to(device, torch.float32) for layer, x in read.items()},
            sample=counted.nonzero()[:, 0].to(device),
            token=inputs["input_ids"][counted].to(device),
            position=inputs["position_ids"][counted].to(device),
            last=last,
            end=end,
        )
        return self._checked(found, steered=bool(how.layers))

    def _checked(self, found: Residuals, *, steered: bool) -> Residuals:
        if not all(x.isfinite().all() for x in found.layers.values()):
            raise not_finite(self._model.name, "activations", steered)
        return found

    def _positions(
        self, inputs: dict[str, torch.Tensor], rows: list[list[int]], source: str
    ) -> torch.Tensor:
        """[B, T] bool: the positions of a token source, special tokens among them."""
        real = inputs["attention_mask"].bool()
        return in_source(source, inputs["position_ids"], *self._ends(inputs, rows)) & real

    def _ends(
        self, inputs: dict[str, torch.Tensor], rows: list[list[int]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, 1] long each: the index of the last prompt token, and of the last token."""
        import torch

        last = torch.tensor([[len(row) - 1] for row in rows], device=self._entry)
        return last, inputs["attention_mask"].sum(1, keepdim=True) - 1

    def _specials(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """[B, T] bool: BOS and other special tokens."""
        import torch

        special = torch.tensor(sorted(self._special), device=self._entry)
        return torch.isin(inputs["input_ids"], special)

    # -- predicting ----------------------------------------------------------------------

    def divergence(
        self,
        texts: Sequence[str],
        interventions: Sequence[Intervention | None],
    ) -> list[list[Divergence]]:
        """How far each intervention moves the predictions of plain texts, ``[intervention][text]``.

        A text is read as it is, without the chat template. It is neither prompt nor answer: a plan
        of whatever positions acts at every position of its layers that is not padding, BOS or
        another special token, so that plans can be compared; the next-token distributions at these
        positions, the last one's among them, are compared with the unsteered ones. None, or a plan
        that does nothing, moves nothing and costs nothing; any other costs one pass over the texts
        twice. A gate that decides for a whole answer is asked at the text's last token. Raises what
        :meth:`generate` raises.
        """
        import torch

        rows = self._encode_plain(texts)
        self._check_room(rows, 0, what="texts")
        prepared = [self._prepare(intervention) for intervention in interventions]
        acts = self._all_decisions(rows, prepared)
        columns: list[dict[int, Divergence]] = [{} for _ in prepared]
        twice = [2 * len(row) for row in rows]
        with torch.no_grad():
            for batch in self._bounded(twice, twice, max(1, self._batch_size // 2)):
                inputs = self._pad_left([rows[i] for i in batch])
                counted = inputs["attention_mask"].bool() & ~self._specials(inputs)
                positions = counted.sum(1).tolist()
                for how, column, on in zip(prepared, columns, acts, strict=True):
                    kl, changed = [0.0] * len(batch), [0] * len(batch)
                    if not how.idle:
                        with self._sent(len(batch), "divergences") as options:
                            *sums, fired = self._diverged(inputs, counted, how, options)
                        if fired != len(how.layers):
                            raise not_fired(0, positions[0], batch[0])
                        if sums[0].isnan().any():
                            raise not_finite(self._model.name, "predictions", bool(how.layers))
                        kl, changed = (x.tolist() for x in sums)
                    for i, nats, others, n in zip(batch, kl, changed, positions, strict=True):
                        column[i] = Divergence(nats * on[i], others * on[i], n)
        return [[column[i] for i in range(len(rows))] for column in columns]

    def promoted(self, directions: np.ndarray, top: int) -> list[tuple[list[str], list[str]]]:
        """For each direction [K, M] the ``top`` tokens it makes likelier and unlikelier, as texts:
        the logit lens (nostalgebraist 2020), the final norm's gains included, its bias and that
        of the unembedding left out. Cost: one pass over K + 1 single tokens."""
        texts = (
            [self.token_texts(ids) for ids in tokens] for tokens in self._promoted(directions, top)
        )
        return list(zip(*texts, strict=True))

    def lens(self, directions: np.ndarray, top: int) -> list[list[int]]:
        """[K, top] ids of the tokens that :meth:`promoted` says become likelier."""
        return self._promoted(directions, top)[0]

    def _promoted(
        self, directions: np.ndarray, top: int
    ) -> tuple[list[list[int]], list[list[int]]]:
        import torch

        # Of residual size, so that a norm's epsilon does not count; the last one is zero.
        longest = np.abs(directions).max(1, keepdims=True)
        scaled = directions / np.maximum(longest, np.finfo(np.float32).tiny) * 100
        residuals = torch.from_numpy(np.concatenate([scaled, np.zeros_like(scaled[:1])]))
        inputs = self._pad_left([[self._pad]] * len(residuals))
        with torch.no_grad(), self._sent(len(directions), "promoted tokens") as options:
            up, down = self._lens(inputs, residuals.to(self._entry), top, options)
        return up.tolist(), down.tolist()


def _weighed(
    texts: Sequence[str], ids: Sequence[Sequence[int]], logits: torch.Tensor | None
) -> list[tuple[Weighed, ...]]:
    """What the ``texts`` weigh that are one token, in each row of ``logits`` [B, vocabulary];
    ``ids`` [B][text] are those tokens. Nothing without texts or logits."""
    import torch

    if logits is None or not texts:
        return [()] * len(ids)
    picked = logits.float().log_softmax(-1).gather(1, torch.tensor(ids, device=logits.device))
    return [
        tuple(Weighed(log, len(t.strip()), 1) for t, log in zip(texts, logs, strict=True))
        for logs in picked.tolist()
    ]
