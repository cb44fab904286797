"""``python -m corrsteer claims``: run the studies, and write the page with their answers.

Each study is a command in a process of its own, with a folder below ``outputs/claims`` that the
same command goes on in, and the stage cache of all runs. After each one the committed file and the
page are written again, so what is done is kept; one that fails ends no other. Nothing is computed
here.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from corrsteer.claims.asked import STUDIES, Study
from corrsteer.claims.figure import FIGURE, figure
from corrsteer.claims.page import PAGE, page
from corrsteer.claims.reading import counted, read_yaml, words_of
from corrsteer.claims.record import FILE, Kept, Ran, kept_for, read, with_run, write
from corrsteer.errors import ConfigError, DataError
from corrsteer.report.record import FILE as RECORD
from corrsteer.store.keys import digest
from corrsteer.store.runfolder import RunFolder, jobs

HOME = Path("outputs/claims")
DONE = "done.json"
BUNDLED = "bundled"
TAKEN = ("model", "data", "limit", "cache", "seed", "backend")
"""Settings that may be typed for all studies; of ``backend`` its parts. Another one would change a
study's question, and not stand in its claim."""


def claims(
    words: Sequence[str],
    only: Sequence[str],
    docs: Path,
    render: bool,
    folders: Sequence[str] = (),
) -> int:
    """``words``: settings of every study, such as ``limit=100``. ``only``: these studies; none:
    all that are there. ``folders``: STUDY=FOLDER, earlier runs that are read, and nothing is run.
    ``render``: write the page from ``docs/claims.json`` alone. Returns the exit code: 1 where a
    study failed."""
    for word in folders:
        name, _, place = word.partition("=")
        _take(docs, earlier(_named(name), Path(place), words))
    if folders:
        print(f"page: {docs / PAGE}")
        return 0
    if render:
        if not (docs / FILE).exists():
            raise DataError(f"there is no {docs / FILE}: type make claims, which runs the studies")
        publish(docs, read(docs).runs)
        print(f"page: {docs / PAGE}")
        return 0
    chosen, words = _chosen(only), sorted(words)  # in any order it is the same command
    model, limit = settings(words)
    print(f"{model}: {_forecast(chosen, read(docs).runs, model, limit)}", flush=True)
    failed = []
    for n, study in enumerate(chosen, start=1):
        print(f"{n} of {len(chosen)}, {study.name}: {typed(study, words)}", flush=True)
        ran = run(study, words, model, limit)
        if ran.failed is not None:
            failed.append(study.name)
            print(f"  failed: {ran.failed}", flush=True)
        for claim, found in ran.answers.items():
            print(f"  {claim}: {found.answer}", flush=True)
        _take(docs, ran)
    print(f"page: {docs / PAGE}")
    if failed:
        print(f"error: {', '.join(failed)} failed; type the same command again", file=sys.stderr)
    return 1 if failed else 0


def _take(docs: Path, ran: Ran) -> None:
    """Into the file and onto the page, if it may be; says why where it may not."""
    there = read(docs).runs  # as another command may have left it
    if ran.failed is None and (why := kept_for(there, ran)):
        print(f"  the page keeps its answer, {why}", flush=True)
    publish(docs, with_run(there, ran))


def _named(name: str) -> Study:
    names = {study.name: study for study in STUDIES}
    if name not in names:
        raise ConfigError(f"there is no study {name}: type one of {', '.join(names)}")
    return names[name]


def _chosen(only: Sequence[str]) -> list[Study]:
    for study in map(_named, only):
        if not study.there:
            raise ConfigError(f"the study {study.name} is not there yet: it needs {study.needs}")
    return [study for study in STUDIES if study.there and (not only or study.name in only)]


def settings(words: Sequence[str]) -> tuple[str, int | None]:
    """The model and the limit among the settings that were typed. Raises ConfigError for a word
    that is no setting, or none of ``TAKEN``."""
    given: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or name.startswith("-"):
            raise ConfigError(f"{word}: settings are typed as NAME=VALUE, such as limit=100")
        group = name.split(".")[0]
        if group not in TAKEN or (group == "backend") != ("." in name):
            raise ConfigError(
                f"{word}: type {', '.join(TAKEN)}.NAME, such as limit=100; the studies set all else"
            )
        given[name] = value
    limit = given.get("limit")
    if limit is not None and not (limit.isdecimal() and int(limit) > 0):
        raise ConfigError(f"limit={limit}: it must be a whole number, such as limit=100")
    return given.get("model", BUNDLED), int(limit) if limit else None


def typed(study: Study, words: Sequence[str]) -> str:
    """The study's command as a reader may type it, without its folder."""
    place = [] if study.place else ["FOLDER"]
    words = [*place, *study.words, *study.taken(words)]
    return shlex.join(["python", "-m", study.module, *words])


def run(study: Study, words: Sequence[str], model: str, limit: int | None) -> Ran:
    """Run a study, or take what the same command left at the same commit; read its answers."""
    given = study.taken(words)
    home = HOME / digest(list(words))[:8]
    folder, commit = home / study.name, _commit()
    limited = any(word.startswith("limit=") for word in given)
    base = {
        "study": study.name, "model": model,
        "words": [study.module, *study.words, *(word for word in given if not _place(word))],
        "limit": limit if limited else None, "commit": commit,
    }  # fmt: skip
    left = home / f"{study.name}.{DONE}"
    before = None if commit.endswith("+") else _left(left)
    if before is not None and all(getattr(before, name) == base[name] for name in base):
        return before
    home.mkdir(parents=True, exist_ok=True)
    began, log = time.time(), home / f"{study.name}.log"
    code = _call(study, given, folder, log)
    rest = {
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(time.time() - began, 1),
    }  # fmt: skip
    try:
        if code and not _reported(folder, began):
            raise DataError(_last_line(log))
        answers = dict(study.read(folder))
        done = counted(folder) if study.place else {}
        ran = Ran.model_validate({**base, **rest, **done, "answers": answers})
    except Exception as error:  # whatever a half-finished folder makes a reader raise
        why = " ".join(f"{error}".split())[:300]
        return Ran.model_validate({**base, **rest, "failed": why or type(error).__name__})
    if not code:
        left.write_text(ran.model_dump_json(), encoding="utf-8")
    return ran


def earlier(study: Study, folder: Path, words: Sequence[str] = ()) -> Ran:
    """What a folder says that was made before, by a command like the study's. ``words``: as for
    :func:`claims`, of a study that is no sweep, whose folder does not say what was typed. Raises
    DataError for a folder that does not hold the study's results."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}: type --folder {study.name}=FOLDER")
    answers = dict(study.read(folder))
    # What a job took depends on what the cache held then.
    said: dict[str, Any] = {"study": study.name, "commit": "", "seconds": None, "answers": answers}
    if not study.place:
        model, limit = settings(words)
        newest = max(file.stat().st_mtime for file in folder.iterdir())
        said |= {"model": model, "limit": limit}
        said |= {"words": [study.module, *study.words, *study.taken(words)]}
        said |= {"date": datetime.fromtimestamp(newest, UTC).date().isoformat()}
        return Ran.model_validate(said)
    statuses = {n: RunFolder(folder / str(n)).status() for n in jobs(folder)}
    first = next((n for n, status in statuses.items() if status.get("state") == "done"), None)
    if first is None:
        raise DataError(f"no job of {folder} is done: type its command again")
    typed_then = [anywhere(word) for word in words_of(folder) if not _place(word)]
    several = [] if any(word.startswith("experiment=") for word in typed_then) else ["-m"]
    said |= {"words": [study.module, *several, *typed_then], **counted(folder)}
    said |= {"model": read_yaml(folder / str(first) / RECORD).get("model", BUNDLED)}
    said |= {"limit": read_yaml(folder / str(first) / "config.yaml").get("limit")}
    said |= {"date": max(str(s.get("ended") or "") for s in statuses.values())[:10]}
    return Ran.model_validate(said)


def anywhere(word: str) -> str:
    """A setting without where files lie on one machine: data=/a/b/${task.name} is
    data=PATH/${task.name}."""
    return re.sub(r"(?<==)/[^$,\]]*[^$,\]/]", "PATH", word)


def _place(word: str) -> bool:
    return word.split("=")[0].split(".")[0] in ("cache", "hydra", "tracker", "name")


def _reported(folder: Path, began: float) -> bool:
    """Whether a sweep went through, if with jobs that failed: what the others say still counts.
    Else what lies there may be what an earlier command left."""
    try:
        return (folder / "summary.csv").stat().st_mtime >= began
    except OSError:
        return False


def _call(study: Study, given: Sequence[str], folder: Path, log: Path) -> int:
    command = [sys.executable, "-m", study.module]
    command += [f"{study.place}{folder}"] if not study.place else []
    command += [*study.words, *given]
    command += [f"{study.place}{folder}"] if study.place else []
    with log.open("wb") as out:
        return subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False).returncode


def _left(file: Path) -> Ran | None:
    try:
        return Ran.model_validate_json(file.read_bytes())
    except (OSError, ValueError):
        return None


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    told = [line for line in lines if line.startswith("error: ")]
    return (told or lines or ["it said nothing"])[-1].removeprefix("error: ")[:300]


def _commit() -> str:
    """Short, with + where tracked files differ from it, but for the page's own."""
    ask = ["git", "rev-parse", "--short", "HEAD"]
    changed = ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/claims.*"]
    try:
        head = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
        rest = subprocess.run(changed, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown+"
    return head + ("+" if rest else "")


def _forecast(chosen: Sequence[Study], runs: Sequence[Ran], model: str, limit: int | None) -> str:
    """How long it will take: what the last run of the same model and limit took."""
    took = {
        r.study: r.seconds
        for r in runs
        if (r.model, r.limit) == (model, limit) and r.seconds is not None
    }
    known = [took[study.name] for study in chosen if study.name in took]
    text = f"{len(chosen)} {'study' if len(chosen) == 1 else 'studies'}"
    if known:
        total = timedelta(seconds=round(sum(known)))
        text += f"; {len(known)} of them took {total} when they found least in the cache"
    new = [study.name for study in chosen if study.name not in took]
    return text + (f"; never run like this: {', '.join(new)}" if new else "")


def publish(docs: Path, runs: Sequence[Ran]) -> None:
    """Write the file, and page and figure from it."""
    kept = Kept(runs=list(runs), missing=[study.name for study in STUDIES if not study.there])
    write(docs, kept)
    for name, text in ((FIGURE, figure(kept)), (PAGE, page(kept))):
        temporary = docs / f".{name}"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(docs / name)
