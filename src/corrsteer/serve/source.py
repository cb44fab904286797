"""What a dial turns: a plan, its model, and what its run says of them.

Cost: the model's weights, and importing transformers; nnsight and the SAEs are not needed.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corrsteer.config import instantiate
from corrsteer.errors import ConfigError, CorrSteerError, DataError
from corrsteer.export.source import check_finished, check_made_for, config_of
from corrsteer.models import reading, weights
from corrsteer.models.local import Local
from corrsteer.models.spec import Model
from corrsteer.models.text import Text
from corrsteer.saes.protocol import SAEProvider
from corrsteer.serve.chance import PROMPTS, Chance
from corrsteer.serve.gates import Gates
from corrsteer.serve.stepper import Stepper
from corrsteer.steering.arms import BASELINE
from corrsteer.steering.plan import Plan, load_plan, plan_folder

QUESTIONS = 200
"""Test questions that the page offers."""
TOKENS = 48
"""New tokens, where no run says how many."""


@dataclass(frozen=True)
class Source:
    """``questions``: id and prompt as the model reads it, of the test split; ``cards``: what the
    run found of each planned feature, by layer; ``tokens``: of its answers."""

    plan: Plan
    spec: Model
    backend: Local
    chance: Chance
    questions: Sequence[tuple[str, str]]
    cards: Mapping[int, Mapping[str, Any]]
    tokens: int
    gates: Gates


def read(folder: Path, model: str | None) -> Source:
    """The plan of a run, or a plan and the ``model`` it is for. Loads no weights.

    Raises DataError, ConfigError or ModelError for what is no plan or no finished run, and for
    another model than the plan's.
    """
    plan = load_plan(folder)
    if not plan.entries:
        raise DataError(f"the plan in {folder} has no layers: there is no dial to turn")
    run = plan_folder(folder).parent
    cfg = config_of(run) if (run / "config.yaml").is_file() else None
    if cfg is None and model is None:
        raise ConfigError(f"{folder} lies in no run: type its model, too (dial {folder} MODEL)")
    backend, saes, why, tokens = Local(), None, "a plan without its run has no SAEs", TOKENS
    if cfg is not None:
        check_finished(run)
        backend = instantiate(cfg.backend, Local)
        tokens = cfg.task.get("max_new_tokens") or TOKENS
        try:
            saes, why = instantiate(cfg.sae, SAEProvider), ""
            for entry in plan.entries:
                saes.validate(entry.layer, entry.vector.size)
        except CorrSteerError as error:
            saes, why = None, str(error)
    if model is not None:
        spec = Model("given", model)
    else:
        assert cfg is not None
        spec = instantiate(cfg.model, Model)
    check_made_for(plan, spec)
    chance = Chance(plan, saes, why)
    questions = _questions(run) if cfg is not None else []
    cards = {e.layer: _card(e.layer, e.feature, run) for e in plan.entries}
    gates = Gates(plan, chance)
    return Source(plan, spec, backend, chance, questions, cards, int(tokens), gates)


def _questions(run: Path) -> list[tuple[str, str]]:
    """DataError where the run's answers cannot be read."""
    file = run / "answers.parquet"
    try:
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(
            file,
            columns=["id", "prompt"],
            filters=[("split", "=", "test"), ("arm", "=", BASELINE)],
        ).slice(0, QUESTIONS)
        return [(str(row["id"]), str(row["prompt"])) for row in table.to_pylist()]
    except Exception as error:  # whatever pyarrow says of a file that is damaged
        words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(f"{file} cannot be read ({words}): type the run's command again") from error


def _card(layer: int, feature: int, run: Path) -> dict[str, Any]:
    """What the run's files say of a feature; empty where they say nothing."""
    try:
        cards = json.loads((run / "contexts.json").read_text(encoding="utf-8"))
        (card,) = [c for c in cards if (c["layer"], c["feature"]) == (layer, feature)]
        strongest = [c["tokens"][c["peak"]] for c in card["contexts"]]
        found = {
            "class": card["class"],
            "why": card["class_why"],
            "description": card["description"],
            "link": card["neuronpedia"],
            "fires_on": list(dict.fromkeys(strongest))[:5],
            "promotes": card["promotes"][:6],
            "suppresses": card["suppresses"][:6],
        }
        with (run / "features.csv").open(encoding="utf-8", newline="") as handle:
            for row in csv.DictReader(handle):
                if (row["layer"], row["feature"]) == (str(layer), str(feature)):
                    found["freq"] = float(row["freq"])
        return found
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return {}


class Reader(Text):
    """The tokenizer of a model, for one prompt at a time."""

    def __init__(self, spec: Model, config: Any, most: int) -> None:
        """``most``: tokens of a prompt at most."""
        super().__init__(reading.tokenizer(spec), spec, 1, config)
        self._most = most
        self.ends = tuple(self._eos)
        # What the tokenizer puts before other texts, where the chat template writes it, too.
        self._begin = reading.prepended(spec)
        if spec.chat_template:
            row = self._ids(reading.seen(spec, ["a"]), special=False)[0]
            self._begin = self._begin if row[: len(self._begin)] == self._begin else []

    def asked(self, text: str, new: int) -> list[int]:
        """Token ids of a user's text, in the chat template where the run uses one. Raises
        DataError where it leaves no room for ``new`` tokens."""
        return self._fits(self._encode([text])[0], new)

    def as_it_is(self, text: str, new: int) -> list[int]:
        """Of a text that the model goes on with: without any template, or in its chat template
        already. It begins as the run's own prompts do (with BOS), which is not written twice."""
        chat = self._model.chat_template
        row = self._ids([text], special=not chat)[0]
        if chat and row[: len(self._begin)] != self._begin:
            row = self._begin + row
        return self._fits(row or ([] if self._start is None else [self._start]), new)

    def chat(self, messages: Sequence[Mapping[str, str]], new: int) -> list[int]:
        """Of a conversation that waits for its answer. Without a chat template the texts stand one
        below the other, an empty line between."""
        if not self._model.chat_template:
            return self.asked("\n\n".join(m["content"] for m in messages), new)
        turns = list(messages)
        if len(turns) == 1 and turns[0]["role"] == "user" and turns[0]["content"]:
            return self.asked(turns[0]["content"], new)
        system = self._model.system_prompt
        if system is not None and turns[0]["role"] != "system":
            turns = [{"role": "system", "content": system}, *turns]
        try:
            text: str = self._tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=True,
                **(self._model.chat_template_kwargs or {}),
            )
        except Exception as error:  # of any kind: a template is a program
            words = " ".join(str(error).split())[:200]
            raise DataError(f"the model's chat template cannot write this ({words})") from error
        return self.as_it_is(text, new)

    def text(self, ids: Sequence[int]) -> str:
        """What tokens say, without special ones."""
        return self._until_stop(tuple(ids), ())[1]

    def _fits(self, row: list[int], new: int) -> list[int]:
        if not row:
            raise DataError("the prompt is empty: give a text")
        most = min(self._most, self._model.max_prompt_tokens)
        if self._max_positions is not None:
            most = min(most, self._max_positions - new)
        if len(row) > most:
            raise DataError(
                f"the prompt has {len(row)} tokens, and at most {most} go with an answer of {new}:"
                " shorten it"
            )
        return row


@dataclass(frozen=True)
class Loaded:
    """A model in memory. ``live``: token ids of the questions that random features are drawn by."""

    source: Source
    reader: Reader
    stepper: Stepper
    live: Sequence[list[int]]

    def begin(self) -> None:
        """Begin to read the SAEs. For the thread that owns the model. Cost: a pass over each of
        the questions."""
        chance, seen = self.source.chance, []
        try:
            if chance.has_saes and not chance.none:
                seen = [self.stepper.residuals(ids) for ids in self.live]
        finally:  # whatever a model raises: who waits for the SAEs must not wait for ever
            chance.start(seen)


def load(source: Source, most: int) -> Loaded:
    """The weights in memory. ``most``: tokens of a prompt at most. Raises ModelError."""
    from corrsteer.models.protocol import chosen_device

    spec, backend = source.spec, source.backend
    module = weights.load(spec, backend.dtype(spec), backend.device_map)
    if not backend.device_map:
        module = module.to(chosen_device(backend.device))
    weights.check_numbers(spec, module)
    module.eval()
    reader = Reader(spec, module.config.get_text_config(), most)

    live = []
    for _, prompt in source.questions[:PROMPTS]:
        with suppress(DataError):  # one that is too long for this server
            live.append(reader.as_it_is(prompt, 1))
    return Loaded(source, reader, Stepper(module), live)
