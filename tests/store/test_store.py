"""The stage cache under races, kills and tampering, with real processes."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corrsteer.errors import ConfigError
from corrsteer.store.entries import Store
from corrsteer.store.keys import key

SETTINGS = {"model": "abc", "layers": [1, 2], "coef": 1.0, "plan": None}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "cache")


def write(text: str):
    def make(folder: Path) -> None:
        (folder / "deep").mkdir()
        (folder / "deep" / "a.txt").write_text(text)
        (folder / "b.bin").write_bytes(bytes(1000))

    return make


def never(folder: Path) -> None:
    raise AssertionError("this should have been read from the cache")


def python(code: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def test_a_result_is_made_once_and_then_read(store, caplog):
    caplog.set_level(logging.INFO)
    entry = store.get("collect", SETTINGS, write("hello"))
    assert (entry / "deep" / "a.txt").read_text() == "hello"
    assert entry == store.root / "collect" / key("collect", 1, SETTINGS)
    assert store.get("collect", dict(reversed(SETTINGS.items())), never) == entry
    assert store.log == {"miss collect": 1, "hit collect": 1}
    assert caplog.messages == [f"cache {what} collect {entry.name[:8]}" for what in ("miss", "hit")]


def test_stage_schema_and_settings_each_change_the_entry(store):
    entries = {
        store.get("collect", SETTINGS, write("a")),
        store.get("select", SETTINGS, write("a")),
        store.get("collect", SETTINGS, write("a"), schema=2),
        store.get("collect", SETTINGS | {"coef": 2}, write("a")),
    }
    assert len(entries) == 4
    assert store.has("collect", SETTINGS, schema=2)
    assert not store.has("select", SETTINGS, schema=2)


def test_the_manifest_says_what_is_there(store):
    entry = store.get("collect", SETTINGS, write("hello"))
    manifest = json.loads((entry / "manifest.json").read_text())
    assert manifest["settings"] == SETTINGS
    assert manifest["files"]["deep/a.txt"] == {
        "bytes": 5,
        "sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
    }
    assert set(manifest["files"]) == {"deep/a.txt", "b.bin"}


def test_whole_floats_and_ints_are_one_key():
    assert key("s", 1, {"coef": 1}) == key("s", 1, {"coef": 1.0})
    assert key("s", 1, {"coef": 1}) != key("s", 1, {"coef": True})
    assert key("s", 1, {"coef": 1}) != key("s", 1, {"coef": "1"})
    assert key("s", 1, {"coef": 0.0}) == key("s", 1, {"coef": -0.0})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)  # fmt: skip


@pytest.mark.long
@given(st.dictionaries(st.text(max_size=3), json_values, max_size=4))
def test_a_key_survives_order_and_a_trip_through_json(settings):
    named = key("s", 1, settings)
    assert named == key("s", 1, dict(reversed(settings.items())))
    assert named == key("s", 1, json.loads(json.dumps(settings)))


@pytest.mark.parametrize("value", [float("nan"), Path("x"), {1, 2}, object(), {1: "a"}, b"x"])
def test_settings_without_a_stable_form_are_refused(value):
    with pytest.raises(TypeError):
        key("s", 1, {"value": value})


def test_a_key_is_the_same_in_every_process():
    code = (
        "from corrsteer.store.keys import key\n"
        "unordered = {letter: ord(letter) for letter in set('vwxyz')}\n"
        "print(key('collect', 1, {'b': unordered, 'a': (1, 2.0, 0.1)}))"
    )
    here = key("collect", 1, {"a": [1, 2, 0.1], "b": {letter: ord(letter) for letter in "vwxyz"}})
    for seed in ("0", "1"):
        out, err = python(code, PYTHONHASHSEED=seed).communicate(timeout=60)
        assert out.strip() == here, err


@pytest.mark.parametrize(
    "harm",
    [
        lambda entry: (entry / "deep" / "a.txt").write_text("jello"),
        lambda entry: os.truncate(entry / "b.bin", 999),
        lambda entry: os.truncate(entry / "manifest.json", 40),
        lambda entry: (entry / "manifest.json").unlink(),
        lambda entry: (entry / "b.bin").unlink(),
        lambda entry: (entry / "extra").write_text("x"),
        lambda entry: (entry / "manifest.json").write_text("[]"),
        lambda entry: (entry / "manifest.json").write_text(
            (entry / "manifest.json").read_text().replace('"abc"', '"abd"')
        ),
    ],
    ids=["changed", "cut", "cut-manifest", "no-manifest", "lost", "added", "odd", "another's"],
)
def test_a_harmed_entry_is_set_aside_and_made_again(store, harm, caplog):
    entry = store.get("collect", SETTINGS, write("hello"))
    harm(entry)
    assert not store.has("collect", SETTINGS)
    assert store.get("collect", SETTINGS, write("again")) == entry
    assert (entry / "deep" / "a.txt").read_text() == "again"
    assert store.get("collect", SETTINGS, never) == entry
    assert store.log == {"miss collect": 2, "hit collect": 1}
    [aside] = (store.root / "collect").glob(f"{entry.name}.corrupt-*")
    assert aside.is_dir()
    assert [r.levelname for r in caplog.records if "is harmed" in r.message] == ["WARNING"]


def test_a_maker_that_fails_leaves_nothing(store):
    def make(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        store.get("collect", SETTINGS, make)
    assert list((store.root / "collect").iterdir()) == []
    assert not store.has("collect", SETTINGS)


def test_a_job_killed_while_writing_leaves_no_entry(store):
    code = """
import pathlib, sys, time
from corrsteer.store.entries import Store

def make(folder):
    (folder / "a.txt").write_text("half")
    print("writing", flush=True)
    time.sleep(600)

Store(pathlib.Path(sys.argv[1])).get("collect", {"x": 1}, make)
"""
    victim = python(code, store.root)
    assert victim.stdout is not None
    assert victim.stdout.readline() == "writing\n"
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert not store.has("collect", {"x": 1})
    entry = store.get("collect", {"x": 1}, write("whole"))
    assert (entry / "deep" / "a.txt").read_text() == "whole"


def test_racing_jobs_end_with_one_whole_entry_where_there_are_no_locks(store):
    code = """
import errno, os, pathlib, sys, time
from corrsteer.store import locks
from corrsteer.store.entries import Store

def refused(*args, **kwargs):
    raise OSError(errno.ENOLCK, "No locks available")

locks.FileLock.acquire = refused
root, go = map(pathlib.Path, sys.argv[1:])

def make(folder):
    print("writing", flush=True)
    while not go.exists():
        time.sleep(0.001)
    for n in range(20):
        (folder / f"{n}.txt").write_text(f"{os.getpid()}")

entry = Store(root).get("collect", {"x": 1}, make)
print((entry / "0.txt").read_text())
"""
    go = store.root.parent / "go"
    jobs = [python(code, store.root, go) for _ in range(4)]
    for job in jobs:
        assert job.stdout is not None
        assert job.stdout.readline() == "writing\n", job.communicate()
    go.touch()  # all four are inside make now, so all four want to rename
    outs = [job.communicate(timeout=60) for job in jobs]
    assert [job.returncode for job in jobs] == [0] * 4, outs
    winners = {out.strip() for out, _ in outs}
    assert len(winners) == 1
    entry = store.get("collect", {"x": 1}, never)
    assert {file.read_text() for file in entry.glob("*.txt")} == winners
    assert list((store.root / "collect").iterdir()) == [entry]


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cache=FOLDER") as caught:
        Store(tmp_path / "file" / "cache")
    assert "\n" not in str(caught.value)
