"""Options that share one pass over their prompt, in a model on this machine. torch is imported by
the methods that need it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from corrsteer.models.loaded import LoadedModel
from corrsteer.models.protocol import Prepared

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache


class SharedPrompts(LoadedModel):
    """Keeps the keys and values of prompts while what stands behind them is read."""

    _module: Any
    """The transformers model."""

    def _option_logs(
        self,
        rows: Sequence[list[int]],
        options: Sequence[Sequence[list[int]]],
        interventions: Sequence[Prepared],
    ) -> Iterator[tuple[int, list[int], torch.Tensor, int]]:
        """A prompt is read once, and every option under every intervention that leaves it alone
        goes on from there: of a single one, too, so that its numbers do not depend on how many
        there are."""
        from corrsteer.models.prompt_cache import continued, of_rows, takes_many

        kinds: dict[bool, list[int]] = {True: [], False: []}
        for n, how in enumerate(interventions):
            kinds[how.changes_prompt].append(n)
        first = [0, *accumulate(map(len, options))]
        longest = [max(map(len, some)) for some in options]
        whole = [len(row) + n for row, n in zip(rows, longest, strict=True)]
        unshared: list[int] = []
        for batch in self._bounded(whole, longest, self._batch_size) if kinds[False] else ():
            inputs = self._pad_left([rows[i] for i in batch])
            cache = self._prompt_cache(inputs, 1, max(longest[i] for i in batch))
            if cache is None or not takes_many(cache):
                unshared += batch
                continue
            for rank in range(max(len(options[i]) for i in batch)):
                some = [b for b, i in enumerate(batch) if len(options[i]) > rank]
                rest, targets = self._behind_prompts(
                    {name: value[some] for name, value in inputs.items()},
                    [options[batch[b]][rank] for b in some],
                )
                few = len(some) < len(batch)
                past = of_rows(cache, some) if few else cache
                for n in kinds[False]:
                    settings = {"past_key_values": continued(past), "use_cache": True}
                    found = self._likelihood(rest, targets, interventions[n], settings)
                    yield n, [first[batch[b]] + rank for b in some], *found
        for some, asked in ((kinds[False], unshared), (kinds[True], range(len(rows)))):
            taken = [k for i in asked for k in range(first[i], first[i + 1])]
            pairs = [rows[i] for i in asked], [options[i] for i in asked]
            for n, places, *weighed in super()._option_logs(
                *pairs, [interventions[n] for n in some]
            ):
                yield some[n], [taken[k] for k in places], *weighed

    def _behind_prompts(
        self, inputs: dict[str, torch.Tensor], answers: Sequence[Sequence[int]]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """What goes in behind all tokens of some prompts but the last, to predict answers; and
        these, [B, L] long, -1 behind the shorter ones."""
        import torch

        width = max(map(len, answers))
        rows = [list(answer) + [-1] * (width - len(answer)) for answer in answers]
        targets = torch.tensor(rows, device=self.device)
        written = (targets >= 0).long()
        past = targets.clamp(min=0)[:, :-1]
        return {
            "input_ids": torch.cat([inputs["input_ids"][:, -1:], past], 1),
            "attention_mask": torch.cat([inputs["attention_mask"], written[:, 1:]], 1),
            "position_ids": inputs["position_ids"][:, -1:] + written.cumsum(1) - 1,
        }, targets

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
