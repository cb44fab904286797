"""``python -m corrsteer export RUN FORMAT``: write it, say what differs, measure it again."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from corrsteer.errors import CorrSteerError
from corrsteer.export.formats import FORMATS, STEERS, Format
from corrsteer.export.measure import Row, measured
from corrsteer.export.place import BEGINS, check_free, lay_card, written
from corrsteer.export.source import Source, check_finished, read


def export(run: Path, name: str, out: Path | None, *, measure: bool, limit: int | None) -> None:
    """Raises a CorrSteerError, before anything is written, for a run that is not finished, a plan
    that the format cannot say, another model than the plan's, a folder that holds something else.
    A measurement that cannot be made is told in a line, and the files stay; one that is made is
    kept beside them, in ``card.md``.
    """
    check_finished(run)
    format_, module = FORMATS[name], importlib.import_module(f"corrsteer.export.{name}")
    out = out or run / "export" / name
    check_free(out)
    source = read(run, name)
    if hasattr(module, "check"):
        module.check(source)
    with written(out) as folder:
        lines: list[str] = module.write(source, folder, out)
    say = console()
    for line in (*about(format_, source, out), *lines):
        say.print(line, soft_wrap=True, highlight=False, markup=False)
    if not measure:
        return
    try:
        with _progress_told():
            rows = measured(source, format_.acts, limit)
    except CorrSteerError as error:
        words = " ".join(str(error).split())
        line = f"not measured: {words}"
        say.print(line, soft_wrap=True, highlight=False, markup=False)
        return
    say.print(table(rows, name))
    told = how(format_, source)
    say.print(told, soft_wrap=True, highlight=False, markup=False)
    card = lay_card(out, card_of([*about(format_, source, out)[1:], *lines], rows, name, told))
    say.print(f"card: {card}", soft_wrap=True, highlight=False, markup=False)


@contextmanager
def _progress_told() -> Iterator[None]:
    """Our own lines of the log on stderr."""
    log, handler = logging.getLogger("corrsteer"), logging.StreamHandler()
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(before)
        log.removeHandler(handler)


def about(format_: Format, source: Source, out: Path) -> list[str]:
    """What was written, and how it differs from the plan."""
    exact = format_.is_exact(source.plan.positions, source.vectors())
    differs = format_.differs
    if exact and format_.acts != "generation":
        differs = "nothing: the plan steers every token, too"
    elif source.plan.positions == "all":
        differs = "llama.cpp cannot reach block 0"
    return [
        f"wrote {out}: {', '.join(sorted(file.name for file in out.iterdir()))}",
        f"steers: {STEERS[format_.acts]}",
        f"differs from the plan: {differs}",
    ]


def how(format_: Format, source: Source) -> str:
    """Who answered, and where."""
    if format_.acts == "generation":
        return "this format: its positions are the plan's own, answered again by this program"
    return (
        f"this format: emulated on the run's model ({STEERS[format_.acts]}); its own program was"
        " not run"
    )


def card_of(lines: Sequence[str], rows: Sequence[Row], name: str, told: str) -> str:
    """Markdown. ``lines``: what is said of the files; ``told``: who answered."""
    head = f"| {rows[0].n} test questions | accuracy % | 95 % interval | same answers % |"
    body = [
        f"| {row.what} | {100 * row.accuracy:.1f} | {100 * row.low:.1f} to {100 * row.high:.1f}"
        f" | {100 * row.same:.1f} |"
        for row in rows
    ]
    parts = [f"{BEGINS}: {name}", *lines, "\n".join([head, "|---|---|---|---|", *body]), told]
    return "\n\n".join(f"{part[:1].upper()}{part[1:]}" for part in parts) + "\n"


def table(rows: Sequence[Row], name: str) -> Table:
    made = Table(box=box.SIMPLE, show_edge=False)
    for title in (f"{rows[0].n} test questions", "accuracy %", "95 % interval", "same answers %"):
        made.add_column(title, justify="left" if title.endswith("questions") else "right")
    for row in rows:
        what = f"{name} ({row.what})" if row.what == "this format" else row.what
        interval = f"{100 * row.low:.1f} to {100 * row.high:.1f}"
        made.add_row(what, f"{100 * row.accuracy:.1f}", interval, f"{100 * row.same:.1f}")
    return made


def console(**settings: Any) -> Console:
    found = Console(**settings)
    if not found.is_terminal:
        found.width = 120  # rich assumes 80 in a file, and would cut a table
    return found
