"""What the jobs of a study measure besides (``study.measure``): a table of each in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from corrsteer.errors import check_known
from corrsteer.methods.protocol import Fitted
from corrsteer.stages.bench import Bench
from corrsteer.stages.held_out import held_out
from corrsteer.stages.norms import norm_ratios
from corrsteer.steering.arms import BASELINE, KINDS, STEERED, Arm


def asked_for(study: Any) -> tuple[str, ...]:
    """``study``: the setting, None for none. Raises ConfigError for a control that is none."""
    if study is None:
        return ()
    control = study.get("control") or ()
    for kind in [control] if isinstance(control, str) else control:
        check_known("study.control", kind, [k for k in KINDS if k not in (BASELINE, STEERED)])
    return tuple(study.get("measure") or ())


def tables(
    bench: Bench, names: Sequence[str], fitted: Fitted, arms: Sequence[Arm], base: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """By name. ``arms``: that answered the test split; ``base``: its unsteered answers."""
    found = {}
    if "held_out" in names:
        features = [(f.layer, f.feature) for f in fitted.chosen]
        made = pd.DataFrame(held_out(bench, features, base, fitted.observed.collect))
        # Of a feature of wrong answers it is the chance that a wrong one has the higher activation.
        lowered = np.array([f.sign < 0 for f in fitted.chosen])
        found["held_out"] = made.assign(auroc=made["auroc"].where(~lowered, 1 - made["auroc"]))
    if "norms" in names:
        some = [arm for arm in arms if arm.kind in (STEERED, "direction")]
        rows = [row for arm in some for row in norm_ratios(bench, arm, base)]
        found["norms"] = pd.DataFrame(rows, columns=["arm", "layer", "ratio"])
    return found
