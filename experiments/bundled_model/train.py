"""Makes the bundled model organism: question files, tokenizer, model, SAEs, measurements.

    python -m experiments.bundled_model.train                # everything; resumes where it stopped
    python -m experiments.bundled_model.train --fresh        # from nothing
    python -m experiments.bundled_model.train --out FOLDER   # elsewhere: nothing here is touched
    python -m experiments.bundled_model.train --out FOLDER --small   # in seconds; knows nothing

Costs about 45 minutes on two cores. Every step's data come from its step number alone, so a run
killed and resumed sees what an undisturbed one sees. Nothing here looks at steering results:
the recipe was fixed by accuracy and logit margins.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from experiments.bundled_model import card, machine, measure, model, saes, text, tokenizer
from experiments.bundled_model.scale import BUNDLED, FULL, HERE, SMALL, Scale

REPO = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="discard earlier progress")
    parser.add_argument("--small", action="store_true", help="in seconds; needs --out")
    parser.add_argument("--out", type=Path, default=BUNDLED)
    parser.add_argument("--work", type=Path, help="default: outputs/bundled_model, or OUT/work")
    args = parser.parse_args(arguments)
    bundled = args.out.resolve() == BUNDLED
    if bundled and args.small:
        parser.error("--small would replace the bundled model with one that knows nothing: --out")
    # A model made elsewhere touches neither the bundled one nor its page.
    page = HERE if bundled else args.out
    work = args.work or (REPO / "outputs" / "bundled_model" if bundled else args.out / "work")
    make(args.out, work, page, SMALL if args.small else FULL, fresh=args.fresh)


def make(out: Path, work: Path, page: Path, scale: Scale, *, fresh: bool = False) -> None:
    """Writes data, model and SAEs below ``out``, measurements and card below ``page``.

    ``work`` holds what a run that was stopped goes on from.
    """
    if fresh:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    items = text.questions(scale.questions)
    held_out = text.held_out(scale)

    def measurements() -> None:
        loss = json.loads((work / "loss.json").read_text())
        parts = {"first_100": loss[:100], "last_100": loss[-100:]}
        measured = {
            "steps": len(loss),
            "loss": {name: round(sum(part) / len(part), 4) for name, part in parts.items()},
            "seconds": {f.stem: int(f.read_text()) for f in sorted(work.glob("*.done"))},
            "machine": machine.this(),
            **measure.measured(out, held_out, scale),
        }
        (page / "measurements.json").write_text(json.dumps(measured, indent=1) + "\n")

    steps: dict[str, Callable[[], None]] = {
        "questions": lambda: text.write_question_files(items, out / "data"),
        "tokenizer": lambda: tokenizer.train(out / "model", held_out, scale.tokenizer_documents),
        "model": lambda: model.train(work, out / "model", held_out, scale),
        "saes": lambda: saes.train(work, out, held_out, scale),
        "measurements": measurements,
        "card": lambda: card.write(page, out, scale),
    }
    for name, step in steps.items():
        done = work / f"{name}.done"
        if done.exists():
            print(f"{name}: done before")
            continue
        start = time.time()
        step()
        done.write_text(f"{time.time() - start:.0f}\n")
        print(f"{name}: {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
