"""Which language model is used, as plain settings.

Costs nothing to import or build: no torch here. ``fingerprint`` of a local folder reads every
byte of its weights (about a second per gigabyte); a Hub model is named by its commit instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corrsteer import hub
from corrsteer.errors import ConfigError, ModelError

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Model:
    """A causal language model of the transformers library.

    ``path`` is a local folder or a Hub id; ``revision`` (branch, tag or commit) is for the Hub.
    ``dtype`` auto is bfloat16 on a GPU that has it, float32 elsewhere. ``chat_template`` puts
    each prompt into the tokenizer's own template as a user's message, behind ``system_prompt``
    where there is one; ``chat_template_kwargs`` are handed to the template. Prompts longer than
    ``max_prompt_tokens`` are an error, never cut. ``licence`` names one that must be
    accepted on the model's page before the Hub lets it be downloaded.
    """

    name: str
    path: str
    revision: str | None = None
    dtype: str = "auto"
    chat_template: bool = False
    chat_template_kwargs: Mapping[str, Any] | None = field(default=None, hash=False)
    system_prompt: str | None = None
    max_prompt_tokens: int = 1024
    licence: str | None = None

    def __post_init__(self) -> None:
        if not self.name or not self.path:
            raise ConfigError("model.name and model.path must not be empty: set both.")
        if self.dtype not in DTYPES:
            raise ConfigError(
                f"model.dtype={self.dtype!r} is unknown: use one of {', '.join(DTYPES)}."
            )
        if self.max_prompt_tokens < 1:
            raise ConfigError(
                f"model.max_prompt_tokens={self.max_prompt_tokens}: it must be at least 1."
            )
        self._check_chat()

    def _check_chat(self) -> None:
        kwargs = self.chat_template_kwargs
        if kwargs is not None and not isinstance(kwargs, Mapping):
            raise ConfigError(
                f"model.chat_template_kwargs={kwargs!r} must be a mapping: type"
                " 'model.chat_template_kwargs={enable_thinking: false}', or null."
            )
        bad = [name for name in kwargs or {} if not (isinstance(name, str) and name.isidentifier())]
        if bad:
            raise ConfigError(
                f"model.chat_template_kwargs has {bad[0]!r}, which no template can read: names are"
                " like enable_thinking."
            )
        if self.system_prompt is not None and not self.system_prompt.strip():
            raise ConfigError("model.system_prompt is empty: give a text, or null for none.")
        for name in ("chat_template_kwargs", "system_prompt"):
            if getattr(self, name) and not self.chat_template:
                raise ConfigError(
                    f"model.{name} is for a chat template: type model.chat_template=true too, or"
                    f" leave out model.{name}."
                )

    @property
    def is_local(self) -> bool:
        """Whether ``path`` is meant as a folder; see :func:`corrsteer.hub.is_local`."""
        return hub.is_local(self.path)

    def folder(self, *, weights: bool = True) -> Path:
        """Where its files are: the folder itself, or a snapshot in the Hub's local cache.

        Without ``weights``, config and tokenizer are enough. Downloads what is missing. Raises
        ModelError when there is no such folder or the model cannot be had.
        """
        return hub.folder(
            self.path,
            setting="model.path",
            example="google/gemma-2-2b",
            revision=self.revision,
            weights=weights,
            licence=self.licence,
        )

    def fingerprint(self, *, weights: bool = True) -> str:
        """What identifies the weights and the tokenizer in a cache key.

        ``id@commit`` for a Hub id, a sha256 over names and contents for a folder.
        """
        return hub.fingerprint(self.path, self.folder(weights=weights))

    def shape(self) -> tuple[int, int]:
        """(number of blocks, width of the residual stream), from the model's config alone.

        Importing transformers takes about 2 s. Raises ModelError when there is no config.
        """
        config = self.config()
        return config.num_hidden_layers, config.hidden_size

    def architecture(self) -> str:
        """transformers' name for the kind of text model, such as llama or gemma2."""
        return str(self.config().model_type)

    def config(self) -> Any:
        """transformers' config of the text model. Raises ModelError when there is none, or when
        the model is Python code of its own."""
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(
                self.folder(weights=False), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # of any kind: the file is not ours
            if "trust_remote_code" in str(error):
                raise ModelError(
                    f"model {self.path!r} asks for its own Python code (auto_map in config.json),"
                    " which is never run: choose a model that transformers knows."
                ) from error
            cause = " ".join(str(error).split()) or type(error).__name__
            raise ModelError(
                f"the config of model {self.path!r} cannot be read: {cause}"
            ) from error
        return config.get_text_config()
