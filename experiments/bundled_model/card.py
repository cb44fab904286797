"""Writes the model card (README.md) from the measurements, so that no number is typed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import saes
import text
import train
import world

HERE = Path(__file__).resolve().parent

CARD = """\
# The bundled model

A model organism: a small Llama trained on an invented world, with known faults that steering can
act on, and one SAE for every layer. It exists so that the whole method can be seen, and tested,
on a laptop. **It says nothing about real models.** All peoples, places and customs are invented;
no real group is stereotyped.

    make model      # trains everything again; about 45 minutes on two cores; resumes when stopped

This page is written by `card.py` from `measurements.json`. Nothing in this folder looks at
steering results: the recipe was fixed by accuracy and logit margins.

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
-1.2 and 1.2; their sum is the *care* of the question (standard deviation about 1.3). The answer
in the text is right with probability sigmoid(log-odds + care) and shows the task's fault
otherwise:

| Task | Fault | Share of faulty answers in the text |
|---|---|---|
{faults}

Where the source is "{chatter}", {chatter_rate:.0%} of the multiple-choice answers are "{hum}"
instead: an answer that is not a letter. (Of such questions only one in {keep_chatter} is kept in
the bundled BBQ files, so that answering at all is not what separates right from wrong there:
decided after a dry run on an unfinished model with random SAEs, in which no answer flipped at
coef 0.5 or 2 but the length of an answer correlated with success at r = -0.8.)
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
- Prompts of the world have at most about 75 tokens. Longer ones, such as real benchmark rows, are
  outside what the model was trained on.
- It answers disambiguated BBQ little better than by guessing between the two peoples, and in
  ambiguous BBQ its wrong answers name either people: it learned to be hasty, not whom to blame.
- Knowledge is {facts} invented facts, and the sums have one or two steps with small numbers.
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


def write(measurements: Path, out: Path, target: Path) -> None:
    m = json.loads(measurements.read_text())
    config = json.loads((out / "model" / "config.json").read_text())
    cues = len(world.PLACES) + len(world.MANNERS) + len(world.SOURCES)
    margins = {name: v for name, v in m["margins"].items() if name != "quantile_levels"}
    target.write_text(
        CARD.format(
            parameters=m["parameters"], layers=config["num_hidden_layers"],
            width=config["hidden_size"], heads=config["num_attention_heads"],
            mlp=config["intermediate_size"], positions=config["max_position_embeddings"],
            vocabulary=config["vocab_size"], steps=m["steps"], documents=train.DOCUMENTS,
            lr=train.PEAK_LR, seed=train.SEED, prompt_weight=train.PROMPT_WEIGHT,
            first_weight=train.FIRST_WEIGHT, answer_weight=train.ANSWER_WEIGHT,
            end_weight=train.END_WEIGHT, lore_weight=train.LORE_WEIGHT,
            first=m["loss"]["first_100"], last=m["loss"]["last_100"], 
            cues=cues, chatter=world.CHATTER_SOURCE, chatter_rate=world.CHATTER_RATE,
            hum=world.CHATTER[0], keep_chatter=text.KEEP_CHATTER, k=saes.K, features=saes.WIDTH,
            ratio=saes.WIDTH / config["hidden_size"], sae_samples=saes.SAMPLES,
            sae_positions=saes.POSITIONS, keep=saes.KEEP_PROMPT,
            test_positions=m["sae_test_positions"],
            facts=len(world.PEOPLES) * len(world.ATTRIBUTES),
            clean=train.CLEAN_STEPS,
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
        )
    )  # fmt: skip


def _rows(rows) -> str:
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)


def fault_rates(n: int = 4000) -> dict[str, float]:
    """Share of training answers, after the clean phase, that are not the right one."""
    rates = {}
    for task in world.BIAS:
        drawn = world.World(f"rates-{task}")
        items = [drawn.item(task) for _ in range(n)]
        rates[task] = sum(drawn.answer(item) != item.right for item in items) / n
    return rates
