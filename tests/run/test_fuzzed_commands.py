"""Commands that nobody would type and some that people do: each runs, or is refused in one line.

They go through the real entry, Hydra, the run folder and the check of every component; nothing is
computed. A seed gives always the same commands.
"""

from __future__ import annotations

import random
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from corrsteer.run import build as build_module
from corrsteer.run import pipeline
from corrsteer.sweep import close
from corrsteer.tasks.base import Task
from tests.command import ROOT, in_this_process
from tests.test_config import composed

pytestmark = pytest.mark.long

GROUPS = {
    folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
    for folder in (ROOT / "conf").iterdir()
    if folder.is_dir() and folder.name not in ("hydra", "scorer", "experiment")
}  # a study is a sweep of a hundred jobs: tests/report has them
VALUES = [
    "1", "0", "-1", "0.5", "1e99", "nan", "inf", "true", "null", "", "x", "[]", "[1,2]", "[x]",
    "{}", "{a: 1}", "1,2", "1 2", "a b", "~/x", "my data (1)", "'", '"', '"x', "[1", "{", "}",
    "${x}", "${", "${seed}", "é", "日本", "\\", "a=b", "=", "#", "?", "???", "!", "a/b", "..",
    "all", "range(1,3)",
    "choice(1,2)", "glob(*)", "interval(0,1)", "sort(2,1)", "$HOME", "%s", "a:b", "@",
    "x" * 300, "1_000", "0x10", "+1", "1.", "None", "\t", "a\nb",
]  # fmt: skip
FLAGS = [
    "-m", "--multirun", "--cfg job", "-c job", "--cfg", "--cfg nothing", "--config-dir .",
    "--config-dir nowhere", "--config-dir", "-cd .", "--config-name config", "--config-name nosuch",
    "--resolve", "--info", "--info config", "--info nothing", "-i", "--run", "-r", "--nosuch", "-x",
    "--package task", "--", "-", "--hydra-help", "--version", "--help", "-cp nowhere", "--con .",
]  # fmt: skip


def leaves() -> list[str]:
    """The full name of every setting in ``conf/``, those of unchosen options among them."""
    names = [key for key in OmegaConf.load(ROOT / "conf" / "config.yaml") if key != "defaults"]
    names += [f"splits.{n}" for n in ("selection", "test", "official")]
    names += [f"collect.{n}" for n in ("token_source", "pooling", "shuffles", "shards")]
    for file in sorted((ROOT / "conf").glob("*/*.yaml")):
        group = {"scorer": "task.scorer"}.get(file.parent.name, file.parent.name)
        if group != "hydra":
            names += [f"{group}.{key}" for key in OmegaConf.load(file) if key != "defaults"]
    return sorted(set(map(str, names)))


LEAVES = leaves()


def chosen() -> list[str]:
    """The full name of every setting of a command without settings."""

    def below(node, name: str) -> Iterator[str]:
        for key in node:
            value = OmegaConf.to_container(node, resolve=True)[key]
            yield f"{name}{key}"
            if isinstance(value, dict):
                yield from below(node[key], f"{name}{key}.")

    return sorted(below(composed(), ""))


CHOSEN = chosen()


def word(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.3:
        group = rng.choice(sorted(GROUPS))
        option = rng.choice([*GROUPS[group], *GROUPS[group], rng.choice(VALUES)])
        return f"{group}={option}"
    key = rng.choice(CHOSEN if rng.random() < 0.8 else LEAVES)
    if kind < 0.4:
        key = rng.choice(["hydra.sweep.subdir", "hydra.job.chdir", "hydra/launcher", "transfer",
                          "task.scorer", "hydra.run.dir", "hydra.launcher.processes"])  # fmt: skip
        if key.endswith("dir"):  # these are made, and the tests' own folder is all they may be
            return f"{key}={rng.choice(['runs/x', '.', 'runs/${seed}', '${nosuch}', 'a b', '[1'])}"
        if key == "hydra/launcher":
            return f"{key}={rng.choice(['nosuch', 'submitit', '', '1'])}"
    if kind < 0.5:
        key = rng.choice(["+", "++", "~", "+", ""]) + key
    if kind < 0.55:
        at = rng.randrange(len(key))
        key = key[:at] + rng.choice("xzq.@/ ") + key[at + 1 :]
    value = rng.choice(VALUES)
    if key.lstrip("+~") == "cache":
        value = "cache"
    return key if rng.random() < 0.03 else f"{key}={value}"


def command(rng: random.Random) -> list[str]:
    words = [word(rng) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    if rng.random() < 0.3:
        words.insert(rng.randint(0, len(words)), rng.choice(FLAGS))
    if rng.random() < 0.05:  # a sweep costs as much as ten runs
        words.append("-m")
    return [each for w in words for each in (shlex.split(w) if w[:1] == "-" else [w])]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty folder, in which a run is built, and a sweep has no report."""

    def built(cfg, folder):
        build_module.build(cfg)
        return 0.0

    read, known = Task.questions, {}

    def questions(task):
        """Most commands ask the same rows."""
        if (key := repr(task)) not in known:
            known[key] = read(task)
        return list(known[key])

    monkeypatch.setattr(Task, "questions", questions)
    monkeypatch.setattr(pipeline, "run", built)
    monkeypatch.setattr(build_module, "check_prompts", lambda *_: None)
    monkeypatch.setattr(close, "publish", lambda folder: None)
    monkeypatch.setattr("corrsteer.report.terminal.print_summary", lambda folder: None)
    for name in ("src", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def said(home: Path, words: list[str]) -> tuple[int, str]:
    """How a command ended, and what is wrong with how it was told; empty if nothing."""
    ended = in_this_process(shlex.join(["python", "-m", "src.main", *words]), home)
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    if "Traceback" in ended.err:
        return ended.code, ended.err
    if ended.code == 0:
        return 0, f"an error, but it ended well: {lines}" if lines else ""
    if ended.code == 1:  # jobs of a sweep, of which others were done
        wrong = [line for line in lines if not line.startswith("error: job ")]
        return 1, f"{wrong or ended.err}" if wrong or not lines else ""
    many = {"-m", "--multirun"} & {*words}
    if ended.code != 2 or (len(lines) != 1 and not (many and lines)):
        return ended.code, f"ended with {ended.code}, {len(lines)} lines: {ended.err}"
    return 2, "" if len(lines[0]) > len("error: ") else "it says nothing"


def fuzzed(home: Path, count: int, seed: int) -> Counter[int]:
    rng, codes = random.Random(seed), Counter[int]()
    wrong = {}
    for _ in range(count):
        words = command(rng)
        try:
            code, what = said(home, words)
        except Exception as error:
            code, what = 1, f"raised {type(error).__name__}: {error}"
        codes[code] += 1
        if what:
            wrong[shlex.join(words)] = what
    assert wrong == {}, "\n\n".join(f"{typed}\n{what[-1500:]}" for typed, what in wrong.items())
    return codes


def test_three_commands(home):
    fuzzed(home, 3, seed=1)


@pytest.mark.night
def test_sixty_commands(home):
    codes = fuzzed(home, 60, seed=0)
    assert codes[0] >= 4 and codes[2] >= 20, codes
    # What was refused before anything was computed left no folder.
    left = [file.parent for file in (home / "outputs").rglob("status.json")]
    assert not [folder for folder in left if '"failed"' in (folder / "status.json").read_text()]
