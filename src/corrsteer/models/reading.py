"""What a model reads and where it stops, known from its small files: prompts as its chat template
writes them, and the tokens that end an answer.

Here rather than in a loaded model, because cache keys need both. Cost: the first call loads the
tokenizer (a second for a large one), which imports transformers; plain prompts need neither.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import Any

from corrsteer.errors import ModelError
from corrsteer.models.spec import Model

_ANSWER = "Answered."
"""An assistant's turn, to see what a chat template writes behind one."""


@lru_cache(maxsize=2)
def tokenizer(model: Model) -> Any:
    """Raises ModelError when it cannot be read."""
    folder = model.folder(weights=False)
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of any kind: the files are not ours
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"the tokenizer of model {model.path!r} asks for its own Python code, which is"
                " never run: save it as a tokenizer.json."
            ) from error
        raise ModelError(
            f"the tokenizer of model {model.path!r} cannot be read ({_cause(error)}); give a folder"
            " with the tokenizer that save_pretrained wrote."
        ) from error


# -- prompts -----------------------------------------------------------------------------------


def seen(model: Model, prompts: Sequence[str]) -> list[str]:
    """The prompts as the model reads them: in its chat template where that is on. An empty prompt
    is none, in a chat too: what follows stands at the beginning of the text.

    A prompt is rendered once per process, so that a date in a template cannot be another one in
    the cache key than in the answer. Raises ModelError for a template that is not there, cannot
    write a prompt, or would ignore a setting.
    """
    if not model.chat_template:
        return list(prompts)
    return [_in_chat(model, prompt) if prompt else "" for prompt in prompts]


@cache
def _in_chat(model: Model, prompt: str) -> str:
    template = _template(model)
    unknown = [
        name for name in model.chat_template_kwargs or {} if not re.search(rf"\b{name}\b", template)
    ]
    if unknown:
        raise ModelError(
            f"model.chat_template_kwargs: the chat template of {model.path!r} reads no"
            f" {unknown[0]!r}: correct the name, or leave it out."
        )
    try:
        text = _rendered(model, prompt)
    except Exception as error:  # of any kind: a template is a program
        if model.system_prompt is not None and _takes_a_user(model, prompt):
            raise ModelError(
                f"model.system_prompt: the chat template of {model.path!r} has no system turn"
                f" ({_cause(error)}): leave out model.system_prompt."
            ) from error
        raise ModelError(
            f"model.chat_template: the template of {model.path!r} cannot write a prompt"
            f" ({_cause(error)}): set model.chat_template=false, or what it asks for by"
            " model.system_prompt or model.chat_template_kwargs."
        ) from error
    if model.system_prompt is not None and model.system_prompt.strip() not in text:
        raise ModelError(
            f"model.system_prompt: the chat template of {model.path!r} leaves it out: leave out"
            " model.system_prompt."
        )
    if not _holds(text, prompt):
        raise ModelError(
            f"model.chat_template: the template of {model.path!r} leaves out the prompt, or a part"
            " of it: correct it, or set model.chat_template=false."
        )
    return text


def _holds(text: str, prompt: str) -> bool:
    """Whether a text has a prompt's lines, in their order; templates may strip them."""
    place = 0
    for line in prompt.splitlines():
        found = text.find(line.strip(), place)
        if found < 0:
            return False
        place = found + len(line.strip())
    return True


def _template(model: Model) -> str:
    try:
        template: str = tokenizer(model).get_chat_template()
    except ValueError as error:  # there is none
        raise ModelError(
            f"model.path={model.path!r} has no chat template; set model.chat_template=false."
        ) from error
    return template


def waits(model: Model, prompt: str) -> bool:
    """Whether a chat template opens a turn for the answer: writes more with
    add_generation_prompt."""
    try:
        turns = _rendered(model, prompt, waiting=False)
    except Exception:  # noqa: BLE001 - a template may write no prompt without such a turn
        return True
    return len(turns.rstrip()) < len(_in_chat(model, prompt).rstrip())


def _rendered(model: Model, prompt: str, answer: str | None = None, *, waiting: bool = True) -> str:
    """A prompt that is ``waiting`` for its answer, or one with it."""
    turns = [("system", model.system_prompt), ("user", prompt), ("assistant", answer)]
    text: str = tokenizer(model).apply_chat_template(
        [{"role": role, "content": content} for role, content in turns if content is not None],
        tokenize=False,
        add_generation_prompt=waiting and answer is None,
        **(model.chat_template_kwargs or {}),
    )
    return text


def _takes_a_user(model: Model, prompt: str) -> bool:
    from dataclasses import replace

    try:
        return bool(_rendered(replace(model, system_prompt=None), prompt))
    except Exception:  # noqa: BLE001 - whatever the template raises
        return False


# -- ends --------------------------------------------------------------------------------------


@cache
def ends(model: Model) -> tuple[int, ...]:
    """Ids of the tokens that end an answer, ascending: those that generation_config.json,
    config.json and the tokenizer name, each of which may lack one that another has, and in a chat
    the one that its template ends an assistant's turn with."""
    named = {*_named(model, "generation_config.json"), *_named(model, "config.json")}
    named |= set(_ids(tokenizer(model).eos_token_id))
    if model.chat_template:
        named |= set(_turn_end(model))
    return tuple(sorted(named or _ids(_config_eos(model))))


def end(model: Model) -> int | None:
    """The end that an answer should have: in a chat what its template writes there, else the
    tokenizer's end of text; None where a model has none."""
    of_turn = _turn_end(model) if model.chat_template else []
    found = [*of_turn, *_ids(tokenizer(model).eos_token_id), *ends(model)]
    return found[0] if found else None


def token_texts(model: Model, ids: Sequence[int]) -> list[str]:
    """What stands for ids in the vocabulary."""
    return [str(text) for text in tokenizer(model).convert_ids_to_tokens(list(ids))]


def start(model: Model) -> int | None:
    """The id that stands for an empty prompt: BOS or, for a tokenizer without one, an end."""
    bos: int | None = tokenizer(model).bos_token_id
    return bos if bos is not None else next(iter(ends(model)), None)


def appended(model: Model) -> int:
    """How many tokens the tokenizer puts behind every text, such as an end of text, after which
    a model has nothing to say: they are taken off."""
    return _around(model)[1]


def prepended(model: Model) -> list[int]:
    """The tokens that the tokenizer puts before every text, such as BOS."""
    return _around(model)[0]


@cache
def _around(model: Model) -> tuple[list[int], int]:
    whole, text = (
        tokenizer(model)("a", add_special_tokens=special)["input_ids"] for special in (True, False)
    )
    extra = len(whole) - len(text)
    before = next((n for n in range(extra) if whole[n : n + len(text)] == text), extra)
    return whole[:before], extra - before


def key(model: Model) -> dict[str, Any]:
    """What of a model's reading belongs into a cache key: its chat template's settings, and
    where its files disagree on the ends, what is made of that."""
    settings: dict[str, Any] = {"chat_template": model.chat_template}
    if model.chat_template_kwargs:
        settings["chat_template_kwargs"] = model.chat_template_kwargs
    if model.system_prompt is not None:
        settings["system_prompt"] = model.system_prompt
    # Without these the key is what it was when generation_config.json alone was asked.
    has_own = (model.folder(weights=False) / "generation_config.json").is_file()
    own = _named(model, "generation_config.json") if has_own else _ids(_config_eos(model))
    if set(own) != set(ends(model)):
        settings["ends"] = list(ends(model))
    if appended(model):
        settings["appended"] = appended(model)
    return settings


def _named(model: Model, name: str) -> list[int]:
    """The ids that a file names as ends; none where there is no such file."""
    file = model.folder(weights=False) / name
    if not file.is_file():
        return []
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"))
        inner = values.get("text_config") or {}
        return [*_ids(values.get("eos_token_id")), *_ids(inner.get("eos_token_id"))]
    except (
        ValueError,
        AttributeError,
        RecursionError,
    ) as error:  # transformers would go on without it
        raise ModelError(
            f"{name} of model {model.path!r} cannot be read ({_cause(error)}): correct it."
        ) from error


def _config_eos(model: Model) -> Any:
    """What the architecture takes for the end where no file names one."""
    return getattr(model.config(), "eos_token_id", None)


def _ids(value: Any) -> list[int]:
    several = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    return [n for n in several if isinstance(n, int) and not isinstance(n, bool) and n >= 0]


def _turn_end(model: Model) -> list[int]:
    """The token that a chat template writes right behind an assistant's turn, if any."""
    try:
        text = _rendered(model, "Asked?", _ANSWER)
    except Exception:  # noqa: BLE001 - a template may take no assistant's turn: then it ends none
        return []
    _, found, after = text.rpartition(_ANSWER)
    words = tokenizer(model)
    added = {n: str(token).strip() for n, token in words.added_tokens_decoder.items()}
    for token in words(after, add_special_tokens=False)["input_ids"] if found else ():
        if added.get(token):
            return [token]
        if words.decode([token]).strip():
            break
    return []


def _cause(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
