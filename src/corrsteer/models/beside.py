"""Arms beside each other: what many interventions make of the same prompts, in one pass.

Interventions that leave the prompts alone read the same keys and values. Their tokens stand side by
side behind them, a column each, all at the position that they would have alone, and a mask keeps
every column from seeing another ("tree attention": Miao et al. 2024, "SpecInfer"; Cai et al. 2024,
"Medusa"). So a pass over 40 arms is one large matrix product where it was 40 small ones, and
nothing of the prompts is copied.

The numbers are those of one pass per arm but for rounding (``ROUNDING``). Imports torch and
transformers: only for use behind a loaded model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import DynamicCache

from corrsteer.models.prompt_cache import continued, with_columns, with_room
from corrsteer.models.protocol import Prepared
from corrsteer.steering.protocol import Parts

log = logging.getLogger(__name__)

ROUNDING = 64.0
"""By how many times the precision of the largest logit two ways to compute the same may differ."""

CELLS = 256
"""Tokens of all columns behind a prompt that cost no more than the columns save: every one of them
is a key that all others have to pass over. As many as the prompt has are fine, too."""


@dataclass(frozen=True)
class Place:
    """What happens at one layer: what is ``added`` to all columns, [A, M], None for nothing;
    and by column what is done by an operator or a gate that must be asked."""

    added: torch.Tensor | None
    asked: Sequence[tuple[int, Prepared, Parts]]
    steered: torch.Tensor
    """[A] long: 1 for the columns that are steered here, else 0."""


def places(
    arms: Sequence[Prepared], homes: Sequence[torch.device], dtype: torch.dtype
) -> dict[int, Place]:
    """By layer. What is added is brought into ``dtype`` once; other operators see float32."""
    at: dict[int, Place] = {}
    for layer in sorted({n for how in arms for n in how.layers}):
        home, asked = homes[layer], []
        vectors: dict[int, torch.Tensor] = {}
        for a, how in enumerate(arms):
            parts = {name: part.to(home) for name, part in how.layers.get(layer, {}).items()}
            if parts and how.additive and how.opens is None:
                vectors[a] = parts["vector"].to(dtype)
            elif layer in how.layers:
                asked.append((a, how, parts))
        added = None
        if vectors:
            zero = torch.zeros_like(next(iter(vectors.values())))
            added = torch.stack([vectors.get(a, zero) for a in range(len(arms))])
        at[layer] = Place(added, asked, torch.tensor([int(layer in how.layers) for how in arms]))
    return at


def only(at: Mapping[int, Place], arms: Sequence[int], acting: Sequence[bool]) -> dict[int, Place]:
    """The same for some of the columns, and of them for the arms that are ``acting``."""
    where = {a: n for n, a in enumerate(arms)}
    chosen = list(arms)
    acts = torch.tensor([acting[a] for a in chosen])
    some: dict[int, Place] = {}
    for layer, place in at.items():
        added = None if place.added is None else place.added[chosen]
        if added is not None and not acts.all():
            added = added.masked_fill(~acts.to(added.device)[:, None], 0)
        asked = [
            (where[a], how, parts) for a, how, parts in place.asked if a in where and acting[a]
        ]
        some[layer] = Place(added, asked, place.steered[chosen] * acts)
    return some


def mask(prompt: torch.Tensor, own: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[B, 1, Q, T + K], 0 where one of Q tokens may look, hugely negative elsewhere: at those of
    the prompt that are no padding, ``prompt`` [B, T], and of K behind it at ``own``, bool [Q, K]
    or [B, Q, K]."""
    rows, queries = prompt.shape[0], own.shape[-2]
    read = prompt.bool()[:, None].expand(rows, queries, -1)
    seen = torch.cat([read, own.to(prompt.device).expand(rows, -1, -1)], dim=2)[:, None]
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


def tolerance(logits: torch.Tensor) -> float:
    """How far apart two logits must be for their order to be sure, whichever way they are made."""
    largest = float(logits.abs().amax())
    precision: float = torch.finfo(logits.dtype).eps
    return ROUNDING * precision * largest


def likeliest(logits: torch.Tensor) -> torch.Tensor | None:
    """The tokens [B, 1] of logits [B, V]; None where rounding could have chosen another."""
    best, tokens = logits.topk(2)
    close = best[:, 0] - best[:, 1] <= tolerance(logits)
    return None if close.any() else tokens[:, :1]


def agree(module: Any, inputs: Mapping[str, torch.Tensor]) -> bool | None:
    """Whether a model takes columns: the logits behind some prompts are the same for two columns,
    two tokens long, as for two answers. None where prompts are too long to tell.

    Not so for a model that knows its own masks only, or counts positions by itself.
    """
    prompt, last = inputs["attention_mask"][:, :-1], inputs["position_ids"][:, -1:]
    head = {name: value[:, :-1] for name, value in inputs.items()}
    cache = with_room(module(**head, use_cache=True, logits_to_keep=1).past_key_values, 4)
    begun = inputs["input_ids"][:, -1:]
    own = torch.eye(2, dtype=torch.bool, device=prompt.device)

    def logits(ids: torch.Tensor, n: int, seen: torch.Tensor, past: DynamicCache) -> torch.Tensor:
        at = (last + n).expand_as(ids)
        rest = {"past_key_values": past, "use_cache": True}
        made = module(input_ids=ids, attention_mask=seen, position_ids=at, **rest)
        return cast("torch.Tensor", made.logits)

    alone, first = [], torch.empty(0)
    for rank in range(2):
        past, seen = continued(cache), inputs["attention_mask"]
        first = logits(begun, 0, seen, past)
        second = first[:, -1].topk(2).indices[:, rank : rank + 1]
        alone.append((second, logits(second, 1, torch.cat([seen, seen[:, -1:]], 1), past)))
    try:
        if (roomy := with_columns(cache, 4, 2)) is None:
            return None
        past = continued(roomy)
        same = logits(begun.expand(-1, 2), 0, mask(prompt, own, module.dtype), past)
        both = torch.cat([second for second, _ in alone], 1)
        beside = logits(both, 1, mask(prompt, own.repeat(1, 2), module.dtype), past)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        log.info("arms answer one after the other: %s", " ".join(str(error).split())[:200])
        return False
    expected = torch.cat([first.expand_as(same), torch.cat([made for _, made in alone], 1)])
    return bool((torch.cat([same, beside]) - expected).abs().amax() <= tolerance(expected))


def greedy(
    step: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor],
    first: torch.Tensor,
    most: int,
    ends: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest next token of every column, at most ``most`` times or until all have ended.

    ``step(ids, rows, arms, n)`` gives the logits [R, C, V] after the n-th tokens [R, C] of some of
    the B rows and A arms, whose indices it is told: arms leave when all their answers have ended,
    rows when that is so in half of them. ``first`` [B, A]: the tokens of step 0.

    Returns the tokens [B, A, N], of no meaning behind an end; and which arms [A] are sure, because
    no choice before an end was closer than rounding. In half precision all are: there two ways to
    compute the same differ as two sizes of a batch do.
    """
    ids, tokens = first, list[torch.Tensor]()
    going = torch.ones_like(first, dtype=torch.bool)
    sure = torch.ones_like(going[0])
    stops = torch.tensor(list(ends), device=first.device, dtype=first.dtype)
    rows = torch.arange(len(first), device=first.device)
    for n in range(most):
        live, arms = (going.any(axis).nonzero()[:, 0] for axis in (1, 0))
        if len(live) <= len(rows) // 2:
            rows = live
        some = rows[:, None], arms
        logits = step(ids[some], rows, arms, n)
        best, likeliest = logits.float().topk(2, dim=-1)
        if logits.dtype == torch.float32:
            close = best[..., 0] - best[..., 1] <= tolerance(logits)
            sure[arms] &= ~(close & going[some]).any(0)
        ids = ids.clone()
        ids[some] = likeliest[..., 0]
        tokens.append(ids)
        going = going & ~torch.isin(ids, stops)
        if not going.any():
            break
    return torch.stack(tokens, dim=2), sure
