"""``docs/claims.md``, from ``docs/claims.json`` alone: a pure function of what runs said."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from corrsteer.claims.asked import CLAIMS, STUDIES, Claim
from corrsteer.claims.record import Found, Kept, Number, Ran, Table
from corrsteer.report.numbers import pct, points, short

PAGE = "claims.md"
_PICTURE = """
![Deciding numbers with their intervals](claims.svg)

Differences in points that decide, with their 95 % intervals: green supported, red refuted, grey
undecided. Which sign is the claim's own, its section says.
"""
MODELS = {"bundled": "Bundled model", "smollm2_135m_it": "SmolLM2 135M"}


def page(kept: Kept) -> str:
    sections = [_section(one, kept) for one in CLAIMS]
    parts = [_prose("head"), *_small(kept), _summary(kept), _PICTURE, *sections, _prose("first")]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _prose(name: str) -> str:
    """A part that no run decides."""
    return Path(__file__).with_name(f"{name}.md").read_text(encoding="utf-8")


def _small(kept: Kept) -> Iterator[str]:
    limits = sorted({r.limit for r in kept.runs if r.limit is not None and r.answers})
    if limits:
        yield _prose("small").format(limits=" or ".join(map(str, limits)))


def _summary(kept: Kept) -> str:
    lines = [
        f"| Claim | {' | '.join(MODELS.values())} | Table |",
        f"|---|{'---|' * len(MODELS)}---|",
    ]
    for claim in CLAIMS:
        cells = [_cell(claim, model, kept) for model in MODELS]
        lines.append(f"| {claim.says} | {' | '.join(cells)} | [table](#{anchor(claim)}) |")
    return "\n".join(lines)


def _cell(claim: Claim, model: str, kept: Kept) -> str:
    got = kept.answer(claim.study, claim.name, model)
    if got is None:
        return _absent(claim, model, kept)
    ran, found = got
    text = f"**{found.answer}**"
    if found.number is not None:
        text += f"<br>{deciding(found.number)}"
    if found.answer == "undecided" and (least := _smallest(found)):
        text += f"<br>{least}"
    notes = [] if ran.limit is None else [f"small version, {ran.limit} questions"]
    notes += [some] if (some := _jobs(ran)) else []
    return text + (f"<br>*{', '.join(notes)}*" if notes else "")


def _jobs(ran: Ran) -> str:
    """How many of a sweep are done; empty where all are."""
    if ran.jobs is None or not ran.partial:
        return ""
    none = f", none with {' or '.join(ran.lacking)}" if ran.lacking else ""
    return f"{ran.jobs[0]} of {ran.jobs[1]} jobs{none}"


def _absent(claim: Claim, model: str, kept: Kept) -> str:
    if claim.study in kept.missing:
        return "no study yet"
    ran = kept.of(claim.study, model)
    if ran is None:
        return "not run yet"
    return "its run failed" if ran.failed is not None else "its run does not say"


def deciding(number: Number) -> str:
    """With its interval."""
    text = f"{number.what}: {amount(number.value, number, signed=True)}"
    if number.ci is not None:
        low, high = (amount(bound, number, signed=True, bare=True) for bound in number.ci)
        text += f" [{low}, {high}]"
    return text


def amount(value: float, like: Number, *, signed: bool = False, bare: bool = False) -> str:
    """In the unit of a number. ``bare``: without its name."""
    match like.unit:
        case "points":
            text = points(value) if signed else points(value).lstrip("+")
            return text if bare else f"{text} points"
        case "percent":
            return pct(value)
        case "number":
            return short(value)
        case unit:
            return short(value) if bare else f"{short(value)} {unit}"


def anchor(claim: Claim) -> str:
    return claim.name.replace("_", "-")


def _section(claim: Claim, kept: Kept) -> str:
    lines = [
        f"## {anchor(claim)}", "", claim.says, "",
        f"*Said by*: {claim.source}. *Decided by*: {claim.decided}", "",
        f"    {_command(claim)}",
    ]  # fmt: skip
    for model, name in MODELS.items():
        lines += ["", *_answer(claim, model, name, kept)]
    return "\n".join(lines)


def _command(claim: Claim) -> str:
    (study,) = (one for one in STUDIES if one.name == claim.study)
    folder = [] if study.place else ["FOLDER"]
    return shlex.join(["python", "-m", study.module, *folder, *study.words])


def _answer(claim: Claim, model: str, name: str, kept: Kept) -> list[str]:
    got = kept.answer(claim.study, claim.name, model)
    if got is None:
        ran = kept.of(claim.study, model)
        why = f" ({ran.failed})" if ran is not None and ran.failed is not None else ""
        return [f"**{name}**: {_absent(claim, model, kept)}{why}."]
    ran, found = got
    lines = [f"**{name}**: {found.answer}. {found.sentence} {_numbers(found)}".rstrip(), ""]
    if found.table is not None:
        lines += [*_table(found.table), ""]
    return [*lines, _made(ran)]


def _numbers(found: Found) -> str:
    if found.number is None:
        return ""
    text = deciding(found.number)
    text = f"{text[:1].upper()}{text[1:]}."
    said = _smallest(found)
    if said and (found.answer == "undecided" or (found.smallest and found.number.unit == "points")):
        text += f" {said[:1].upper()}{said[1:]}."
    return text


def _smallest(found: Found) -> str:
    """What the data could have shown, or why they are not asked; empty where nothing is known."""
    if found.held:
        return found.held
    number = found.number
    if number is not None and number.ci is not None and number.unit != "points":
        low, high = number.ci
        if number.unit == "percent":
            return f"its interval is {100 * (high - low):.1f} points wide"
        return f"its interval is {amount(high - low, number)} wide"
    if number is None or number.ci is None and number.unit != "points":
        return ""
    if found.smallest is None:
        return "too few answers differ for the corrected test to show any effect"
    return f"smallest that could have been shown: {amount(found.smallest, number)}"


def _made(ran: Ran) -> str:
    limit = "" if ran.limit is None else f", at most {ran.limit} questions per split"
    where = ran.commit or "an earlier run's folder, whose commit is not on record"
    extra = shlex.join(_extra(ran))
    typed = f" with `{extra}`" if extra else ""
    lasted = "" if ran.seconds is None else f", {_lasted(ran.seconds)}"
    some = f", {done}" if (done := _jobs(ran)) else ""
    return f"{ran.date}, {where}{lasted}{some}{limit}{typed}."


def _extra(ran: Ran) -> Sequence[str]:
    """What was typed besides the command above it, or all of it where that is another one."""
    own = next((s.words for s in STUDIES if s.name == ran.study), ())
    if not set(own) <= set(ran.words):
        return ["python", "-m", *ran.words]
    return [word for word in ran.words[1:] if word not in own]


def _lasted(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} seconds" if minutes < 2 else f"{minutes:.0f} minutes"


def _table(table: Table) -> Iterator[str]:
    yield f"| {' | '.join(table.columns)} |"
    yield f"|---|{'---:|' * (len(table.columns) - 1)}"
    for row in table.rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
