"""Files of the Hugging Face Hub: from its local cache, else downloaded, else one clear error.

A file that is there is never asked for again, so a run needs no network once it has been made;
pin a ``revision`` to say which version that is. Nothing that has to be unpickled is fetched.
Costs nothing to import; the first call imports huggingface_hub (0.3 s).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from corrsteer.errors import ModelError

SMALL = ("*.json", "*.model", "*.txt", "*.jinja")
"""Configs and every form a tokenizer is stored in."""
INDEX = "model.safetensors.index.json"


def files(repo: str, names: list[str], *, what: str) -> Path:
    """The snapshot folder that holds the named files of a repository.

    ``what`` begins the error: "SAE gemma_scope/layer_3". Raises ModelError when they are neither
    in the local cache nor can be downloaded.
    """

    def complete(folder: Path) -> bool:
        return all((folder / name).is_file() for name in names)

    return _snapshot(repo, names, None, complete, what, None, names)


def snapshot(
    repo: str, *, revision: str | None = None, weights: bool, licence: str | None = None
) -> Path:
    """The folder of a model: config, tokenizer and, with ``weights``, its safetensors.

    The folder's name is the commit. Raises ModelError when something is missing and cannot be
    downloaded.
    """
    patterns = [*SMALL, *(["*.safetensors"] if weights else [])]
    complete = _has_weights if weights else _has_tokenizer
    # A client of a server needs no weights: do not advise to fetch gigabytes.
    names = [] if weights else ["--include '*.json'"]
    return _snapshot(repo, patterns, revision, complete, f"model {repo}", licence, names)


def _has_tokenizer(folder: Path) -> bool:
    names = ("tokenizer.json", "tokenizer.model", "vocab.json")
    return (folder / "config.json").is_file() and any((folder / n).is_file() for n in names)


def _has_weights(folder: Path) -> bool:
    if not _has_tokenizer(folder):
        return False
    index = folder / INDEX
    if index.is_file():
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return all((folder / part).is_file() for part in parts)
    return (folder / "model.safetensors").is_file()


def _snapshot(
    repo: str,
    patterns: list[str],
    revision: str | None,
    complete: Callable[[Path], bool],
    what: str,
    licence: str | None,
    names: list[str],
) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted: dict[str, Any] = {"revision": revision, "allow_patterns": patterns}
    with contextlib.suppress(LocalEntryNotFoundError):
        cached = Path(snapshot_download(repo, **wanted, local_files_only=True))
        if complete(cached):
            return cached
    try:
        folder = Path(snapshot_download(repo, **wanted))
    except GatedRepoError:
        reason = "its licence has not been accepted with this account"
    except RevisionNotFoundError:
        reason = f"the Hub has no revision {revision!r} of it"
    except RepositoryNotFoundError:
        reason = "the Hub has no such repository, or not for this account"
    except Exception as error:  # of any kind: a network has many ways to fail
        reason = _unreachable(error)
    else:
        if complete(folder):
            return folder
        reason = _unreachable(None)
    raise ModelError(f"{what} is not on this machine: {reason}; {_advice(repo, names, licence)}")


def _unreachable(error: Exception | None) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "downloads are switched off (HF_HUB_OFFLINE=1)"
    if error is None:
        return "some of its files are missing, and the Hub did not give them"
    if isinstance(error, FileNotFoundError):
        return "the Hub does not answer"
    return f"it could not be downloaded ({' '.join(str(error).split())[:200]})"


def _advice(repo: str, names: list[str], licence: str | None) -> str:
    from huggingface_hub import constants

    page = f"{constants.ENDPOINT}/{repo}"
    command = " ".join(["hf download", repo, *names])
    if licence is None:
        return f"where there is network, type: {command} (page: {page})"
    return (
        f"accept the {licence} licence at {page}, then, where there is network, type:"
        f" hf auth login && {command}"
    )
