"""A run with components that are not the product's is told rightly, whatever its method gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from corrsteer.config import resolved_yaml
from corrsteer.methods.protocol import Fitted, observe
from corrsteer.report.record import read_record
from corrsteer.run.pipeline import run
from corrsteer.selectors.correlation import Correlation
from corrsteer.steering.arms import STEERED, Arm, steered
from corrsteer.steering.plan import Plan, PlanEntry, load_plan
from corrsteer.store.runfolder import RunFolder
from corrsteer.trackers.sending import summary
from tests.operators import Clamp, Side
from tests.report.fabricated_run import Page
from tests.test_config import composed

WORDS = [
    *("task=bbq", "layers=[1,3]", "backend.device=cpu", "limit=24", "controls=few"),
    *("collect.shuffles=20", "collect.resamples=20", "side_effects.unrelated=4"),
    *("side_effects.texts=2", "side_effects.answers=4", "descriptions=false", "classes=null"),
]


@dataclass(frozen=True)
class Pushed:
    """A method that ranks nothing: one fixed direction at every layer."""

    name: ClassVar[str] = "Pushed"
    variant: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = Plan(()).needs
    length: float = 4.0

    def share(self, bench):
        return [self.fit(bench)]

    def fit(self, bench):
        observed = observe(bench)
        vector = np.full(bench.model.d_model, self.length / bench.model.d_model**0.5, np.float32)
        entries = tuple(PlanEntry(n, -1, 0.0, 1.0, vector) for n in bench.layers)
        return Fitted(steered(Plan(entries)), observed)


@dataclass(frozen=True)
class Told:
    """A method whose intervention is none: a sentence before every prompt."""

    name: ClassVar[str] = "Told"
    variant: ClassVar[str] = "short"
    needs: ClassVar[frozenset[str]] = frozenset()
    text: str = "Read carefully."

    def share(self, bench):
        return []

    def fit(self, bench):
        return Fitted(Arm(STEERED, "steered", prefix=self.text), observe(bench))


@dataclass(frozen=True)
class Reversed:
    """A selector that ranks as the correlation does, the worst of its ten first."""

    score: ClassVar[str] = "reversed r"
    criterion: ClassVar[str] = "correlates at all"
    null: ClassVar[bool] = False
    classes: ClassVar[None] = None

    def rank(self, stats):
        best = Correlation(top_k=10).rank(stats)
        return tuple(replace(f, rank=11 - f.rank) for f in reversed(best))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("seams")


def carried_out(place, name, *words):
    folder = place / name
    folder.mkdir()
    cfg, kept = composed(*WORDS, f"cache={place / 'cache'}", *words), RunFolder(folder)
    kept.start(list(words))
    kept.write_config(resolved_yaml(cfg))
    run(cfg, folder)
    return folder, read_record(folder), Page(folder / "report.html")


def of(group, component):
    """The words that put a component of this file into a group."""
    return f"~{group}", f"+{group}._target_={component.__module__}.{component.__qualname__}"


@pytest.mark.night
def test_a_method_without_features(place):
    folder, record, page = carried_out(place, "pushed", *of("strategy", Pushed))
    assert (record.method, record.method_name, record.noise.features) == ("Pushed", "Pushed", 0)
    assert "Pushed" in page.text and "No feature was" in page.text
    plan = load_plan(folder)
    assert [e.norm for e in plan.entries] == pytest.approx([4.0, 4.0])
    assert len(record.controls["random"].gains) == 2  # at the plan's norms, as for any plan
    assert pd.read_csv(folder / "features.csv").empty
    assert summary(record)["layers_steered"] == 0


@pytest.mark.night
def test_a_method_without_a_plan(place):
    folder, record, page = carried_out(place, "told", *of("strategy", Told))
    assert record.method_name == "Told-short" and "Told-short" in page.text
    assert not (folder / "plan").exists()
    answers = pd.read_parquet(folder / "answers.parquet").set_index(["split", "arm"]).sort_index()
    for split in ("validation", "test", "unrelated"):
        prompts = [answers.loc[(split, arm), "prompt"] for arm in ("baseline", "steered")]
        assert (prompts[1].to_numpy() == "Read carefully.\n\n" + prompts[0].to_numpy()).all()
        assert (answers.loc[(split, "steered"), "n_steered"] == 0).all()
    assert list(record.controls) == ["constrained"]
    assert record.side_effects.neutral is record.side_effects.activity is None
    assert record.side_effects.off_target.arms.keys() == {"steered"}


@pytest.mark.night
def test_a_selector_an_operator_and_a_gate(place):
    words = [*of("selector", Reversed), *of("operator", Clamp), "+operator.level=6.0"]
    folder, record, page = carried_out(place, "odd", *words, *of("gate", Side))
    assert (record.selector, record.score) == ("Reversed", "reversed r")
    assert record.operator == "Clamp"
    plan = load_plan(folder)
    assert (plan.operator, plan.gate) == (Clamp(6.0), Side())
    assert "Clamp" in page.text and "Reversed" in page.text
    _, other, _ = carried_out(place, "odder", *words[:-1], "+operator.level=1.0", *of("gate", Side))
    assert other.arms["baseline"] == record.arms["baseline"]
    steered_answers = [
        pd.read_parquet(place / name / "answers.parquet", filters=[("arm", "==", "steered")])
        for name in ("odd", "odder")
    ]
    assert not steered_answers[0]["answer"].equals(steered_answers[1]["answer"])
