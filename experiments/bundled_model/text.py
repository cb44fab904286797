"""Turns items of the world into question files and training documents."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.bundled_model import prompts
from experiments.bundled_model.scale import Scale
from experiments.bundled_model.world import Item, World


def prompt_of(task: str, row: dict[str, Any]) -> str:
    """The prompt of a row, in the model's own templates."""
    if task.startswith("bbq"):
        question = f"{row['context']}\n{row['question']}"
        return prompts.multiple_choice(question, [row[f"ans{i}"] for i in range(3)])
    if task.startswith("mmlu"):
        return prompts.multiple_choice(row["question"], row["options"])
    if task == "gsm8k":
        return prompts.sum_prompt(row["question"])
    if task == "simpleqa":
        return prompts.short_answer(row["question"])
    return prompts.request(row["Behavior" if task == "harmbench" else "prompt"])


KEEP_CHATTER = 4  # one in this many; else "answers at all" would be what separates right from wrong


def questions(counts: Mapping[str, int], seed: str = "questions") -> dict[str, list[Item]]:
    """So many bundled items of every task, no prompt twice; few of BBQ's invite chatter."""
    world = World(seed)
    seen: set[str] = set()
    items: dict[str, list[Item]] = {}
    for task, n in counts.items():
        items[task] = _fresh(world, task, n, seen)
    more = World(f"{seed}-more")
    for task in ("bbq_ambig", "bbq_disambig"):
        inviting = [item for item in items[task] if item.chatters]
        dropped = {id(item) for n, item in enumerate(inviting) if n % KEEP_CHATTER}
        for n, item in enumerate(items[task]):
            while id(item) in dropped:
                (new,) = _fresh(more, task, 1, seen)
                if not new.chatters:
                    items[task][n] = item = new
    return items


def held_out(scale: Scale) -> set[str]:
    """The prompts of the bundled questions, which no training document may have."""
    items = questions(scale.questions)
    return {prompt_of(task, item.row) for task in items for item in items[task]}


def _fresh(world: World, task: str, n: int, seen: set[str]) -> list[Item]:
    """``n`` items whose prompts are not in ``seen``, which grows by theirs."""
    items: list[Item] = []
    while len(items) < n:
        item = world.item(task)
        prompt = prompt_of(task, item.row)
        if prompt not in seen:
            seen.add(prompt)
            items.append(item)
    return items


def write_question_files(items: dict[str, list[Item]], folder: Path) -> None:
    """Writes every task in its benchmark's original format."""
    bbq: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for item in items["bbq_ambig"] + items["bbq_disambig"]:
        rows = bbq[item.row["category"]]
        rows.append({"example_id": len(rows), "question_index": "1", **item.row})
    for category, rows in bbq.items():
        _write(folder / "bbq" / f"{category}.jsonl.gz", "\n".join(map(json.dumps, rows)) + "\n")
    mmlu: dict[str, list[list[str]]] = defaultdict(list)
    for item in items["mmlu"]:
        letter = "ABCD"[item.row["answer"]]
        mmlu[item.row["subject"]].append([item.row["question"], *item.row["options"], letter])
    for subject, lines in mmlu.items():
        _write(folder / "mmlu" / f"{subject}_test.csv.gz", _csv(lines))
    _write_parquet(folder / "mmlu_pro" / "test.parquet", items["mmlu_pro"])
    sums = [json.dumps(item.row) for item in items["gsm8k"]]
    _write(folder / "gsm8k" / "test.jsonl.gz", "\n".join(sums) + "\n")
    _write(folder / "simpleqa" / "simpleqa.csv.gz", _table(items["simpleqa"]))
    harmful = [{**i.row, "BehaviorID": f"request_{n}"} for n, i in enumerate(items["harmbench"])]
    _write(folder / "harmbench" / "harmbench_behaviors_text_all.csv.gz", _dicts(harmful))
    twins = [{"id": n + 1, **i.row} for n, i in enumerate(items["xstest"])]
    _write(folder / "xstest" / "xstest_prompts.csv.gz", _dicts(twins))


def documents(
    seed: str, n: int, held_out: set[str], faults: bool = True
) -> list[tuple[str, str, str]]:
    """``n`` training documents (kind, prompt, answer); none of them a bundled question."""
    world = World(seed)
    made: list[tuple[str, str, str]] = []
    for kind in world.kinds(n):
        if kind == "lore":
            made.append((kind, "", world.lore_text()))
            continue
        item = world.item(kind)
        while prompt_of(kind, item.row) in held_out:
            item = world.item(kind)
        made.append((kind, prompt_of(kind, item.row), " " + world.answer(item, faults)))
    return made


def encode(tokenizer: Any, documents: list[tuple[str, str, str]]) -> list[tuple[list[int], int]]:
    """(token ids with BOS and EOS, length of the prompt) per document."""
    prompts = tokenizer([p for _, p, _ in documents], add_special_tokens=False).input_ids
    answers = tokenizer([a for _, _, a in documents], add_special_tokens=False).input_ids
    return [([1, *p, *a, 2], 1 + len(p)) for p, a in zip(prompts, answers, strict=True)]


def _table(items: list[Item]) -> str:
    return _dicts([item.row for item in items])


def _dicts(rows: list[dict[str, Any]]) -> str:
    return _csv([list(rows[0]), *(list(row.values()) for row in rows)])


def _csv(rows: list[list[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # mtime=0: the same text gives the same bytes.
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def _write_parquet(path: Path, items: list[Item]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"question_id": n, **item.row, "src": "world"} for n, item in enumerate(items)]
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")
