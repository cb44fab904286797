"""The stage cache with many jobs at once, killed jobs, full disks; and its listing."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from filelock import FileLock

from corrsteer.__main__ import main
from corrsteer.errors import ConfigError
from corrsteer.store import entries, verify
from corrsteer.store.entries import Store
from corrsteer.store.listing import describe
from corrsteer.store.locks import lock

pytestmark = pytest.mark.long

KEY = {"x": 1}
START = """
import hashlib, os, pathlib, sys, time
from corrsteer.store import entries, verify
from corrsteer.store.entries import Store

root, go = map(pathlib.Path, sys.argv[1:3])

def wait(what):
    print(what, flush=True)
    while not go.exists():
        time.sleep(0.001)

def make(folder):
    (folder / "deep").mkdir()
    for n in range(10):
        (folder / "deep" / f"{n}.txt").write_text(f"{os.getpid()}" * 1000)

def content(entry):
    files = sorted(entry.rglob("*.txt"))
    assert len(files) == 10, files
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
"""
EIGHT = """
store = Store(root)
wait("ready")
print(*[content(store.get("collect", {"x": n}, make)) for n in range(int(sys.argv[3]))])
"""


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "cache")


def make(folder: Path) -> None:
    (folder / "a.txt").write_text("whole")


def never(folder: Path) -> None:
    raise AssertionError("this should have been read from the cache")


def job(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", START + code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def says(process: subprocess.Popen[str], what: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{what}\n", process.communicate()


def eight_jobs(store: Store, entries: int) -> None:
    """All ask for the same entries at the same time, and read the same from them."""
    go = store.root.parent / "go"
    jobs = [job(EIGHT, store.root, go, entries) for _ in range(8)]
    for process in jobs:
        says(process, "ready")
    go.touch()
    outs = [process.communicate(timeout=60) for process in jobs]
    assert [process.returncode for process in jobs] == [0] * 8, outs
    assert len({out for out, _ in outs}) == 1
    for n in range(entries):
        store.get("collect", {"x": n}, never)


@pytest.mark.night
def test_eight_jobs_make_one_entry(store):
    eight_jobs(store, 10)
    assert len(list((store.root / "collect").iterdir())) == 10  # no temporary folder, none aside


FILL = """
entries.POLL = 0.01
store, together = Store(root), sys.argv[3] == "together"

def compute(names):
    print("pass", *names)
    for n in names:
        time.sleep(0.1)
        store.get("collect", {"x": n}, make)

wait("ready")
store.fill("collect", {n: {"x": n} for n in range(6)}, compute, together=together)
"""


@pytest.mark.parametrize("how", ["together", "apart"])
def test_eight_jobs_do_the_work_of_one(store, how):
    """Together: one pass over the data. Apart: nothing twice."""
    go = store.root.parent / "go"
    jobs = [job(FILL, store.root, go, how) for _ in range(8)]
    for process in jobs:
        says(process, "ready")
    go.touch()
    outs = [process.communicate(timeout=60) for process in jobs]
    assert [process.returncode for process in jobs] == [0] * 8, outs
    passes = [line.split()[1:] for out, _ in outs for line in out.splitlines()]
    assert sorted(name for names in passes for name in names) == [*"012345"]
    assert len(passes) == 1 or how == "apart"
    assert sum("waiting for process" in err for _, err in outs) >= 6
    assert not list((store.root / "collect").glob(".*"))


def test_a_lock_that_another_takes_at_this_moment_stays_its_own(tmp_path, monkeypatch):
    """Nobody had it a moment ago: what stands there now is the other's, and is not removed."""
    file, unlink, others = tmp_path / "collect" / ".lock", Path.unlink, []

    def unlink_late(path, missing_ok=False):
        others.append(FileLock(path))
        others[-1].acquire()
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink_late)
    taken = lock(file)
    assert taken is not None
    assert not any(other.is_locked for other in others), "two have the same lock"


def test_a_job_makes_what_is_free_while_another_is_at_work(store, monkeypatch):
    monkeypatch.setattr(entries, "POLL", 0.01)
    go = store.root.parent / "go"
    slow = job(
        """
def slow(folder):
    wait("writing")
    make(folder)

Store(root).get("collect", {"x": 1}, slow)
""",
        store.root,
        go,
    )
    says(slow, "writing")
    made = []

    def compute(names: list[int]) -> None:
        made.extend(names)
        for n in names:
            store.get("collect", {"x": n}, make)
        go.touch()

    store.fill("collect", {n: {"x": n} for n in (1, 2, 3)}, compute)
    assert made == [2, 3]
    assert slow.communicate(timeout=60)[1] == ""


def test_what_a_killed_job_claimed_is_free_at_once(store):
    victim = job(
        """
with Store(root).claim("collect", {None: {"x": 1}}):
    wait("claimed")
""",
        store.root,
        store.root / "never",
    )
    says(victim, "claimed")
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    start = time.monotonic()
    store.get("collect", KEY, make)
    assert time.monotonic() - start < entries.POLL
    assert not list((store.root / "collect").glob(".*"))


def test_locks_that_nobody_holds_are_tidied_away_after_a_day(store):
    (store.root / "collect").mkdir()
    for name, days in (("a" * 32, 2), ("b" * 32, 0.5)):
        file = store.root / "collect" / f".{name}.lock"
        file.touch()
        age(file, days)
    with store.claim("collect", {None: KEY}):
        for file in (store.root / "collect").glob(".*"):
            if file.read_text():
                age(file, 2)
        Store(store.root)
        assert len(list((store.root / "collect").glob(".*"))) == 2  # held, or young


@pytest.mark.night
def test_eight_jobs_repair_the_same_entries(store):
    def old(folder: Path) -> None:
        (folder / "a.txt").write_text("old")
        (folder / "deep").mkdir()
        (folder / "deep" / "b.txt").write_text("old")

    for n in range(10):
        entry = store.get("collect", {"x": n}, old)
        (entry / "a.txt").write_text("harmed")
    eight_jobs(store, 10)
    kept = [p for p in (store.root / "collect").glob("*.corrupt-*/**/*") if p.suffix == ".txt"]
    assert sorted(file.read_text() for file in kept) == ["harmed"] * 10 + ["old"] * 10
    assert not list((store.root / "collect").glob(".*"))


def test_a_slow_repairer_leaves_alone_what_another_repaired(store):
    """It found the entry harmed, and then slept while another job put it right."""
    code = """
judge, first = verify.flaw, [True]

def slow(entry):
    flaw = judge(entry)
    if first.pop() if first else False:
        wait(flaw)
    return flaw

verify.flaw = slow
print((Store(root).get("collect", {"x": 1}, make) / "a.txt").read_text())
"""
    entry = store.get("collect", KEY, make)
    os.truncate(entry / "a.txt", 2)
    go = store.root.parent / "go"
    slow = job(code, store.root, go)
    says(slow, "a.txt has another size")
    assert store.get("collect", KEY, make) == entry
    inode = entry.stat().st_ino
    go.touch()
    assert slow.communicate(timeout=60) == ("whole\n", "")
    assert entry.stat().st_ino == inode
    [aside] = (store.root / "collect").glob("*.corrupt-*")
    assert (aside / "a.txt").read_text() == "wh"


def test_a_repairer_killed_half_way_is_followed_by_another(store, monkeypatch):
    entry = store.get("collect", KEY, make)
    (entry / "extra").write_text("x")
    moved = []

    def killed(*args, **kwargs):
        if moved:
            raise KeyboardInterrupt
        moved.append(os.replace(*args, **kwargs))

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            store.get("collect", KEY, make)
    assert len(list(entry.iterdir())) == 2  # of three
    assert store.get("collect", KEY, make) == entry
    assert store.has("collect", KEY)


def test_a_job_killed_among_others_harms_none(store):
    go = store.root.parent / "go"
    victim = job(
        """
def half(folder):
    (folder / "a.txt").write_text("half")
    print("writing", flush=True)
    time.sleep(600)

Store(root).get("collect", {"x": 0}, half)
""",
        store.root,
        go,
    )
    says(victim, "writing")
    others = [job(EIGHT, store.root, go, 1) for _ in range(3)]
    for process in others:
        says(process, "ready")
    victim.send_signal(signal.SIGKILL)
    go.touch()
    victim.communicate()
    outs = [process.communicate(timeout=60) for process in others]
    assert [process.returncode for process in others] == [0] * 3, outs
    assert len({out for out, _ in outs}) == 1
    [left] = (store.root / "collect").glob(".*")
    assert (left / "a.txt").read_text() == "half"

    Store(store.root)
    assert left.exists()  # it might be alive
    age(left, 2)
    Store(store.root)
    assert not left.exists()
    store.get("collect", {"x": 0}, never)


def age(path: Path, days: float) -> None:
    then = time.time() - 86400 * days
    for each in (path, *path.rglob("*")):
        os.utime(each, (then, then))


def test_a_writer_that_is_silent_for_days_counts_as_alive(store, monkeypatch):
    monkeypatch.setattr(entries, "BEAT", 0.01)

    def slow(folder: Path) -> None:
        age(folder, 3)
        time.sleep(0.3)
        Store(store.root)
        make(folder)

    assert (store.get("collect", KEY, slow) / "a.txt").read_text() == "whole"


def test_opening_leaves_unfinished_work_and_strange_folders_alone(store):
    store.partial("collect", KEY).save("part", b"x")
    (store.root / "collect" / ".snapshot").mkdir()
    for path in (store.root / "collect").iterdir():
        age(path, 100)
    Store(store.root)
    assert len(list((store.root / "collect").iterdir())) == 2
    assert store.partial("collect", KEY).load() == {"part": b"x"}


class Wrapped(Exception):
    """How libraries that are not written in Python say it."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        Wrapped("I/O error: No space left on device (os error 28)"),
        OSError("100000 requested and 25584 written"),
    ],
    ids=["full", "quota", "wrapped", "numpy"],
)
def test_a_full_disk_is_one_error_and_no_entry(store, error):
    def full(folder: Path) -> None:
        (folder / "a.txt").write_text("half")
        raise error

    with pytest.raises(ConfigError, match="cannot write the cache folder .*make cache") as caught:
        store.get("collect", KEY, full)
    assert "\n" not in str(caught.value)
    assert list((store.root / "collect").iterdir()) == []


def test_a_disk_that_is_full_when_the_manifest_comes_is_one_error(store, monkeypatch):
    def sync(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(verify, "sync", sync)
    with pytest.raises(ConfigError, match="No space left"):
        store.get("collect", KEY, make)
    assert list((store.root / "collect").iterdir()) == []


def test_a_part_that_does_not_fit_is_one_error(store, monkeypatch):
    part = store.partial("collect", KEY)
    part.save("a", b"first")

    def full(path: Path, content: bytes) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigError, match=re.escape(f"cache folder {store.root}: No space left")):
        part.save("a", b"second")
    assert part.load() == {"a": b"first"}
    assert not list(store.root.rglob(".????????????????????????????????"))


def test_a_part_is_saved_although_another_job_clears_them(store, monkeypatch):
    part, left = store.partial("collect", KEY), [1, 1]
    write = Path.write_bytes

    def cleared(path: Path, content: bytes) -> int:
        if left:
            left.pop()
            store.partial("collect", KEY).clear()
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", cleared)
    part.save("a", b"x")
    assert part.load() == {"a": b"x"}


def test_another_error_of_a_maker_comes_out_as_it_is(store):
    def lost(folder: Path) -> None:
        (folder / "nowhere" / "a.txt").read_text()

    with pytest.raises(FileNotFoundError):
        store.get("collect", KEY, lost)


@pytest.mark.parametrize("locked", ["cache", "cache/collect"])
def test_a_folder_of_somebody_else_is_one_error(store, locked):
    code = """
if os.getuid() == 0:
    os.setuid(65534)
Store(root).get("collect", {"x": 1}, make)
"""
    (store.root / "collect").mkdir()
    for folder, mode in (("", 0o755), ("cache", 0o777), ("cache/collect", 0o777), (locked, 0o555)):
        (store.root.parent / folder).chmod(mode)
    code = f"import os\nos.chdir({str(store.root.parent)!r})\n" + code
    out, err = job(code, "cache", "go").communicate(timeout=60)
    for folder in ("cache", "cache/collect"):
        (store.root.parent / folder).chmod(0o777)
    last = err.splitlines()[-1]
    assert "ConfigError: cannot write the cache folder cache: Permission denied" in last, err


# -- what was verified -----------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch) -> list[Path]:
    """The files whose content was read for a checksum."""
    seen: list[Path] = []
    measure = verify.measure
    monkeypatch.setattr(verify, "measure", lambda file: seen.append(file) or measure(file))
    return seen


def test_an_entry_is_read_once_for_its_checksum(store, measured, monkeypatch):
    monkeypatch.setattr(verify, "CLOCK", 0.0)
    entry = store.get("collect", KEY, make)
    measured.clear()
    assert store.has("collect", KEY)
    store.get("collect", KEY, never)
    Store(store.root).get("collect", KEY, never)
    assert measured == [entry / "a.txt"]


def test_an_entry_younger_than_the_clocks_grain_is_read_each_time(store, measured, monkeypatch):
    monkeypatch.setattr(verify, "CLOCK", 60.0)
    store.get("collect", KEY, make)
    measured.clear()
    assert store.has("collect", KEY)
    assert store.has("collect", KEY)
    assert len(measured) == 2


@pytest.mark.parametrize("same_mtime", [False, True])
def test_tampering_after_the_check_is_found(store, monkeypatch, same_mtime):
    monkeypatch.setattr(verify, "CLOCK", 0.0)
    entry = store.get("collect", KEY, make)
    assert store.has("collect", KEY)
    file = entry / "a.txt"
    before = file.stat()
    time.sleep(0.02)  # the kernel's clock ticks
    file.write_text("whale")
    if same_mtime:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not store.has("collect", KEY)


# -- the listing -----------------------------------------------------------------------------


def test_the_listing_shows_what_is_there(store, capsys):
    settings = {"model": "ab" * 32, "layer": 3, "decoding": "free", "plan": {"0": "a", "1": "b"}}
    entry = store.get("collect", settings, lambda f: (f / "a").write_bytes(bytes(2_000_000)))
    os.truncate(store.get("collect", KEY, make) / "a.txt", 1)
    store.get("collect", KEY, make)
    store.partial("generate", KEY).save("1", b"x" * 500)
    store.partial("generate", KEY).save("2", b"x" * 500)
    (store.root / "generate" / f".{'0' * 32}-{uuid.uuid4().hex}").mkdir()
    assert main(["cache", str(store.root)]) == 0
    lines = [re.split(r"  +", line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["stage", "entries", "unfinished", "temporary", "damaged", "size"]
    assert [line[0] for line in lines[1:]] == ["collect", "generate", "total"]
    assert re.fullmatch(r"2 \(2\.0 MB\)", lines[1][1])
    assert re.fullmatch(r"1 \(\d+ B\)", lines[1][4])
    assert lines[2][1:] == ["0", "1 (1.0 kB)", "1 (0 B)", "0", "1.0 kB"]
    assert main(["cache", str(store.root), "--all"]) == 0
    out = capsys.readouterr().out.splitlines()
    [line] = [line for line in out if entry.name[:8] in line]
    assert "2.0 MB" in line
    assert line.endswith("decoding=free, layer=3, plan x2, model ababab")
    assert any("unfinished" in line and line.endswith("2 parts") for line in out)
    assert len(out) == 1 + 5 + 4


def test_every_entry_says_where_it_came_from():
    assert describe({"answers": {"seed": 0, "chat": True, "plan": None, "off": False},
                     "stop": [], "features": [[1, 2], [3, 4]], "id": "x" * 50}) == (
        f"seed=0, chat, id=...{'x' * 29}, features x2")  # fmt: skip


def test_only_what_is_old_is_deleted(store, capsys):
    old = store.get("collect", {"x": "old"}, make)
    used = store.get("collect", {"x": "used"}, make)
    asked = store.get("collect", {"x": "asked"}, make)
    new = store.get("collect", {"x": "new"}, make)
    part = store.partial("collect", {"x": "part"})
    part.save("a", b"x")
    aside = old.with_name(f"{old.name}.corrupt-2020")
    shutil.copytree(old, aside)
    strange = store.root / "collect" / "notes"
    strange.mkdir()
    for path in (old, used, asked, aside, strange, *(store.root / "collect").glob(".*")):
        age(path, 10)
    part.save("b", b"x")  # a job goes on with it
    store.get("collect", {"x": "used"}, never)
    assert store.has("collect", {"x": "asked"})
    assert main(["cache", str(store.root), "--older-than", "5"]) == 0
    assert old.exists()
    capsys.readouterr()
    assert main(["cache", str(store.root), "--older-than", "5", "--delete"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "deleted:"
    total = [cell.split(" ")[0] for cell in re.split(r"  +", out[-1])]
    assert total[:5] == ["total", "1", "0", "0", "1"]
    assert not old.exists() and not aside.exists()
    assert all(path.exists() for path in (used, asked, new, strange))
    assert sorted(part.load()) == ["a", "b"]
    assert len(list((store.root / "collect").iterdir())) == 5
    assert not store.has("collect", {"x": "old"})


@pytest.mark.parametrize(
    "arguments", [["--delete"], ["--older-than", "0.5", "--delete"], ["--older-than", "nan"]]
)
def test_what_a_job_may_be_writing_cannot_be_deleted(store, arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["cache", str(store.root), *arguments])
    assert caught.value.code == 2


def test_a_cache_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main(["cache", str(tmp_path / "none")]) == 2
    assert "there is no cache folder" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
