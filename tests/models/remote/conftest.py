"""A real NDIF server for the tests in this folder.

Each takes about half a minute to start, 2.5 GB of memory and an eighth of a core while it waits. It
lives as long as the tests of one file: keep all that use one in the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.models.remote.ndif_server import NdifError, NdifServer

_FOLDER = Path(os.environ.get("CORRSTEER_NDIF", Path(__file__).resolve().parents[3] / ".ndif"))


@contextmanager
def _server(sandboxed: bool) -> Iterator[NdifServer]:
    reason = None
    try:
        server = NdifServer(_FOLDER, sandboxed)
    except NdifError as error:
        reason = str(error)
    if reason is not None:
        if os.environ.get("REQUIRE_NDIF") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with server:
        yield server


@pytest.fixture(scope="module")
def ndif() -> Iterator[NdifServer]:
    """A server that runs the client's code beside the model, as for trusted keys."""
    with _server(sandboxed=False) as server:
        yield server


@pytest.fixture(scope="module")
def ndif_sandboxed() -> Iterator[NdifServer]:
    """A server that runs the client's code in a process of its own, as for ordinary keys."""
    with _server(sandboxed=True) as server:
        yield server
