"""Which language model is used, as plain settings.

Costs nothing to import or build: no torch here. ``fingerprint`` of a local folder reads every
byte of its weights (about a second per gigabyte); a Hub model is named by its revision instead.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from corrsteer.errors import ConfigError, ModelError

DTYPES = ("float32", "bfloat16", "float16")

# What from_pretrained may read: configs, weights, and every form a tokenizer is stored in.
_CONTENT = ("*.json", "*.safetensors", "*.bin", "*.model", "*.txt", "*.jinja")


@dataclass(frozen=True)
class Model:
    """A causal language model of the transformers library.

    ``path`` is a local folder or a Hub id; ``revision`` (branch, tag or commit) is for the Hub.
    ``chat_template`` puts each prompt into the tokenizer's own template as a user's message.
    Prompts longer than ``max_prompt_tokens`` are an error, never cut.
    """

    name: str
    path: str
    revision: str | None = None
    dtype: str = "float32"
    chat_template: bool = False
    max_prompt_tokens: int = 1024

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

    def location(self) -> str:
        """The folder's path with ``~`` expanded, or the Hub id.

        Raises ModelError when ``path`` looks like a folder (it starts with ``.``, ``/`` or
        ``~``, has more parts than a Hub id, or begins with an existing folder) and is none.
        """
        path = Path(self.path).expanduser()
        looks_local = (
            self.path.startswith((".", "/", "~"))
            or self.path.count("/") > 1
            or Path(path.parts[0]).is_dir()
        )
        if not looks_local:
            return self.path
        if not path.is_dir():
            raise ModelError(
                f"model.path={self.path!r}: no such folder; give a folder with config.json and"
                " weights, or a Hub id such as google/gemma-2-2b."
            )
        if not (path / "config.json").is_file():
            raise ModelError(
                f"model.path={self.path!r} has no config.json; give the folder that"
                " save_pretrained wrote."
            )
        return str(path)

    def fingerprint(self) -> str:
        """What identifies the weights and the tokenizer in a cache key.

        A sha256 over names and contents for a folder, ``path@revision`` for a Hub id.
        """
        location = self.location()
        folder = Path(location)
        if not folder.is_dir():
            return f"{self.path}@{self.revision}"
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

        location = self.location()
        try:
            config = AutoConfig.from_pretrained(location, revision=self.revision)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"the config of model {self.path!r} cannot be read: {' '.join(str(error).split())}"
            ) from error
        text = config.get_text_config()
        return text.num_hidden_layers, text.hidden_size
