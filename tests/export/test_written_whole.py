"""What is cut short by a disk that is full is no export."""

from __future__ import annotations

import resource
import signal

import numpy as np
import pytest

from corrsteer.errors import ConfigError
from corrsteer.export.gguf import control_vector


def test_a_control_vector_that_is_cut_short_is_refused(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    vectors = {1: np.ones(128, np.float32), 2: np.full(128, 2, np.float32)}
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, before[1]))
        with pytest.raises(ConfigError, match="is the disk full"):
            control_vector(tmp_path / "plan.gguf", vectors, "llama")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    control_vector(tmp_path / "whole.gguf", vectors, "llama")
