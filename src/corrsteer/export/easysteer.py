"""EasySteer, a fork of vLLM: a GGUF file with all directions and the JSON that says where they act.

``prompt_positions: [-1]`` is the last prompt token, ``generation: "all"`` every generated one: a
plan's own positions. The form is that of its documentation; EasySteer itself was not run.
"""

from __future__ import annotations

import json
from pathlib import Path

from corrsteer.export.gguf import WHOLE, called, control_vector, need_gguf
from corrsteer.export.source import Source


def check(source: Source) -> None:
    need_gguf()


def write(source: Source, folder: Path, out: Path) -> list[str]:
    vectors, architecture = source.vectors(), source.architecture
    control_vector(folder / WHOLE, vectors, called(architecture) or architecture)
    steering = {
        "vectors": [
            {
                "source": WHOLE,
                "algorithm": "direct",
                "scale": source.plan.coef,
                "layers": list(vectors),
                "normalize": False,
                "apply": {"prompt_positions": [-1], "generation": "all"},
            }
        ],
        "conflict": "priority",
    }
    text = json.dumps(steering, indent=2) + "\n"
    (folder / "steer.json").write_text(text, encoding="utf-8")
    return [f"use it: give EasySteer {out / 'steer.json'}, from its folder (it names {WHOLE})"]
