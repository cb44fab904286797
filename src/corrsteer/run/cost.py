"""What fitting and answering cost this process: seconds and the most memory, for comparisons. No
result: a run that finds its answers in the cache costs next to nothing.

On Linux the highest memory is reset before each measurement; elsewhere it is that since the
process began.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = "method.json"


@dataclass
class Cost:
    """``peak_mb``: of the process, in 10^6 bytes, with what the model and the program take;
    ``gpu_mb``: allocated on a GPU; None where there is none."""

    seconds: float = 0.0
    peak_mb: float | None = None
    gpu_mb: float | None = None


@contextmanager
def measured() -> Iterator[Cost]:
    cost = Cost()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    if (cuda := _cuda()) is not None:
        cuda.reset_peak_memory_stats()
    began = time.monotonic()
    try:
        yield cost
    finally:
        cost.seconds = time.monotonic() - began
        cost.peak_mb = _peak()
        if (cuda := _cuda()) is not None:
            cost.gpu_mb = cuda.max_memory_allocated() / 1e6


def write_costs(folder: Path, learns_from: str, fit: Cost, answer: Cost, answers: int) -> None:
    """``answers``: how many were asked for, without and with the method."""
    content = {
        "learns_from": learns_from,
        "fit": asdict(fit),
        "answer": {**asdict(answer), "answers": answers},
    }
    (folder / FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _cuda() -> Any:
    """torch.cuda, where torch is there already and has a GPU."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def _peak() -> float | None:
    with suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text(encoding="ascii")
        (line,) = (row for row in status.splitlines() if row.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    with suppress(ImportError):
        import resource

        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return kilobytes / 1e6 if sys.platform == "darwin" else kilobytes * 1024 / 1e6
    return None
