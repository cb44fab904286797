"""A steered model for Inspect (inspect_ai): the plan of a run on its model, greedy unless a task
sets a temperature.

    inspect eval TASK --model corrsteer/RUN                    the plan as it was made
    inspect eval TASK --model corrsteer/RUN -M coef=0          without it
    inspect eval TASK --model corrsteer/PLAN -M model=MODEL    of a plan that lies in no run

Requests that wait together are answered together, in batches of the run's ``backend.batch_size``
or ``-M batch_size=N``. ``-M positions=all`` and ``-M gate=always`` are the dial's other knobs.
What would change the answer and is not known here, such as tools, is refused. Prompts are read as
the run read its own: in its chat template, or as plain text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import (
    ChatMessage,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from corrsteer.errors import ConfigError, CorrSteerError, DataError
from corrsteer.serve import together
from corrsteer.serve.batches import Batches
from corrsteer.serve.source import Loaded, load, read
from corrsteer.serve.stepper import Sampling, Turned
from corrsteer.steering.plan import Plan

PROMPT = 2**17
"""Tokens of a prompt at most; the model's own limit is mostly lower."""
_OTHER = (
    "best_of", "frequency_penalty", "presence_penalty", "logit_bias", "top_k", "logprobs",
    "top_logprobs", "prompt_logprobs", "response_schema", "extra_body", "modalities",
)  # fmt: skip
"""Settings that would change the answer, and are not known here."""


@dataclass(frozen=True)
class Asked:
    """What requests must share to be answered together."""

    new: int
    sampling: Sampling


class SteeredAPI(ModelAPI):  # type: ignore[misc]  # Inspect is not followed
    """The model of ``corrsteer/RUN``."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - as Inspect calls it
        **model_args: Any,
    ) -> None:
        """Loads the model. Raises Inspect's PrerequisiteError, which it shows in a line."""
        super().__init__(model_name, base_url, api_key, [], config)
        try:
            self._loaded, self._plan, self._batch = _loaded(model_name, model_args)
        except CorrSteerError as error:
            raise PrerequisiteError(f"corrsteer/{model_name}: {error}") from error
        self._batches: Batches[Asked, list[int], list[int]] = Batches(self._answer, self._batch)

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        _check(tools, config)
        new = config.max_tokens or self.max_tokens()
        sampling = Sampling(
            config.temperature or 0.0, 1.0 if config.top_p is None else config.top_p, config.seed
        )
        reader = self._loaded.reader
        row = reader.chat([_said(message) for message in input], new)
        tokens = await self._batches.ask(Asked(new, sampling), row)
        ended = tokens[-1:] and tokens[-1] in reader.ends
        text, stopped = _cut(reader.text(tokens), config.stop_seqs or [])
        output = ModelOutput.from_content(
            self.model_name, text, "stop" if ended or stopped else "max_tokens"
        )
        output.usage = ModelUsage(
            input_tokens=len(row), output_tokens=len(tokens), total_tokens=len(row) + len(tokens)
        )
        return output

    def _answer(self, asked: Asked, rows: list[list[int]]) -> list[list[int]]:
        loaded = self._loaded
        return together.answered(
            loaded.stepper, self._plan, rows, asked.new, asked.sampling, loaded.reader.ends
        )

    def max_tokens(self) -> int:
        """Those of the run's task."""
        return self._loaded.source.tokens

    def max_connections(self) -> int:
        return self._batch

    def connection_key(self) -> str:
        return str(self.model_name)

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()


def _loaded(folder: str, given: dict[str, Any]) -> tuple[Loaded, Plan, int]:
    """The model, the plan under the settings ``given``, the size of a batch."""
    known = {"model", "coef", "positions", "gate", "batch_size"}
    if unknown := given.keys() - known:
        raise ConfigError(f"-M {min(unknown)} is unknown: use {', '.join(sorted(known))}")
    if not Path(folder).is_dir():
        raise DataError(f"there is no folder {folder}; give the folder of a finished run")
    model = given.get("model")
    source = read(Path(folder), None if model is None else str(model))
    plan, size = source.plan, given.get("batch_size", source.backend.batch_size)
    if type(size) is not int or size < 1:
        raise ConfigError(f"-M batch_size={size} must be a whole number from 1 on")
    coef = given.get("coef", plan.coef)
    if type(coef) not in (int, float):
        raise ConfigError(f"-M coef={coef} must be a number")
    gate = given.get("gate", "plan")
    if gate != "plan":
        source.chance.start()
        source.chance.join()
    source.gates.check(gate)
    turned = Turned(float(coef), {}, str(given.get("positions", plan.positions)), gate)
    return load(source, PROMPT), source.gates.turned(turned), size


def _check(tools: list[ToolInfo], config: GenerateConfig) -> None:
    """ConfigError for what is not known here."""
    if tools:
        raise ConfigError("corrsteer has no tools: choose a task without them")
    if (config.num_choices or 1) != 1:
        raise ConfigError("corrsteer gives one answer per request: leave out num_choices")
    for name in _OTHER:
        if getattr(config, name, None):
            raise ConfigError(f"corrsteer does not know {name}: leave it out")


def _said(message: ChatMessage) -> dict[str, str]:
    if message.role not in ("system", "user", "assistant"):
        raise DataError(f"corrsteer reads no message of a {message.role}: choose a task without")
    content = message.content
    if not isinstance(content, str):
        if other := sorted({part.type for part in content} - {"text", "reasoning"}):
            raise DataError(f"corrsteer reads text alone, and a message has {other[0]}")
        content = message.text
    return {"role": message.role, "content": content}


def _cut(text: str, stops: list[str]) -> tuple[str, bool]:
    """A text up to the first of some others, and whether there was one."""
    found = [text.index(stop) for stop in stops if stop in text]
    return (text[: min(found)], True) if found else (text, False)
