"""Compares a model that was made again with the bundled one, file by file and answer by answer.

    python -m experiments.bundled_model.compare FOLDER           # prints it; 8 minutes on two cores
    python -m experiments.bundled_model.compare FOLDER --keep    # and puts it onto the page

FOLDER is what ``train --out FOLDER`` wrote. The bundled model is read, never changed. Accuracies
and margins of both models are measured here, by the same code on the same machine; losses and the
quality of the SAEs are those of the two measurements.json.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import load_file

from experiments.bundled_model import measure, program
from experiments.bundled_model.card import write
from experiments.bundled_model.scale import BUNDLED, FULL, HERE

FOLDERS = ("data", "model", "saes")


def compare(again: Path, bundled: Path, page: Path) -> dict[str, Any]:
    """``page`` holds the bundled model's measurements.json; ``again`` its own."""
    new = json.loads((again / "measurements.json").read_text())
    old = json.loads((page / "measurements.json").read_text())
    layers = [row["layer"] for row in old["saes"]]
    return {
        "model": sha256(bundled / "model" / "model.safetensors"),
        "machine": new["machine"],
        "seconds": new["seconds"],
        "files": files(again, bundled),
        "loss": {"bundled": old["loss"], "again": new["loss"]},
        "weights": weights(again, bundled, Path("model") / "model.safetensors"),
        "tasks": tasks(again, bundled),
        "saes": [
            {
                "layer": layer,
                "bundled": old["saes"][layer],
                "again": new["saes"][layer],
                **weights(again, bundled, sae_file(layer)),
                "nearest_cosine": nearest(again, bundled, layer),
            }
            for layer in layers
        ],
    }


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def files(again: Path, bundled: Path) -> dict[str, Any]:
    """How many of the bundled files are the same, and the names of the others."""
    names = sorted(
        f.relative_to(bundled)
        for folder in FOLDERS
        for f in (bundled / folder).rglob("*")
        if f.is_file()
    )
    same, unpacked = 0, 0
    differ: list[str] = []
    for name in names:
        one, two = bundled / name, again / name
        if not two.is_file():
            differ.append(f"{name} (missing)")
        elif one.read_bytes() == two.read_bytes():
            same += 1
        elif name.suffix == ".gz" and _unpacked(one) == _unpacked(two):
            unpacked += 1  # another zlib
        else:
            differ.append(name.as_posix())
    return {"same": same, "same_when_unpacked": unpacked, "differ": differ}


def _unpacked(file: Path) -> bytes:
    return gzip.decompress(file.read_bytes())


def sae_file(layer: int) -> Path:
    return Path("saes") / f"layer_{layer}" / "sae_weights.safetensors"


def weights(again: Path, bundled: Path, name: Path) -> dict[str, float]:
    """Difference of all tensors of a file: the largest, and its length over that of the tensors."""
    one, two = load_file(bundled / name), load_file(again / name)
    assert one.keys() == two.keys(), name
    pairs = [(one[key].double(), two[key].double()) for key in one]
    length = sum(float(((a - b) ** 2).sum()) for a, b in pairs) ** 0.5
    return {
        "max": max(float((a - b).abs().max()) for a, b in pairs),
        "relative": length / sum(float((a**2).sum()) for a, _ in pairs) ** 0.5,
    }


def nearest(again: Path, bundled: Path, layer: int) -> float:
    """Median over the bundled SAE's decoder directions of the cosine with the nearest other one."""
    one, two = (
        torch.nn.functional.normalize(load_file(folder / sae_file(layer))["W_dec"].float(), dim=1)
        for folder in (bundled, again)
    )
    return round(float((one @ two.T).max(dim=1).values.median()), 4)


def tasks(again: Path, bundled: Path) -> dict[str, dict[str, Any]]:
    """Both models on the bundled test questions: accuracy, answers in common, logit margins."""
    exams = program.exams(bundled / "data")
    models = [folder / "model" for folder in (bundled, again)]
    answers = [program.answers(model, exams) for model in models]
    margins = [measure.margins(model, exams) for model in models]
    found: dict[str, dict[str, Any]] = {}
    for name, exam in exams.items():
        given = [answers[0][name], answers[1][name]]
        n = len(given[0])
        rates = [exam.rates(part) for part in given]
        found[name] = {
            "n": n,
            "accuracy": {"bundled": rates[0][0], "again": rates[1][0]},
            "invalid_rate": {"bundled": rates[0][1], "again": rates[1][1]},
            "same_answers": sum(a == b for a, b in zip(*given, strict=True)),
        }
        if name in margins[0]:
            one, two = margins[0][name], margins[1][name]
            found[name]["margin"] = {
                "median": {"bundled": _round(one.median()), "again": _round(two.median())},
                "mean_difference": _round((one - two).abs().mean()),
                "largest_difference": _round((one - two).abs().max()),
            }
    return found


def _round(value: torch.Tensor) -> float:
    return round(float(value), 4)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("again", type=Path, help="what train --out wrote")
    parser.add_argument("--keep", action="store_true", help="write made_again.json and the page")
    args = parser.parse_args(arguments)
    found = json.dumps(compare(args.again, BUNDLED, HERE), indent=1)
    print(found)
    if args.keep:
        (HERE / "made_again.json").write_text(found + "\n")
        write(HERE, BUNDLED, FULL)


if __name__ == "__main__":
    main()
