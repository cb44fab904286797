"""Answers to several prompts in one pass of a model: token by token what ``plan.steer`` gives.

Cost: as transformers' own ``generate`` on a batch padded on the left. Not for several threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from corrsteer.errors import ModelError
from corrsteer.serve.stepper import Sampling, Stepper
from corrsteer.steering.gates import Always
from corrsteer.steering.plan import Plan

if TYPE_CHECKING:
    import torch


def answered(
    stepper: Stepper,
    plan: Plan,
    rows: Sequence[list[int]],
    new: int,
    sampling: Sampling,
    ends: Sequence[int],
) -> list[list[int]]:
    """The tokens that follow each of ``rows``, ``new`` at most; the last one may be of ``ends``.

    Rows that are sampled with a seed are answered one by one: what one draws must not depend on
    the others. Raises ModelError where the model gives no numbers.
    """
    if len(rows) > 1 and sampling.seed is not None and not sampling.is_greedy:
        one = stepper, plan
        return [answered(*one, [row], new, sampling, ends)[0] for row in rows]
    asked = plan.asked_at
    if asked is None:
        return _generated(stepper, plan, rows, new, sampling, ends)
    # Steered as a whole or not at all: two batches.
    acts = [stepper.decides(plan, row) for row in rows]
    without = plan.with_entries(())
    found: dict[int, list[int]] = {}
    for on, how in ((True, plan), (False, without)):
        some = [n for n, act in enumerate(acts) if act == on]
        if some:
            made = _generated(
                stepper,
                replace(how, gate=Always()),
                [rows[n] for n in some],
                new,
                sampling,
                ends,
            )
            found |= dict(zip(some, made, strict=True))
    return [found[n] for n in range(len(rows))]


def _generated(
    stepper: Stepper,
    plan: Plan,
    rows: Sequence[list[int]],
    new: int,
    sampling: Sampling,
    ends: Sequence[int],
) -> list[list[int]]:
    import torch
    from transformers import GenerationConfig

    width, pad = max(map(len, rows)), ends[0] if ends else 0
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    how: dict[str, Any] = {"do_sample": False}
    if not sampling.is_greedy:
        how = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
        how["top_k"] = 0
        if sampling.seed is None:  # nor on the seed of whoever came before
            torch.seed()
        else:
            torch.manual_seed(sampling.seed)
    # All of it: what a checkpoint's own settings say would be merged into it.
    config = GenerationConfig(
        max_new_tokens=new, pad_token_id=pad, eos_token_id=list(ends) or None, **how
    )
    stepper.module.generation_config = config
    with torch.no_grad(), plan.for_any_model().steer(stepper.module):
        made = stepper.module.generate(
            input_ids=ids.to(stepper.device),
            attention_mask=mask.to(stepper.device),
            generation_config=config,
            logits_processor=[_checked],
        )
    return [_until(row, ends) for row in made[:, width:].tolist()]


def _checked(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """A logits processor that lets no nonsense through."""
    if bool(scores.isnan().any()) or bool((scores == float("inf")).any()):
        raise ModelError(
            "the model gives no numbers any more: turn the dial nearer to 0, or run it in float32"
        )
    return scores


def _until(row: list[int], ends: Sequence[int]) -> list[int]:
    return next((row[: n + 1] for n, token in enumerate(row) if token in ends), row)
