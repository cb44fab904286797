"""A disk that fills while a run is at work: one line, and the same command goes on."""

from __future__ import annotations

import itertools

import pytest

from tests.command import ROOT, in_this_process
from tests.store.full_disk import full_after

pytestmark = [pytest.mark.long, pytest.mark.night]

COMMAND = (
    "python -m src.main task=bbq controls=few side_effects=none limit=12 backend.batch_size=4"
    " collect.shuffles=20 collect.resamples=20 layers=[1,3] cache=cache hydra.run.dir=run"
)


def test_a_run_on_a_disk_that_fills_at_any_moment_goes_on(tmp_path):
    """At every fifth write, whatever is kept by then; in the last round nothing is left to do."""
    for name in ("whole", "full"):
        (tmp_path / name).mkdir()
        for link in ("src", "conf"):
            (tmp_path / name / link).symlink_to(ROOT / link)
    assert in_this_process(COMMAND, cwd=tmp_path / "whole").code == 0
    home, times = tmp_path / "full", 0
    for writes in itertools.chain((0, 1, 2), itertools.count(5, 5)):
        with full_after(writes, home) as disk:
            ended = in_this_process(COMMAND, cwd=home)
        assert "Logging error" not in ended.err
        if not disk.was_full:
            break
        times += 1
        if ended.code:
            assert "No space left on device" in ended.refusal, writes
            assert str(home) in ended.refusal or "run" in ended.refusal or "cache" in ended.refusal
        assert not list(home.glob("cache/*/*.corrupt-*"))
    assert ended.code == 0 and times > 10
    for name in ("metrics.json", "features.csv", "contexts.json", "plan/plan.json"):
        once, again = (tmp_path / place / "run" / name for place in ("whole", "full"))
        assert once.read_bytes() == again.read_bytes(), name
