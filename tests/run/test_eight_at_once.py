"""Eight processes start the same sweep at the same time, against one cache.

Run as a script, this file imports the libraries once and forks the eight (see test_faults.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections import Counter

import pytest

from corrsteer.store.odometer import ODOMETER
from tests.command import result
from tests.run.test_faults import ROOT, WORDS, child, entries, import_all, write

JOBS = 8
FILES = (
    "answers.parquet", "metrics.json", "features.csv", "contexts.json", "classes.csv",
    "plan/plan.json", "plan/vectors.safetensors",
)  # fmt: skip


@pytest.mark.night
def test_eight_processes_do_the_work_of_one(tmp_path):
    for link in ("src", "conf"):
        (tmp_path / link).symlink_to(ROOT / link)
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "src")))
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    log = (tmp_path / "log").read_text()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:] + log[-3000:]

    # Every batch was answered, and every batch of statistics collected, by one of them.
    lines = (tmp_path / "trace").read_text().splitlines()
    begun = Counter(line for line in lines if line.startswith("begin"))
    stages = Counter(line.split()[1] for line in begun)
    assert set(stages) == {"sites", "answers", "statistics", "contexts"}
    assert max(begun.values()) == 1
    assert lines.count("done") == JOBS
    assert "waiting for process" in log

    # All see the same results, and the cache holds nothing else.
    for job in ("0", "1"):
        for name in FILES:
            first, *others = (result(tmp_path / f"sweep_{n}" / job / name) for n in range(JOBS))
            assert all(other == first for other in others), f"{job}/{name}"
    folders = [f for f in (tmp_path / "cache").glob("*/*") if f.parent.name != ODOMETER]
    assert len(entries(tmp_path)) == len(folders)
    assert not list((tmp_path / "cache").glob("*/.*"))


def main() -> int:
    os.chdir(sys.argv[1])
    import_all()
    pids = []
    for n in range(JOBS):
        if (pid := os.fork()) == 0:
            code = 1
            try:
                code = child(None, WORDS.replace("dir=sweep", f"dir=sweep_{n}"))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        pids.append(pid)
    write(f"life {pids}")
    return sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0 for pid in pids)


if __name__ == "__main__":
    sys.exit(main())
