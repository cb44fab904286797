"""What a method gives is looked at at once: one thing wrong is one line that names it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from corrsteer.errors import DataError
from corrsteer.methods.protocol import Fitted, Observed
from corrsteer.models.local import Local
from corrsteer.run.fitted import checked
from corrsteer.steering.arms import Arm, steered
from corrsteer.steering.plan import Plan, PlanEntry

WIDTH = 8
METHOD = SimpleNamespace(name="Odd")
BENCH = SimpleNamespace(
    layers=(1, 3), backend=Local(device="cpu"), spec=SimpleNamespace(shape=lambda: (4, WIDTH))
)
ENTRY = PlanEntry(1, 5, 0.2, 2.0, np.ones(WIDTH, np.float32))
PLAN = Plan((ENTRY, replace(ENTRY, layer=3)))
WHOLE = Fitted(steered(PLAN), Observed([], pd.DataFrame(), [], None))


class Demanding(Plan):
    needs = frozenset({"vectors", "gradients"})


def of(**changes) -> Fitted:
    """With another plan, of one entry changed so."""
    return replace(WHOLE, arm=steered(Plan((replace(ENTRY, **changes),))))


def planned(**changes) -> Fitted:
    return replace(WHOLE, arm=steered(replace(PLAN, **changes)))


def test_what_is_right_is_passed_on():
    assert checked(WHOLE, METHOD, BENCH) is WHOLE
    told = replace(WHOLE, arm=Arm("steered", "steered", prefix="Read carefully."))
    assert checked(told, METHOD, BENCH) is told
    tables = replace(WHOLE, tables={"trials": pd.DataFrame()})
    assert checked(tables, METHOD, BENCH) is tables


@pytest.mark.parametrize(
    ("fitted", "part"),
    [
        (None, "it must be a Fitted, not NoneType"),
        (replace(WHOLE, arm=PLAN), "arm must be an Arm, not Plan"),
        (replace(WHOLE, arm=Arm("mine", "steered", PLAN)), "arm must have the name and the kind"),
        (replace(WHOLE, arm=Arm("steered", "random", PLAN)), "not 'steered', 'random'"),
        (replace(WHOLE, arm=Arm("steered", "steered", PLAN, decoding="beams")), "arm.decoding is"),
        (replace(WHOLE, arm=Arm("steered", "steered", PLAN, decoding="auto")), "arm.decoding is"),
        (replace(WHOLE, arm=Arm("steered", "steered", PLAN, prefix=None)), "arm.prefix must be"),
        (replace(WHOLE, arm=Arm("steered", "steered", PLAN, stop="x")), "arm.stop must be a tuple"),
        (replace(WHOLE, arm=Arm("steered", "steered", object())), "arm.intervention is no Interv"),
        (replace(WHOLE, observed=None), "observed must be"),
        (replace(WHOLE, ranked=None), "ranked must be"),
        (replace(WHOLE, chosen=(1,)), "chosen must be"),
        (replace(WHOLE, search={}), "search must be"),
        (replace(WHOLE, tables={"../x": pd.DataFrame()}), "tables['../x'] must be named"),
        (replace(WHOLE, tables={"features": pd.DataFrame()}), "tables['features'] must be named"),
        (replace(WHOLE, tables={"x": [1]}), "tables['x'] must be a DataFrame, not list"),
        (planned(entries=()), "plan.entries are none"),
        (planned(coef=float("nan")), "plan.coef is nan"),
        (replace(WHOLE, arm=steered(Demanding((ENTRY,)))), "plan needs gradients, which the back"),
        (of(layer=2), "plan.entries[0].layer is 2; the run's are [1, 3]"),
        (of(vector=np.ones(WIDTH)), "plan.entries[0].vector must be a NumPy array of float32"),
        (of(vector=[1.0] * WIDTH), "plan.entries[0].vector must be a NumPy array of float32"),
        (of(vector=np.ones(WIDTH + 1, np.float32)), "has the shape [9]; it must be [8]"),
        (of(vector=np.full(WIDTH, np.nan, np.float32)), "plan.entries[0].vector is not finite"),
    ],
)
def test_what_is_wrong_is_named(fitted, part):
    with pytest.raises(DataError) as caught:
        checked(fitted, METHOD, BENCH)
    line = str(caught.value)
    assert line.startswith("strategy Odd: what fit gives is wrong: ") and part in line, line
    assert "\n" not in line
