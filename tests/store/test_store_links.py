"""What the store did not write: it follows no link, waits for no pipe and moves nobody's files.

Everything lies in scratch folders, and where root runs the tests, they are nobody's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corrsteer.errors import ConfigError
from corrsteer.store.entries import Store
from corrsteer.store.files import is_folder
from corrsteer.store.listing import clear, show

KEY = {"x": 1}
NOBODY = 65534


def make(folder: Path) -> None:
    (folder / "a.txt").write_text("whole")


def never(folder: Path) -> None:
    raise AssertionError("this should have been read from the cache")


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder of somebody who may do no harm outside it."""
    folder = Path(tempfile.mkdtemp(prefix="corrsteer-"))
    root = os.geteuid() == 0
    try:
        if root:
            os.chown(folder, NOBODY, NOBODY)
            os.setegid(NOBODY)
            os.seteuid(NOBODY)
        yield folder
        shutil.rmtree(folder)
    finally:
        if root:
            os.seteuid(0)
            os.setegid(0)


@pytest.fixture
def store(scratch) -> Store:
    return Store(scratch / "cache")


@pytest.fixture
def users(scratch) -> Path:
    """A folder of the user's, with all that the store would take for its own."""
    folder = scratch / "users"
    folder.mkdir()
    (folder / "thesis.tex").write_text("ten years")
    (folder / "a.txt").write_text("mine")
    (folder / f"1-{'0' * 64}").write_text("mine")
    (folder / "1-2").write_text("mine")
    (folder / ".draft.lock").write_text("mine")
    (folder / f".{'a' * 32}.lock").write_text("mine")
    (folder / f".{'a' * 32}-{'b' * 32}").mkdir()
    (folder / f".{'a' * 32}-{'b' * 32}" / "deep").write_text("mine")
    age(folder)
    return folder


def age(path: Path) -> None:
    then = time.time() - 10 * 86400
    for each in (path, *path.rglob("*")):
        os.utime(each, (then, then), follow_symlinks=False)


def content(folder: Path) -> dict[str, str | None]:
    return {
        str(file.relative_to(folder)): file.read_text() if file.is_file() else None
        for file in folder.rglob("*")
    }


# -- what may stand where the store wants to write -------------------------------------------------


def link(path: Path, users: Path) -> None:
    path.symlink_to(users)


def link_to_a_file(path: Path, users: Path) -> None:
    path.symlink_to(users / "thesis.tex")


def endless_link(path: Path, users: Path) -> None:
    path.symlink_to(path.name)


def link_to_nothing(path: Path, users: Path) -> None:
    path.symlink_to("nothing")


def pipe(path: Path, users: Path) -> None:
    os.mkfifo(path)


def end_of_a_socket(path: Path, users: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
    finally:
        os.chdir(before)


def file(path: Path, users: Path) -> None:
    path.write_text("mine")


STRANGE = [link, link_to_a_file, endless_link, link_to_nothing, pipe, end_of_a_socket, file]


@pytest.mark.parametrize("put", STRANGE)
def test_what_stands_in_an_entrys_place_gives_way_and_loses_nothing(store, users, put):
    before = content(users)
    entry = store._entry("collect", KEY, 1)
    entry.parent.mkdir()
    put(entry, users)
    assert not store.has("collect", KEY)
    assert store.get("collect", KEY, make) == entry
    assert is_folder(entry) and (entry / "a.txt").read_text() == "whole"
    assert store.get("collect", KEY, never) == entry
    assert content(users) == before
    left = [path.read_text() for path in entry.parent.iterdir() if path != entry]
    assert left == (["mine"] if put is file else [])


@pytest.mark.parametrize("put", [put for put in STRANGE if put is not file])
def test_an_entry_with_anything_but_files_in_it_is_made_again(store, users, put):
    """Also where what a link leads to is word for word what was written."""
    before = content(users)
    entry = store.get("collect", KEY, make)
    (entry / "a.txt").rename(users / "same")
    put(entry / "a.txt", users)
    if put is link_to_a_file:
        (entry / "a.txt").unlink()
        (entry / "a.txt").symlink_to(users / "same")
    assert not store.has("collect", KEY)
    assert (store.get("collect", KEY, make) / "a.txt").read_text() == "whole"
    assert not (entry / "a.txt").is_symlink()
    assert content(users) == before | {"same": "whole"}


@pytest.mark.parametrize("put", STRANGE)
def test_a_manifest_that_is_no_file_makes_an_entry_again(store, users, put):
    entry = store.get("collect", KEY, make)
    (entry / "manifest.json").unlink()
    put(entry / "manifest.json", users)
    assert (store.get("collect", KEY, make) / "manifest.json").is_file()
    assert store.get("collect", KEY, never) == entry


@pytest.mark.parametrize("put", STRANGE)
def test_unfinished_work_is_kept_in_a_folder_of_the_stores_own(store, users, put):
    before = content(users)
    part = store.partial("collect", KEY)
    (store.root / "collect").mkdir()
    put(part._folder, users)
    assert part.load() == {}
    part.save("1", b"x")
    part.save("1", b"y")
    assert part.load() == {"1": b"y"}
    part.clear()
    assert content(users) == before
    assert not part._folder.exists()


@pytest.mark.parametrize("put", [put for put in STRANGE if put is not file])
def test_a_part_that_is_no_file_is_not_read(store, users, put):
    part = store.partial("collect", KEY)
    part.save("1", b"x")
    put(part._folder / f"2-{'0' * 64}", users)
    (part._folder / "notes-2").write_text("mine")
    (part._folder / "1-2").write_text("mine")
    assert part.load() == {"1": b"x"}
    part.save("1", b"y")
    assert part.load() == {"1": b"y"}
    assert (part._folder / "notes-2").exists() and (part._folder / "1-2").exists()


@pytest.mark.parametrize("put", STRANGE)
def test_a_lock_writes_to_no_file_but_its_own(store, users, put):
    before = content(users)
    entry = store._entry("collect", KEY, 1)
    entry.parent.mkdir()
    put(entry.with_name(f".{entry.name}.lock"), users)
    store.get("collect", KEY, make)
    assert content(users) == before
    assert list(entry.parent.iterdir()) == [entry]


def test_the_cache_itself_may_be_a_link(scratch):
    (scratch / "big disk").mkdir()
    (scratch / "cache").symlink_to("big disk")
    store = Store(scratch / "cache")
    store.partial("collect", KEY).save("1", b"x")
    entry = store.get("collect", KEY, make)
    assert store.get("collect", KEY, never) == entry
    clear(store.root)
    assert (scratch / "cache").is_symlink() and not list((scratch / "big disk").iterdir())


def test_a_cache_that_is_deleted_meanwhile_is_made_again(store):
    def slow(folder: Path) -> None:
        clear(store.root)
        assert not store.root.exists()
        folder.mkdir(parents=True)
        make(folder)

    store.get("collect", KEY, make)
    store.get("generate", KEY, slow)
    assert store.has("generate", KEY) and not store.has("collect", KEY)


def test_a_stage_that_is_a_link_is_refused(store, users):
    before = content(users)
    (store.root / "collect").symlink_to(users)
    again = Store(store.root)
    for ask in (
        lambda: again.get("collect", KEY, make),
        lambda: again.has("collect", KEY),
        lambda: again.partial("collect", KEY),
    ):
        with pytest.raises(ConfigError, match="collect is a link") as caught:
            ask()
        assert "\n" not in str(caught.value)
    assert content(users) == before


@pytest.mark.parametrize("put", STRANGE)
def test_opening_and_clearing_a_cache_touch_nothing_that_is_not_its_own(store, users, put):
    """Under every name that the store gives to something."""
    before = content(users)
    store.get("collect", KEY, make)
    home, one, two = store.root / "collect", "c" * 32, "d" * 32
    names = (one, f".{one}.partial", f".{one}-{two}", f"{one}.corrupt-1", f".{one}.lock", "notes")
    for name in names:
        put(home / name, users)
    put(store.root / "mine", users)
    age(store.root)
    Store(store.root)
    show(store.root, entries=True, older_than=None, delete=False)
    show(store.root, entries=False, older_than=1, delete=True)
    assert content(users) == before
    gone = {f"{one}.corrupt-1", *({f".{one}.lock"} if put is file else ())}
    assert {name for name in names if not os.path.lexists(home / name)} == gone
    assert os.path.lexists(store.root / "mine")
    assert not store.has("collect", KEY)


@pytest.mark.parametrize("put", STRANGE)
def test_clearing_a_cache_leaves_what_is_not_its_own(store, users, put, capsys):
    before = content(users)
    store.get("collect", KEY, make)
    store.partial("generate", KEY).save("1", b"x")
    home, one = store.root / "collect", "c" * 32
    for path in (home / one, home / f".{one}.lock", store.root / "mine", home / "notes"):
        put(path, users)
    clear(store.root)
    assert content(users) == before
    left = {"collect", "collect/notes", "mine", *({f"collect/{one}"} if put is file else ())}
    assert {str(f.relative_to(store.root)) for f in store.root.rglob("*")} == left
    assert "'collect', 'mine'" in capsys.readouterr().out
    for path in (home / "notes", home / one, store.root / "mine"):
        path.unlink(missing_ok=True)
    clear(store.root)
    assert not store.root.exists()
    clear(store.root)


def test_a_link_in_what_is_deleted_is_unlinked_alone(store, users):
    before = content(users)
    entry = store.get("collect", KEY, make)
    link(entry / "more", users)
    work = entry.with_name(f".{'a' * 32}-{'b' * 32}")
    work.mkdir()
    link(work / "more", users)
    age(store.root)
    show(store.root, entries=False, older_than=1, delete=True)
    assert content(users) == before
    assert list((store.root / "collect").iterdir()) == []


# -- manifests that are no manifests ---------------------------------------------------------------


def edited(**changes):
    def damage(text: bytes) -> bytes:
        return json.dumps(json.loads(text) | changes).encode()

    return damage


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: DEEP.encode(),
        lambda text: b'{"settings": ' + DEEP.encode() + b"}",
        lambda text: text.replace(b'"x": 1', b'"x": 1e999'),
        lambda text: text.replace(b'"x": 1', b'"x": ' + b"9" * 5000),
        lambda text: text.replace(b'"x": 1', b'"x": NaN'),
        lambda text: text.replace(b'"x": 1', b'"x": "\xff\xfe"'),
        lambda text: text.replace(b'"x": 1', b'"x": "\\ud800"'),
        lambda text: text.decode().encode("utf-16"),
        lambda text: b"",
        lambda text: b"\0" * 100,
        lambda text: b"null",
        lambda text: b"7",
        lambda text: b'"text"',
        edited(files=None),
        edited(files=["a.txt"]),
        edited(files=[["a.txt", 5]]),
        edited(files={"a.txt": 5}),
        edited(files={"a.txt": None}),
        edited(files={"a.txt": {}}),
        edited(files={"a.txt": {"bytes": "5", "sha256": 5}}),
        edited(files={"a.txt": {"bytes": 1e999, "sha256": ""}}),
        edited(files={"../a.txt": {"bytes": 5, "sha256": ""}}),
        edited(files={"\ud800\n": {"bytes": 5, "sha256": ""}}),
        edited(settings=None),
        edited(settings=[1]),
        edited(schema={}),
        edited(stage=[]),
    ],
)
def test_an_odd_manifest_makes_an_entry_again(store, damage):
    entry = store.get("collect", KEY, make)
    manifest = entry / "manifest.json"
    manifest.write_bytes(damage(manifest.read_bytes()))
    assert not store.has("collect", KEY)
    show(store.root, entries=True, older_than=None, delete=False)
    assert (store.get("collect", KEY, make) / "a.txt").read_text() == "whole"
    assert store.get("collect", KEY, never) == entry


def test_a_file_with_an_odd_name_makes_an_entry_again(store, caplog):
    entry = store.get("collect", KEY, make)
    (entry / "a\nb\udcff").touch()
    assert store.get("collect", KEY, make) == entry
    [said] = [message for message in caplog.messages if "harmed" in message]
    assert said.isascii() and "\n" not in said


# -- two users on one cache ------------------------------------------------------------------------

TWO = """
import os, pathlib, sys
from corrsteer.store.entries import Store

os.umask(int(sys.argv[2], 8))
os.setgroups([])
os.setgid(65534)
os.setuid(int(sys.argv[3]))

def make(folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "a.txt").write_text(sys.argv[3])

store = Store(pathlib.Path(sys.argv[1]))
print((store.get("collect", {"x": "shared"}, make) / "deep" / "a.txt").read_text())
store.get("collect", {"x": sys.argv[3]}, make)
store.get(f"own {sys.argv[3]}", {"x": 1}, make)
store.get("own 64001", {"x": sys.argv[3]}, make)
part = store.partial("collect", {"x": "part"})
print(sorted(part.load()))
part.save("part", sys.argv[3].encode())
(store._entry("collect", {"x": "shared"}, 1) / "deep" / "a.txt").write_text("harmed") if len(
    sys.argv) > 4 else None
store.get("collect", {"x": "shared"}, make)
"""


def as_user(root: Path, umask: str, user: int, *more: str) -> tuple[int, str, str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", TWO, root.name, umask, str(user), *more],
        cwd=root.parent, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def reachable(tmp_path):
    """A folder that other users reach; a worker of pytest-xdist has one more folder around it."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and "pytest-of-" in str(folder):
            folder.chmod(0o755)
    return tmp_path


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
@pytest.mark.parametrize("umasks", [("077", "022"), ("022", "077"), ("077", "077")])
def test_users_of_one_cache_read_and_add_whatever_their_umasks(reachable, umasks):
    root = reachable / "cache"
    root.mkdir()
    root.chmod(0o2775)
    os.chown(root, 64000, NOBODY)
    first, second = (as_user(root, u, n) for u, n in zip(umasks, (64001, 64002), strict=True))
    assert first == (0, "64001\n[]\n", ""), first
    assert second == (0, "64001\n['part']\n", ""), second
    third = as_user(root, "077", 64003, "harmed")  # and sets aside what another made
    assert third[0] == 0, third
    for path in root.rglob("*"):
        assert path.stat().st_mode & 0o777 & (0o775 if path.is_dir() else 0o664) == (
            0o775 if path.is_dir() else 0o664
        ), path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_a_cache_that_is_one_users_own_is_one_line_for_another(reachable):
    root = reachable / "cache"
    root.mkdir(mode=0o755)
    os.chown(root, 64001, NOBODY)
    assert as_user(root, "022", 64001)[0] == 0
    code, _, err = as_user(root, "022", 64002)
    assert code == 1
    last = err.splitlines()[-1]
    assert re.search("ConfigError: cannot write the cache folder cache: Permission denied", last)
