"""The neutral prompts and texts of the package are those that the experiment makes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from experiments.neutral_text import make


def rows(file: Path) -> list[dict[str, str]]:
    """The bytes of a gzip stream depend on the zlib that wrote it: the rows count."""
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("neutral")
    make.main(["--out", str(out)])
    return out


@pytest.mark.parametrize("source", ["everyday", "world"])
@pytest.mark.parametrize("kind", ["prompts", "texts"])
def test_the_package_holds_what_is_made(made, source, kind):
    file = Path(source) / f"{kind}.jsonl.gz"
    assert rows(made / file) == rows(make.TARGET / file)


@pytest.mark.parametrize("source", ["everyday", "world"])
def test_there_are_1000_distinct_prompts(made, source):
    assert len({row["prompt"] for row in rows(made / source / "prompts.jsonl.gz")}) == 1000
