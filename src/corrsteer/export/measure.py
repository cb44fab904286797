"""A plan measured again at the positions of a format, on the test questions of its run.

The model's own backend answers. Where a format steers a plan's own positions, the plan itself is
asked; elsewhere plain forward hooks on the model emulate what the format's documentation says, and
the answers are those of the same batches. :func:`answered` is the one place that does it.
Cost: the model, and one pass over the test questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from corrsteer.errors import DataError, ModelError
from corrsteer.export.formats import NOT_FIRST, OWN
from corrsteer.export.source import Source
from corrsteer.models.reading import seen
from corrsteer.progress import progress
from corrsteer.records import Completion, Example
from corrsteer.run.build import asked
from corrsteer.stages.answers import answers_frame, generate, score
from corrsteer.stages.bench import Asking, load_model
from corrsteer.stages.evaluate import arm_summary
from corrsteer.steering.arms import BASELINE, STEERED, baseline, steered
from corrsteer.steering.hooks import blocks

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
    # The positions of a plan that a format steering at OWN takes are its own.
    arm = steered(plan) if acts == OWN else baseline()
    with progress(f"answer test as {acts}", len(examples)) as show:
        settings: dict[str, Any] = {
            "batches": model.batches([e.prompt for e in examples]),
            "max_new_tokens": asking.task.max_new_tokens,
            "decoding": asking.decoding,
            "stop": asking.stop,
            "likelihood": asking.likelihood,
            "on_batch": lambda new, done: show(done),
        }
        if arm.intervention is not None:
            made = generate(model, examples, [arm], **settings)
        else:
            with everywhere(model, plan, leave_out={0} if acts == NOT_FIRST else set()):
                made = generate(model, examples, [arm], **settings)
    return [made[arm.name][i] for i in range(len(examples))]


@contextmanager
def everywhere(model: LoadedModel, plan: Plan, leave_out: set[int]) -> Iterator[None]:
    """Add a plan's vectors at every position of every pass, by hooks on the plain model."""
    import torch

    module = getattr(model, "module", None)
    if module is None:
        raise ModelError("the model is on a server, where no hooks can be put: use backend=local")
    places = blocks(module, "the model")
    hooks = []
    try:
        for layer, vector in plan.vectors().items():
            if layer not in leave_out:
                home = next(places[layer].parameters()).device
                added = torch.tensor(vector, device=home)
                hooks.append(places[layer].register_forward_hook(_adder(added)))
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _adder(vector: Any) -> Any:
    def hook(module: Any, inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + vector.to(output[0]), *output[1:])
        return output + vector.to(output)

    return hook
