"""Every command of the pages that this machine can run ends as its page says, on a few samples.

The commands of a page run in its order, in one folder and with one cache for all pages. What needs
a cluster, a server, weights or a file of the reader's is composed instead; ``make``, ``pip`` and
the like are checked in test_pages.py.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from corrsteer.__main__ import main
from corrsteer.run.typed import flags_first, plain_words
from docs.tools.repo import ROOT, pages
from tests.command import in_this_process
from tests.docs.typed import Command, Shown, shown
from tests.test_config import composed

pytestmark = pytest.mark.night

FEW = {
    "limit": "24", "controls": "few", "side_effects": "none", "collect.shuffles": "20",
    "collect.resamples": "20", "layers": "[1,3]", "backend.device": "cpu", "descriptions": "false",
}  # fmt: skip
"""Said of every run, in place of what the page says where it says more."""
STUDIES = ("docs/claims.md",)
"""Written from commands, which tests/claims checks and of which it runs one."""
LARGER = ("limit", "collect.shuffles", "controls")
ELSEWHERE = {
    r"model=(gemma|llama|qwen|folder|gguf|smollm2)": "weights",
    r"hydra/launcher=(slurm|local)": "a cluster, or processes of its own: tests/sweep",
    r"backend=ndif": "a server",
    r"task=lm_eval": "data of the Hub",
    r"tracker=wandb": "wandb, which its own tests run",
    r"experiment=": "twenty jobs, which its own tests run",
    r"strategy=\S*(lora|finetune|bias_only)": "training, which its own tests run",
    r"search=": "tests/methods/test_search_run.py",
    r"transfer=": "tests/run/test_main_job.py",
    r"controls=many": "hundreds of draws",
    r"selector\.classes=": "more samples than these",
    r"=(FILE|FILES|PATH|MODEL|SAES|FOLDER)\b": "a file of the reader's",
}
LATER = {
    "dial": "serves until it is stopped: tests/serve",
    "track": "tests/trackers",
    "dashboard": "tests/trackers",
    "cache": "outputs/cache is all pages' here: tests/store",
}


def reason(command: Command) -> str | None:
    """Why a run is composed only."""
    typed = " ".join(command.words)
    return next((why for what, why in ELSEWHERE.items() if re.search(what, typed)), None)


def small(settings: tuple[str, ...]) -> list[str]:
    """The same with few samples, and of a sweep two dials and else the first of each choice."""
    words, said = [], set()
    for word in settings:
        key, equals, value = word.partition("=")
        said.add(key)
        if key in LARGER:
            value = FEW[key]
        if "-m" in settings and "," in value and value[:1] not in "[{'\"":
            value = ",".join(value.split(",")[: 2 if key == "coef" else 1])
        words.append(f"{key}{equals}{value}")
    return words + [f"{key}={value}" for key, value in FEW.items() if key not in said]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    for name in ("src", "conf"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.mark.parametrize("page", [page.relative_to(ROOT).as_posix() for page in pages()])
def test_what_a_page_shows(page, home):
    shutil.rmtree(home / "outputs" / "mine", ignore_errors=True)
    for part in shown(ROOT / page):
        if isinstance(part, Shown):
            (home / part.name).parent.mkdir(parents=True, exist_ok=True)
            (home / part.name).write_text(part.content)
        elif part.settings is not None and "--help" not in part.settings:
            run(part, home, page)
        elif part.after is not None and part.after[0] not in LATER:
            with contextlib.chdir(home), contextlib.redirect_stdout(io.StringIO()):
                limit = ["--limit", "8"] if part.after[0] == "export" else []
                assert main([*part.after, *limit]) == 0, part
        elif part.words[0] == "python" and part.words[1].endswith(".py"):
            subprocess.run([sys.executable, *part.words[1:]], cwd=home, check=True)


def run(command: Command, home: Path, page: str) -> None:
    assert command.settings is not None
    if page in STUDIES or reason(command):
        words = plain_words(flags_first([*command.settings]))
        first = [re.sub(r"=([^\[{'\",]+),.*", r"=\1", word) for word in words if word[0] != "-"]
        composed(*(word for word in first if not word.startswith("hydra")))
        return
    ended = in_this_process(f"python -m src.main {shlex.join(small(command.settings))}", home)
    assert ended.code == 0, f"{command}\n{ended.err[-2000:]}"
