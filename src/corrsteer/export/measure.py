"""A plan measured again at the positions of a format, on the test questions of its run.

The run's own backend answers, under the plan at the positions that the format's documentation says:
an emulation, which :func:`acting` makes. Cost: the model, and one pass over the test questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd

from corrsteer.errors import DataError
from corrsteer.export.formats import ALL, NOT_FIRST, OWN
from corrsteer.export.source import Source
from corrsteer.models.reading import seen
from corrsteer.progress import progress
from corrsteer.records import Completion, Example
from corrsteer.run.build import asked
from corrsteer.stages.answers import answers_frame, generate, score
from corrsteer.stages.bench import Asking, load_model
from corrsteer.stages.evaluate import arm_summary
from corrsteer.steering.arms import BASELINE, STEERED, steered

if TYPE_CHECKING:
    from corrsteer.models.loaded import LoadedModel
    from corrsteer.steering.plan import Plan


@dataclass(frozen=True)
class Row:
    """``accuracy`` with its Wilson interval; ``same``: share of answers with the plan's text."""

    what: str
    n: int
    accuracy: float
    low: float
    high: float
    same: float


def measured(source: Source, acts: str, limit: int | None) -> list[Row]:
    """Rows of the unsteered model and of the plan, from the run, and of the format.

    Raises what :func:`corrsteer.run.build.asked` raises, ModelError where the model cannot be
    loaded here, DataError where the run's answers do not belong to its questions any more.
    """
    spec, backend, asking = asked(source.cfg)
    examples = list(asking.splits["test"])[:limit]
    before = _answers_of(source, examples, seen(spec, [e.prompt for e in examples]))
    model = load_model(backend, spec)  # type: ignore[arg-type]
    texts = answers_frame(examples, answered(model, source.plan, acts, asking, examples))
    own = score(texts, examples, asking.task.scorer)
    frames = {"unsteered": before[BASELINE], "the plan": before[STEERED], "this format": own}
    wanted = before[STEERED]["answer"].to_numpy()
    rows = []
    for what, frame in frames.items():
        told = arm_summary(frame, "steered")
        same = float((frame["answer"].to_numpy() == wanted).mean())
        rows.append(Row(what, told.n, told.accuracy, *told.ci, same))
    return rows


def _answers_of(
    source: Source, examples: Sequence[Example], prompts: list[str]
) -> dict[str, pd.DataFrame]:
    """The run's scored answers to the examples, of the unsteered model and of the plan.
    ``prompts``: as the model reads them now."""
    file = source.run / "answers.parquet"
    try:
        table = pd.read_parquet(file)
        test = table[table["split"] == "test"]
        frames = {
            arm: test[test["arm"] == arm].set_index("id").loc[[e.id for e in examples]]
            for arm in (BASELINE, STEERED)
        }
        if frames[STEERED]["prompt"].tolist() != prompts:
            raise ValueError("the prompts are others")
    except Exception as error:  # whatever pandas and pyarrow say of a file that is damaged
        words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(
            f"{file} has no answers to the questions that the run's settings give now ({words}):"
            " type the run's command again"
        ) from error
    return frames


def answered(
    model: LoadedModel, plan: Plan, acts: str, asking: Asking, examples: Sequence[Example]
) -> list[Completion]:
    """Answers under a plan that acts at the positions ``acts``, in the order of the examples."""
    arm = steered(acting(plan, acts))
    with progress(f"answer test, steering {acts}", len(examples)) as show:
        made = generate(
            model,
            examples,
            [arm],
            batches=model.batches([e.prompt for e in examples]),
            max_new_tokens=asking.task.max_new_tokens,
            decoding=asking.decoding,
            stop=asking.stop,
            likelihood=asking.likelihood,
            on_batch=lambda new, done: show(done),
        )
    return [made[arm.name][i] for i in range(len(examples))]


def acting(plan: Plan, acts: str) -> Plan:
    """The plan as it acts under a format that steers at ``acts``."""
    if acts == OWN:
        return plan
    first = {0} if acts == NOT_FIRST else set()
    reached = tuple(e for e in plan.entries if e.layer not in first)
    return replace(plan, entries=reached, positions=ALL)
