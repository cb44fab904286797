"""Memory stays flat however many batches are answered and read."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from corrsteer.models.local import Local
from corrsteer.models.spec import Model
from tests.models.test_parity import PROMPTS, plan_of

pytestmark = pytest.mark.night

BATCHES, WARM = 200, 50


def resident() -> int:
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("work", ["generate", "replay"])
def test_memory_does_not_grow_with_batches(tiny_llama, work):
    """The slope over the last 150 of 200 batches, as bytes that a run of 8 hours with a batch a
    second would gain: less than half a gigabyte. A leak of one batch's residuals at every layer
    would be several."""
    model = Local("cpu").load(Model("tiny", str(tiny_llama), dtype="float32"))
    plans = [plan_of([0, 1, 2])]
    used = []
    for n in range(BATCHES):
        prompts = [f"{n} {prompt}" for prompt in PROMPTS[:2]]
        if work == "generate":
            model.generate(prompts, plans, max_new_tokens=2)
        else:
            model.replay(prompts, [(50, 51, 52)] * len(prompts), [0, 1, 2], "generated")
        if n >= WARM and n % 10 == 0:
            gc.collect()
            used.append(resident())
    slope = np.polyfit(range(0, 10 * len(used), 10), used, 1)[0]
    assert slope * 8 * 3600 < 0.5e9, f"{slope:.0f} bytes a batch"
