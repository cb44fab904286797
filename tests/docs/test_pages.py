"""The pages of docs/ and README: links, the parts that are made, and what can be typed."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from corrsteer.__main__ import _parser
from corrsteer.run.typed import check_command, flags_first, plain_words
from docs.tools import reference, site
from docs.tools.repo import BESIDE, ROOT, SECTIONS, pages, studies
from tests.docs.typed import Command, Shown, commands, shown

CONF = ROOT / "conf"
LINK = re.compile(r"\]\(([^()\s]+)\)")


def anchors(page: Path) -> set[str]:
    """As a code host makes them of headings."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    heads = [re.sub(r"\[(.*?)\]\(.*?\)", r"\1", head) for head in heads]
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def broken_links(page: Path) -> list[str]:
    wrong = []
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        address, _, anchor = target.partition("#")
        if "://" in target:
            continue
        there = (page.parent / address).resolve() if address else page
        on_page = anchor and there.suffix == ".md"
        if not there.exists() or (on_page and anchor not in anchors(there)):
            wrong.append(target)
    return wrong


def test_every_link_leads_somewhere():
    all_pages = [*pages(), *studies(), *(ROOT / place for place in BESIDE)]
    found = {page.relative_to(ROOT).as_posix(): broken_links(page) for page in all_pages}
    assert {page: links for page, links in found.items() if links} == {}


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "b.md").write_text("# A head, of two\n")
    page = tmp_path / "a.md"
    page.write_text("[1](none.md) [2](b.md) [3](b.md#a-head-of-two) [4](b.md#tail) [5](https://x)")
    assert broken_links(page) == ["none.md", "b.md#tail"]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_pages_that_are_made_are_those_of_the_sources():
    differ = [
        page.relative_to(ROOT).as_posix()
        for page, made in reference.pages().items()
        if page.read_text(encoding="utf-8") != made
    ]
    assert differ == [], "type make docs"


@pytest.mark.parametrize("page", studies()[1:], ids=lambda page: page.parent.name)
def test_a_study_has_the_form_of_all(page):
    text = page.read_text(encoding="utf-8")
    assert all(reference.said(page, word) for word in ("Question", "Date", "Machine", "Answer"))
    places = [
        text.index(word) for word in ("**Question.**", "**Command", "**Date.**", "**Machine.**")
    ]
    assert places == sorted(places)
    assert "\n|---" in text


def test_every_setting_of_a_file_is_found_with_its_comment():
    text = (
        "# top\na: 1 # one\nb:\n  c: [x, '# y'] # two\n  d: {e: f}\ng: '# no'\nh: # three\n  i: 2\n"
    )
    found = list(reference.settings(yaml.compose(text), text))
    assert found == [
        ("a", "1", "one"), ("b.c", "[x, '# y']", "two"), ("b.d", "{e: f}", ""), ("g", "'# no'", ""),
        ("h", "", "three"), ("h.i", "2", ""),
    ]  # fmt: skip


# -- what can be typed -----------------------------------------------------------------------------


@functools.cache
def names() -> set[str]:
    """Every setting of every option, by its full name."""
    found = {setting.name for setting in reference.of_file(CONF / "config.yaml")}
    groups = [file.name for file in CONF.iterdir() if file.is_dir() and file.name != "hydra"]
    for group in [*groups, "hydra/launcher"]:
        found |= {group}
        for file in (CONF / group).glob("*.yaml"):
            before = reference.prefix(group)
            found |= {f"{before}.{setting.name}" for setting in reference.of_file(file)}
    return found | {"task.scorer", "transfer", "hydra.run.dir", "hydra.sweep.dir"}


def wrong_settings(words: tuple[str, ...], known: set[str], own: set[str]) -> list[str]:
    """Settings that do not exist, and options without a file. ``own``: those of the page."""
    arguments = plain_words(flags_first([*words]))
    check_command(arguments)
    wrong = []
    for word in (word for word in arguments if "=" in word and word[0] != "-"):
        key, _, value = word.lstrip("+").partition("=")
        group, _, _ = key.partition("@")
        listed = value.strip("[]").split(",")
        if (CONF / group).is_dir():
            options = {file.stem for file in (CONF / group).glob("*.yaml")} | own
            wrong += [f"{group}={option}" for option in listed if option not in options]
        elif key not in known and not any(name.startswith(f"{key}.") for name in known):
            wrong.append(key)
    return wrong


def wrong(command: Command, known: set[str], own: set[str]) -> object:
    """What is wrong with a command, without running it; nothing where it can be typed."""
    first, *rest = command.words
    if command.settings is not None:
        return wrong_settings(command.settings, known, own)
    if command.after is not None:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            try:
                _parser().parse_args(command.after)
            except SystemExit as end:
                return said.getvalue() if end.code else None
        return None
    if first == "make":
        targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        return {word for word in rest if "=" not in word} - targets
    if first == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = re.findall(r"\[([\w,-]+)\]", " ".join(rest))
        return {e for extra in extras for e in extra.split(",")} - {
            *project["optional-dependencies"]
        }
    if (
        first == "python"
        and rest[0] == "-m"
        and rest[1].split(".")[0] in ("experiments", "benchmarks")
    ):
        return None if (ROOT / (rest[1].replace(".", "/") + ".py")).exists() else rest[1]
    return None


def test_every_command_can_be_typed():
    known = names()
    own: dict[Path, set[str]] = {}
    for page in pages():
        files = [part for part in shown(page) if isinstance(part, Shown)]
        own[page] = {Path(file.name).stem for file in files}
    found = {str(c): said for c in commands() if (said := wrong(c, known, own[c.page]))}
    assert found == {}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("corrsteer task=bbc", ["task=bbc"]),
        ("corrsteer task=bbq colour=red", ["colour"]),
        ("corrsteer -m task=bbq,mmul", ["task=mmul"]),
        ("python -m src.main task.sorer=exact", ["task.sorer"]),
        ("make rum", {"rum"}),
        ("pip install 'corrsteer[srve]'", {"srve"}),
        ("python -m experiments.nothing.here", "experiments.nothing.here"),
    ],
)
def test_a_wrong_command_is_found(typed, said, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# A page\n\nType\n\n    {typed} # so\n")
    (command,) = shown(page)
    assert wrong(command, names(), set()) == said


# -- the site --------------------------------------------------------------------------------------


def test_the_site_has_every_page_and_no_link_that_leads_out_of_it(tmp_path):
    settings = yaml.safe_load(site.write_pages(tmp_path).read_text())
    written = {p.relative_to(tmp_path / "pages").as_posix() for p in tmp_path.rglob("*.md")}

    def listed(part) -> list[str]:
        parts = part.values() if isinstance(part, dict) else part
        return [part] if isinstance(part, str) else [x for one in parts for x in listed(one)]

    assert sorted(listed(settings["nav"])) == sorted(written)
    assert {"how-to/own_task.md", "index.md", "experiments/main_job/index.md"} <= written
    for page in tmp_path.rglob("*.md"):
        text = site.CODE.sub("", page.read_text(encoding="utf-8"))
        for target in site.LINK.findall(text):
            address = target[2].partition("#")[0]
            if address and "://" not in address:
                assert (page.parent / address).resolve().is_file(), (page, address)


def test_a_new_page_is_in_the_navigation_and_in_its_folders_list(tmp_path, monkeypatch):
    home = tmp_path / "docs"
    for section in SECTIONS:
        (home / section).mkdir(parents=True)
        (home / section / "README.md").write_text(f"# {section.title()}\n")
    (home / "how-to" / "fly.md").write_text("# Fly\n\nWith wings. And more.\n")
    for name in ("DOCS", "ROOT", "BESIDE", "studies"):
        value = {"DOCS": home, "ROOT": tmp_path, "BESIDE": (), "studies": lambda: []}[name]
        monkeypatch.setattr(site, name, value)
    assert {"How-To": ["how-to/index.md", "how-to/fly.md"]} in site.navigation()
    index = home / "how-to" / "README.md"
    listed = "# How-To\n\n- [Fly](fly.md): With wings.\n"
    assert reference.listing(index) == listed
    index.write_text(listed.replace("Fly", "Walk"))
    assert reference.listing(index) == listed  # once, and anew


@pytest.mark.night
def test_the_site_builds_and_asks_nothing_of_other_hosts(tmp_path):
    """Strictly: no link and no anchor leads nowhere."""
    pytest.importorskip("zensical")
    first = site.build(tmp_path)
    for page in first.parent.rglob("*.html"):
        tags = re.findall(r"<(?:script|img|link|iframe)\b[^>]*>", page.read_text(encoding="utf-8"))
        assert not [tag for tag in tags if "//" in tag.replace("http://www.w3.org", "")], page
    assert "Search" in first.read_text(encoding="utf-8")
