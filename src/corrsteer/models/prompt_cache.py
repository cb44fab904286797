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


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not followed
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

    def of_rows(self, rows: torch.Tensor | list[int]) -> RoomyLayer:
        fewer = copy.copy(self)
        fewer._all_keys, fewer._all_values = self._all_keys[rows], self._all_values[rows]
        fewer._look()
        return fewer

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
        RoomyLayer(layer, room) if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def with_columns(cache: DynamicCache, room: int, steps: int) -> DynamicCache | None:
    """The same cache, with room in layers of a sliding window, too, for tokens that stand at most
    ``steps`` places behind the prompts. None where the window would slide, and for linear
    attention, which has no keys."""
    layers = []
    for layer in cache.layers:
        if isinstance(layer, DynamicSlidingWindowLayer):
            if layer.keys.shape[-2] + steps >= layer.sliding_window:
                return None
            layer = RoomyLayer(layer, room)
        if not isinstance(layer, RoomyLayer):
            return None
        layers.append(layer)
    return _of(cache, layers)


def takes_many(cache: DynamicCache) -> bool:
    """Whether several tokens at once may follow the prompts: linear attention reads its state for
    one at a time only, and starts anew for more."""
    kinds = RoomyLayer | DynamicSlidingWindowLayer
    return all(isinstance(layer, kinds) for layer in cache.layers)


def continued(cache: DynamicCache) -> DynamicCache:
    """A cache that stands at the end of the prompts. Only the newest one may be used:
    they share the room behind the prompts."""
    return _of(
        cache,
        [
            copy.copy(layer)
            if isinstance(layer, RoomyLayer | DynamicSlidingWindowLayer)
            else copy.deepcopy(layer)
            for layer in cache.layers
        ],
    )


def of_rows(cache: DynamicCache, rows: torch.Tensor | list[int]) -> DynamicCache:
    """A cache of some rows only, of layers with keys."""
    return _of(cache, [_rows_of(layer, rows) for layer in cache.layers])


def _rows_of(layer: DynamicLayer, rows: torch.Tensor | list[int]) -> DynamicLayer:
    if isinstance(layer, RoomyLayer):
        return layer.of_rows(rows)
    fewer = copy.copy(layer)
    fewer.keys, fewer.values = layer.keys[rows], layer.values[rows]
    return fewer


def _of(cache: DynamicCache, layers: list[Any]) -> DynamicCache:
    other = copy.copy(cache)
    other.layers = layers
    return other
