"""On what machine and with which packages something was made: what weights may depend on."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "tokenizers", "sae-lens", "numpy")


def this() -> dict[str, Any]:
    """Processor, instructions that torch uses, threads, versions."""
    import torch

    return {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _processor() -> str:
    """Its name and, since that alone may say little, its family and model numbers."""
    file = Path("/proc/cpuinfo")
    if not file.exists():
        return platform.processor()
    lines = re.findall(r"^(model name|cpu family|model)\s*:\s*(.+)$", file.read_text(), re.M)
    found = dict(reversed(lines))
    return (
        f"{found.get('model name', platform.machine())}, family {found.get('cpu family', '?')}, "
        f"model {found.get('model', '?')}"
    )
