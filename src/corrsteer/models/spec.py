"""Which language model is used, as plain settings.

Costs nothing to import or build: no torch here. ``fingerprint`` of a local folder reads every
byte of its weights (about a second per gigabyte); a Hub model is named by its commit instead.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from corrsteer import hub
from corrsteer.errors import ConfigError, ModelError

DTYPES = ("auto", "float32", "bfloat16", "float16")

# What from_pretrained may read: configs, weights, and every form a tokenizer is stored in.
_CONTENT = ("*.json", "*.safetensors", "*.bin", "*.model", "*.txt", "*.jinja")


@dataclass(frozen=True)
class Model:
    """A causal language model of the transformers library.

    ``path`` is a local folder or a Hub id; ``revision`` (branch, tag or commit) is for the Hub.
    ``dtype`` auto is bfloat16 on a GPU that has it, float32 elsewhere. ``chat_template`` puts
    each prompt into the tokenizer's own template as a user's message. Prompts longer than
    ``max_prompt_tokens`` are an error, never cut. ``licence`` names the one that has to be
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
        """Whether ``path`` is meant as a folder: it starts with ``.``, ``/`` or ``~``, has more
        parts than a Hub id, or begins with an existing folder."""
        return (
            self.path.startswith((".", "/", "~"))
            or self.path.count("/") > 1
            or Path(Path(self.path).parts[0]).is_dir()
        )

    def folder(self, *, weights: bool = True) -> Path:
        """Where its files are: the folder itself, or a snapshot in the Hub's local cache.

        Without ``weights``, config and tokenizer are enough. Downloads what is missing. Raises
        ModelError when there is no such folder or the model cannot be had.
        """
        if not self.is_local:
            return hub.snapshot(
                self.path, revision=self.revision, weights=weights, licence=self.licence
            )
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            raise ModelError(
                f"model.path={self.path!r}: no such folder; give a folder with config.json and"
                " weights, or a Hub id such as google/gemma-2-2b."
            )
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"model.path={self.path!r} has no config.json; give the folder that"
                " save_pretrained wrote."
            )
        return folder

    def fingerprint(self, *, weights: bool = True) -> str:
        """What identifies the weights and the tokenizer in a cache key.

        ``id@commit`` for a Hub id, a sha256 over names and contents for a folder.
        """
        folder = self.folder(weights=weights)
        if not self.is_local:
            return f"{self.path}@{folder.name}"
        digest = hashlib.sha256()
        for file in sorted({f for pattern in _CONTENT for f in folder.glob(pattern)}):
            with file.open("rb") as handle:
                content = hashlib.file_digest(handle, "sha256").hexdigest()
            digest.update(f"{file.name}\0{content}\n".encode())
        return digest.hexdigest()

    def shape(self) -> tuple[int, int]:
        """(number of blocks, width of the residual stream), from the model's config alone.

        Importing transformers takes about 2 s. Raises ModelError when there is no config.
        """
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(self.folder(weights=False))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"the config of model {self.path!r} cannot be read: {' '.join(str(error).split())}"
            ) from error
        text = config.get_text_config()
        return text.num_hidden_layers, text.hidden_size
