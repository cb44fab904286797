"""Any set of layers, written in any mix of numbers and ranges, comes back sorted and unique."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from corrsteer.layers import parse_layers

RANGES = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda ab: (min(ab), max(ab))),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(RANGES)
def test_union_of_ranges(ranges):
    expected = tuple(sorted({i for a, b in ranges for i in range(a, b + 1)}))
    items = [str(a) if a == b else f"{a}-{b}" for a, b in ranges]
    assert parse_layers(",".join(items), 41) == expected
    assert parse_layers(items, 41) == expected
    assert parse_layers(list(expected), 41) == expected
