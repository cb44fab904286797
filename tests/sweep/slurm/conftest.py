"""One SLURM cluster for the session of a pytest-xdist worker.

Keep all tests that use it in one file: with ``--dist loadfile`` they then run in one worker.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sweep.slurm.cluster import Cluster, missing


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if lacking := missing():
        reason = f"no SLURM: {', '.join(lacking)} missing; apt-get install slurm-wlm munge"
        if os.environ.get("REQUIRE_SLURM") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    # Not tmp_path: munged refuses folders that are closed to others, and long socket names.
    root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    root.chmod(0o755)
    cluster = Cluster(root)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(root)
