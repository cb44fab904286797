"""The commands and files that the pages show, as they are to be typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docs.tools.repo import ROOT, pages

BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```|((?:^    [^\n]*\n|^\n(?=    ))+)", re.M | re.S)
SHELL = ("sh", "bash", "shell")
PROGRAMS = ("corrsteer", "python", "make", "pip", "source", "curl", "benchmarks/gpu.sh")
"""What commands begin with; other lines of a block are what they print."""


@dataclass(frozen=True)
class Command:
    page: Path
    words: tuple[str, ...]

    @property
    def settings(self) -> tuple[str, ...] | None:
        """What a run is given; None: it is no run."""
        if self.words[:3] == ("python", "-m", "src.main"):
            return self.words[3:]
        run = self.words[0] == "corrsteer" and not self.words[1].isidentifier()
        return self.words[1:] if run else None

    @property
    def after(self) -> tuple[str, ...] | None:
        """What ``python -m corrsteer`` is given; None: it is another command."""
        if self.words[:3] == ("python", "-m", "corrsteer"):
            return self.words[3:]
        return self.words[1:] if self.words[0] == "corrsteer" and not self.settings else None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {shlex.join(self.words)}"


@dataclass(frozen=True)
class Shown:
    """A file that a page has its reader write."""

    name: str
    content: str


def shown(page: Path) -> Iterator[Command | Shown]:
    """In the order of the page. Commands stand in blocks that are indented or of a shell."""
    text = page.read_text(encoding="utf-8")
    for fence, content, indented in BLOCK.findall(text):
        if title := re.search(r'title="(.+?)"', fence):
            yield Shown(title[1], content)
            continue
        if not indented and fence.strip() not in SHELL:
            continue
        for line in re.sub(r"\\\n", " ", indented or content).splitlines():
            line = line.strip().removeprefix(".venv/bin/")
            if line.split(" ")[0] in PROGRAMS:
                yield Command(page, tuple(shlex.split(line, comments=True)))


def commands() -> list[Command]:
    """Of all pages."""
    return [part for page in pages() for part in shown(page) if isinstance(part, Command)]
