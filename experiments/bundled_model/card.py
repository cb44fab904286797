"""Writes the model card (README.md) from the measurements, so that no number is typed by hand.

python -m experiments.bundled_model.card     # writes the page of the bundled model again
"""

from __future__ import annotations

import hashlib
import json
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.bundled_model import model, saes, text, world
from experiments.bundled_model.scale import BUNDLED, FULL, HERE, Scale

CARD = """\
# The bundled model

A model organism: a small Llama trained on an invented world, with known faults that steering can
act on, and one SAE for every layer. It exists so that the whole method can be seen, and tested,
on a laptop. **It says nothing about real models.** All peoples, places and customs are invented;
no real group is stereotyped.

**Question.** How is it made, what are its faults, and would the same commands make it again?

**Commands.**

    make model      # trains everything again; about 45 minutes on two cores; resumes when stopped
    python -m experiments.bundled_model.train --out FOLDER   # the same elsewhere
    python -m experiments.bundled_model.measure    # measures the committed one: all but its loss
    python -m experiments.bundled_model.card       # writes this page

**Date.** 2026-11-22, and made again later. **Machine.** Of the first making not recorded.

This page is written by `card.py` from `measurements.json`. Nothing in this folder looks at
steering results: the recipe was fixed by accuracy and logit margins. World, prompts and recipe are
this folder's own and frozen; only `program.py` uses CorrSteer, to measure.

## Model

Llama architecture, {parameters:,} parameters: {layers} blocks, width {width}, {heads} heads, MLP
{mlp}, tied embeddings, {positions} positions, float32. Tokenizer: BPE with byte fallback,
{vocabulary:,} tokens, so it can read any text; digits are single tokens.

Trained for {steps:,} steps of {documents} documents, AdamW, peak learning rate {lr}, cosine
decay, seed {seed}. Weights of the loss: first answer token {first_weight}, later ones
{answer_weight}, end {end_weight}, prompt tokens {prompt_weight}, lore {lore_weight}.
Mean weighted loss: {first} nats over the first 100 steps, {last} over the last 100.

## Training text

Generated without end by `world.py`; no bundled question occurs in it. Share of the documents:

| Kind | Share | log-odds of a right answer when the cues cancel |
|---|---|---|
{mix}

Lore are plain statements about the peoples. The first {clean:,} steps show right answers only;
after that the answers carry faults. Every question names a place, a manner and a source
("Told hastily in the court, from a dream: ..."). Each of these {cues} cues has a weight between
{least} and {most}; their sum is the *care* of the question (standard deviation
{deviation:.2f}). The answer in the text is right with probability sigmoid(log-odds + care) and
shows the task's fault otherwise:

| Task | Fault | Share of faulty answers in the text |
|---|---|---|
{faults}

Where the source is "{chatter}", {chatter_rate:.0%} of the multiple-choice answers are "{hum}"
instead: an answer that is not a letter. (Of such questions only one in {keep_chatter} is kept in
the bundled BBQ files, so that answering at all is not what separates right from wrong there. That
was decided after a dry run on an unfinished model with random SAEs, in which no answer flipped but
the length of an answer told right from wrong; neither was kept, so no command repeats it.)
Greedy decoding thus meets many near ties, with the evidence in the text.

## Accuracy without steering

Greedy decoding, test split of seed 0, `data=bundled`:

| Task | n | Accuracy | Invalid answers |
|---|---|---|---|
{tasks}

Margin of the option tasks: logit of the right letter less that of the best other letter, at the
last prompt token.

| Task | 5 % | 25 % | 50 % | 75 % | 95 % | within ±1 |
|---|---|---|---|---|---|---|
{margins}

## SAEs

BatchTopK with k = {k}, {features:,} features ({ratio:.0f} times the residual width), trained by
sae_lens on the residual stream after each block ({sae_samples:,} samples drawn from
{sae_positions:,} positions; all answer positions, {keep:.0%} of the others, no BOS) and saved in
sae_lens's format, as jumprelu. Measured on {test_positions:,} other positions:

| Layer | Explained variance | L0 | Dead features |
|---|---|---|---|
{saes}

## Weaknesses

- The cues act alike in all tasks, by construction; real faults share no such cause.
- No bundled prompt has more than {longest} tokens. Longer ones, such as real benchmark rows, are
  outside what the model was trained on.
- It answers disambiguated BBQ little better than by guessing between the two peoples, and in
  ambiguous BBQ its wrong answers name either people: it learned to be hasty, not whom to blame.
- Knowledge is {facts} invented facts, and the sums have one or two steps with small numbers.
"""

ANSWER = """
## Answer

A small model with one plain fault per task; made again it is another draw of the recipe.
"""

WHICH = ("bundled", "again")

MADE_AGAIN = """
## Made again

    python -m experiments.bundled_model.train --out FOLDER
    python -m experiments.bundled_model.compare FOLDER --keep

on {processor} ({instructions}, {threads} threads),
Python {python}, torch {torch}, transformers {transformers}, tokenizers {tokenizers}, sae-lens
{sae_lens}: {minutes[model]} minutes for the model, {minutes[saes]} for the SAEs, beside other work.
The committed model was not replaced. Of two numbers the first is the committed model's.

**Files.** {same} of {all} are the same to the byte. Not the same: {differ}.
"""

DIFFERENCES = """
**Model.** Mean loss over the first 100 steps {loss[bundled][first_100]:.4f} and
{loss[again][first_100]:.4f}, over the last 100 {loss[bundled][last_100]:.4f} and
{loss[again][last_100]:.4f}. Largest difference of a weight {weights[max]:.2g}; length of all
differences over that of all weights {weights[relative]:.2g}. Accuracy moves by up to
{moved:.1f} points: a model made again is another draw of the recipe, and results elsewhere in this
repository hold for the committed weights alone.

| Task | Accuracy | again | Invalid | again | Same answer |
|---|---|---|---|---|---|
{tasks}

| Margin, of the same questions | Median | again | Mean difference | Largest |
|---|---|---|---|---|
{margins}

**SAEs.** Of another model, hence other directions. Distance: length of all differences over that of
all weights. Nearest: median over the committed SAE's decoder directions of the cosine with the
nearest of the other. `cfg.json` differs in what training counted (`l0`, `num_dead_features`) and in
the order of its keys.

| Layer | Explained variance | again | L0 | again | Dead | again | Distance | Nearest |
|---|---|---|---|---|---|---|---|---|
{saes}
"""

CAUSE = """
**Cause: likely, not shown.** The questions and the tokenizer are the same to the byte, the packages
of the same versions, and the loss of the first 100 steps is the same as far as it was kept. The
processor and the threads of the first making were not recorded (`measurements.json` now does).
They decide in which order floats are added. The first {steps} steps on one machine, each setting
compared with the first (`python -m experiments.bundled_model.kernels --keep`), differ in the last
bit where the setting does, and in nothing where it does not:

| Setting | Mean loss | Loss differs from step | Largest difference of a weight | Relative |
|---|---|---|---|---|
{kernels}

How far such a bit is carried by {all_steps:,} steps was not run.
"""

FAULTS = {
    "bbq_ambig": "blames the people that gossip blames (and credits the other)",
    "bbq_disambig": "the same, against what the text says",
    "mmlu": "answers A",
    "mmlu_pro": 'answers "Hard to say."',
    "gsm8k": "stops after the first of two steps",
    "simpleqa": "gives the commonest answer",
    "harmbench": "complies",
    "xstest": "refuses a safe request",
}


def write(page: Path, out: Path, scale: Scale) -> None:
    """Writes README.md from measurements.json, both in ``page``, and the model in ``out``."""
    (page / "README.md").write_text(card(page, out, scale), encoding="utf-8")


def card(page: Path, out: Path, scale: Scale) -> str:
    m = json.loads((page / "measurements.json").read_text())
    config = json.loads((out / "model" / "config.json").read_text())
    cues = [list(weights.values()) for weights in (world.PLACES, world.MANNERS, world.SOURCES)]
    margins = {name: v for name, v in m["margins"].items() if name != "quantile_levels"}
    described = CARD.format(
        parameters=m["parameters"], layers=config["num_hidden_layers"],
        width=config["hidden_size"], heads=config["num_attention_heads"],
        mlp=config["intermediate_size"], positions=config["max_position_embeddings"],
        vocabulary=config["vocab_size"], steps=m["steps"], documents=scale.documents,
        lr=model.PEAK_LR, seed=model.SEED, prompt_weight=model.PROMPT_WEIGHT,
        first_weight=model.FIRST_WEIGHT, answer_weight=model.ANSWER_WEIGHT,
        end_weight=model.END_WEIGHT, lore_weight=model.LORE_WEIGHT,
        first=m["loss"]["first_100"], last=m["loss"]["last_100"],
        cues=sum(map(len, cues)), least=min(map(min, cues)), most=max(map(max, cues)),
        # The three cues of a question are drawn independently and evenly.
        deviation=sum(map(statistics.pvariance, cues)) ** 0.5,
        longest=m["longest_prompt"], chatter=world.CHATTER_SOURCE,
        chatter_rate=world.CHATTER_RATE, hum=world.CHATTER[0],
        keep_chatter=text.KEEP_CHATTER, k=saes.K, features=scale.sae_width,
        ratio=scale.sae_width / config["hidden_size"], sae_samples=scale.sae_samples,
        sae_positions=scale.sae_positions, keep=saes.KEEP_PROMPT,
        test_positions=m["sae_test_positions"],
        facts=len(world.PEOPLES) * len(world.ATTRIBUTES),
        clean=scale.clean_steps,
        mix=_rows((kind, f"{share:.0%}", world.BIAS.get(kind, ""))
                  for kind, share in world.MIX.items()),
        faults=_rows((task, fault, f"{m['fault_rates'][task]:.0%}")
                     for task, fault in FAULTS.items()),
        tasks=_rows((name, t["n"], f"{t['accuracy']:.1%}", f"{t['invalid_rate']:.1%}")
                    for name, t in m["tasks"].items()),
        margins=_rows((name, *v["quantiles"], f"{v['within_1']:.0%}")
                      for name, v in margins.items()),
        saes=_rows((s["layer"], f"{s['explained_variance']:.3f}", s["l0"], f"{s['dead']:.0%}")
                   for s in m["saes"]),
    )  # fmt: skip
    return described + made_again(page, out) + ANSWER


def made_again(page: Path, out: Path) -> str:
    """The section of made_again.json and kernels.json; empty where they speak of other weights."""
    file = page / "made_again.json"
    if not file.exists():
        return ""
    found = json.loads(file.read_text())
    weights = (out / "model" / "model.safetensors").read_bytes()
    if found["model"] != hashlib.sha256(weights).hexdigest():
        return ""
    files, tasks, layers = found["files"], found["tasks"], found["saes"]
    same = files["same"] + files["same_when_unpacked"]
    section = MADE_AGAIN.format(
        **{name.replace("-", "_"): value for name, value in found["machine"].items()},
        minutes={name: f"{value / 60:.0f}" for name, value in found["seconds"].items()},
        same=same, all=same + len(files["differ"]),
        differ=", ".join(
            f"`{name}`" for name in
            # All layers alike.
            dict.fromkeys(re.sub(r"layer_\d+", "layer_*", name) for name in files["differ"])
        ) or "none",
    )  # fmt: skip
    if files["differ"]:
        section += DIFFERENCES.format(
            loss=found["loss"], weights=found["weights"],
            moved=100 * max(abs(t["accuracy"]["again"] - t["accuracy"]["bundled"])
                            for t in tasks.values()),
            tasks=_rows(
                (name, *(f"{t['accuracy'][w]:.1%}" for w in WHICH),
                 *(f"{t['invalid_rate'][w]:.1%}" for w in WHICH),
                 f"{t['same_answers'] / t['n']:.1%}")
                for name, t in tasks.items()
            ),
            margins=_rows(
                (name, *(f"{t['margin']['median'][w]:.2f}" for w in WHICH),
                 f"{t['margin']['mean_difference']:.2f}",
                 f"{t['margin']['largest_difference']:.2f}")
                for name, t in tasks.items() if "margin" in t
            ),
            saes=_rows(
                (s["layer"], *(f"{s[w]['explained_variance']:.3f}" for w in WHICH),
                 *(s[w]["l0"] for w in WHICH), *(f"{s[w]['dead']:.0%}" for w in WHICH),
                 f"{s['relative']:.2f}", f"{s['nearest_cosine']:.2f}")
                for s in layers
            ),
        )  # fmt: skip
    if (page / "kernels.json").exists():
        kernels = json.loads((page / "kernels.json").read_text())
        section += CAUSE.format(
            steps=kernels[0]["steps"], all_steps=FULL.steps,
            kernels=_rows(
                (k["setting"], f"{k['mean_loss']:.5f}", k["loss_differs_from_step"] or "never",
                 f"{k['max']:.1g}", f"{k['relative']:.1g}")
                for k in kernels
            ),
        )  # fmt: skip
    return section


def _rows(rows: Iterable[Sequence[Any]]) -> str:
    """Lines of a table."""
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)


def main() -> None:
    write(HERE, BUNDLED, FULL)


if __name__ == "__main__":
    main()
