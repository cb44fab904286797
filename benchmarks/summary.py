"""One table of what ``benchmarks/gpu.sh`` left in a folder: results.json and results.md.

    python -m benchmarks.summary FOLDER

Reads speed.json (:mod:`benchmarks.speed`), parts.tsv (name, exit status and seconds of each part)
and runs/NAME/metrics.json; what is missing is left out, and of a part that failed the last line
that it said is told.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from corrsteer.errors import DataError
from corrsteer.report.record import read_record
from corrsteer.steering.arms import BASELINE, STEERED


def gathered(folder: Path) -> dict[str, Any]:
    """``parts``: how each went; ``speed``: of :mod:`benchmarks.speed`; ``runs``: by name."""
    try:
        speed = json.loads((folder / "speed.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it is missing, or was cut off
        speed = None
    runs = {file.parent.name: _run(file.parent) for file in folder.glob("runs/*/metrics.json")}
    return {"parts": _parts(folder), "speed": speed, "runs": dict(sorted(runs.items()))}


def _parts(folder: Path) -> list[dict[str, Any]]:
    parts = []
    file = folder / "parts.tsv"
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        name, status, seconds = line.split("\t")
        part: dict[str, Any] = {"name": name, "status": int(status), "seconds": int(seconds)}
        if part["status"]:
            log = folder / f"{name}.log"
            said = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
            part["failed"] = (said.strip().splitlines() or ["it said nothing"])[-1][:300]
            if part["status"] == 124:
                part["failed"] = "out of time"
        parts.append(part)
    return parts


def _run(folder: Path) -> dict[str, Any]:
    try:
        record = read_record(folder)
    except DataError as error:
        return {"failed": str(error)}
    return {
        "model": record.model,
        "task": record.task,
        "n": record.n["test"],
        "accuracy": {
            name: arm.accuracy for name, arm in record.arms.items() if not name.startswith("random")
        },
        "gain": record.gain,
        "gain_ci": list(record.gain_ci),
        "task_metrics": {name: record.task_metrics.get(name) for name in (BASELINE, STEERED)},
        "verdict": record.verdict,
    }


def table(found: Mapping[str, Any]) -> str:
    """The same in Markdown."""
    lines = [*_speed(found["speed"]), *_results(found["runs"]), "## Parts", ""]
    lines += ["| part | seconds | |", "|---|---:|---|"]
    for part in found["parts"]:
        lines.append(f"| {part['name']} | {part['seconds']} | {part.get('failed', 'done')} |")
    return "\n".join(lines) + "\n"


def _speed(speed: Mapping[str, Any] | None) -> list[str]:
    if speed is None:
        return []
    lines = [
        f"## Speed: {speed['blocks']} blocks of {speed['width']}, SAEs of {speed['features']:,}",
        "",
        f"{speed['device']}, {speed['dtype']}, {speed['prompts']} prompts in batches of "
        f"{speed['batch_size']}, up to {speed['new_tokens']} new tokens; tokens per second of the "
        f"fastest of {speed['repeats']} repeats.",
        "",
        "| | tokens/s | times plain, fastest | median | GPU memory |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, case in speed["cases"].items():
        if "failed" in case:
            lines.append(f"| {name} | failed: {case['failed']} | | | |")
            continue
        ratios = [_or_dash(case.get(key), ".2f") for key in ("times_plain", "times_plain_median")]
        memory = _or_dash(case["peak_gpu_gb"], ".1f") + (" GB" if case["peak_gpu_gb"] else "")
        cells = [name, f"{case['tokens_per_s']:,.0f}", *ratios, memory]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _results(runs: Mapping[str, Any]) -> list[str]:
    if not runs:
        return []
    head = "| run | model | n | unsteered | steered | gain [95 %] |"
    lines = ["## Results", "", head, "|---|---|---:|---:|---:|---:|"]
    for name, run in runs.items():
        if "failed" in run:
            lines.append(f"| {name} | failed: {run['failed']} | | | | |")
            continue
        low, high = (f"{100 * end:+.1f}" for end in run["gain_ci"])
        cells = [name, run["model"], str(run["n"])]
        cells += [_or_dash(run["accuracy"].get(arm), ".1%") for arm in (BASELINE, STEERED)]
        lines.append(f"| {' | '.join(cells)} | {100 * run['gain']:+.1f} [{low}, {high}] |")
    return [*lines, ""]


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    found = gathered(folder)
    (folder / "results.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    told = table(found)
    (folder / "results.md").write_text(told, encoding="utf-8")
    print(told, end="")


if __name__ == "__main__":
    main()
