"""What a loaded model is asked, wherever it runs: its answers, its choices, its residuals, and how
far an intervention moves its predictions.

Everything that must not differ between backends is here or in :mod:`corrsteer.models.tracing`.
torch is imported by the methods that need it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from corrsteer.errors import ConfigError, ModelError
from corrsteer.models.protocol import SOURCES, UNSTEERED, Prepared, Residuals, in_source, merged
from corrsteer.models.tracing import Tracing, not_fired
from corrsteer.records import Completion, Divergence, Weighed, named
from corrsteer.steering.protocol import Intervention

if TYPE_CHECKING:
    import torch

# The logits of every position of a batch in float32: with a vocabulary of 256k, those of 1,000
# positions take this much. A single sample may take more.
LOGITS_BYTES = 2**30


class LoadedModel(Tracing):
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
    ) -> list[list[Completion]]:
        """Greedy answers, ``[intervention][prompt]`` in the order given; None is no steering.

        ``allowed`` restricts the answer to one token: exactly one of these texts, without their
        leading space where the prompt ends in white space. An answer ends at the first of the
        ``stop`` texts: they are not in its text, and the tokens that wrote them are its last.

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
            for batch in self._batches([len(row) for row in rows]):
                inputs = self._pad_left([rows[i] for i in batch])
                results = self._answers(inputs, prepared, options)
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
        columns = [[column[i] for i in range(len(rows))] for column in answers]
        return merged(acts, columns)

    # -- answers that are steered as a whole, or not at all ------------------------------

    def decide(self, prompts: Sequence[str], intervention: Intervention | None) -> list[bool]:
        """Which answers it acts on: all, but for a gate that decides for a whole answer
        (:attr:`corrsteer.steering.plan.Plan.asked_at`). Raises what :meth:`generate` raises."""
        return self._decisions(self._encode(prompts), self._prepare(intervention))

    def _asked(
        self, rows: Sequence[list[int]], interventions: Sequence[Intervention | None]
    ) -> tuple[list[Prepared], list[list[bool]]]:
        """The interventions, and on which rows each acts; the unsteered model is the last of the
        former where one leaves rows alone (:func:`merged`)."""
        prepared = [self._prepare(intervention) for intervention in interventions]
        acts = [self._decisions(rows, how) for how in prepared]
        if not all(map(all, acts)):
            prepared.append(UNSTEERED)
        return prepared, acts

    def _decisions(self, rows: Sequence[list[int]], how: Prepared) -> list[bool]:
        if (asks := how.asks) is None:
            return [True] * len(rows)
        import torch

        opened: dict[int, bool] = {}
        with torch.no_grad():
            for batch in self._batches([len(row) for row in rows]):
                inputs = self._pad_left([rows[i] for i in batch])
                last = torch.zeros_like(inputs["attention_mask"], dtype=torch.bool)
                last[:, -1] = True
                with self._sent(len(batch), "decisions") as options:
                    read, _ = self._residuals(inputs, last, [asks.layer], last, UNSTEERED, options)
                x = read[asks.layer].float()
                parts = {name: part.to(x.device) for name, part in asks.parts.items()}
                opened |= dict(zip(batch, asks.opens(x, parts, asks.dial).tolist(), strict=True))
        return [opened[i] for i in range(len(rows))]

    # -- choosing ------------------------------------------------------------------------

    def choose(
        self,
        prompts: Sequence[str],
        interventions: Sequence[Intervention | None],
        options: Sequence[Sequence[str]],
        likelihood: str = "per_character",
    ) -> list[list[Completion]]:
        """The likeliest option of each prompt, ``[intervention][prompt]``: "B. its text", its
        tokens, and how likely every option is.

        An option follows its prompt after a space, or at once where the prompt is empty or ends in
        white space; both are tokenised together. ``likelihood``: how the log probabilities of its
        tokens are compared (:meth:`corrsteer.records.Weighed.by`). The
        first of equally likely options is taken. Steering is as if the model had written the
        option: its generation positions are those that predict it. Cost: one pass over the prompt,
        on this machine for all options and all interventions that leave it alone, elsewhere for
        each; and one over every option under each intervention. Raises what :meth:`generate`
        raises.
        """
        import torch

        rows = self._encode(prompts)
        prepared, acts = self._asked(rows, interventions)
        pairs = [(i, n) for i, texts in enumerate(options) for n in range(len(texts))]
        by_prompt = self._continuations(prompts, rows, options)
        answers = [answer for some in by_prompt for answer in some]
        self._check_room([rows[i] for i, _ in pairs], [len(answer) for answer in answers])
        weights = torch.zeros(len(prepared), len(pairs))
        with torch.no_grad():
            for some, taken, logs, fired in self._option_logs(rows, by_prompt, prepared):
                how = prepared[some]
                if fired != len(how.layers):
                    raise not_fired(0, len(answers[taken[0]]), pairs[taken[0]][0])
                if logs.isnan().any():
                    raise not_finite(self._model.name, "likelihoods", bool(how.layers))
                weights[some, taken] = logs.float().cpu()
        chosen: list[list[Completion]] = []
        for how, logs_of in zip(prepared, weights.tolist(), strict=True):
            weighed: list[list[Weighed]] = [[] for _ in rows]
            tokens: list[list[tuple[int, ...]]] = [[] for _ in rows]
            for (i, n), answer, log in zip(pairs, answers, logs_of, strict=True):
                characters = max(1, len(options[i][n].strip()))
                weighed[i].append(Weighed(log, characters, len(answer)))
                tokens[i].append(tuple(answer))
            column = []
            for texts, each, written in zip(options, weighed, tokens, strict=True):
                best = max(range(len(texts)), key=lambda n: each[n].by(likelihood))
                steered = how.steered(len(written[best]))
                text = named(best, texts[best])
                column.append(Completion(text, written[best], steered, tuple(each)))
            chosen.append(column)
        return merged(acts, chosen)

    def _option_logs(
        self,
        rows: Sequence[list[int]],
        options: Sequence[Sequence[list[int]]],
        interventions: Sequence[Prepared],
    ) -> Iterator[tuple[int, list[int], torch.Tensor, int]]:
        """Log probabilities of ``options`` [row][option], token ids, in any order: the index of an
        intervention, those of some options (of all rows in turn), what these weigh, and at how
        many layers it was steered. Here one pass over row and option for each."""
        pairs = [(row, answer) for row, some in zip(rows, options, strict=True) for answer in some]
        whole = [len(row) + len(answer) for row, answer in pairs]
        scored = [len(answer) + 1 for _, answer in pairs]
        for batch in self._bounded(whole, scored, self._batch_size):
            inputs = self._pad_left([pairs[k][0] + pairs[k][1] for k in batch])
            targets = self._pad_targets([pairs[k][1] for k in batch])
            for n, how in enumerate(interventions):
                with self._sent(len(batch), "likelihoods") as settings:
                    found = self._likelihood(inputs, targets, how, settings)
                yield n, batch, *found

    def likelihood(self, prompts: Sequence[str], answers: Sequence[Sequence[int]]) -> list[float]:
        """Log probability in nats of each answer (token ids) after its prompt, unsteered.

        The sum over the answer's tokens, 0 for an empty one. Cost: one pass over prompt and
        answer. Raises DataError for a prompt that is empty or leaves no room for the answer.
        """
        import torch

        rows = self._encode(prompts)
        totals = [0.0] * len(rows)
        written = [i for i, answer in enumerate(answers) if len(answer)]
        if not written:
            return totals
        self._check_room(rows, max(map(len, answers)))
        lengths = [len(rows[i]) + len(answers[i]) for i in written]
        scored = [len(answers[i]) + 1 for i in written]
        with torch.no_grad():
            for batch in self._bounded(lengths, scored, self._batch_size):
                indices = [written[k] for k in batch]
                inputs = self._pad_left([rows[i] + list(answers[i]) for i in indices])
                targets = self._pad_targets([answers[i] for i in indices])
                with self._sent(len(batch), "likelihoods") as options:
                    logs, _ = self._likelihood(inputs, targets, UNSTEERED, options)
                for i, log in zip(indices, logs.tolist(), strict=True):
                    totals[i] = log
        return totals

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
            residuals, fired = self._residuals(
                inputs, counted, sorted(layers), steered, how, options, before
            )
        if fired != len(how.layers):
            raise not_fired(0, len(answers[0]), 0)
        if not all(x.isfinite().all() for x in residuals.values()):
            raise not_finite(self._model.name, "activations", bool(how.layers))
        device = self.device
        last, end = (x.expand_as(counted)[counted].to(device) for x in self._ends(inputs, rows))
        return Residuals(
            layers={layer: x.to(device, torch.float32) for layer, x in residuals.items()},
            sample=counted.nonzero()[:, 0].to(device),
            token=inputs["input_ids"][counted].to(device),
            position=inputs["position_ids"][counted].to(device),
            last=last,
            end=end,
        )

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
        acts = [self._decisions(rows, how) for how in prepared]
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
        import torch

        # Of residual size, so that a norm's epsilon does not count; the last one is zero.
        scaled = directions / np.abs(directions).max(1, keepdims=True) * 100
        residuals = torch.from_numpy(np.concatenate([scaled, np.zeros_like(scaled[:1])]))
        inputs = self._pad_left([[self._pad]] * len(residuals))
        with torch.no_grad(), self._sent(len(directions), "promoted tokens") as options:
            up, down = self._lens(inputs, residuals.to(self._entry), top, options)
        texts = ([self.token_texts(ids) for ids in tokens.tolist()] for tokens in (up, down))
        return list(zip(*texts, strict=True))


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


def not_finite(name: str, what: str, steered: bool) -> ModelError:
    remedy = "lower coef, or " if steered else ""
    return ModelError(
        f"model {name} gives {what} that are not finite (nan or inf){' under the plan' * steered}:"
        f" {remedy}run the model in float32 (model.dtype=float32)."
    )
