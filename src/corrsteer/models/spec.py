"""Which language model is used, as plain settings.

Costs nothing to import or build: no torch here. ``fingerprint`` of a local folder reads every
byte of its weights (about a second per gigabyte); a Hub model is named by its commit instead.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    each prompt into the tokenizer's own template as a user's message. Prompts longer than
    ``max_prompt_tokens`` are an error, never cut. ``licence`` names one that must be
    accepted on the model's page before the Hub lets it be downloaded.
    """

    name: str
    path: str
    revision: str | None = None
    dtype: str = "auto"
    chat_template: bool = False
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
        config = self._config()
        return config.num_hidden_layers, config.hidden_size

    def architecture(self) -> str:
        """transformers' name for the kind of text model, such as llama or gemma2."""
        return str(self._config().model_type)

    def _config(self) -> Any:
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(self.folder(weights=False))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"the config of model {self.path!r} cannot be read: {' '.join(str(error).split())}"
            ) from error
        return config.get_text_config()
