"""What steering did to the words of the stories: the counts behind "Why" in README.md.

    python -m experiments.stories260k.read_answers SWEEP [--model MODEL_FOLDER]

SWEEP is the folder of a sweep over the task ``stories`` (or of one of its jobs). Reads answers and
plans, steers nothing; seconds. With the model it also compares the length of the plan's vectors
with that of the residuals they are added to, on the unsteered test answers; a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pandas as pd

POSITIONS = 20_000


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.casefold())


def repeats(text: str) -> bool:
    """Whether fewer than half of its word triples are distinct."""
    found = words(text)
    triples = list(zip(found, found[1:], found[2:], strict=False))
    return bool(triples) and len(set(triples)) < len(triples) / 2


def counts(job: Path) -> dict[str, Any]:
    """Of one job's test answers, unsteered and steered; rates are shares of the answers."""
    answers = pd.read_parquet(job / "answers.parquet")
    test = answers[answers["split"] == "test"]
    arms = {arm: rows.set_index("id") for arm, rows in test.groupby("arm")}
    before, after = arms["baseline"], arms["steered"].loc[arms["baseline"].index]
    fixed = list(after["answer"][(before["score"] < 0.5) & (after["score"] >= 0.5)])
    found: dict[str, Any] = {"coef": json.loads((job / "metrics.json").read_text())["coef"]}
    for name, rows in (("unsteered", before), ("steered", after)):
        texts, wrong = list(rows["answer"]), (rows["score"] < 0.5) & ~rows["invalid"]
        found[name] = {
            "happy_per_answer": _mean([words(text).count("happy") for text in texts]),
            "repeats": _mean([repeats(text) for text in texts]),
            "wrong_not_invalid": _mean(wrong),
            "invalid": _mean(rows["invalid"]),
        }
    found["fixed"] = {
        "n": len(fixed),
        "with_kind": sum("kind" in words(text) for text in fixed),
        "with_smile": sum("smile" in words(text) for text in fixed),
        "repeat": sum(map(repeats, fixed)),
    }
    if before["n_tokens"].nunique() > 1 and before["score"].nunique() > 1:
        r = np.corrcoef(before["n_tokens"], before["score"])[0, 1]
        found["r_of_length_and_outcome"] = round(float(r), 2)
    return found


def _mean(values: Any) -> float:
    return round(float(np.mean(values)), 3)


def lengths(job: Path, folder: Path) -> dict[int, float]:
    """Layer -> length of the plan's vector at dial 1 over the mean length of the residuals."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from experiments.bundled_model import saes

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    answers = pd.read_parquet(job / "answers.parquet")
    rows = answers[(answers["split"] == "test") & (answers["arm"] == "baseline")]

    def documents() -> Iterator[list[saes.Document]]:
        prompts = tokenizer(list(rows["prompt"]))["input_ids"]
        texts = tokenizer(list(rows["answer"]), add_special_tokens=False)["input_ids"]
        for start in range(0, len(prompts), 100):
            part = slice(start, start + 100)
            pairs = zip(prompts[part], texts[part], strict=True)
            yield [(prompt + text + [1], len(prompt)) for prompt, text in pairs]

    positions = min(POSITIONS, int(rows["n_tokens"].sum()) // 2)
    residuals = saes.outputs(model, documents(), positions, "lengths")
    entries = json.loads((job / "plan" / "plan.json").read_text())["entries"]
    return {
        e["layer"]: round(e["norm"] / float(residuals[e["layer"]].norm(dim=1).mean()), 2)
        for e in entries
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--model", type=Path, help="folder of the model that was steered")
    args = parser.parse_args(arguments)
    jobs = sorted(file.parent for file in args.sweep.rglob("answers.parquet"))
    if not jobs:
        parser.error(f"{args.sweep} holds no answers.parquet: give the folder of a sweep")
    found: dict[str, Any] = {"jobs": [counts(job) for job in jobs]}
    if args.model:
        found["length_over_residuals"] = lengths(jobs[0], args.model)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
