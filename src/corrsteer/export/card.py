"""``python -m corrsteer inspect PLAN``: what a plan is, on one card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from corrsteer.export.command import console
from corrsteer.steering.identity import made_for
from corrsteer.steering.plan import Plan, load_plan, plan_folder


def inspect(path: Path) -> None:
    """Print the card. Raises DataError for what is no whole plan."""
    plan = load_plan(path)
    say = console()
    show_facts(say, {"plan": str(plan_folder(path)), **told(plan)})
    say.print(entries(plan))


def told(plan: Plan) -> dict[str, str]:
    """What a plan says of itself, in words."""
    about, model = plan.about, made_for(plan)
    widths = sorted({e.vector.size for e in plan.entries})
    layers = ", ".join(str(e.layer) for e in plan.entries) or "none"
    task = about.get("task") or {}
    splits = about.get("splits") or {}
    versions = about.get("versions") or {}
    return {
        "model": _joined(model.get("name"), model.get("architecture"), model.get("revision")),
        "fingerprint": str(model.get("fingerprint") or "none: it was made by hand"),
        "layers": f"{layers} (width {', '.join(map(str, widths)) or '-'})",
        "dial": f"{plan.coef:g}",
        "operator": str(plan.operator),
        "positions": plan.positions,
        "selector": _selector(about.get("selector") or {}),
        "coefficient": _joined(_name(about.get("coefficient"))),
        "gate": "always" if plan.gate.open is None else str(plan.gate),
        "made on": _joined(
            task.get("name"),
            *(f"{name} {split.get('n')}" for name, split in splits.items()),
            f"seed {about['seed']}" if "seed" in about else None,
        ),
        "versions": _joined(*(f"{name} {version}" for name, version in versions.items())),
    }


def _selector(told: dict[str, Any]) -> str:
    name, score = told.get("name"), told.get("score")
    return _joined(name, f"by {score}" if score and score != name else None)


def _name(told: Any) -> Any:
    """Of a component, as :func:`corrsteer.store.keys.component` tells it."""
    if not isinstance(told, dict):
        return told and str(told)
    settings = (f"{key}={value}" for key, value in told.items() if key != "name")
    return f"{told.get('name')}({', '.join(settings)})"


def _joined(*words: Any) -> str:
    return ", ".join(str(word) for word in words if word) or "not said"


def show_facts(say: Console, rows: dict[str, str]) -> None:
    """A line for each."""
    width = max(map(len, rows))
    for name, text in rows.items():
        line = Text.assemble((f"{name:<{width}}", "bold"), f"  {text}")
        say.print(line, soft_wrap=True, highlight=False)


def entries(plan: Plan) -> Table:
    """A row for each layer, with the selector's own score beside r."""
    made = Table(box=box.SIMPLE, show_edge=False)
    by = str((plan.about.get("selector") or {}).get("score", "r"))
    own = [by] if any(by in e.about for e in plan.entries) else []
    titles = ("layer", "SAE", "feature", "class", *own, "r", "coefficient", "norm at the dial")
    for title in titles:
        made.add_column(escape(title), justify="left" if title in ("SAE", "class") else "right")
    saes = plan.about.get("saes") or {}
    for e in sorted(plan.entries, key=lambda e: e.layer):
        made.add_row(
            str(e.layer),
            escape(str(saes.get(str(e.layer), "-"))),
            "-" if e.feature < 0 else str(e.feature),
            escape(str(e.about.get("class", "-"))),
            *(f"{score:.4g}" if (score := e.about.get(n)) is not None else "-" for n in own),
            f"{e.r:.3f}",
            f"{e.coefficient:.4g}",
            f"{abs(plan.coef) * e.norm:.4g}",
        )
    return made
