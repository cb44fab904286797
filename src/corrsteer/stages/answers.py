"""Answers of any number of arms to a set of questions, scored, and kept batch by batch.

Cost: one prompt pass per batch, shared by all arms with the same prompts and decoding, then one
short pass per arm and new token. A batch is the unit that is never lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from corrsteer.progress import progress
from corrsteer.records import Completion, Example, Score, Weighed
from corrsteer.scorers.base import ModelScorer
from corrsteer.scorers.degenerate import degenerate
from corrsteer.stages.bench import (
    ANSWERS,
    PER_CHARACTER,
    Asking,
    Bench,
    Share,
    answers_key,
    golds_digest,
    groups,
    prefixed,
)
from corrsteer.stats.margins import margins
from corrsteer.steering.arms import BASELINE, Arm, baseline
from corrsteer.store.keys import key as key_of
from corrsteer.store.partial import Partial
from corrsteer.tasks.protocol import Answerable, Scorer

if TYPE_CHECKING:
    from corrsteer.models.listening import Listener
    from corrsteer.models.loaded import LoadedModel

    Listen = Callable[[Sequence[int]], Listener]

FILE = "answers.parquet"

# -- the stage ---------------------------------------------------------------------------------


def answers(
    bench: Bench,
    asking: Asking,
    split: str,
    arms: Iterable[Arm],
    what: str | None = None,
    listen: Listen | None = None,
) -> dict[str, pd.DataFrame]:
    """Scored answers of every arm to one split, by the arm's name. ``what``: its name in
    messages. ``listen``: who reads along while new ones are written, of the unsteered arm alone."""
    together: dict[tuple[str, str, tuple[str, ...]], list[Arm]] = {}
    arms = list(arms)
    assert len({arm.name for arm in arms}) == len(arms), [arm.name for arm in arms]
    if any(arm.among is not None for arm in arms):
        return _among(bench, asking, split, arms, what)
    for arm in arms:
        alike = (arm.prefix, arm.decoding or asking.decoding, arm.stop)
        together.setdefault(alike, []).append(arm)
    frames: dict[str, pd.DataFrame] = {}
    for (prefix, _, stop), same in together.items():
        examples = prefixed(asking.splits[split], prefix)
        label = f"{what or split}, instructed" if prefix else what or split
        frames |= _alike(bench, stopping(asking, stop), examples, same, label, listen)
    return {arm.name: frames[arm.name] for arm in arms}


def stopping(asking: Asking, stop: Sequence[str]) -> Asking:
    """Answers end at these texts, too."""
    return replace(asking, stop=tuple(dict.fromkeys([*asking.stop, *stop]))) if stop else asking


def _among(
    bench: Bench, asking: Asking, split: str, arms: Sequence[Arm], what: str | None
) -> dict[str, pd.DataFrame]:
    """Arms of which some act on some questions only. What several of them do is answered once, and
    each takes of these answers, question by question, or of those without steering."""
    first: dict[str, Arm] = {}
    does: dict[str, list[str]] = {}
    for arm in arms:
        plain = replace(arm, among=None)
        bare = replace(plain, intervention=None, kind=BASELINE)
        both = [plain] if arm.among is None else [plain, replace(bare, name=f"{arm.name}, bare")]
        told = [
            key_of(
                *("arm", 1),
                {"prefix": a.prefix, "decoding": a.decoding, "stop": list(a.stop), **a.key()},
            )
            for a in both
        ]
        does[arm.name] = told
        for one, same in zip(told, both, strict=True):
            first.setdefault(one, same)
    made = answers(bench, asking, split, first.values(), what)
    frames = {one: made[arm.name] for one, arm in first.items()}
    found = {}
    for arm in arms:
        frame, *others = (frames[one] for one in does[arm.name])
        for other in others:
            acts = frame["id"].isin(arm.among or ())
            frame = pd.concat([frame[acts], other[~acts]]).sort_index()
        found[arm.name] = frame
    return found


def _alike(
    bench: Bench,
    asking: Asking,
    examples: Sequence[Example],
    arms: Sequence[Arm],
    what: str,
    listen: Listen | None = None,
) -> dict[str, pd.DataFrame]:
    """Arms with the same prompts and decoding. Those that are missing share one prompt pass."""
    by_name = {arm.name: arm for arm in arms}
    keys = {arm.name: answers_key(bench, asking, examples, arm) for arm in arms}

    def make(missing: list[str]) -> None:
        some = [by_name[name] for name in missing]
        made = _made(bench, asking, examples, some, keys, what, listen=listen)
        for name in missing:

            def write(folder: Path, name: str = name) -> None:
                completions = [made[name][i] for i in range(len(examples))]
                answers_frame(examples, completions).to_parquet(folder / FILE, index=False)

            bench.store.get(ANSWERS, keys[name], write)

    bench.store.fill(ANSWERS, keys, make)
    prompts, told = bench.seen(examples), dict[tuple[int, str], Score]()
    frames = {name: _scored(bench, asking.task, keys[name], examples, told) for name in by_name}
    return {
        name: f.assign(prompt=prompts, margin=margins(f, examples, asking.likelihood))
        for name, f in frames.items()
    }


def answer_share(
    bench: Bench, asking: Asking, split: str, share: Share, listen: Listen | None = None
) -> None:
    """Answer some batches without steering, and keep them for :func:`answers`."""
    arm, examples = baseline(), asking.splits[split]
    key = answers_key(bench, asking, examples, arm)
    if not bench.store.has(ANSWERS, key):
        with bench.store.claim(ANSWERS, {None: {**key, "share": str(share)}}):
            _made(bench, asking, examples, [arm], {arm.name: key}, split, share, listen)


def _made(
    bench: Bench,
    asking: Asking,
    examples: Sequence[Example],
    arms: Sequence[Arm],
    keys: Mapping[str, Mapping[str, Any]],
    what: str,
    share: Share | None = None,
    listen: Listen | None = None,
) -> dict[str, dict[int, Completion]]:
    """Answers by arm and index of the example, continuing from what was kept."""
    parts = {arm.name: bench.store.partial(ANSWERS, keys[arm.name]) for arm in arms}
    label = f"answer {what}, {len(arms)} arm{'s' * (len(arms) > 1)}"
    batches: Sequence[Sequence[int]] = bench.model.batches([e.prompt for e in examples])
    if share is not None:
        label, batches = f"{label}, {share}", share.batches(batches)
    with progress(label, sum(map(len, batches))) as show:

        def keep(new: Mapping[str, Mapping[int, Completion]], done: int) -> None:
            for arm, column in new.items():
                keep_answers(parts[arm], column)
            show(done, known=not new)

        return generate(
            bench.model,
            examples,
            arms,
            batches=batches,
            max_new_tokens=asking.task.max_new_tokens,
            decoding=arms[0].decoding or asking.decoding,
            stop=asking.stop,
            likelihood=asking.likelihood,
            known={arm: kept_answers(part) for arm, part in parts.items()},
            on_batch=keep,
            listen=listen,
        )


# -- the computation ---------------------------------------------------------------------------


def generate(
    model: LoadedModel,
    examples: Sequence[Example],
    arms: Sequence[Arm],
    *,
    batches: Sequence[Sequence[int]],
    max_new_tokens: int,
    decoding: str = "free",
    stop: Sequence[str] = (),
    likelihood: str = PER_CHARACTER,
    known: Mapping[str, Mapping[int, Completion]] | None = None,
    on_batch: Callable[[dict[str, dict[int, Completion]], int], None] | None = None,
    listen: Listen | None = None,
) -> dict[str, dict[int, Completion]]:
    """Answers of every arm, by index of the example, to the examples in ``batches`` (of indices).

    Of an arm only its intervention counts here. ``decoding``: "free" is greedy text that ends at
    one of the ``stop`` texts; "constrained" takes the likeliest option letter; "loglikelihood" the
    option whose text is likeliest, compared by ``likelihood``, and the answer is then its letter
    and text.
    ``known``: answers that are there already, by arm and index of the example; they are not
    generated again. ``on_batch`` hears of every new batch: its answers in the same form, and how
    many examples are done. ``listen`` gives who reads along while some examples are answered.
    """
    prompts = [e.prompt for e in examples]
    made = {arm.name: dict((known or {}).get(arm.name, {})) for arm in arms}
    done = 0
    # A batch is answered as a whole or not at all: an answer must not depend on where an earlier
    # job stopped.
    for rows in batches:
        missing = [arm for arm in arms if any(i not in made[arm.name] for i in rows)]
        new: dict[str, dict[int, Completion]] = {}
        if missing:
            new = {arm.name: {} for arm in missing}
            for group, allowed in groups(rows, examples, decoding):
                asked = [prompts[i] for i in group], [arm.intervention for arm in missing]
                if decoding == "loglikelihood":
                    options = [examples[i].options for i in group]
                    completions = model.choose(*asked, options, likelihood)
                else:
                    completions = model.generate(
                        *asked,
                        max_new_tokens=max_new_tokens,
                        allowed=allowed,
                        stop=stop,
                        listener=None if listen is None else listen(group),
                    )
                for arm, column in zip(missing, completions, strict=True):
                    new[arm.name].update(zip(group, column, strict=True))
        for name, answered in new.items():
            made[name].update(answered)
        done += len(rows)
        if on_batch is not None:
            on_batch(new, done)
    return made


def check_prompts(bench: Bench, asking: Asking, prefix: str = "") -> None:
    """Raises DataError for prompts without room for an answer, or for an option that is weighed, of
    all splits at once, and of the test split with a ``prefix``.

    Prompts that were answered before fitted; then the model need not be loaded.
    """
    asked = list(asking.splits.values())
    if prefix:
        asked.append(prefixed(asking.splits["test"], prefix))
    arm = baseline()
    if not all(bench.store.has(ANSWERS, answers_key(bench, asking, some, arm)) for some in asked):
        every = [example for some in asked for example in some]
        prompts = [example.prompt for example in every]
        if asking.decoding == "loglikelihood":
            bench.model.check_options(prompts, [example.options for example in every])
        else:
            room = asking.task.max_new_tokens if asking.decoding == "free" else 1
            bench.model.check_prompts(prompts, room)


# -- form on disk, and scores ------------------------------------------------------------------


def answers_frame(examples: Sequence[Example], completions: Sequence[Completion]) -> pd.DataFrame:
    """Columns id, answer, tokens, n_tokens, n_steered and, where options were weighed, a list for
    each field of :class:`Weighed`: option_log, option_characters, option_tokens."""
    columns: dict[str, list[Any]] = {
        "id": [e.id for e in examples],
        "answer": [c.text for c in completions],
        "tokens": [list(c.tokens) for c in completions],
        "n_tokens": [len(c.tokens) for c in completions],
        "n_steered": [c.steered for c in completions],
    }
    if any(c.options for c in completions):
        for name in Weighed._fields:
            columns[f"option_{name}"] = [[getattr(o, name) for o in c.options] for c in completions]
    return pd.DataFrame(columns)


def keep_answers(part: Partial, completions: Mapping[int, Completion]) -> None:
    rows = [[i, c.text, c.tokens, c.steered, *c.options] for i, c in completions.items()]
    part.save(f"{min(completions):08d}", json.dumps(rows).encode())


def kept_answers(part: Partial) -> dict[int, Completion]:
    return {
        i: Completion(text, tuple(tokens), steered, tuple(Weighed(*o) for o in options))
        for content in part.load().values()
        for i, text, tokens, steered, *options in json.loads(content)
    }


def _scored(
    bench: Bench,
    task: Answerable,
    key: Mapping[str, Any],
    examples: Sequence[Example],
    told: dict[tuple[int, str], Score],
) -> pd.DataFrame:
    frame = pd.read_parquet(bench.store.read(ANSWERS, key) / FILE)
    bench.store.partial(ANSWERS, key).clear()
    scorer = task.scorer
    if not isinstance(scorer, ModelScorer):
        return score(frame, examples, scorer, told)
    settings = {
        "answers": key,
        "golds": golds_digest(examples),
        "scorer": {
            name: value
            for name, value in vars(scorer).items()
            if name not in ("model", "revision", "batch_size", "device")
        },
        "kind": type(scorer).__name__,
        "model": scorer.fingerprint(),
    }

    def write(folder: Path) -> None:
        score(frame, examples, scorer).to_parquet(folder / "scored.parquet", index=False)

    return pd.read_parquet(bench.store.get("score", settings, write) / "scored.parquet")


def score(
    frame: pd.DataFrame,
    examples: Sequence[Example],
    scorer: Scorer,
    told: dict[tuple[int, str], Score] | None = None,
) -> pd.DataFrame:
    """Adds gold, parsed, score, invalid and degenerate to the answers of ``examples``.

    ``told``: scores of texts by index of the example, read and added to: most arms give most
    questions the same answer.
    """
    assert list(frame["id"]) == [e.id for e in examples]
    texts = frame["answer"].tolist()
    if isinstance(scorer, ModelScorer):
        scores = scorer.many(examples, texts)
    else:
        told = {} if told is None else told
        for i, (example, text) in enumerate(zip(examples, texts, strict=True)):
            if (i, text) not in told:
                told[i, text] = scorer(example, text)
        scores = [told[i, text] for i, text in enumerate(texts)]
    return frame.assign(
        gold=[e.gold for e in examples],
        parsed=pd.array([s.parsed for s in scores], dtype="string"),
        score=[s.value for s in scores],
        invalid=[s.invalid for s in scores],
        degenerate=pd.array(list(map(degenerate, texts)), dtype="string"),
    )
