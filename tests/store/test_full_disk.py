"""A full disk: one line that names the folder, nothing lost, and on it goes after room is made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from corrsteer.errors import ConfigError
from corrsteer.store.entries import Store
from corrsteer.store.runfolder import RunFolder
from tests.store.full_disk import full_after


def make(folder: Path) -> None:
    (folder / "deep").mkdir()
    for n in range(2):
        (folder / "deep" / f"{n}.txt").write_text(f"whole {n}")


def work(root: Path) -> list[str]:
    """What a run does to a cache: parts, an entry, several entries, and all of them read."""
    store = Store(root)
    part = store.partial("generate", {"x": 0})
    for n in range(2):
        part.save(str(n), bytes(100))
    assert sorted(part.load()) == ["0", "1"]
    store.get("generate", {"x": 0}, make)
    part.clear()
    keys = {n: {"x": n} for n in (1, 2)}

    def compute(names: list[int]) -> None:
        for n in names:
            store.get("collect", keys[n], make)

    store.fill("collect", keys, compute)
    entries = [store.read("collect", keys[n]) for n in (1, 2)]
    return [(entry / "deep" / "1.txt").read_text() for entry in entries]


@pytest.mark.long
def test_the_cache_survives_a_disk_that_is_full_at_any_write(tmp_path):
    for writes in range(200):
        root = tmp_path / str(writes) / "cache"
        root.parent.mkdir()
        with full_after(writes, root.parent) as disk:
            try:
                work(root)
            except ConfigError as error:
                text = str(error)
                assert text.startswith(f"cannot write the cache folder {root}: No space left")
                assert "make cache lists what can go; type cache=FOLDER" in text
                assert "\n" not in text
            whole = not disk.was_full
        kept = [file.name for file in root.glob("generate/.*.partial/*")]
        assert work(root) == ["whole 1"] * 2
        assert not list(root.glob("*/.*")), "nothing half-made is left"
        if writes > 6:
            assert len(list(root.glob("*/*/manifest.json"))) == 3, kept
        if whole:
            break
    assert whole and writes > 12


def test_a_run_folder_survives_a_disk_that_is_full_at_any_write(tmp_path):
    for writes in range(50):
        path = tmp_path / str(writes)
        path.mkdir()
        folder = RunFolder(path)
        with full_after(writes, path) as disk:
            try:
                with folder.in_one_line():
                    folder.start(["coef=1"])
                    folder.write_config("coef: 1\n")
                    folder.done()
            except ConfigError as error:
                assert str(error).startswith(f"cannot write the run folder {path}: No space left")
                assert "type the command again" in str(error) and "\n" not in str(error)
                folder.failed(str(error))  # says nothing more
            whole = not disk.was_full
        state = RunFolder(path).status().get("state")
        assert state == "done" if whole else state in (None, "killed", "failed"), (writes, state)
        assert not list(path.glob(".status.json.*"))
        RunFolder(path).start(["coef=1"])
        RunFolder(path).done()
        if whole:
            break
    assert whole and writes > 2


LIMITED = """
import pathlib, resource, signal, sys
from corrsteer.store.entries import Store

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))

def make(folder):
    (folder / "a.bin").write_bytes(bytes(100_000))

Store(pathlib.Path(sys.argv[1])).get("collect", {"x": 1}, make)
"""


@pytest.mark.parametrize("largest", [0, 1, 50_000])
def test_a_limit_on_the_size_of_files_is_one_line(tmp_path, largest):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "cache"), str(largest)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert f"ConfigError: cannot write the cache folder {tmp_path}/cache: File too large" in last
    assert not list(tmp_path.glob("cache/collect/[!.]*"))


SMALL_DISK = """
import pathlib, sys
from corrsteer.errors import ConfigError
from corrsteer.store.entries import Store

root = pathlib.Path(sys.argv[1])

def make(folder):
    for n in range(8):
        (folder / f"{n}.bin").write_bytes(bytes(50_000))

store, made = Store(root), 0
try:
    for made in range(9):
        store.get("collect", {"x": made}, make)
except ConfigError as error:
    print(error)
(root / "ballast").unlink()
store.get("collect", {"x": made}, make)
for n in range(made + 1):
    assert store.has("collect", {"x": n})
print(made, len(list(root.glob("*/.*"))))
"""


@pytest.mark.night
def test_a_real_disk_that_is_full(tmp_path):
    """Two megabytes, mounted by an ordinary user in a name space of their own."""
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*own, "true"], capture_output=True).returncode:
        pytest.skip("no user name spaces here")
    script = (
        'mount -t tmpfs -o size=2m tmpfs "$1" && head -c 700000 /dev/zero > "$1/ballast"'
        ' && exec "$2" -c "$3" "$1"'
    )
    done = subprocess.run(
        [*own, "sh", "-c", script, "sh", str(tmp_path), sys.executable, SMALL_DISK],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    line, rest = done.stdout.splitlines()
    assert line.startswith(f"cannot write the cache folder {tmp_path}: No space left on device")
    assert rest.split() == ["3", "0"]
