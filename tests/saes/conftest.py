"""A Hub cache on disk, in the layout of huggingface_hub, that needs no network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


@pytest.fixture
def publish(hub_cache) -> Callable[[str, Mapping[str, bytes]], None]:
    """``publish("org/name", {"folder/file": content})``: as if it had been downloaded.

    Blobs are named as the Hub names large files: by their sha256.
    """

    def publish(repo: str, files: Mapping[str, bytes], commit: str = "c" * 40) -> None:
        root = hub_cache / f"models--{repo.replace('/', '--')}"
        for folder in ("blobs", "refs"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        (root / "refs" / "main").write_text(commit)
        for name, content in files.items():
            blob = root / "blobs" / hashlib.sha256(content).hexdigest()
            blob.write_bytes(content)
            link = root / "snapshots" / commit / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(blob)

    return publish
