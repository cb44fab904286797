"""Files of the Hub, from caches of made-up repositories; no network."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx2
import pytest

from corrsteer import hub
from corrsteer.errors import CorrSteerError, DataError, ModelError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40
REPO = "org/questions"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def publish(
    cache: Path,
    *names: str,
    repo: str = REPO,
    kind: str = "datasets",
    commit: str = COMMIT,
    listed: tuple[str, ...] = (),
) -> Path:
    """A snapshot with files of one line, in the layout of the Hub's cache; ``listed``: the files
    that the repository's own list names, where huggingface_hub has kept one."""
    root = cache / f"{kind}--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True, exist_ok=True)
    for name in names:
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_text(f"content of {name}\n")
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    if listed:
        from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache

        entry = TreeCacheEntry(size=1, blob_id="0", lfs_sha256=None, lfs_size=None, xet_hash=None)
        write_tree_cache(str(root), commit, dict.fromkeys(listed, entry))
    return snapshot


def dataset(*patterns: str, revision: str = COMMIT, repo: str = REPO, **more) -> Path:
    return hub.dataset(repo, revision=revision, patterns=patterns, what="task questions", **more)


def refused(*patterns: str, **more) -> str:
    with pytest.raises(DataError) as caught:
        dataset(*patterns, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "patterns",
    [
        ["test.csv"],
        ["test.csv", "data/b.parquet"],
        ["*.parquet"],
        ["data/*"],
        ["*.csv", "data/?.parquet"],
    ],
)
def test_a_cached_dataset_is_taken_as_it_is(patterns, cache):
    snapshot = publish(cache, "test.csv", "data/a.parquet", "data/b.parquet")
    assert dataset(*patterns) == snapshot


def test_a_tag_or_branch_is_a_revision_too(cache):
    snapshot = publish(cache, "a.csv")
    assert dataset("a.csv", revision="main") == snapshot


def test_models_and_datasets_are_kept_apart(cache):
    publish(cache, "test.csv", kind="models")
    assert "is not on this machine" in refused("test.csv")


@pytest.mark.parametrize(
    ("patterns", "there"),
    [
        (["test.csv"], []),
        (["test.csv", "dev.csv"], ["test.csv"]),
        (["test.csv"], ["data/test.csv", "test.csv.gz"]),
        (["*.parquet", "test.csv"], ["data/a.parquet"]),
        (["*.parquet"], ["test.csv"]),
    ],
)
def test_every_pattern_has_to_have_a_match(patterns, there, cache):
    publish(cache, *there)
    assert "task questions is not on this machine: downloads are switched off" in refused(*patterns)


def test_another_revision_does_not_count(cache):
    publish(cache, "test.csv", commit=OTHER)
    assert "is not on this machine" in refused("test.csv")


def test_a_link_to_a_blob_that_is_gone_is_no_file(cache):
    snapshot = publish(cache)
    (snapshot / "test.csv").symlink_to("../../blobs/gone")
    assert "is not on this machine" in refused("test.csv")


def test_a_list_of_files_shows_what_a_glob_misses(cache):
    files = ("a.parquet", "b.parquet", "notes.md")
    publish(cache, "a.parquet", listed=files)
    assert "is not on this machine" in refused("*.parquet")
    snapshot = publish(cache, "b.parquet")
    assert dataset("*.parquet") == snapshot


def test_without_that_list_it_goes_unnoticed(cache):
    snapshot = publish(cache, "a.parquet")
    assert dataset("*.parquet") == snapshot


def test_the_error_says_what_to_type(cache):
    from huggingface_hub import constants

    message = refused("test.csv", "data/*.parquet")
    assert f"(page: {constants.ENDPOINT}/datasets/{REPO})" in message
    assert "HF_HUB_OFFLINE=1" in message
    command = f"hf download --repo-type dataset {REPO} --revision {COMMIT}"
    assert f"{command} --include test.csv --include 'data/*.parquet' (page:" in message
    assert "licence" not in message
    message = refused("test.csv", licence="CC BY-NC")
    assert f"accept the CC BY-NC licence at {constants.ENDPOINT}/datasets/{REPO}, then" in message
    assert "hf auth login && hf download --repo-type dataset" in message


def test_a_name_that_no_repository_can_have(cache):
    assert "'two words' is not a repository name" in refused("a.csv", repo="two words")
    with pytest.raises(ModelError, match="is not a repository name"):
        hub.snapshot("two words", weights=True)


def http(error: str):
    import huggingface_hub.errors

    request = httpx2.Request("GET", "https://hub.example")
    return getattr(huggingface_hub.errors, error)(
        "no", response=httpx2.Response(404, request=request)
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (lambda: http("GatedRepoError"), "its licence has not been accepted with this account"),
        (lambda: http("RevisionNotFoundError"), f"the Hub has no revision '{COMMIT}' of it"),
        (lambda: http("RepositoryNotFoundError"), "the Hub has no such repository, or not for"),
        (lambda: TimeoutError("too\nslow"), "it could not be downloaded (too slow)"),
        (lambda: FileNotFoundError("x"), "the Hub does not answer"),
    ],
)
def test_a_download_that_fails_says_why(error, reason, monkeypatch):
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    def download(repo, *, local_files_only=False, **wanted):
        raise LocalEntryNotFoundError("not here") if local_files_only else error()

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert f"task questions is not on this machine: {reason}" in refused("test.csv")


def test_what_is_missing_is_downloaded_at_that_revision(cache, monkeypatch):
    import huggingface_hub
    from huggingface_hub import constants

    snapshot = publish(cache, "a.csv")
    asked = []

    def download(repo, *, local_files_only=False, **wanted):
        if not local_files_only:
            asked.append((repo, wanted))
            publish(cache, "b.csv")
        return str(snapshot)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    for _ in range(2):
        assert dataset("a.csv", "b.csv") == snapshot
    wanted = {"revision": COMMIT, "allow_patterns": ["a.csv", "b.csv"], "repo_type": "dataset"}
    assert asked == [(REPO, wanted)]
    assert "some of its files are missing, and the Hub did not provide them" in refused("c.csv")


# -- a setting that names a folder or a Hub id ----------------------------------------------------


@pytest.mark.parametrize(
    ("path", "local"),
    [
        ("./m", True),
        ("../m", True),
        ("/m", True),
        ("~/m", True),
        ("a/b/c", True),
        ("here/m", True),
        ("here", True),
        ("org/m", False),
        ("m", False),
    ],
)
def test_what_is_meant_as_a_folder(path, local, tmp_path):
    (tmp_path / "here").mkdir()
    assert hub.is_local(path) is local


def folder(path: str, **more) -> Path:
    return hub.folder(path, setting="task.scorer.model", example="org/judge", **more)


def test_the_folder_of_a_setting(cache, tmp_path):
    (tmp_path / "m").mkdir()
    for path, message in {
        "./none": "task.scorer.model='./none': no such folder; give a folder with config.json and"
        " weights, or a Hub id such as org/judge.",
        "./m": "task.scorer.model='./m' has no config.json;",
        "org/m": f"hf download org/m --revision {COMMIT} (page:",
    }.items():
        with pytest.raises(CorrSteerError) as caught:
            folder(path, revision=COMMIT)
        assert type(caught.value) is ModelError
        assert message in str(caught.value)
    (tmp_path / "m" / "config.json").write_text("{}")
    assert folder("./m") == Path("./m")
    files = ("config.json", "tokenizer.json", "model.safetensors")
    snapshot = publish(cache, *files, repo="org/m", kind="models")
    assert folder("org/m", revision=COMMIT) == snapshot
    assert hub.fingerprint("org/m", snapshot) == f"org/m@{COMMIT}"


def test_the_fingerprint_of_a_folder(tmp_path):
    """By its definition: names and digests, in the order of names."""
    contents = {"b.safetensors": b"\0", "a.json": b"{}", "c.txt": b"x"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "README.md").write_text("notes")
    lines = [f"{n}\0{hashlib.sha256(contents[n]).hexdigest()}\n" for n in sorted(contents)]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert hub.fingerprint("./m", tmp_path) == expected
    assert hub.fingerprint("./m", tmp_path, subfolders=True) == expected
    part = tmp_path / "1_Pooling" / "config.json"
    part.parent.mkdir()
    part.write_text("{}")
    assert hub.fingerprint("./m", tmp_path) == expected
    deep = hub.fingerprint("./m", tmp_path, subfolders=True)
    assert deep != expected
    part.write_text("{ }")
    assert hub.fingerprint("./m", tmp_path, subfolders=True) not in (deep, expected)
