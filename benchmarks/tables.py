"""What ``benchmarks.bench`` kept, as tables of ``benchmarks/README.md``: between its marks of a
group they are replaced, so nobody copies numbers. Medians, in times what stands above a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

README = Path(__file__).parent / "README.md"
MARK, END = "<!-- {}: made by python -m benchmarks.bench --render -->", "<!-- end of {} -->"
ENCODERS, HEARD, HOOKS = "encoders alone", "heard while writing", "hooks at every token"
ONCE = "statistics, paid once"
Kept = Mapping[str, Mapping[str, Any]]


def render(kept: Kept, page: Path = README) -> int:
    """Write the tables of all groups that the page has marks of; what was not run says so."""
    text = page.read_text(encoding="utf-8")
    for group, made in MADE.items():
        mark, end = MARK.format(group), END.format(group)
        if mark in text:
            before, _, rest = text.partition(mark)
            some = {command: one for command, one in kept.items() if one["group"] == group}
            body = f"{made(some)}\n\n{_commands(some)}" if some else "**Not measured.**"
            text = f"{before}{mark}\n\n{body}\n\n{end}{rest.partition(end)[2]}"
    page.write_text(text, encoding="utf-8")
    return 0


def _commands(kept: Kept) -> str:
    """Numbered as in the table, with their dates."""
    return "\n".join(
        f"{n}. `{command}`: {one['date']}, {one['machine']}, {one['seconds']} s"
        for n, (command, one) in enumerate(kept.items(), 1)
    )


def _word(one: Mapping[str, Any], name: str) -> str:
    words = list(one["words"])
    return str(words[words.index(name) + 1]) if name in words else "–"


def _median(value: Any) -> str:
    """Of a ratio, or of a pair, fastest and median."""
    if value is None:
        return "–"
    return f"{value[1] if isinstance(value, list) else value:.3g}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """``texts``: how many columns are no numbers."""
    lines = ["|".join(columns), "|".join(["---"] * texts + ["---:"] * (len(columns) - texts))]
    return "\n".join(f"|{line}|" for line in [*lines, *map("|".join, rows)])


def _found(one: Mapping[str, Any]) -> Mapping[str, Any]:
    """Ratios by name; none of a part that failed."""
    found: Mapping[str, Any] = one.get("found", {})
    inside = list(found.values())
    return inside[0] if len(inside) == 1 and isinstance(inside[0], Mapping) else found


def steering(kept: Kept) -> str:
    cases = list(dict.fromkeys(name for one in kept.values() for name in _found(one)))
    head = [f"{n}: {_word(one, '--model')}, {_word(one, '--tokens')} tokens, batches of"
            f" {_word(one, '--batch-size')}" for n, one in enumerate(kept.values(), 1)]  # fmt: skip
    rows = [[name, *(_median(_found(one).get(name)) for one in kept.values())] for name in cases]
    return _table(["times plain `generate`", *head], rows)


def collecting(kept: Kept) -> str:
    """A row per setting; last what decides, with and without what is paid once: 1.15 at most, and
    1 at most."""
    settings = ("--model", "--width", "--tokens", "--batch-size")
    cases = list(dict.fromkeys(name for one in kept.values() for name in _found(one)))[1:]
    rows = []
    for n, one in enumerate(kept.values(), 1):
        found = _found(one)
        own = [str(n), *(_word(one, name) for name in settings)]
        own += [_median(found.get(name)) for name in cases]
        if found:
            heard, least = found[HEARD][1], 1 + found[ENCODERS][1]
            for spent in (heard, heard - found[ONCE][1]):
                own += [_median(spent / least), _median(spent / found[HOOKS][1])]
        rows.append(own + ["–"] * (4 * (not found)))
    last = [f"{HEARD}, of plain and encoders", f"of {HOOKS}"]
    columns = ["", "model", "width", "tokens", "batch", *cases, *last,
               *(f"{name}, without {ONCE}" for name in last)]  # fmt: skip
    return _table(columns, rows, 2)


def listed(kept: Kept) -> str:
    """A row per case of each command."""
    rows = [
        [str(n), name, _median(value)]
        for n, one in enumerate(kept.values(), 1)
        for name, value in (_found(one) or {"failed": None}).items()
    ]
    return _table(["", "case", "ratio"], rows, 2)


def scaling(kept: Kept) -> str:
    rows = []
    for n, one in enumerate(kept.values(), 1):
        for axis, found in one.get("found", {}).items():
            for name, (value, low, high) in found["fits"].items():
                rows.append([str(n), axis, name, f"{value:.2g} [{low:.2g}, {high:.2g}]"])
    return _table(["", "of", "fitted", "slope [95 %]"], rows, 3)


MADE = {
    "steering": steering, "collecting": collecting, "arms": listed, "job": listed,
    "scaling": scaling,
}  # fmt: skip
