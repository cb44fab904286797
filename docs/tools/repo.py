"""Where the sources of the pages are, and how they are read without importing them."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SECTIONS = ("start", "how-to", "explanation", "reference")
"""The folders of ``docs/``, in the order in which they are read."""
BESIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md")


def pages() -> list[Path]:
    """All of ``docs/`` and README, whoever wrote them."""
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def studies() -> list[Path]:
    """The pages of ``experiments/``, its index first."""
    home = ROOT / "experiments"
    return [home / "README.md", *sorted(home.glob("*/README.md"))]


def title(page: Path) -> str:
    """Its heading."""
    text = page.read_text(encoding="utf-8")
    return next(line[2:].strip() for line in text.splitlines() if line.startswith("# "))


def first_sentence(page: Path) -> str:
    """Of the first paragraph below the heading that does not say who made the page."""
    paragraphs = page.read_text(encoding="utf-8").split("\n\n")[1:]
    own = next((p for p in paragraphs if not p.startswith("Made by `make docs`")), "")
    return " ".join(own.split()).partition(". ")[0].rstrip(".:") + "."


def tree(place: str) -> ast.Module:
    """The syntax tree of a module of the package: ``steering.plan``; "" is its front door."""
    file = ROOT / "src" / "corrsteer" / ((place or "__init__").replace(".", "/") + ".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def paragraph(docstring: str | None) -> str:
    """The first one, in a line, without the marks of reStructuredText."""
    return plain((docstring or "").partition("\n\n")[0])


def plain(text: str) -> str:
    """Text of a docstring, for a line of Markdown."""
    line = " ".join(text.split()).replace("``", "`")
    for role in (":mod:", ":class:", ":func:", ":meth:", ":data:", ":attr:"):
        line = line.replace(role, "")
    return line.replace("`~", "`")


def cell(text: str) -> str:
    """In a table, where a bar would end it."""
    return text.replace("|", "\\|").replace("\n", "\\n")
