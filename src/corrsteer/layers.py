"""Layer numbers from what a user types after ``layers=``.

Pure and free of imports beyond the standard library, so that a bad value ends a run before
anything is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from corrsteer.errors import ConfigError

_RANGE = re.compile(r"\s*(-?[0-9]+)(?:\s*-\s*([0-9]+))?\s*")


def parse_layers(spec: object, n_layers: int) -> tuple[int, ...]:
    """Sorted, unique layer numbers of a model with layers ``0 .. n_layers - 1``.

    ``spec`` is ``"all"``, one layer (``3``), a sequence (``[1, 3]``, a list or an OmegaConf
    ``ListConfig``), an inclusive range (``"2-4"``) or a comma-separated mix (``"2-4,7"``).
    Raises ConfigError for anything else and for layers the model does not have.
    """
    assert n_layers > 0, n_layers
    if spec == "all":
        return tuple(range(n_layers))
    layers: set[int] = set()
    for item in _items(spec):
        bounds = _bounds(item)
        if bounds is None:
            raise _refuse(spec, f"{item!r} is neither a layer number nor a range", n_layers)
        first, last = bounds
        outside = next((b for b in (first, last) if not 0 <= b < n_layers), None)
        if outside is not None:
            raise _refuse(spec, f"layer {outside} is out of range", n_layers)
        if first > last:
            raise _refuse(spec, f"the range {first}-{last} is reversed", n_layers)
        layers.update(range(first, last + 1))
    if not layers:
        raise _refuse(spec, "no layer is named", n_layers)
    return tuple(sorted(layers))


def _items(spec: object) -> Sequence[object]:
    if isinstance(spec, str):
        return spec.split(",") if spec.strip() else ()
    return spec if isinstance(spec, Sequence) else (spec,)


def _bounds(item: object) -> tuple[int, int] | None:
    # bool is an int in Python, but layers=true is a slip, not layer 1.
    if isinstance(item, int) and not isinstance(item, bool):
        return item, item
    match = _RANGE.fullmatch(item) if isinstance(item, str) else None
    if match is None:
        return None
    return int(match[1]), int(match[2] if match[2] is not None else match[1])


def _refuse(spec: object, why: str, n_layers: int) -> ConfigError:
    last = n_layers - 1
    return ConfigError(
        f"layers={spec!s}: {why}; this model has layers 0..{last}: "
        f"type layers=all, layers={last}, layers=[0,{last}] or layers=0-{last}"
    )
