"""``python -m corrsteer verify PLAN [MODEL]``: whether a plan is what was saved, and belongs to a
model and its SAEs.

Costs a reading of the model's and the SAEs' files. What cannot be looked at is said, and is no
fault; what is found to be wrong is one line.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path

from corrsteer.config import instantiate
from corrsteer.errors import ModelError
from corrsteer.export.card import show_facts
from corrsteer.export.command import console
from corrsteer.export.source import Missing, check_made_for, check_shape, config_of
from corrsteer.models.spec import Model
from corrsteer.saes.protocol import SAEProvider
from corrsteer.steering.identity import kind, made_for, of_folder
from corrsteer.steering.plan import FILE, Plan, load_plan, plan_folder
from corrsteer.steering.signed import KEY

NOT = "not checked"


def verify(path: Path, model: str | None) -> None:
    """Print what was checked. ``model``: a folder, a Hub id or a GGUF file; without one that of the
    run's own settings, where the plan lies in its run.

    Raises DataError for a plan that is damaged or was changed, ModelError for another model or
    other SAEs than the plan's.
    """
    plan = load_plan(path)  # digests, numbers that are finite, one width, layers
    folder = plan_folder(path)
    signed = KEY in json.loads((folder / FILE).read_bytes())
    which = "whole, unchanged since it was saved" if signed else "whole, its vectors unchanged"
    found = {"plan": f"{folder}: {which}, all numbers finite"}
    config = folder.parent / "config.yaml"
    run = config_of(folder.parent) if config.is_file() and model is None else None
    if model is not None:
        found["model"] = _against(plan, model)
    elif run is not None:
        spec = instantiate(run.model, Model)
        try:
            check_made_for(plan, spec)
            found["model"] = f"{spec.path}: the plan's"
        except Missing as error:
            found["model"] = f"{NOT}: {error}"
    else:
        found["model"] = f"{NOT}: give its folder, its Hub id or its GGUF file"
    found["SAEs"] = _saes(plan, None if run is None else instantiate(run.sae, SAEProvider))
    found["versions"] = _versions(plan)
    say = console()
    show_facts(say, found)
    rest = (
        ", of what could be checked" if any(text.startswith(NOT) for text in found.values()) else ""
    )
    say.print(f"OK{rest}", style="bold green")


def _against(plan: Plan, model: str) -> str:
    """What was found of a model; ModelError where it is not the plan's."""
    own = str(made_for(plan).get("fingerprint") or "")
    file = Path(model).expanduser()
    if file.is_file():
        with file.open("rb") as handle:
            found = f"gguf@{hashlib.file_digest(handle, 'sha256').hexdigest()}"
        if own.partition("+")[0] != found:
            raise ModelError(
                f"{model} is not the file that the plan was made with ({_named(plan)})"
            )
        return f"{model}: the plan's"
    spec = Model("given", model)
    if not own:
        check_made_for(plan, spec)
        return f"{model} fits in shape; the plan does not say which model it was made for"
    if spec.is_local and kind(own) != "files":
        check_shape(plan, *spec.shape(), model)
        found_ = of_folder(file, kind(own))
        if found_ is None:
            raise ModelError(
                f"whether {model} is the plan's model ({_named(plan)}) cannot be told from its"
                " files: give that"
            )
        if found_ != own:
            raise ModelError(f"{model} is not the plan's model: {found_}, and not {own}")
        return f"{model}: the plan's"
    check_made_for(plan, spec)
    return f"{model}: the plan's"


def _named(plan: Plan) -> str:
    return str(made_for(plan).get("fingerprint"))


def _saes(plan: Plan, saes: SAEProvider | None) -> str:
    """What was found of the SAEs; ModelError where they are others."""
    told = plan.about.get("sae_fingerprints") or {}
    if not told:
        return f"{NOT}: the plan does not say which files they were"
    if saes is None:
        return f"{NOT}: give the folder of the run"
    for entry in plan.entries:
        try:
            found = saes.fingerprint(entry.layer)
        except ModelError as error:
            return f"{NOT}: {error}"
        if found != told.get(str(entry.layer)):
            raise ModelError(
                f"the SAE of layer {entry.layer} ({saes.sae_id(entry.layer)}) is not the one that"
                " the plan's vector was taken from: its files have changed"
            )
    return f"{saes.name}: those of the plan"


def _versions(plan: Plan) -> str:
    """Those that differ from what is installed: a note, since a plan does not depend on them."""
    other = []
    for name, version in (plan.about.get("versions") or {}).items():
        try:
            here = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            here = "not installed"
        if here != version:
            other.append(f"{name} {version} (here {here})")
    if not plan.about.get("versions"):
        return "not said"
    return f"made with others: {', '.join(other)}" if other else "those installed here"
