"""Scores an answer by how close its meaning is to the right one, by a sentence-transformers model.

A bi-encoder gives the cosine of two embeddings; a cross-encoder reads the pair (right answer,
answer) and gives one logit, of which the sigmoid is taken whatever the model's own activation.
The similarity is the best one over the right answer and its aliases. The score is 1 where it
reaches ``threshold``, else 0, since a similarity has no natural 0.5 (unrelated sentences often
have a cosine of 0.3); ``parsed`` is the similarity with two digits. An empty answer is invalid.

Where to put the threshold depends on the model: look at some answers first. A model of meaning is
easily fooled: it takes "not Paris" for close to "Paris", and reads as much as its
max_seq_length.

Importing sentence_transformers takes 7 s; an encoder of 22M parameters scores some 70 pairs of
short texts a second on one CPU core.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from corrsteer import hub
from corrsteer.errors import ConfigError, ModelError
from corrsteer.records import Example, Score
from corrsteer.scorers.base import ModelScorer, encodable, unusable
from corrsteer.scorers.reply import reply

KINDS = {"bi_encoder": "SentenceTransformer", "cross_encoder": "CrossEncoder"}
"""The kind, and how sentence-transformers calls it in a model's files."""


@dataclass(frozen=True)
class Semantic(ModelScorer):
    """``model`` is a local folder or a Hub id; ``revision`` (branch, tag or commit) is for the
    Hub. ``device`` is torch's: cpu, cuda, cuda:1, mps."""

    model: str
    revision: str | None = None
    kind: str = "bi_encoder"
    threshold: float = 0.7
    batch_size: int = 32
    device: str = "cpu"
    version: int = 2

    def __post_init__(self) -> None:
        if not self.model or not self.device:
            raise ConfigError(
                "task.scorer.model and task.scorer.device must not be empty, e.g."
                " task.scorer.model=sentence-transformers/all-MiniLM-L6-v2 task.scorer.device=cpu"
            )
        if self.kind not in KINDS:
            raise ConfigError(
                f"task.scorer.kind={self.kind!r} is unknown: use {' or '.join(KINDS)}"
            )
        if not -1 <= self.threshold <= 1:  # also refuses nan
            raise ConfigError(
                f"task.scorer.threshold={self.threshold} must lie in [-1, 1],"
                " e.g. task.scorer.threshold=0.7"
            )
        if self.batch_size < 1:
            raise ConfigError(f"task.scorer.batch_size={self.batch_size} must be at least 1")

    def fingerprint(self) -> str:
        return hub.fingerprint(self.model, self._folder(), subfolders=True)

    def prepare(self) -> None:
        self._model()

    def many(self, examples: Sequence[Example], texts: Sequence[str]) -> list[Score]:
        texts = list(map(reply, texts))
        pairs = [
            (at, right, text)
            for at, (example, text) in enumerate(zip(examples, texts, strict=True))
            if text.strip()
            for right in (example.gold, *example.aliases)
        ]
        best: dict[int, float] = {}
        if pairs:
            similarities = self._similarities([(right, text) for _, right, text in pairs])
            for (at, *_), similarity in zip(pairs, similarities, strict=True):
                best[at] = max(similarity, best.get(at, -math.inf))
        return [self._score(best.get(at)) for at in range(len(texts))]

    def _score(self, similarity: float | None) -> Score:
        if similarity is None:
            return Score(0.0, None)
        return Score(float(similarity >= self.threshold), f"{similarity:.2f}")

    def _similarities(self, pairs: list[tuple[str, str]]) -> list[float]:
        import torch

        model = self._model()
        pairs = [(encodable(right), encodable(text)) for right, text in pairs]
        if self.kind == "cross_encoder":
            scores = model.predict(
                pairs,
                batch_size=self.batch_size,
                activation_fn=torch.nn.Sigmoid(),
                show_progress_bar=False,
            )
            return [float(value) for value in scores]
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        rows = model.encode(
            texts,
            batch_size=self.batch_size,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        row = dict(zip(texts, rows, strict=True))
        return [float(row[right] @ row[text]) for right, text in pairs]

    def _folder(self) -> Path:
        return hub.folder(
            self.model,
            setting="task.scorer.model",
            example="sentence-transformers/all-MiniLM-L6-v2",
            revision=self.revision,
        )

    def _model(self) -> Any:
        return _load(self.model, self._folder(), self.kind, self.device)


@lru_cache(maxsize=2)  # the jobs of a sweep share a process
def _load(name: str, folder: Path, kind: str, device: str) -> Any:
    _check(name, folder, kind)
    from sentence_transformers import CrossEncoder, SentenceTransformer

    made = SentenceTransformer if kind == "bi_encoder" else CrossEncoder
    try:
        model = made(
            str(folder),
            device=device,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": "float32"},
        )
    except Exception as error:  # of any kind: the files can be wrong in many ways
        raise _unusable(name, " ".join(str(error).split())[:300]) from error
    if isinstance(model, CrossEncoder) and model.num_labels != 1:
        raise _unusable(name, f"it gives {model.num_labels} values for a pair, not one similarity")
    return model.eval()


def _check(name: str, folder: Path, kind: str) -> None:
    """Refuses what the library would convert, fill with random weights, unpickle or run."""
    listed = folder / "modules.json"
    modules = _read(name, listed) if listed.is_file() else None
    if modules is None and kind == "bi_encoder":
        raise _unusable(
            name, "it has no modules.json, so it is not a sentence-transformers bi-encoder"
        )
    if modules is None:
        architectures = _read(name, folder / "config.json").get("architectures") or ["none"]
        if not str(architectures[0]).endswith("ForSequenceClassification"):
            raise _unusable(
                name, f"its architecture is {architectures[0]}, so it has no head to score pairs"
            )
    elif not isinstance(modules, list) or not all(
        isinstance(module, dict) and {"type", "path"} <= module.keys() for module in modules
    ):
        raise _unusable(name, "its modules.json is not a list of modules")
    else:
        about = folder / "config_sentence_transformers.json"
        described = _read(name, about) if about.is_file() else {}
        saved = described.get("model_type", KINDS["bi_encoder"])  # older ones do not say it
        if saved != KINDS[kind]:
            fits = [
                f"use task.scorer.kind={k}" for k, saved_as in KINDS.items() if saved_as == saved
            ]
            raise _unusable(name, ": ".join([f"it is a {saved}", *fits]))
        for module in modules:
            if not str(module["type"]).startswith("sentence_transformers."):
                raise _unusable(
                    name, f"its module {module['type']} is custom code, which is never run"
                )
    for part in [folder, *(folder / str(module["path"]) for module in modules or ())]:
        pickled = [*part.glob("pytorch_model*.bin"), *part.glob("*.pt")]
        if pickled and not any(part.glob("*.safetensors")):
            raise _unusable(
                name,
                f"{pickled[0].name} has to be unpickled, which can run code, and there is no"
                " model.safetensors",
            )


def _read(name: str, file: Path) -> Any:
    """What a file of JSON holds."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unusable(name, f"{file.name} cannot be read") from error


def _unusable(name: str, why: str) -> ModelError:
    return unusable(name, why, "another model of sentence-transformers")
