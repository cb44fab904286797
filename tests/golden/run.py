"""One small run of everything, and what it leaves as values that can be compared.

``python -m tests.golden.run`` writes ``run.json`` anew. Do that only for a change of results that
is meant, and say in the commit what changed.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import pandas as pd

from tests.command import in_this_process

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_suffix(".json")
SMALL = [
    *("task=bbq", "layers=[1,3]", "limit=60", "ablations=true", "coef=1.5", "classes=null"),
    *("collect.shuffles=20", "collect.resamples=20", "descriptions=false", "backend.device=cpu"),
    *("side_effects.unrelated=24", "side_effects.texts=6", "side_effects.answers=20"),
]
RUNS = {
    "plain": [*SMALL, "transfer=[mmlu]"],
    "single": [*SMALL, "strategy=corrsteer_s", "collect.pooling=mean", "controls=few"],
    "off": [*SMALL, "coef=0", "controls=few"],
    "search": [*SMALL, "search=pareto", "search.trials=6", "search.batch=3", "controls=few"],
    "letters": [*SMALL, "task=mmlu", "decoding=constrained", "controls=few", "side_effects=none"],
    "likelihood": [
        *(*SMALL, "task=mmlu", "decoding=loglikelihood", "controls=few", "side_effects=none"),
    ],
}
# Sentences, times and versions are not results.
LEFT_OUT = ("verdict", "search.note", "versions.corrsteer")


def measured(home: Path) -> dict[str, Any]:
    """Every run's keys and results. ``home``: an empty folder."""
    for name in ("src", "conf"):
        (home / name).symlink_to(ROOT / name)
    found: dict[str, Any] = {"arithmetic": arithmetic()}  # and one thread from here on
    for run, words in RUNS.items():
        folder = home / run
        command = ["python", "-m", "src.main", *words, f"hydra.run.dir={folder}"]
        ended = in_this_process(shlex.join(command), home)
        assert ended.code == 0, ended.err
        found[run] = results(folder)
    found["cache"] = sorted(
        f"{entry.parent.parent.name}/{entry.parent.name}"
        for entry in (home / "outputs" / "cache").glob("*/[0-9a-f]*/manifest.json")
    )
    return found


def arithmetic() -> str:
    """Digest of the bundled model's logits: where it is another one, so are activations."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    folder = ROOT / "src" / "corrsteer" / "bundled" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.arange(3, 515).view(8, 64)).logits
    return hashlib.sha256(logits.numpy().tobytes()).hexdigest()[:16]


def results(folder: Path) -> dict[str, Any]:
    metrics = json.loads((folder / "metrics.json").read_text())
    plan = json.loads((folder / "plan" / "plan.json").read_text())
    answers = pd.read_parquet(folder / "answers.parquet")
    files = ["features.csv", "contexts.json", "classes.csv", "plan/vectors.safetensors"]
    files += [n for n in ("ablations.csv", "trials.csv") if (folder / n).exists()]
    return {
        "answers": digest(answers.to_csv(index=False).encode()),
        "columns": list(answers.columns),
        "files": {name: digest((folder / name).read_bytes()) for name in files},
        "plan": {name: plan[name] for name in ("coef", "entries", "saes", "splits", "seed")},
        "metrics": {k: v for k, v in flat(metrics).items() if not k.startswith(LEFT_OUT)},
    }


def flat(value: Any, place: str = "") -> dict[str, Any]:
    """Leaves of a JSON value by their place; a list of plain values is a leaf."""
    if isinstance(value, dict) and value:
        parts = [flat(v, f"{place}.{k}" if place else k) for k, v in value.items()]
    elif isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        parts = [flat(v, f"{place}.{n}") for n, v in enumerate(value)]
    else:
        return {place: value}
    return {k: v for part in parts for k, v in part.items()}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as home:
        GOLDEN.write_text(json.dumps(measured(Path(home)), indent=1) + "\n")
