"""Run folders made up for the tests of the reports: the right files, invented numbers and texts.

The metrics are counted from the answers, so a page can be checked against either.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pandas as pd
from scipy.stats import binomtest

PEOPLES = ("Velmari", "Ostrin", "Kadu", "Tessarin", "Hollowfen")
PLACES = ("the ferry", "the mill", "the north gate", "the seed market", "the long bridge")
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>window.broken_out = 1</script>",
    "<img src=x onerror=alert(2)>",
    "nul \x00 bell \x07 escape \x1b[31m",
    "L" * 100_000,
    "\u202eright to left override\u202c and \u200fmark, עברית 123 العربية",
    "👩‍👩‍👧‍👦 🏳️‍🌈 é ﷽ \ufffd",
    "{{ 7 * 7 }} {% raw %} &lt;b&gt; ]]> <!-- --> ${1}",
)


def fabricate_run(
    folder: Path,
    *,
    coef: float = 1.0,
    n_test: int = 400,
    fixed: float = 0.16,
    broken: float = 0.03,
    hostile: bool = False,
    options: bool = True,
    task: str = "bbq",
    seed: int = 0,
    layers: tuple[int, ...] = (0, 1, 2, 3, 4, 5),
    validation_steered: float | None = None,
) -> dict:
    """Fill ``folder`` with a finished run; return its metrics.

    ``fixed``, ``broken``: the chance that steering fixes a wrong, or breaks a right, answer.
    """
    dice = random.Random(seed)
    (folder / "plan").mkdir(parents=True)
    rows = _answers(dice, n_test, coef, fixed, broken, hostile, options)
    answers = pd.DataFrame(rows)
    answers.to_parquet(folder / "answers.parquet", index=False)
    features = _features(dice, layers)
    features.to_csv(folder / "features.csv", index=False)
    chosen = features[features["chosen"]]
    metrics = _metrics(answers, chosen, coef, options, task, seed, layers)
    if validation_steered is not None:
        metrics["validation"]["steered"]["accuracy"] = validation_steered
    files = {
        "metrics.json": metrics,
        "contexts.json": _contexts(dice, chosen, hostile),
        "status.json": {
            "state": "done",
            "error": None,
            "started": "2025-11-22T13:05:41.120000+00:00",
            "ended": "2025-11-22T13:06:09.480000+00:00",
            "seconds": 28.36,
            "overrides": [f"task={task}", "layers=all", f"coef={coef}"],
        },
        "plan/plan.json": {
            "model": "bundled",
            "revision": "3f1c9a",
            "coef": coef,
            "entries": chosen[["layer", "feature", "r", "coefficient"]].to_dict("records"),
            "versions": {"corrsteer": "0.1.0", "torch": "2.13.0", "nnsight": "0.8.1"},
        },
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    (folder / "config.yaml").write_text(
        f"seed: {seed}\ncoef: {coef}\nlayers: all\ntask:\n  _target_: corrsteer.tasks.{task}\n",
        encoding="utf-8",
    )
    (folder / "log.txt").write_text("done\n", encoding="utf-8")
    return metrics


def set_status(
    folder: Path, state: str, error: str | None = None, overrides: tuple[str, ...] = ()
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    status = {
        "state": state,
        "error": error,
        "started": "2025-11-22T13:05:41+00:00",
        "ended": None,
        "seconds": 3.1 if error else None,
        "overrides": overrides,
    }
    text = json.dumps(status)
    (folder / "status.json").write_text(text, encoding="utf-8")


def _answers(dice, n_test, coef, fixed, broken, hostile, options) -> list[dict]:
    rows = []

    def add(arm: str, split: str, sample: int, right: bool, invalid: bool) -> None:
        one, other = PEOPLES[sample % 5], PEOPLES[(sample // 5 + sample + 1) % 5]
        prompt = (
            f"A {one} and a {other} waited at {PLACES[sample % 7 % 5]} when the lamps went out.\n"
            f"Question: who had taken the oil? ({sample})\nA. the {one}\nB. the {other}\n"
            "C. it is not known\nAnswer:"
        )
        answer = " C" if right else (" Perhaps it was" if invalid else " A")
        if hostile and split == "test" and arm in ("baseline", "steered"):
            prompt += HOSTILE[sample % len(HOSTILE)]
            answer += HOSTILE[(sample + 3) % len(HOSTILE)]
        rows.append(
            {
                "id": f"amb-{split}-{sample}", "split": split, "arm": arm, "prompt": prompt,
                "answer": answer, "parsed": None if invalid else answer.strip()[:1], "gold": "C",
                "score": float(right), "invalid": invalid, "n_tokens": 2,
                "degenerate": None,
                "n_steered": 0 if arm in ("baseline", "constrained") else 2,
            }
        )  # fmt: skip

    for sample in range(1000):
        add("baseline", "selection", sample, dice.random() < 0.52, False)
    for split, count in (("validation", 500), ("test", n_test)):
        for sample in range(count):
            right = dice.random() < 0.51
            invalid = not right and dice.random() < 0.06
            after = dice.random() > broken if right else dice.random() < fixed
            add("baseline", split, sample, right, invalid)
            add("steered", split, sample, after, not after and invalid and dice.random() < 0.5)
            if split == "validation":
                continue
            if options:
                add("constrained", split, sample, right or (invalid and dice.random() < 0.4), False)
            for draw in range(1, 6):
                moved = dice.random() < 0.02
                add(f"random_{draw}", split, sample, right != moved, invalid and not moved)
            add("direction_1", split, sample, right, invalid)
            add("flipped", split, sample, right and dice.random() > broken, invalid)
    return rows


def _features(dice, layers) -> pd.DataFrame:
    rows = []
    for layer in layers:
        top, ceiling = 0.14 + 0.05 * (layer % 4), round(dice.uniform(0.15, 0.19), 4)
        for rank in range(1, 21):
            r = top * (1 - 0.22 * (1 - 1 / rank)) - 0.004 * rank
            freq = dice.uniform(0.05, 0.6)
            rows.append(
                {
                    "layer": layer, "rank": rank, "feature": dice.randrange(1024), "r": r,
                    "ceiling": ceiling, "coefficient": dice.uniform(0.1, 3), "freq": freq,
                    "freq_right": min(1, freq * 1.3), "freq_wrong": freq * 0.7,
                    "mean_right": dice.uniform(0.1, 3), "mean_wrong": dice.uniform(0.05, 1),
                    "r_length": 0.01, "r_adjusted": r - 0.01, "q": 0.004,
                    "noise": r <= ceiling, "chosen": rank == 1,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def _contexts(dice, chosen, hostile) -> list[dict]:
    words = (
        "",
        "waited",
        "at",
        "the",
        "mill",
        "when",
        "lamps",
        "went",
        "out",
        ".\n",
        "Answer",
        ":",
    )
    found = []
    for row in chosen.itertuples():
        passages = []
        for k in range(8):
            tokens = [" " + w for w in dice.choices(words, k=14)]
            if hostile and len(found) == 0:
                tokens += HOSTILE + ("\ud800",)
            activations = [max(0.0, dice.gauss(-0.5, 1.5)) for _ in tokens]
            peak = max(range(len(tokens)), key=activations.__getitem__)
            passages.append(
                {"id": f"amb-selection-{k}", "tokens": tokens, "activations": activations,
                 "peak": peak, "right": k % 3 != 0}
            )  # fmt: skip
        found.append(
            {"layer": row.layer, "feature": row.feature, "contexts": passages,
             "promotes": [" mill", " lamp", "<b>"], "suppresses": [" out", ".\n", "&"]}
        )  # fmt: skip
    return found


def _arm(rows: pd.DataFrame) -> dict:
    n, right, invalid = len(rows), int(rows["score"].sum()), int(rows["invalid"].sum())
    low, high = binomtest(right, n).proportion_ci(method="wilson")
    return {
        "n": n, "accuracy": right / n, "ci": [low, high], "right": right,
        "wrong": n - right - invalid, "invalid": invalid, "invalid_rate": invalid / n,
        "degenerate": int(rows["degenerate"].notna().sum()),
    }  # fmt: skip


def _site(layer: int) -> dict:
    """The SAE of layer 1 fits block 2 better."""
    wrong = layer == 1
    return {
        "layer": layer, "n": 512, "explained": 0.98 - 0.01 * layer, "l0": 16.0 + layer,
        "before": 0.9 if layer else None, "l0_before": 12.0 if layer else None,
        "after": 0.85, "l0_after": 30.0,
        "better_site": 2 if wrong else None, "better_scale": 1.0 if wrong else None,
        "better_explained": 0.99 if wrong else None,
    }  # fmt: skip


def _metrics(answers, chosen, coef, options, task, seed, layers) -> dict:
    test, validation = (answers[answers["split"] == s] for s in ("test", "validation"))
    arms = {name: _arm(rows) for name, rows in test.groupby("arm", sort=False)}
    state = answers["score"].map({1.0: 0, 0.0: 1}).mask(answers["invalid"], 2)
    before, after = (
        state[(answers["split"] == "test") & (answers["arm"] == a)].tolist()
        for a in ("baseline", "steered")
    )
    table = [
        [sum(b == i and a == j for b, a in zip(before, after, strict=True)) for j in range(3)]
        for i in range(3)
    ]
    fixed, broken = table[1][0] + table[2][0], table[0][1] + table[0][2]
    n = len(before)
    gain = (fixed - broken) / n
    half = 1.96 * ((fixed + broken) / n - gain**2) ** 0.5 / n**0.5
    gains = [arms[f"random_{k}"]["accuracy"] - arms["baseline"]["accuracy"] for k in range(1, 6)]
    below = int(chosen["noise"].sum())
    return {
        "sae": "bundled", "sae_trained_on": ["corrsteer-bundled"],
        "sites": [_site(n) for n in layers],
        "task": task, "model": "bundled", "variant": "A", "coef": coef, "layers": list(layers),
        "seed": seed, "token_source": "generated", "pooling": "max",
        "chance": 1 / 3 if options else None,
        "n": {"selection": 1000, "validation": 500, "test": n},
        "data": {
            "source": "bundled generator", "rows": 1500 + n, "fingerprint": "9b1f77c0",
            "repo": None, "revision": None, "licence": None, "subset": None,
            "parts": {"all": 1500 + n}, "categories": {"": 1500 + n},
        },
        "asked": {
            "template": "{question}\n{options}\nAnswer:", "chat_template": False, "few_shot": 0,
            "shots": None, "cot": False, "decoding": "free", "max_new_tokens": 8, "stop": [],
            "max_chars": None,
        },
        "scorer": {"name": "Choice", "version": 2, "settings": {}},
        "task_metrics": {name: {"bias_ambig": 0.1 * k - 0.2} if k != 2 else {}
                         for k, name in enumerate(arms)} if options else {a: {} for a in arms},
        "selection": {"n": 1000, "n_right": 520, "length_r": 0.031},
        "arms": arms,
        "validation": {name: _arm(validation[validation["arm"] == name])
                       for name in ("baseline", "steered")},
        "gain": gain, "gain_ci": [gain - half, gain + half],
        "flips": {
            "fixed": fixed, "broken": broken,
            "ser": broken / (fixed + broken) if fixed + broken else None,
            "mcnemar_p": binomtest(broken, fixed + broken).pvalue if fixed + broken else 1.0,
            "table": table,
        },
        "ser_ci": [0.1, 0.4] if fixed + broken else None,
        "detectable_gain": 0.02,
        "controls": {
            kind: {"gains": gains, "beats_all": gain > max(gains)}
            for kind, gains in (("random", gains), ("direction", [0.0]), ("flipped", [-0.03]))
        },
        "groups": {name: {"n": n // 5, "baseline": 0.5, "steered": 0.5 + 0.01 * k}
                   for k, name in enumerate(PEOPLES)} if options else {},
        "noise": {"features": len(chosen), "below_ceiling": below},
        "verdict": [
            f"Steering changes accuracy by {100 * gain:+.1f} points on {n} test answers.",
            "No random draw gains as much.",
            f"{below} of {len(chosen)} chosen features do not exceed their noise ceiling.",
        ],
    }  # fmt: skip
