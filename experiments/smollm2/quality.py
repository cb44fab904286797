"""How good SAEs of SmolLM2 are on texts of any kind: those of two trainings beside each other.

    python -m experiments.smollm2.quality --saes FOLDER FOLDER --text FILE FILE

Without ``--saes`` those that ship. Prints a row for each folder and text: means over the layers
that all folders have.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from corrsteer.models.local import Local
from corrsteer.models.stream import rows_of
from corrsteer.run.judge import judged
from corrsteer.saes.folder import Folder
from corrsteer.saes.recipe import TrainSAE
from corrsteer.tasks.texts import text_files, texts
from experiments.smollm2.text import composed, smollm2

MOST = 400  # rows that are read of a text; those that are measured lie evenly among them
MEASURES = ("explained", "l0", "dead", "recovered")


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """A row per folder, text and layer."""
    parser = argparse.ArgumentParser(description="Quality of SmolLM2's SAEs on given texts.")
    parser.add_argument("--saes", nargs="*", type=Path, help="folders of SAEs")
    parser.add_argument("--text", nargs="+", required=True, help="files or folders of text")
    parser.add_argument("--positions", type=int, default=8192, help="of each text, at most")
    args = parser.parse_args(argv)

    folders = args.saes or [Path(composed("model=smollm2_135m_it").sae.path)]
    layers = sorted(set.intersection(*(set(Folder(str(f)).layers()) for f in folders)))
    recipe = TrainSAE(
        "-", "-", heldout_positions=args.positions, loss_positions=args.positions // 4
    )
    files = {place: text_files([place], "--text") for place in args.text}
    model = Local().load(smollm2())
    found: list[dict[str, Any]] = []
    for place, of_place in files.items():
        rows = list(islice(rows_of(model, texts(of_place), recipe.context), MOST))
        for folder in folders:
            made = judged(recipe, model, folder, layers, rows)
            found += [{"saes": str(folder), "text": place, **row} for row in made]
    table = pd.DataFrame(found)
    print(f"layers {layers}")
    print(table.groupby(["text", "saes"])[list(MEASURES)].mean().round(3).to_string())
    return table


if __name__ == "__main__":
    main()
