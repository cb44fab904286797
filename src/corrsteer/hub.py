"""Files of the Hugging Face Hub: from its local cache, else downloaded, else one clear error.

A file that is there is never asked for again, so a run needs no network once it has been made;
pin a ``revision`` to say which version that is. Nothing that has to be unpickled is fetched.
``folder`` and ``fingerprint`` are for settings that name a model by a local folder or a Hub id.
Costs nothing to import; the first call imports huggingface_hub (0.3 s).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from corrsteer.errors import CorrSteerError, DataError, ModelError

SMALL = ("*.json", "*.model", "*.txt", "*.jinja")
"""Configs and every form a tokenizer is stored in."""
INDEX = "model.safetensors.index.json"
# What from_pretrained may read: configs, weights, and every form a tokenizer is stored in.
_CONTENT = ("*.json", "*.safetensors", "*.bin", "*.model", "*.txt", "*.jinja")


def is_local(path: str) -> bool:
    """Whether a path is meant as a folder, not as a Hub id: it starts with ``.``, ``/`` or ``~``,
    has more parts than a Hub id, or begins with an existing folder."""
    return (
        path.startswith((".", "/", "~"))
        or path.count("/") > 1
        or Path(Path(path).parts[0]).is_dir()
    )


def folder(
    path: str,
    *,
    setting: str,
    example: str,
    revision: str | None = None,
    weights: bool = True,
    licence: str | None = None,
) -> Path:
    """Where a model's files are: the local folder itself, or a snapshot in the Hub's cache.

    Without ``weights``, config and tokenizer are enough. Downloads what is missing. ``setting``
    ("model.path") and ``example`` (a Hub id) are for the error. Raises ModelError when there is
    no such folder or the model cannot be had.
    """
    if not is_local(path):
        return snapshot(path, revision=revision, weights=weights, licence=licence)
    local = Path(path).expanduser()
    if not local.is_dir():
        raise ModelError(
            f"{setting}={path!r}: no such folder; give a folder with config.json and weights, or a"
            f" Hub id such as {example}."
        )
    if not (local / "config.json").is_file():
        raise ModelError(
            f"{setting}={path!r} has no config.json; give the folder that save_pretrained wrote."
        )
    return local


def fingerprint(path: str, folder: Path, *, subfolders: bool = False) -> str:
    """What identifies the model of ``folder`` in a cache key.

    ``id@commit`` for a Hub id, else a sha256 over the names and contents of weights, config and
    tokenizer; those in ``subfolders`` too where a model keeps parts of itself there.
    """
    if not is_local(path):
        return f"{path}@{folder.name}"
    globs = [f"**/{pattern}" if subfolders else pattern for pattern in _CONTENT]
    digest = hashlib.sha256()
    for file in sorted({f for pattern in globs for f in folder.glob(pattern)}):
        with file.open("rb") as handle:
            content = hashlib.file_digest(handle, "sha256").hexdigest()
        digest.update(f"{file.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def files(repo: str, names: list[str], *, what: str) -> Path:
    """The snapshot folder that holds the named files of a repository.

    ``what`` begins the error: "SAE gemma_scope/layer_3". Raises ModelError when they are neither
    in the local cache nor can be downloaded.
    """

    def complete(folder: Path) -> bool:
        return all((folder / name).is_file() for name in names)

    return _snapshot(repo, names, None, complete, what, names=names)


def dataset(
    repo: str, *, revision: str, patterns: Sequence[str], what: str, licence: str | None = None
) -> Path:
    """The snapshot folder of a dataset repository at a pinned revision.

    ``patterns`` are file names, or globs whose ``*`` also matches ``/``; the folder holds a match
    for each. ``what`` begins the error: "task gpqa". ``licence`` names the one to accept before
    the Hub lets it be downloaded. Raises DataError when files are missing and cannot be
    downloaded.

    A snapshot in the cache is taken as it is where the cached list of the repository's files, or
    the exact names, show that nothing is missing. Without such a list, which old versions of
    huggingface_hub and downloads of single files do not leave, a second file of a glob that is
    missing goes unnoticed. Contents are not checked: the Hub's cache renames a file into place
    when it is whole.
    """

    def complete(folder: Path) -> bool:
        names = [f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()]
        return all(any(fnmatch(name, pattern) for name in names) for pattern in patterns)

    return _snapshot(
        repo,
        list(patterns),
        revision,
        complete,
        what,
        licence=licence,
        names=[part for p in patterns for part in ("--include", shlex.quote(p))],
        is_dataset=True,
    )


def snapshot(
    repo: str, *, revision: str | None = None, weights: bool, licence: str | None = None
) -> Path:
    """The folder of a model: config, tokenizer and, with ``weights``, its safetensors.

    The folder's name is the commit. Raises ModelError when something is missing and cannot be
    downloaded.
    """
    patterns = [*SMALL, *(["*.safetensors"] if weights else [])]
    complete = _has_weights if weights else _has_tokenizer
    # A client of a server needs no weights: do not advise the user to fetch gigabytes.
    names = [] if weights else ["--include '*.json'"]
    return _snapshot(
        repo, patterns, revision, complete, f"model {repo}", licence=licence, names=names
    )


def _has_tokenizer(folder: Path) -> bool:
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
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
    *,
    licence: str | None = None,
    names: list[str],
    is_dataset: bool = False,
) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted: dict[str, Any] = {
        "revision": revision,
        "allow_patterns": patterns,
        "repo_type": "dataset" if is_dataset else "model",
    }
    with contextlib.suppress(LocalEntryNotFoundError, HFValidationError):
        cached = Path(snapshot_download(repo, **wanted, local_files_only=True))
        if complete(cached):
            return cached
    try:
        folder = Path(snapshot_download(repo, **wanted))
    except HFValidationError:
        reason = f"{repo!r} is not a repository name"
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
    kind: type[CorrSteerError] = DataError if is_dataset else ModelError
    page = f"{constants.ENDPOINT}/{'datasets/' if is_dataset else ''}{repo}"
    command = ["hf", "download", *(["--repo-type", "dataset"] if is_dataset else []), repo]
    command += [*(["--revision", revision] if revision else []), *names]
    advice = _advice(page, " ".join(command), licence)
    raise kind(f"{what} is not on this machine: {reason}; {advice}")


def _unreachable(error: Exception | None) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "downloads are switched off (HF_HUB_OFFLINE=1)"
    if error is None:
        return "some of its files are missing, and the Hub did not provide them"
    if isinstance(error, FileNotFoundError):
        return "the Hub does not answer"
    return f"it could not be downloaded ({' '.join(str(error).split())[:200]})"


def _advice(page: str, command: str, licence: str | None) -> str:
    if licence is None:
        return f"on a machine with network access, type: {command} (page: {page})"
    return (
        f"accept the {licence} licence at {page}, then, on a machine with network access, type:"
        f" hf auth login && {command}"
    )
