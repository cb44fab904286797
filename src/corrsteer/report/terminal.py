"""A sweep's table on the terminal, from its ``summary.csv``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from corrsteer.report.numbers import plain_text
from corrsteer.report.sweep_table import SETTINGS

_RESULTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "validation_baseline": ("valid.\nunst.", lambda x: f"{100 * x:.1f}"),
    "validation_steered": ("valid.\nsteered", lambda x: f"{100 * x:.1f}"),
    "baseline": ("test\nunst.", lambda x: f"{100 * x:.1f}"),
    "steered": ("test\nsteered", lambda x: f"{100 * x:.1f}"),
    "gain": ("gain", lambda x: f"{100 * x:+.1f}"),
    "random_gain_max": ("best\nrandom", lambda x: f"{100 * x:+.1f}"),
    "control_best": ("best\ncontrol", lambda x: f"{100 * x:+.1f}"),
    "fixed": ("fixed", lambda x: f"{x:.0f}"),
    "broken": ("broken", lambda x: f"{x:.0f}"),
    "ser": ("SER", lambda x: f"{x:.2f}"),
    "p_holm": ("p\nHolm", lambda x: f"{x:.3f}" if x >= 0.001 else "<.001"),
}


def print_summary(folder: Path) -> None:
    """``summary.csv`` on the terminal: the settings that differ, and what came of them."""
    jobs = pd.read_csv(folder / "summary.csv")
    varied = [name for name in SETTINGS if jobs[name].nunique() > 1] or ["coef"]
    table = Table(
        caption="accuracies in %, unst.: of the unsteered model; gains in points over it on test;"
        " *: chosen on validation; p: McNemar's, corrected for the number of jobs",
        caption_justify="left",
        box=box.SIMPLE,
        show_edge=False,
        padding=0,  # fourteen columns fit into 80 characters
    )
    for title in ("job", *varied, *(title for title, _ in _RESULTS.values())):
        table.add_column(title, justify="right")
    for _, job in jobs.iterrows():
        results = [
            "" if pd.isna(job[name]) else text(job[name]) for name, (_, text) in _RESULTS.items()
        ]
        number = f"{'*' if job['chosen'] else ''}{job['job']}"
        if job["state"] != "done":
            results[0] = job["state"]
        table.add_row(number, *("" if pd.isna(job[n]) else f"{job[n]}" for n in varied), *results)
    console = Console()
    if not console.is_terminal:
        console.width = 120  # rich assumes 80 in a file, and would cut the table
    console.print(table)
    for line in told(jobs):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if line := how_sure(jobs):
        console.print(line, soft_wrap=True, highlight=False)
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True, highlight=False)


def told(jobs: pd.DataFrame) -> list[str]:
    """What a ``summary.csv`` says of an experiment's claim, of all settings, where there are
    several, and of each, with the dials to add."""
    if "verdict" not in jobs:
        return []
    said = jobs[jobs["verdict"].notna()]
    first = [name for name in ("study", "overall") if name in jobs]
    lines = [plain_text(text) for name in first for text in jobs[name].dropna()]
    for _, job in said.iterrows():
        name = f"{job['called']}: " if len(said) > 1 else ""
        advice = "" if pd.isna(job["advice"]) else f" {job['advice']}"
        lines.append(plain_text(f"{name}{job['verdict']}{advice}"))
    return lines


def how_sure(jobs: pd.DataFrame) -> str:
    """In how many resamples of the validation questions the jobs that were chosen would be chosen
    again; empty where none had a rival."""
    several = jobs[jobs["chosen"] & (jobs["chosen_share"] < 1)]
    shares = [f"job {j['job']} in {100 * j['chosen_share']:.0f} %" for _, j in several.iterrows()]
    told = f"validation would choose again, on resampled questions: {', '.join(shares)}"
    return told if shares else ""
