"""How often a plan's gate is open, how much its operator then adds, and what the gate's signal
knows, on the test answers. Each position is read before the operator writes there.

Cost: two passes over prompt and answer, of the steered and of the unsteered answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from corrsteer.progress import progress
from corrsteer.records import RIGHT, Example
from corrsteer.report.record import GateLayer, GateUse
from corrsteer.stages.bench import Bench, prompts_digest, read_json, write_json
from corrsteer.stats.logistic import auroc
from corrsteer.steering.confidence import reads_entropy
from corrsteer.steering.plan import Plan
from corrsteer.steering.positions import where
from corrsteer.steering.probe import positions_read
from corrsteer.store.keys import digest

if TYPE_CHECKING:
    from corrsteer.models.loaded import LoadedModel

STAGE = "gate"


def gate_use(
    bench: Bench,
    plan: Plan,
    examples: Sequence[Example],
    base: pd.DataFrame,
    steered: pd.DataFrame,
) -> GateUse:
    """``base`` and ``steered``: scored answers to the examples, without and with the plan."""
    wrong = (base["score"] < RIGHT).to_numpy()
    answers = [[[int(t) for t in row] for row in frame["tokens"]] for frame in (base, steered)]
    settings = {
        **bench.model_key,
        **plan.key(),
        "prompts": prompts_digest(bench, examples),
        "tokens": digest(answers),
        "wrong": digest(wrong.tobytes()),
    }

    def write(folder: Path) -> None:
        prompts = [e.prompt for e in examples]
        use = measured(bench.model, plan, prompts, answers[0], answers[1], wrong)
        write_json(folder, use.model_dump())

    use = GateUse.model_validate(read_json(bench.store.get(STAGE, settings, write)))
    # Entries of an earlier version do not say it.
    return use.model_copy(update={"prompt_passes": int(plan.asked_at is not None)})


def measured(
    model: LoadedModel,
    plan: Plan,
    prompts: Sequence[str],
    base: Sequence[Sequence[int]],
    steered: Sequence[Sequence[int]],
    wrong: np.ndarray,
) -> GateUse:
    """``base`` and ``steered``: answers as token ids, without and with the plan; ``wrong`` [N]
    bool: which of the former are. Of the positions where the plan may act, generation positions
    count that are no special tokens."""
    import torch

    parts = {
        n: {name: torch.tensor(a, device=model.device) for name, a in arrays.items()}
        for n, arrays in plan.parts().items()
    }
    layers, may = list(parts), where(plan.positions)
    opens, signal = plan.gate.open, getattr(plan.gate, "signal", None)
    assert opens is not None
    n_open, dose = (dict.fromkeys(layers, 0.0) for _ in range(2))
    signals = {n: np.zeros(len(prompts)) for n in layers}
    n_positions = 0
    with progress("gate", len(prompts)) as show:
        done = 0
        for rows in model.batches(prompts):
            asked = [prompts[i] for i in rows]
            source = "generated" if plan.asked_at is None else "last_prompt"
            if reads_entropy(plan.gate):
                entropies = model.entropies(asked)
                for n in layers:
                    signals[n][rows] = entropies
            elif signal is not None:
                plain = model.replay(asked, [base[i] for i in rows], layers, source)
                of = plain.sample.cpu().numpy()
                counts = positions_read(of, len(rows), source)
                for n in layers:
                    told = signal(plain.layers[n], parts[n], plan.dial).double().cpu().numpy()
                    sums = np.bincount(of, weights=told, minlength=len(rows))
                    signals[n][rows] = sums / counts
            written = [steered[i] for i in rows]
            read = model.replay(asked, written, layers, "generated", intervention=plan, before=True)
            acts = may.within(read.position, read.last, read.end)
            whole = None
            if plan.asked_at is not None:
                decided = torch.tensor(model.decide(asked, plan), device=model.device)
                whole = decided[read.sample][acts]
            n_positions += int(acts.sum())
            for n in layers:
                x = read.layers[n][acts]
                is_open = opens(x, parts[n], plan.dial) if whole is None else whole
                moved = plan.operator.apply(x[is_open].clone(), parts[n], plan.dial) - x[is_open]
                n_open[n] += float(is_open.sum())
                dose[n] += float(moved.double().norm(dim=-1).sum())
            done += len(rows)
            show(done)
    made = [
        GateLayer(
            layer=n,
            duty=n_open[n] / max(n_positions, 1),
            dose=dose[n] / max(n_positions, 1),
            auroc=_auroc(signals[n], wrong) if signal is not None else None,
        )
        for n in layers
    ]
    told = [row.auroc for row in made if plan.asked_at in (None, row.layer)]
    known = [a for a in told if a is not None]
    return GateUse(
        n=len(prompts),
        n_positions=n_positions,
        duty=float(np.mean([row.duty for row in made])),
        dose=sum(row.dose for row in made),
        auroc=float(np.mean(known)) if known else None,
        layers=made,
        prompt_passes=int(plan.asked_at is not None),
    )


def _auroc(signal: np.ndarray, wrong: np.ndarray) -> float | None:
    found = auroc(signal, wrong)
    return None if np.isnan(found) else found
