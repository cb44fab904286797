"""Run folders made up for the tests of the reports, and their pages read back.

The right files, invented numbers and texts. Numbers are counted from the answers, so a page can be
checked against either; they are written by the record itself, so they have its fields.
"""

from __future__ import annotations

import json
import random
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import binomtest

from corrsteer.report.record import ArmSummary, Flips, Record, Results, SideEffects, Transfer
from corrsteer.report.verdict import verdict
from corrsteer.stats.flips import flip_table

PEOPLES = ("Velmari", "Ostrin", "Kadu", "Tessarin", "Hollowfen")
PLACES = ("the ferry", "the mill", "the north gate", "the seed market", "the long bridge")
DRAWS = 20  # of random features, enough for a null
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
    side_effects: bool = True,
    transfer: tuple[str, ...] = ("bbq", "mmlu", "gsm8k"),
) -> dict:
    """Fill ``folder`` with a finished run; return what is in its metrics.json.

    ``fixed``, ``broken``: the chance that steering fixes a wrong, or breaks a right, answer.
    ``transfer``: the tasks on which the plan was tested too; none for a run that did not.
    """
    dice = random.Random(f"{seed} {task} {coef}" if seed else 0)
    (folder / "plan").mkdir(parents=True)
    rows = _answers(dice, n_test, coef, fixed, broken, hostile, options)
    if validation_steered is not None:
        asked = [r for r in rows if (r["split"], r["arm"]) == ("validation", "steered")]
        for k, row in enumerate(asked):
            right = k < round(validation_steered * len(asked))
            row |= {"score": float(right), "invalid": False, "parsed": "C" if right else "A"}
    if hostile and transfer:
        transfer += HOSTILE
    for other in transfer:
        rows += _transfer_answers(dice, other, fixed, broken)
    if side_effects:
        rows += _unrelated_answers(dice, hostile)
    answers = pd.DataFrame(rows)
    answers.to_parquet(folder / "answers.parquet", index=False)
    features = _features(dice, layers)
    features.to_csv(folder / "features.csv", index=False)
    chosen = features[features["chosen"]]
    record = _record(answers, chosen, coef, options, task, seed, layers)
    effects = _side_effects(dice, answers, coef, layers) if side_effects else None
    record = changed(
        record,
        side_effects=effects,
        ser=_ser(record, effects),
        transfer={other: _transfer(answers, other) for other in transfer},
        odometer={"plans": 3, "best_null_gain": 0.012},
    )
    record = changed(record, verdict=verdict(record))
    record.write(folder)
    files = {
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
        },
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    (folder / "config.yaml").write_text(
        f"seed: {seed}\ncoef: {coef}\nlayers: all\ntask:\n  _target_: corrsteer.tasks.{task}\n",
        encoding="utf-8",
    )
    (folder / "log.txt").write_text("done\n", encoding="utf-8")
    return record.model_dump(mode="json")


def changed(record: Record, **changes: Any) -> Record:
    """``record`` with other values, checked."""
    return Record.model_validate(dict(record) | changes)


def edit(folder: Path, **changes: Any) -> dict:
    """Change what is in the metrics.json of a run, and return it. Values as JSON has them."""
    values = json.loads((folder / "metrics.json").read_text()) | changes
    Record.model_validate_json(json.dumps(values)).write(folder)
    return values


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

    def add(arm: str, split: str, sample: int, right: bool, invalid: bool, more: str = "") -> None:
        one, other = PEOPLES[sample % 5], PEOPLES[(sample // 5 + sample + 1) % 5]
        prompt = (
            f"A {one} and a {other} waited at {PLACES[sample % 7 % 5]} when the lamps went out.\n"
            f"Question: who had taken the oil? ({sample})\nA. the {one}\nB. the {other}\n"
            "C. it is not known\nAnswer:"
        )
        answer = (" C" if right else (" Perhaps it was" if invalid else " A")) + more
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
            more = " (it is not known)" if dice.random() < 0.2 else ""
            lost = not after and invalid and dice.random() < 0.5
            add("steered", split, sample, after, lost, more)
            if split == "validation":
                continue
            if options:
                add("constrained", split, sample, right or (invalid and dice.random() < 0.4), False)
            add("instruction", split, sample, right or dice.random() < 0.02, invalid and not right)
            add("layers_1", split, sample, right or dice.random() < 0.03, False)
            for draw in (1, 2):
                moved = dice.random() < 0.04
                add(f"shuffled_{draw}", split, sample, right != moved, invalid and not moved)
            for draw in range(1, DRAWS + 1):
                moved = dice.random() < 0.02
                add(f"random_{draw}", split, sample, right != moved, invalid and not moved)
            for draw in (1, 2):
                add(f"direction_{draw}", split, sample, right, invalid)
            add("flipped", split, sample, right and dice.random() > broken, invalid)
    return rows


def _transfer_answers(dice, task, fixed, broken) -> list[dict]:
    rows = []
    for sample in range(60):
        right = dice.random() < 0.4
        base = {
            "id": f"{task[:20]}-test-{sample}", "split": f"transfer {task}", "prompt": "Question?",
            "parsed": None, "gold": "C", "invalid": False, "n_tokens": 2, "degenerate": None,
            "n_steered": 2,
        }  # fmt: skip
        after = dice.random() > broken if right else dice.random() < fixed / 2
        drawn = [right != (dice.random() < 0.03) for _ in range(2)]
        arms = {"baseline": right, "steered": after, "random_1": drawn[0], "random_2": drawn[1]}
        for arm, score in arms.items():
            rows.append(
                {**base, "arm": arm, "answer": " C" if score else " A", "score": float(score)}
            )
    return rows


def _unrelated_answers(dice, hostile) -> list[dict]:
    rows = []
    for sample in range(120):
        prompt = f"The lamp on the long bridge ({sample})"
        base = {
            "id": f"unrelated-{sample}", "split": "unrelated", "parsed": None, "gold": "",
            "score": 0.0, "invalid": False, "n_tokens": 9, "degenerate": None, "n_steered": 9,
        }  # fmt: skip
        if hostile:
            prompt += HOSTILE[sample % len(HOSTILE)]
        for arm, share in (("baseline", 0), ("steered", 0.4), ("random_1", 0.1)):
            changed = dice.random() < share
            answer = " was lit by the ferry" + (" man at the mill." if changed else " man.")
            if hostile and changed:
                answer += HOSTILE[(sample + 1) % len(HOSTILE)]
            rows.append({**base, "arm": arm, "prompt": prompt, "answer": answer})
    return rows


def _wilson(k: int, n: int) -> list[float]:
    interval = binomtest(k, n).proportion_ci(method="wilson")
    return [interval.low, interval.high]


def _side_effects(dice, answers, coef, layers) -> SideEffects:
    unrelated = answers[answers["split"] == "unrelated"]
    texts = unrelated.pivot(index="id", columns="arm", values="answer")
    off_target, neutral = {}, {}
    for arm, kl in (("steered", 0.03 * coef**2), ("random_1", 0.012 * coef**2)):
        moved = int((texts[arm] != texts["baseline"]).sum())
        ci = _wilson(moved, len(texts))
        off_target[arm] = {"changed": moved, "rate": moved / len(texts), "ci": ci}
        neutral[arm] = {"kl": kl, "kl_ci": [0.9 * kl, 1.12 * kl], "top1_changed": 0.02 + kl}
    return SideEffects.model_validate({
        "off_target": {"n": len(texts), "source": "bundled neutral prompts", "arms": off_target,
                       "text": {"arms": {arm: {
                           "repetition": 0.11, "repetition_n": 120, "perplexity": 6.5,
                           "n_tokens": 1080, "degenerate": 1, "n": 120}
                           for arm in ("baseline", *off_target)}}},
        "neutral": {"n_texts": 64, "n_positions": 2048, "source": "bundled neutral text",
                    "arms": neutral},
        "text": {"arms": {
            arm: {"repetition": 0.02 + 0.01 * k, "repetition_n": 300 + k,
                  "perplexity": 4.2 + k if k < 3 else None, "n_tokens": 2400, "degenerate": k,
                  "n": 400}
            for k, arm in enumerate(("baseline", "steered", "random_1", "random_2"))}},
        "activity": {"n": 256, "n_positions": 4096, "layers": [
            {"layer": n, "n_positions": 4096, "l0_before": 16.0 + n,
             "l0_after": 16.5 + n + dice.uniform(-1, 2),
             "new": 1 + dice.random(), "lost": dice.random(), "steered": n != 3}
            for n in layers]},
    })  # fmt: skip


def _ser(record: Record, effects: SideEffects | None) -> dict:
    flips, arms, answers = record.flips, record.arms, record.changes.answer
    n, broken, fixed = flips.n, flips.broken, flips.fixed
    before, after = arms["baseline"].accuracy, arms["steered"].accuracy
    off = effects and effects.off_target
    return {
        "flips": flips.ser,
        "changed": broken / answers if answers else None,
        "right": broken / arms["baseline"].right,
        "negative_flip_rate": broken / n,
        "relative_negative_flip_rate": broken / n / (before * (1 - after)) if after < 1 else None,
        "off_target": off.arms["steered"].rate / (fixed / n) if off and fixed else None,
    }  # fmt: skip


def _changes(before: pd.DataFrame, after: pd.DataFrame) -> dict:
    both = before.merge(after, on="id", suffixes=("", "_after"))
    text = both["answer"] != both["answer_after"]
    same = (both["score"] == both["score_after"]) & (both["invalid"] == both["invalid_after"])
    answer = both["parsed"].fillna("") != both["parsed_after"].fillna("")
    return {"text": int(text.sum()), "text_same_outcome": int((text & same).sum()),
            "answer": int(answer.sum())}  # fmt: skip


def _transfer(answers, task) -> Transfer:
    rows = answers[answers["split"] == f"transfer {task}"]
    frames = {arm: rows for arm, rows in rows.groupby("arm", sort=False)}
    arms = {arm: _arm(arm, rows) for arm, rows in frames.items()}
    gains = {arm: a.accuracy - arms["baseline"].accuracy for arm, a in arms.items()}
    return Transfer(
        n=arms["baseline"].n, chance=0.25 if task == "mmlu" else None, arms=arms,
        gain=gains["steered"], gain_ci=(gains["steered"] - 0.05, gains["steered"] + 0.05),
        flips=_flips(frames["baseline"], frames["steered"]),
        random_gains=[gains["random_1"], gains["random_2"]],
    )  # fmt: skip


def _flips(before: pd.DataFrame, after: pd.DataFrame) -> Flips:
    return Flips.model_validate(flip_table(before, after).as_dict())


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
                    "stability": 0.9 - 0.1 * rank if rank < 9 else 0.0,
                    "class": ("structural", "semantic", "unclear")[layer % 3] if rank == 1 else "",
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
    cards = []
    for row in chosen.itertuples():
        passages = []
        for k in range(8):
            tokens = [" " + w for w in dice.choices(words, k=14)]
            if hostile and len(cards) == 0:
                tokens += HOSTILE + ("\ud800",)
            activations = [max(0.0, dice.gauss(-0.5, 1.5)) for _ in tokens]
            within = [n >= 10 for n in range(len(tokens))]  # the answer
            peak = max(range(10, len(tokens)), key=activations.__getitem__)
            activations[peak] += 0.5
            passages.append(
                {"id": f"amb-selection-{k}", "pooled": activations[peak], "tokens": tokens,
                 "activations": activations, "within": within, "peak": peak, "right": k % 3 != 0}
            )  # fmt: skip
        evil = HOSTILE if hostile else ("", "", "")
        known = len(cards) % 2 == 0
        cards.append(
            {"layer": row.layer, "feature": row.feature, "contexts": passages,
             "promotes": [" mill", " lamp", "<b>"], "suppresses": [" out", ".\n", "&"],
             "sae": f"bundled/blocks.{row.layer}",
             "class": evil[0] or ("structural", "semantic", "unclear")[row.layer % 3],
             "class_by": "rule" if row.layer % 2 else "hand",
             "class_why": "most of its tokens are punctuation" + "".join(evil),
             "neuronpedia": f"https://www.neuronpedia.org/bundled/{row.layer}-res/{row.feature}"
             if known else None,
             "elsewhere": {"tokens": [" oil", "\n", evil[0]], "most": 12.5, "sink": 631.0 * known}
             if row.layer % 3 else None,
             "description": "mentions of places" + "".join(evil) if known else None}
        )  # fmt: skip
        if hostile and len(cards) == 3:
            cards[-1]["neuronpedia"] = "javascript:alert(1)"
    return cards


def _arm(name: str, rows: pd.DataFrame) -> ArmSummary:
    n, right, invalid = len(rows), int(rows["score"].sum()), int(rows["invalid"].sum())
    return ArmSummary(
        kind=name.rstrip("0123456789").rstrip("_"), n=n, accuracy=right / n,
        ci=tuple(_wilson(right, n)), right=right, wrong=n - right - invalid, invalid=invalid,
        invalid_rate=invalid / n, degenerate=int(rows["degenerate"].notna().sum()),
    )  # fmt: skip


def _site(layer: int) -> dict:
    """The SAE of layer 1 fits block 2 better."""
    wrong = layer == 1
    return {
        "layer": layer, "n": 512, "explained": 0.98 - 0.01 * layer, "l0": 16.0 + layer,
        "before": 0.9 if layer else None, "l0_before": 12.0 if layer else None,
        "after": 0.85, "l0_after": 30.0,
        "better_site": 2 if wrong else None, "better_scale": 1.0 if wrong else None,
        "better_explained": 0.99 if wrong else None, "left_out": 0,
    }  # fmt: skip


def about(*, task="bbq", coef=1.0, seed=0, layers=(0, 1, 2, 3, 4, 5), n_test=400) -> dict:
    """What a record says of a run besides its results."""
    summary = ArmSummary(
        kind="baseline", n=1000, accuracy=0.52, ci=(0.49, 0.55), right=520, wrong=480, invalid=0,
        invalid_rate=0.0, degenerate=0,
    )  # fmt: skip
    return {
        "sae": "bundled", "sae_trained_on": ["corrsteer-bundled"],
        "sites": [_site(n) for n in layers],
        "task": task, "model": "bundled", "coef": coef, "layers": list(layers),
        "method": "CorrSteer", "variant": "A", "selector": "Correlation", "operator": "Add",
        "gate": "Always", "positions": "generation",
        "score": "r", "seed": seed, "token_source": "generated", "pooling": "max",
        "n": {"selection": 1000, "validation": 500, "test": n_test},
        "data": {
            "source": "bundled generator", "rows": 1500 + n_test, "fingerprint": "9b1f77c0",
            "repo": None, "revision": None, "licence": None, "subset": None,
            "parts": {"all": 1500 + n_test}, "categories": {"": 1500 + n_test},
        },
        "asked": {
            "template": "{question}\n{options}\nAnswer:", "chat_template": False, "few_shot": 0,
            "shots": None, "cot": False, "decoding": "free", "max_new_tokens": 8, "stop": [],
            "max_chars": None,
        },
        "scorer": {"name": "Choice", "version": 2, "settings": {}},
        "selection": {**dict(summary), "length_r": 0.031},
        "validation": {"baseline": summary, "steered": summary},
        "stability": {"resamples": 200},
        "versions": {"corrsteer": "0.1.0", "torch": "2.13.0", "nnsight": "0.8.1"},
        "side_effects": None,
        "transfer": {},
    }  # fmt: skip


def record_of(results: Results, **changes: Any) -> Record:
    """A whole record around the results of an evaluation."""
    n_test = results.flips.n
    return Record.model_validate({**about(n_test=n_test), **dict(results), **changes})


def control(gain: float, gains: list[float], kind: str = "random", **changes: Any) -> dict:
    """The part of a record on one kind of control; what needs answers is made up to agree."""
    above, drawn = gain - max(gains), kind in ("random", "direction", "shuffled", "layers")
    good = sum(draw >= gain for draw in gains)
    return {
        "gains": gains, "asked": len(gains), "at_least_as_good": good,
        "p": (1 + good) / (1 + len(gains)) if drawn else None,
        "band": [min(gains), max(gains)] if len(gains) > 4 else None,
        "paired_p": 0.001 if above > 0.02 else 0.5, "paired_gain": above,
        "ahead_p": 0.001 if above < -0.02 else 0.5,
        "paired_ci": [above - 0.02, above + 0.02],
    } | changes  # fmt: skip


def format_of(counts) -> dict[str, int]:
    """``counts``: of flips, by state."""
    return {
        "fixed_from_invalid": counts[2][0], "fixed_from_wrong": counts[1][0],
        "broken_to_invalid": counts[0][2], "broken_to_wrong": counts[0][1],
    }  # fmt: skip


def _record(answers, chosen, coef, options, task, seed, layers) -> Record:
    test, validation = (answers[answers["split"] == s] for s in ("test", "validation"))
    arms = {name: _arm(name, rows) for name, rows in test.groupby("arm", sort=False)}
    before, after = (test[test["arm"] == a] for a in ("baseline", "steered"))
    flips = _flips(before, after)
    fixed, broken, n = flips.fixed, flips.broken, flips.n
    gain = arms["steered"].accuracy - arms["baseline"].accuracy
    half = 1.96 * ((fixed + broken) / n - gain**2) ** 0.5 / n**0.5
    gains: dict[str, list[float]] = {}
    for arm in arms.values():
        if arm.kind not in ("baseline", "steered"):
            gains.setdefault(arm.kind, []).append(arm.accuracy - arms["baseline"].accuracy)
    below = int(chosen["noise"].sum())
    nothing = dict.fromkeys(
        ("flips", "changed", "right", "relative_negative_flip_rate", "off_target")
    )
    return Record.model_validate({
        **about(task=task, coef=coef, seed=seed, layers=layers, n_test=n),
        "chance": 1 / 3 if options else None,
        "task_metrics": {name: {"bias_ambig": 0.1 * k - 0.2} if k != 2 else {}
                         for k, name in enumerate(arms)} if options else {a: {} for a in arms},
        "arms": arms,
        "validation": {name: _arm(name, validation[validation["arm"] == name])
                       for name in ("baseline", "steered")},
        "gain": gain, "gain_ci": [gain - half, gain + half],
        "flips": flips,
        "changes": _changes(before, after),
        "ser": {**nothing, "negative_flip_rate": broken / n},
        "ser_ci": [0.1, 0.4] if fixed + broken else None,
        "detectable_gain": 0.02,
        "controls": {
            kind: control(gain, drawn, kind) for kind, drawn in gains.items()
        },
        "format": format_of(flips.counts),
        "constrained_gain": {"gain": gain / 4, "ci": [gain / 4 - 0.01, gain / 4 + 0.01],
                             "difference": -0.75 * gain,
                             "difference_ci": [-0.75 * gain - 0.02, -0.75 * gain + 0.02]},
        "one_answer": {"answer": "unknown", "half": {
            "name": "disambig", "n": n, "baseline": 0.503, "steered": 0.508, "gain": 0.005,
            "ci": [-0.002, 0.012]}} if options else None,
        "groups": {name: {"n": n // 5, "baseline": 0.5, "steered": 0.5 + 0.01 * k}
                   for k, name in enumerate(PEOPLES)} if options else {},
        "noise": {"features": len(chosen), "below_ceiling": below, "unstable": 1},
    })  # fmt: skip


class Page(HTMLParser):
    """Text, scripts and attributes of a page as a browser's tokenizer sees them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.data: dict[str, Any] = {}
        self.attributes: list[tuple[str, str, str | None]] = []
        self._script: dict[str, str | None] = {}
        self._within = ""
        self._held = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        self.text = " ".join(" ".join(self.words).split()).replace("\N{NO-BREAK SPACE}", " ")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag in ("script", "style"):
            self._script, self._within, self._held = dict(attrs), tag, ""

    def handle_endtag(self, tag: str) -> None:
        if self._within == "script" and self._script.get("type") == "application/json":
            self.data[str(self._script["id"])] = json.loads(self._held)
        elif self._within == "script":
            self.scripts.append(self._held)
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within:
            self._held += data
        else:
            self.words.append(data)
