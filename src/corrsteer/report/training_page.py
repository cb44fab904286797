"""The report of trained SAEs: how good each layer's is, on text it was not trained on.

Reads only ``saes.json`` and ``status.json`` of the run's folder; needs no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corrsteer.errors import DataError
from corrsteer.report.pages import write_page
from corrsteer.report.tables import read_json

RECORD = "saes.json"


def write_training_page(folder: Path) -> Path:
    """Write ``report.html`` and return its path. Raises DataError where there is no such record."""
    try:
        record = read_json(folder / RECORD)
        page = {"saes": record, "status": _status(folder), "rows": _rows(record)}
        return write_page(folder / "report.html", "training.html.j2", page)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder / RECORD} cannot be read ({error}); run the job again") from error


def _status(folder: Path) -> dict[str, Any]:
    file = folder / "status.json"
    status: dict[str, Any] = read_json(file) if file.exists() else {}
    return status


def _rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """A layer each, with what the last steps of training said beside the held-out numbers."""
    last = record["points"][-1]
    rows = []
    for layer in record["layers"]:
        said = {f"trained_{name}": last[f"{name} {layer['layer']}"] for name in ("explained", "l0")}
        rows.append({**layer, **said})
    return rows
