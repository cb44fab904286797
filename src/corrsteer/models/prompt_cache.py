"""Keys and values of a batch's prompts, computed once and continued by every plan in turn.

transformers' own cache copies all keys and values of the prompt for every new token, and would
have to be copied once more per plan. Here the prompt's are followed by room for the answer and
new ones are written there: nothing of the prompt is ever copied or changed. Layers that attend
to a sliding window keep transformers' own handling, which makes new tensors at every step; the
state of linear attention is changed in place, so it is copied for every plan.
Imports torch and transformers: only for use behind a loaded model.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not followed
    """A full-attention layer whose ``update`` writes into room behind the prompt."""

    def __init__(self, prompt: DynamicLayer, room: int) -> None:
        super().__init__()
        self.lazy_initialization(prompt.keys, prompt.values)
        self._end = prompt.keys.shape[-2]
        self._all_keys = torch.nn.functional.pad(prompt.keys, (0, 0, 0, room))
        self._all_values = torch.nn.functional.pad(prompt.values, (0, 0, 0, room))
        self._look()

    def _look(self) -> None:
        self.keys = self._all_keys[..., : self._end, :]
        self.values = self._all_values[..., : self._end, :]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start, self._end = self._end, self._end + key_states.shape[-2]
        self._all_keys[..., start : self._end, :] = key_states
        self._all_values[..., start : self._end, :] = value_states
        self._look()
        return self.keys, self.values


def with_room(cache: DynamicCache, room: int) -> DynamicCache:
    """The cache of the prompts with room for ``room`` more tokens. Changes ``cache``."""
    cache.layers = [
        _RoomyLayer(layer, room) if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def takes_many(cache: DynamicCache) -> bool:
    """Whether several tokens at once may follow the prompts: linear attention reads its state for
    one at a time only, and starts anew for more."""
    kinds = _RoomyLayer | DynamicSlidingWindowLayer
    return all(isinstance(layer, kinds) for layer in cache.layers)


def continued(cache: DynamicCache) -> DynamicCache:
    """A cache that stands at the end of the prompts. Only the newest one may be used:
    they share the room behind the prompts."""
    newest = copy.copy(cache)
    newest.layers = [
        copy.copy(layer)
        if isinstance(layer, _RoomyLayer | DynamicSlidingWindowLayer)
        else copy.deepcopy(layer)
        for layer in cache.layers
    ]
    return newest
