"""Writes the pages of ``docs/reference`` that follow from the sources, so that they cannot differ.

    python -m docs.tools.reference     # or make docs, which builds the site, too

Settings are those of ``conf/`` with the comments beside them, files of a run and fields of its
record those of the docstrings, commands those of the parser; the lists of pages in the folders'
READMEs are made of their first sentences. A test compares pages and sources.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from corrsteer.__main__ import _parser
from docs.tools.repo import (
    DOCS,
    ROOT,
    cell,
    first_sentence,
    paragraph,
    plain,
    studies,
    title,
    tree,
)

CONF = ROOT / "conf"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built
MADE = "Made by `make docs` from {}; edit those.\n"


class Setting(NamedTuple):
    name: str
    default: str
    meaning: str


def settings(node: yaml.MappingNode, text: str, before: str = "") -> Iterator[Setting]:
    """Of a YAML file, with what stands behind each value on its line."""
    lines = text.splitlines()
    for key, value in node.value:
        if key.value in ("defaults", "hydra", "_target_") or key.value.startswith("override"):
            continue
        nested = isinstance(value, yaml.MappingNode) and value.value and not value.flow_style
        end = key.end_mark if nested else value.end_mark
        if isinstance(value, yaml.SequenceNode) and not value.flow_style:
            end = key.end_mark
        line, column = (end.line, end.column) if end.line < len(lines) else (end.line - 1, 0)
        said = lines[line][column:].partition("# ")[2].strip()
        name = before + key.value
        if nested:
            if said:
                yield Setting(name, "", said)
            yield from settings(value, text, f"{name}.")
        else:
            written = text[value.start_mark.index : value.end_mark.index].strip()
            yield Setting(name, " ".join(written.split()), said)


def of_file(file: Path) -> list[Setting]:
    text = file.read_text(encoding="utf-8")
    node = yaml.compose(text, Loader=LOADER)
    return list(settings(node, text)) if isinstance(node, yaml.MappingNode) else []


def about(file: Path) -> str:
    """What an option says of itself: the comment on top, else its component's docstring."""
    text = file.read_text(encoding="utf-8")
    head: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        head += [line[1:].strip()] if "@package" not in line else []
    if head:
        return " ".join(head)
    targets = [w.split(": ")[1] for w in text.splitlines() if w.startswith("_target_: corrsteer.")]
    if not targets:
        return ""
    module, _, name = targets[0].removeprefix("corrsteer.").rpartition(".")
    for node in tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name and ast.get_docstring(node):
            return paragraph(ast.get_docstring(node))
    return paragraph(ast.get_docstring(tree(module)))


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(map(cell, line))} |\n" for line in lines)


def code(text: str) -> str:
    return f"`{text}`" if text and text != "''" else text or "-"


def group(name: str) -> str:
    """A group of ``conf/``: its options, and the settings that they have."""
    files = sorted((CONF / name).glob("*.yaml"))
    if name in ("model", "sae"):  # bundled first, then the published ones
        files.sort(key=lambda file: file.stem != "bundled")
    text = f"\n## {name}\n\n" + table(
        (f"`{name}=`", ""), [(code(file.stem), about(file)) for file in files]
    )
    places: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for file in files:
        whole = "@package _global_" in file.read_text(encoding="utf-8")
        for setting in of_file(file):
            key = setting.name if whole else f"{prefix(name)}.{setting.name}"
            if key.rpartition(".")[2] not in ("name", "version") or setting.meaning:
                defaults = places.setdefault((key, setting.meaning), [])
                defaults.append((file.stem, setting.default))
    said = {key for key, meaning in places if meaning}
    rows: list[tuple[str, ...]] = []
    for (key, meaning), found in places.items():
        if not meaning and key in said:
            continue  # explained where another option has it
        values = list(dict.fromkeys(value for _, value in found))
        default = code(values[0]) if len(values) == 1 else "by option"
        who = "all" if len(found) == len(files) else ", ".join(option for option, _ in found)
        if len(found) > 8 and who != "all":
            who = f"{len(found)} of {len(files)}"
        rows.append((code(key), default, meaning, who))
    if rows:
        text += "\n" + table(("Setting", "Default", "Meaning", "Of"), rows)
    return text


def prefix(name: str) -> str:
    """Where the settings of a group's option lie."""
    return {"scorer": "task.scorer", "hydra/launcher": "hydra.launcher"}.get(name, name)


def settings_page() -> str:
    whole = CONF / "config.yaml"
    chosen = yaml.safe_load(whole.read_text())["defaults"]
    default = {k: v for entry in chosen if isinstance(entry, dict) for k, v in entry.items()}
    groups = sorted(f.name for f in CONF.iterdir() if f.is_dir() and f.name != "hydra")
    text = "# Settings\n\n" + MADE.format("`conf/` and the comments there")
    text += "\nType `KEY=VALUE`, or `GROUP=OPTION` and `GROUP.KEY=VALUE`. `corrsteer --help` lists"
    text += " them, too, and `corrsteer ... --cfg job` prints those of a command.\n"
    text += "\n## The program\n\n"
    rows = [(code(s.name), code(s.default) if s.default else "", s.meaning) for s in of_file(whole)]
    text += table(("Setting", "Default", "Meaning"), rows)
    chosen_of = [
        (f"[`{name}`](#{name})", code(str(default.get(name) or "none"))) for name in groups
        if name != "scorer"
    ]  # fmt: skip
    text += "\nand groups, of each of which one option is chosen:\n\n"
    text += table(("Group", "Default"), chosen_of)
    return text + "".join(map(group, [*groups, "hydra/launcher"]))


def run_folder_page() -> str:
    listed = ast.get_docstring(tree("store.runfolder")) or ""
    text = "# The files of a run\n\n" + MADE.format(
        "the docstrings of `store/runfolder.py`, `report/record.py` and `report/evidence.py`"
    )
    text += (
        "\n`outputs/runs/TIME_NAME/`, or `outputs/sweeps/TIME_NAME/N/` for job N of a sweep.\n\n"
    )
    for part in listed.split("\n\n"):
        entries = [plain(e) for e in part.removeprefix("- ").split("\n- ")]
        if part.startswith("- "):
            rows = [tuple(entry.split(": ", 1)) for entry in entries]
            text += table(("File", "Holds"), rows) + "\n"
        elif part.endswith(":"):
            text += plain(part) + "\n\n"
    text += "## metrics.json\n\nFractions are of 1, not percent.\n"
    classes = [
        node
        for module in ("report.record", "report.evidence")
        for node in tree(module).body
        if isinstance(node, ast.ClassDef) and node.name != "Part"
    ]
    classes.sort(key=lambda node: ("Record", "Results").index(node.name)
                 if node.name in ("Record", "Results") else 2)  # fmt: skip
    return text + "".join(map(record, classes))


def record(node: ast.ClassDef) -> str:
    """A part of the record: what it is, and its fields with what is said of each."""
    parents = [ast.unparse(base) for base in node.bases if ast.unparse(base) != "Part"]
    text = f"\n### {node.name}\n\n"
    text += f"All of {', '.join(parents)}, and\n\n" if parents else ""
    text += f"{said}\n\n" if (said := plain(ast.get_docstring(node) or "")) else ""
    rows: list[tuple[str, ...]] = []
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and ast.unparse(field.target)[:2] != "__":
            told = after.value if isinstance(after, ast.Expr) else None
            words = plain(str(told.value)) if isinstance(told, ast.Constant) else ""
            kind = ast.unparse(field.annotation).replace(" | ", " or ")  # no bars in a table
            rows.append((code(ast.unparse(field.target)), code(kind), words))
    return text + table(("Field", "Type", ""), rows)


def commands_page() -> str:
    text = "# Commands\n\n" + MADE.format("the parser of `python -m corrsteer`")
    text += (
        "\n`corrsteer SETTINGS` is a run or, with `-m`, a sweep: [settings](settings.md). In a"
        " checkout `python -m src.main SETTINGS` is the same. The commands below are for what is"
        " left when a run has ended; `python -m corrsteer` has them, too.\n"
    )
    choices = next(a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    for name, one in choices.choices.items():
        actions = [a for a in one._actions if a.dest != "help"]
        words = " ".join(
            str(a.metavar or a.dest) if a.nargs != "?" else f"[{a.metavar or a.dest}]"
            for a in actions
            if not a.option_strings
        )
        text += f"\n## {name}\n\n`corrsteer {name} {words}`: {one.description}.\n"
        rows: list[tuple[str, ...]] = []
        for action in actions:
            shown = f" {action.metavar}" if action.option_strings and action.metavar else ""
            label = ", ".join(action.option_strings) or str(action.metavar or action.dest)
            rows.append((code(label + shown), action.help or ""))
        text += "\n" + table(("", ""), rows) if rows else ""
    return text


def function(node: ast.FunctionDef, before: str) -> str:
    called = ast.unparse(node.args).removeprefix("self").removeprefix(", ")
    gives = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    shown = "" if "property" in map(ast.unparse, node.decorator_list) else f"({called})"
    text = f"\n**`{before}{node.name}{shown}{gives}`**\n"
    return text + (f"\n{said}\n" if (said := paragraph(ast.get_docstring(node))) else "")


def methods(node: ast.ClassDef, before: str) -> str:
    parts = [part for part in node.body if isinstance(part, ast.FunctionDef)]
    return "".join(function(part, before) for part in parts if part.name[0] != "_")


def python_page() -> str:
    text = "# Python\n\n" + MADE.format("the docstrings of `steering/plan.py`")
    text += "\nWhat `import corrsteer` has: plans, and what reads them. How to use them:"
    text += " [steer from Python](../how-to/python.md).\n"
    parts = tree("steering.plan").body
    for node in parts:
        if isinstance(node, ast.FunctionDef) and node.name == "load_plan":
            text += function(node, "corrsteer.")
    for node in parts:
        if isinstance(node, ast.ClassDef) and node.name in ("Plan", "PlanEntry"):
            text += f"\n## {node.name}\n\n{plain(ast.get_docstring(node) or '')}\n"
            text += methods(node, "plan." if node.name == "Plan" else "entry.")
    return text


SEAMS = (
    "tasks.protocol", "scorers.base", "selectors.protocol", "steering.coefficients",
    "steering.protocol", "methods.protocol", "models.protocol", "saes.protocol",
    "trackers.protocol",
)  # fmt: skip


def seams_page() -> str:
    text = "# What a component must have\n\n" + MADE.format("the protocols of the package")
    text += "\nThe methods and fields that each kind of component has. How to write one:"
    text += " [your own component](../how-to/own_component.md).\n"
    for module in SEAMS:
        for node in tree(module).body:
            bases = map(ast.unparse, node.bases) if isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.ClassDef) and any(
                base.startswith("Protocol") for base in bases
            ):
                text += f"\n## {node.name}\n\n`corrsteer.{module}.{node.name}`."
                text += f" {plain(ast.get_docstring(node) or '')}\n"
                text += methods(node, "")
    return text


def said(page: Path, word: str) -> str:
    """What a study says after ``**word.**`` or below ``## word``, to the end of the paragraph."""
    text = page.read_text(encoding="utf-8")
    begins = rf"(?:\*\*{word}s?\.\*\*|^## {word}\n\n)"
    found = re.search(rf"{begins} *(.+?)(?:\n\n|\*\*|\Z)", text, re.MULTILINE | re.DOTALL)
    words = " ".join(found[1].split()) if found else ""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", words)  # links are the page's


def studies_page() -> str:
    text = "# Experiments\n\n" + MADE.format("the pages of the studies")
    text += (
        "\nEach page has, in this order: question, command, date, machine, table, answer. Negative"
        " results stay. What a number needs to be made again is on its page.\n\n"
    )
    rows = [
        (f"[{title(page)}]({page.parent.name}/README.md)", said(page, "Question"),
         said(page, "Answer"), said(page, "Date").partition(",")[0].rstrip("."))
        for page in studies()[1:]
    ]  # fmt: skip
    return text + table(("Study", "Question", "Answer", "Date"), rows)


def listing(index: Path) -> str:
    """A folder's README, whose words stay, with its pages below, each with its first sentence."""
    words, _, _ = index.read_text(encoding="utf-8").partition("\n- [")
    others = sorted(page for page in index.parent.glob("*.md") if page != index)
    lines = [f"- [{title(page)}]({page.name}): {first_sentence(page)}\n" for page in others]
    return words.rstrip() + "\n\n" + "".join(lines)


def pages() -> dict[Path, str]:
    """What each page has to hold."""
    home = DOCS / "reference"
    made = {
        "settings.md": settings_page, "run_folder.md": run_folder_page,
        "commands.md": commands_page, "python.md": python_page, "seams.md": seams_page,
    }  # fmt: skip
    made_there = {home / name: page() for name, page in made.items()}
    lists = {
        index: listing(index)
        for index in (DOCS / name / "README.md" for name in ("how-to", "explanation", "reference"))
    }
    return made_there | lists | {studies()[0]: studies_page()}


if __name__ == "__main__":
    for page, content in pages().items():
        page.write_text(content, encoding="utf-8")
        print(page.relative_to(ROOT))
