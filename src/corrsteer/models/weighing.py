"""What options weigh in a loaded model, how likely answers are, and which answers an intervention
acts on: passes that write nothing. torch is imported by the methods that need it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from corrsteer.errors import ModelError
from corrsteer.models.protocol import UNSTEERED, Prepared, merged
from corrsteer.models.tracing import Tracing, not_fired
from corrsteer.records import Completion, Weighed, named
from corrsteer.steering.protocol import Intervention

if TYPE_CHECKING:
    import torch

# The logits of every position of a batch in float32: with a vocabulary of 256k, those of 1,000
# positions take this much. A single sample may take more.
LOGITS_BYTES = 2**30


class Weighing(Tracing):
    """A model that weighs what could be said."""

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
        acts = self._all_decisions(rows, prepared)
        if not all(map(all, acts)):
            prepared.append(UNSTEERED)
        return prepared, acts

    def _decisions(self, rows: Sequence[list[int]], how: Prepared) -> list[bool]:
        return self._all_decisions(rows, [how])[0]

    def _all_decisions(
        self, rows: Sequence[list[int]], hows: Sequence[Prepared]
    ) -> list[list[bool]]:
        """Gates that read the same share one pass over the rows."""
        import torch

        opened: list[dict[int, bool]] = [{} for _ in hows]
        asking = [(n, how.asks) for n, how in enumerate(hows) if how.asks is not None]
        with torch.no_grad():
            for batch in self._batches([len(row) for row in rows]) if asking else ():
                inputs = self._pad_left([rows[i] for i in batch])
                read = {layer: self._told(inputs, layer) for layer in {a.layer for _, a in asking}}
                for n, asks in asking:
                    x = read[asks.layer]
                    parts = {name: part.to(x.device) for name, part in asks.parts.items()}
                    is_open = asks.opens(x, parts, asks.dial).tolist()
                    opened[n] |= dict(zip(batch, is_open, strict=True))
        return [[some.get(i, True) for i in range(len(rows))] for some in opened]

    def _told(self, inputs: dict[str, torch.Tensor], layer: int | None) -> torch.Tensor:
        """What a gate that decides for whole answers reads, unsteered: the residual [B, M] at the
        last token, or the entropies [B]."""
        import torch

        if layer is None:
            return self._entropies(inputs)
        last = torch.zeros_like(inputs["attention_mask"], dtype=torch.bool)
        last[:, -1] = True
        with self._sent(len(last), "decisions") as options:
            read, _ = self._residuals(inputs, last, [layer], last, UNSTEERED, options)
        return read[layer].float()

    def entropies(self, prompts: Sequence[str]) -> list[float]:
        """Of the next-token distribution after each prompt of one batch, unsteered, in nats."""
        import torch

        with torch.no_grad():
            found: list[float] = self._entropies(self._pad_left(self._encode(prompts))).tolist()
        return found

    def _entropies(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """[B] float32."""
        with self._sent(len(inputs["input_ids"]), "entropies") as options:
            found = self._entropy(inputs, options)
        if not found.isfinite().all():
            raise not_finite(self._model.name, "predictions", steered=False)
        return found.clamp(min=0)

    def _entropy(self, inputs: dict[str, torch.Tensor], options: dict[str, Any]) -> torch.Tensor:
        """The same rules as in :meth:`_steered` hold for the traced lines."""
        import nnsight

        wrapped = self._wrapped
        with wrapped.trace(inputs, use_cache=False, logits_to_keep=1, **options):
            p = wrapped.output.logits[:, -1].float().softmax(-1)
            total: torch.Tensor = nnsight.save(p.xlogy(p).sum(-1).neg())
        return total

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


def not_finite(name: str, what: str, steered: bool) -> ModelError:
    remedy = "lower coef, or " if steered else ""
    return ModelError(
        f"model {name} gives {what} that are not finite (nan or inf){' under the plan' * steered}:"
        f" {remedy}run the model in float32 (model.dtype=float32)."
    )
