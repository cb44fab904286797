"""A sweep that is killed again and again ends as if nothing had happened, and repeats nothing.

Run as a script, this file is the sweep's executioner: it imports the libraries once and forks a
child for every attempt. A child is killed, either with SIGKILL by itself at a chosen moment (a
batch, a file that is opened, half written, renamed or removed) or by a timer after a random
time. Every batch is written to a trace before the model sees it, and once more when it is safe.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import random
import re
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from corrsteer.models.local import LocalModel
from corrsteer.stages import answers as answers_module
from corrsteer.stages import statistics as statistics_module
from corrsteer.stages.statistics import statistics
from corrsteer.stats import scores
from corrsteer.stats.moments import FeatureMoments
from tests.command import result
from tests.stages.made import Stop, assert_same, bench, counted, emptied, stop_after, unsteered

__all__ = ["bench"]  # a fixture

ROOT = Path(__file__).parents[2]
WORDS = (
    "task=bbq controls=few side_effects=none limit=40 backend.batch_size=8 cache=cache"
    " hydra.sweep.dir=sweep -m coef=0.5,1"
)

# By day a small job that is no sweep, killed twice.
WORDS_BY_DAY = (
    "task=bbq controls=few side_effects=none limit=12 backend.batch_size=8 cache=cache"
    " collect.shuffles=20 layers=[1,3] hydra.run.dir=sweep/0"
)

# What a child dies at, in the order of a run: a pattern, and which of the matching events. Names of
# cache entries read KEY. A "half" is a file of which half was written; other events are yet to
# happen when the child dies.
MOMENTS = [
    ("replay sites", 1),
    ("rename cache/site/KEY", 3),
    ("half cache/generate/.KEY.partial", 2),
    ("generate", 2),
    ("rename cache/generate/KEY", 1),
    ("rmtree cache/generate/.KEY.partial", 1),
    ("replay statistics", 2),
    ("half cache/collect/.KEY.partial", 3),
    ("rename cache/collect/.KEY.partial", 8),
    ("remove cache/collect/.KEY.partial", 4),
    ("rename cache/collect/KEY", 3),
    ("open cache/collect/.KEY-KEY/stats.npz", 2),
    ("rmtree cache/collect/.KEY.partial", 2),
    ("open cache/controls/.KEY-KEY/random_2", 1),
    ("rename cache/generate/.KEY.partial", 4),
    ("half cache/generate/.KEY.partial", 3),
    ("half cache/generate/.KEY-KEY/answers.parquet", 2),
    ("rename cache/generate/.KEY.partial", 3),
    ("generate", 2),
    ("replay contexts", 3),
    ("rename cache/explain/KEY", 1),
    ("half sweep/0/metrics.json", 1),
    ("half sweep/0/answers.parquet", 1),
    ("half sweep/0/plan/plan.json", 1),
    ("half sweep/0/report.html", 1),
    ("rename sweep/0/status.json", 2),
    ("half sweep/1/.status.json", 1),
    ("generate", 3),
    ("half sweep/1/contexts.json", 1),
    ("open sweep/summary.csv", 1),
    ("half sweep/report.html", 1),
]
MOMENTS_BY_DAY = [
    ("rename cache/collect/KEY", 1),
    ("half cache/generate/.KEY-KEY/answers.parquet", 2),
]
HEAVY = (
    "nnsight", "sae_lens", "pyarrow.parquet", "hydra._internal.hydra", "corrsteer.run.pipeline",
    "corrsteer.report.run_page", "corrsteer.stages.evaluate", "corrsteer.models.local",
    "corrsteer.saes.folder",
)  # fmt: skip
# Before these moments comes a kill at a random time, at most so many seconds after the first batch
# began. It is the process's own CPU time: on a busy machine the same work is done by then.
RANDOM = {4: 0.03, 7: 0.05, 14: 0.05, 17: 0.05, 18: 0.05, 27: 0.1}


SIZES = [
    pytest.param("day", marks=pytest.mark.day_only),
    pytest.param("night", marks=pytest.mark.night),
]


@pytest.fixture(scope="module", params=SIZES)
def homes(request, tmp_path_factory):
    """Folders of two sweeps, one killed and one whole, and how often it has to have been killed."""
    homes = tmp_path_factory.mktemp(request.param)
    for name in ("killed", "whole"):
        (homes / name).mkdir()
        for link in ("src", "conf"):
            (homes / name / link).symlink_to(ROOT / link)
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "src")))
    done = subprocess.run(
        [sys.executable, __file__, str(homes), request.param],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    print(done.stdout)
    return homes / "killed", homes / "whole", 30 if request.param == "night" else 2


@pytest.mark.night
@pytest.mark.long
def test_a_sweep_killed_at_every_kind_of_moment_is_the_same_sweep(homes):
    compare(*homes)


def compare(killed: Path, whole: Path, kills: int) -> None:
    lives = lives_of(killed / "trace")
    assert sum(life["killed"] for life in lives) >= kills
    assert not lives[-1]["killed"]

    # Whatever a user reads has the same bytes.
    jobs = sorted(folder.name for folder in (whole / "sweep").glob("[0-9]"))
    assert jobs == (["0", "1"] if kills > 2 else ["0"])
    for job in jobs:
        for name in (
            "answers.parquet", "metrics.json", "features.csv", "contexts.json", "config.yaml",
            "plan/plan.json", "plan/vectors.safetensors",
        ):  # fmt: skip
            killed_file, file = (home / "sweep" / job / name for home in (killed, whole))
            assert result(killed_file) == result(file), f"{job}/{name}"
        assert json.loads((killed / "sweep" / job / "status.json").read_text())["state"] == "done"
    if len(jobs) > 1:
        tables = [pd.read_csv(home / "sweep/summary.csv") for home in (killed, whole)]
        differ = ["seconds", "plans_on_test"]
        pd.testing.assert_frame_equal(*(table.drop(columns=differ) for table in tables))

    # So has the cache, entry for entry, and what was half-made is gone.
    assert entries(killed) == entries(whole)
    assert not list((killed / "cache").rglob("*.partial"))
    assert not list((killed / "cache").rglob("*.corrupt-*"))

    # Nothing is done twice but what a kill hit: one batch of answers or of statistics, or the
    # 40 samples of a stage that is short and kept as a whole.
    (undisturbed,) = lives_of(whole / "trace")
    assert max(Counter(undisturbed["begun"]).values()) == 1
    begun = Counter(batch for life in lives for batch in life["begun"])
    assert set(begun) == set(undisturbed["begun"])
    hits = Counter(batch for life in lives if life["killed"] for batch in life["at_risk"])
    for batch, count in begun.items():
        assert count <= 1 + hits[batch], batch
    for life in lives:
        for stage in ("answers", "statistics"):
            assert len({b.split()[1] for b in life["at_risk"] if b.startswith(stage)}) <= 2, life
    repeats = Counter(batch.split()[0] for batch in (begun - Counter(list(begun))).elements())
    print(f"{len(begun)} batches, repeated: {dict(repeats)}, {len(lives) - 1} kills")


@pytest.mark.night
@pytest.mark.parametrize("updates", [4, 5, 7])
def test_an_interrupt_in_the_midst_of_a_batch_counts_no_sample_twice(
    bench, tmp_path, monkeypatch, updates
):
    """Two layers: after an odd number of updates, one has the batch and the other has not."""
    base = unsteered(bench)
    expected = statistics(emptied(bench, tmp_path / "other"), base, (0, 2))
    with monkeypatch.context() as patch:
        update = FeatureMoments.update
        patch.setattr(FeatureMoments, "update", stop_after(updates, update))
        with pytest.raises(Stop):
            statistics(bench, base, (0, 2))
    assert_same(statistics(bench, base, (0, 2)), expected)


def test_layers_that_were_not_stored_go_on_from_what_was_kept(bench, monkeypatch):
    """A job that was stopped while it stored the results replays nothing, whatever layers the
    next one asks for."""
    base = unsteered(bench)
    monkeypatch.setattr(statistics_module, "KEEP_EVERY", 0.0)
    with monkeypatch.context() as patch:
        # Called once per layer, while the files of its entry are written.
        patch.setattr(scores, "to_arrays", stop_after(1, scores.to_arrays))
        with pytest.raises(Stop):
            statistics(bench, base, (0, 2))
    assert bench.store.log["miss collect"] == 2
    replays = counted(monkeypatch, "replay")
    statistics(bench, base, (2,))
    assert not replays
    statistics(bench, base, (0, 1, 2))
    assert replays == [16, 16, 16, 12]  # layer 1


@pytest.mark.parametrize(("saving", "saved"), [(0.01, [16, 32, 48, 60]), (0.1, [16, 48])])
def test_saving_takes_a_twentieth_of_the_time(bench, monkeypatch, saving, saved):
    base = unsteered(bench)
    now, seen = [0.0], []
    keep, replay = statistics_module.keep_moments, LocalModel.replay

    def slow_replay(*args):
        now[0] += 1.1
        return replay(*args)

    def slow_keep(*args):
        seen.append(len(args[2]))
        now[0] += saving
        return keep(*args)

    monkeypatch.setattr(statistics_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(statistics_module, "keep_moments", slow_keep)
    monkeypatch.setattr(LocalModel, "replay", slow_replay)
    statistics(bench, base, (0, 2))
    assert seen == saved


def lives_of(trace: Path) -> list[dict[str, Any]]:
    """Of every life: the batches it began, those not yet safe when it ended, and how it ended.

    A batch is "STAGE PROMPTS ARM": what the model was asked under one plan.
    """
    lives: list[dict[str, Any]] = []
    for line in trace.read_text().splitlines():
        word, _, rest = line.partition(" ")
        if word == "life":
            lives.append({"begun": [], "at_risk": [], "moment": rest, "killed": True})
        elif word == "begin":
            lives[-1]["begun"].append(rest)
            lives[-1]["at_risk"].append(rest)
        elif word == "safe":
            left = [b for b in lives[-1]["at_risk"] if b.split()[0] != rest]
            lives[-1]["at_risk"] = left
        else:
            assert word == "done", line
            lives[-1]["killed"] = False
    return lives


def entries(home: Path) -> dict[str, Any]:
    """Every cache entry and the checksums of its files."""
    return {
        str(file.parent.relative_to(home)): json.loads(file.read_text())["files"]
        for file in (home / "cache").glob("*/[!.]*/manifest.json")
    }


# -- the executioner ---------------------------------------------------------------------------


def write(line: str) -> None:
    handle = os.open("trace", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


def import_all() -> None:
    import torch

    for name in HEAVY:
        importlib.import_module(name)
    torch.set_num_threads(1)
    assert len(os.listdir("/proc/self/task")) <= 2, "a fork keeps one thread only"


def main() -> None:
    import_all()
    by_day = sys.argv[2] == "day"
    words = WORDS_BY_DAY if by_day else WORDS
    rng = random.Random(0)
    os.chdir(Path(sys.argv[1]) / "whole")
    assert live(None, words) == 0
    os.chdir(Path(sys.argv[1]) / "killed")
    for n, moment in enumerate(MOMENTS_BY_DAY if by_day else MOMENTS):
        if n in RANDOM and not by_day:
            assert live(rng.uniform(0, RANDOM[n]), words) == -signal.SIGPROF
        ended = live(moment, words)
        assert ended == -signal.SIGKILL, f"{moment} did not come: {ended}"
    assert live(None, words) == 0


def live(death: tuple[str, int] | float | None, words: str) -> int:
    """One process that runs the sweep, and how it ended: at a moment, some seconds after its first
    batch began, or by itself."""
    start = time.monotonic()
    write(f"life {death}")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = child(death, words)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(f"{time.monotonic() - start:.1f} s: {death}: {ended}", flush=True)
    return ended


def child(death: tuple[str, int] | float | None, words: str) -> int:
    if death:
        statistics_module.KEEP_EVERY = (
            0.0  # save at every batch: on a small model the time decides otherwise
        )
    watch(Countdown(death) if isinstance(death, tuple) else Countdown(("", 0)), death)
    sys.argv = ["src/main.py", *words.split()]
    with open("log", "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        runpy.run_module("src.main", run_name="__main__", alter_sys=True)
    except SystemExit as error:
        if error.code:
            return 1
    write("done")
    return 0


class Countdown:
    """Kills this process at the n-th event of a kind."""

    def __init__(self, moment: tuple[str, int]) -> None:
        self.kind, self.left = moment

    def __call__(self, event: str) -> bool:
        """Whether this is the last one; the caller dies."""
        if not self.left or not event.startswith(self.kind):
            return False
        self.left -= 1
        return self.left == 0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def watch(due: Countdown, death: Any) -> None:
    """Report batches to the trace and everything that happens to files, too, to ``due``."""
    here, stage = os.getcwd(), [""]

    def on(what: str, path: Any) -> str:
        name = os.path.relpath(os.path.abspath(os.fsdecode(path)), here)
        return f"{what} {re.sub('[0-9a-f]{32,}', 'KEY', name)}"

    def audit(event: str, args: tuple[Any, ...]) -> None:
        path = args[0] if args else None
        if event == "os.rename":
            what, path = "rename", args[1]
        elif event in ("os.mkdir", "os.remove", "shutil.rmtree"):
            what = event.split(".")[1]
        elif event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR):
            what = "open"
        else:
            return
        if isinstance(path, str | bytes | os.PathLike) and due(on(what, path)):
            die()

    def half(method):
        def written(self, content, *args, **kwargs):
            if due(on("half", self)):
                method(self, content[: len(content) // 2], *args, **kwargs)
                die()
            return method(self, content, *args, **kwargs)

        return written

    def torn(frame, path, **kwargs):
        to_parquet(frame, path, **kwargs)
        if due(on("half", path)):
            os.truncate(path, os.path.getsize(path) // 2)
            die()

    def digest(value: Any) -> str:
        return hashlib.sha256(repr(value).encode()).hexdigest()[:16]

    def arm(intervention: Any) -> Any:
        return intervention and sorted(intervention.key().items())

    def begin(batch: str) -> None:
        write(f"begin {stage[0]} {batch}")
        if isinstance(death, float) and not signal.getitimer(signal.ITIMER_PROF)[0]:
            signal.setitimer(signal.ITIMER_PROF, death)  # nobody handles it: the kernel kills

    def in_stage(name: str):
        # Whoever uses the stage has it by its name already.
        method = getattr(importlib.import_module(f"corrsteer.stages.{name}"), name)

        def staged(*args, **kwargs):
            stage[0] = name
            result = method(*args, **kwargs)
            write(f"safe {name}")
            return result

        for module in [m for n, m in sys.modules.items() if n.startswith("corrsteer.")]:
            if getattr(module, name, None) is method:
                setattr(module, name, staged)

    to_parquet, pd.DataFrame.to_parquet = pd.DataFrame.to_parquet, torn
    generate, replay = LocalModel.generate, LocalModel.replay
    all_batches, keep = answers_module.generate, statistics_module.keep_moments

    def traced_generate(self, prompts, interventions, **kwargs):
        how = kwargs["max_new_tokens"], kwargs.get("allowed")
        for intervention in interventions:
            begin(f"{digest(prompts)} {digest((arm(intervention), how))}")
        if due("generate"):
            die()
        return generate(self, prompts, interventions, **kwargs)

    def traced_replay(self, prompts, answers, layers, source):
        rows = [list(tokens) for tokens in answers]
        begin(f"{digest(prompts)} {digest((rows, source))}")
        if due(f"replay {stage[0]}"):
            die()
        return replay(self, prompts, answers, layers, source)

    def traced_batches(*args, on_batch, **kwargs):
        def kept(*batch):
            on_batch(*batch)
            write("safe answers")

        return all_batches(*args, on_batch=kept, **kwargs)

    def traced_keep(*args):
        result = keep(*args)
        write("safe statistics")
        return result

    LocalModel.generate, LocalModel.replay = traced_generate, traced_replay
    answers_module.generate, statistics_module.keep_moments = traced_batches, traced_keep
    for name in ("sites", "answers", "statistics", "contexts"):
        in_stage(name)
    Path.write_bytes, Path.write_text = half(Path.write_bytes), half(Path.write_text)
    sys.addaudithook(audit)


if __name__ == "__main__":
    main()
