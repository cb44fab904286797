"""Builds ``docs/`` and the pages beside it as a site, with search: ``make docs``.

    python -m docs.tools.site              # outputs/docs/site
    python -m docs.tools.site --out FOLDER

The pages are plain Markdown that reads as well without it. What the generator gets is a copy, so it
may be another one: the order is read from the folders, so a page that is put into ``docs/how-to``
is in it, and links to sources, which the site does not hold, become plain text.
"""

from __future__ import annotations

import argparse
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from docs.tools.repo import BESIDE, DOCS, ROOT, SECTIONS, studies, title

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
CODE = re.compile(r"(^```.*?^```|^    .*?$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)

SETTINGS: dict[str, Any] = {
    "site_name": "CorrSteer",
    "docs_dir": "pages",
    "site_dir": "site",
    "use_directory_urls": False,  # pages can be read as files; search needs a server
    "plugins": ["search"],
    "markdown_extensions": [
        "tables",
        {"toc": {"permalink": True}},
        "pymdownx.highlight",
        "pymdownx.superfences",
    ],
    "theme": {
        "font": False,  # the reader's own: nothing is fetched from elsewhere
        "features": ["navigation.indexes", "navigation.sections", "content.code.copy"],
        "palette": [
            {"media": f"(prefers-color-scheme: {kind})", "scheme": scheme,
             "toggle": {"icon": f"lucide/{icon}", "name": f"To {other}"}}
            for kind, scheme, icon, other in (
                ("light", "default", "sun", "dark"), ("dark", "slate", "moon", "light"),
            )
        ],
    },
}  # fmt: skip


def places() -> dict[str, str]:
    """Of every page: where it lies in the repository -> where on the site."""
    found = [page.relative_to(ROOT).as_posix() for page in [*DOCS.rglob("*.md"), *studies()]]
    found = [place for place in [*found, *BESIDE] if place != "docs/README.md"]
    # README is the first page, in the place of docs/README.md; others are indexes of folders.
    on_site = {place: re.sub(r"README\.md$", "index.md", place) for place in found}
    return {"README.md": "index.md"} | {k: v.removeprefix("docs/") for k, v in on_site.items()}


def navigation() -> list[dict[str, Any]]:
    on_site = places()

    def part(pages: list[Path]) -> list[str]:
        return [on_site[page.relative_to(ROOT).as_posix()] for page in pages]

    def folder(section: str) -> list[Path]:
        home = DOCS / section
        return [home / "README.md", *(p for p in sorted(home.glob("*.md")) if p.stem != "README")]

    nav: list[dict[str, Any]] = [{"CorrSteer": "index.md"}]
    nav += [{title(DOCS / s / "README.md"): part(folder(s))} for s in SECTIONS]
    loose = [page for page in sorted(DOCS.glob("*.md")) if page.stem != "README"]
    nav += [{title(page): part([page])[0]} for page in loose]
    return [*nav, {"Experiments": part(studies())}, {"Project": part([ROOT / p for p in BESIDE])}]


def linked(markdown: str, here: str) -> str:
    """A page of the repository with its links as they are on the site. ``here``: where it lies."""
    on_site = places()

    def link(found: re.Match[str]) -> str:
        picture, text, target = found.groups()
        address, _, anchor = target.partition("#")
        if "://" in target or not address:
            return found[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(here), address))
        place = {"docs/README.md": "README.md"}.get(place, place)
        there = place.removeprefix("docs/") if picture else on_site.get(place)
        if there is None:
            return text
        relative = posixpath.relpath(there, posixpath.dirname(on_site[here]) or ".")
        return f"{picture}[{text}]({relative}{'#' + anchor if anchor else ''})"

    parts = CODE.split(markdown)
    return "".join(part if n % 2 else LINK.sub(link, part) for n, part in enumerate(parts))


def write_pages(out: Path) -> Path:
    """What the generator reads. Returns its settings' file."""
    pages = out / "pages"
    shutil.rmtree(pages, ignore_errors=True)
    shutil.copytree(DOCS / "pictures", pages / "pictures")
    for picture in DOCS.glob("*.svg"):
        shutil.copy(picture, pages)
    for place, there in places().items():
        text = (ROOT / place).read_text(encoding="utf-8")
        (pages / there).parent.mkdir(parents=True, exist_ok=True)
        (pages / there).write_text(linked(text, place), encoding="utf-8")
    file = out / "mkdocs.yml"
    file.write_text(yaml.safe_dump(SETTINGS | {"nav": navigation()}, sort_keys=False))
    return file


def build(out: Path) -> Path:
    """Returns the site's first page."""
    out.mkdir(parents=True, exist_ok=True)
    file = write_pages(out)
    subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "-f", file.name],
        cwd=out,
        check=True,
    )
    return out / "site" / "index.html"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "docs", metavar="FOLDER")
    page = build(parser.parse_args().out)
    print(f"site: {page}; with search: python -m http.server -d {page.parent}")
