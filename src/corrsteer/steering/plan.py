"""A plan: which vectors are added where, by how much. The artefact that a user keeps, shares and
deploys, and an intervention by itself.

On disk it is a folder. ``plan.json`` says which features of which SAEs at which layers, with the
dial (``coef``), the operator, the positions, the gate, and what the plan was made for (``about``:
model, architecture, SAEs, splits, versions); it ends with a digest of itself.
``vectors.safetensors`` holds one float32 vector per layer at dial 1, and the encoder of its feature
where operator or gate read one; ``norm`` is the vector's length: the coefficient times the length
of the feature's decoder row. Scaling, or leaving a layer out, needs no retraining and no SAE. Torch
is only imported by :meth:`Plan.steer`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corrsteer.errors import ConfigError, DataError
from corrsteer.steering.encoder import Encoder, reads_features
from corrsteer.steering.gates import Always
from corrsteer.steering.named import made, spec_of
from corrsteer.steering.operators import Add
from corrsteer.steering.positions import GENERATION, needed, where
from corrsteer.steering.probe import Probe, reads_probe
from corrsteer.steering.probe_gates import deciding
from corrsteer.steering.protocol import Gate, Operator
from corrsteer.steering.signed import KEY, signed, unchanged
from corrsteer.steering.told import check_told
from corrsteer.store.keys import component, digest

if TYPE_CHECKING:
    import torch

FORMAT = 3
FILE, VECTORS = "plan.json", "vectors.safetensors"


@dataclass(frozen=True)
class PlanEntry:
    """What happens after block ``layer``.

    ``vector`` [M] float32 is ``coefficient * decoder direction`` in units of the raw residual
    stream. The user's dial multiplies it and is kept apart, in :class:`Plan`. ``feature`` is -1
    where the vector belongs to none, ``r`` its correlation with the outcome. ``about``: what else
    is said of it, such as another score that it was chosen by. ``encoder``: what gives the
    feature's activation, where an operator or a gate reads it. ``probe``: what tells where the
    layer's model is likely wrong, likewise. ``arrays``: float32, what an operator of several
    features reads (:mod:`corrsteer.steering.edits`).
    """

    layer: int
    feature: int
    r: float
    coefficient: float
    vector: np.ndarray = field(repr=False)
    about: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    encoder: Encoder | None = field(default=None, compare=False, repr=False)
    probe: Probe | None = field(default=None, compare=False, repr=False)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    @property
    def norm(self) -> float:
        return float(np.linalg.norm(self.vector))


def sign_of(entry: PlanEntry) -> int:
    """-1 where steering lowers the entry's feature."""
    return -1 if entry.coefficient < 0 else 1


def strength(entry: PlanEntry) -> float:
    """Its r, with the sign changed where steering lowers the feature."""
    return sign_of(entry) * entry.r


@dataclass(frozen=True)
class Plan:
    """Vectors for some layers, the dial (``coef``) they are scaled by, and how they act.

    ``about``: what a plan says of its making, kept as it is when it is read and written again.
    """

    entries: tuple[PlanEntry, ...]
    coef: float = 1.0
    operator: Operator = Add()
    positions: str = GENERATION
    gate: Gate = Always()
    about: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        layers = [e.layer for e in self.entries]
        if len(set(layers)) < len(layers):
            raise DataError(f"a plan has one vector per layer, and this one has several: {layers}")
        where(self.positions)

    def vectors(self) -> dict[int, np.ndarray]:
        """Layer -> vector at the plan's dial, [M] float32."""
        return {e.layer: np.float32(self.coef) * e.vector for e in self.entries}

    def turned_to(self, coef: float) -> Plan:
        return replace(self, coef=coef)

    def for_any_model(self) -> Plan:
        """Without what says which model it was made for: it may steer any of its shape."""
        kept = {name: value for name, value in self.about.items() if name not in ("model", "saes")}
        return replace(self, about=kept)

    def with_entries(self, entries: tuple[PlanEntry, ...]) -> Plan:
        return replace(self, entries=entries)

    def parts(self) -> dict[int, dict[str, np.ndarray]]:
        """Layer -> what operator and gate read there, in layer order, and at dial 1 but for an
        additive operator, whose dial is folded into its vector."""
        by_layer: dict[int, dict[str, np.ndarray]] = {}
        for e in sorted(self.entries, key=lambda e: e.layer):
            read, gated = dict(self.operator.parts(e)), self.gate.parts(e)
            if shared := read.keys() & gated.keys():
                raise ConfigError(
                    f"operator {type(self.operator).__name__} and gate {type(self.gate).__name__}"
                    f" both have a part called {min(shared)}: rename one"
                )
            if self.operator.additive:
                read["vector"] = np.float32(self.coef) * read["vector"]
            arrays = {**read, **gated}
            by_layer[e.layer] = {name: np.asarray(a, np.float32) for name, a in arrays.items()}
        return by_layer

    @property
    def dial(self) -> float:
        """What operator and gate are given besides :meth:`parts`."""
        return 1.0 if self.operator.additive else self.coef

    @property
    def does_nothing(self) -> bool:
        """No layer, dial 0, or vectors that add nothing."""
        return (
            self.coef == 0
            or not self.entries
            or (self.operator.additive and not any(v.any() for v in self.vectors().values()))
        )

    @property
    def is_off(self) -> bool:
        """Dial 0 of an operator that may do something there all the same: it is not asked."""
        return self.coef == 0 and not self.operator.additive

    @property
    def asked_at(self) -> int | None:
        """The layer at which the gate is asked once for a whole answer, at its last prompt token,
        unsteered; None: it is asked wherever the operator acts."""
        return deciding(self.entries).layer if getattr(self.gate, "whole_answer", False) else None

    # -- as an intervention -------------------------------------------------------------------

    @property
    def changes_prompt(self) -> bool:
        return where(self.positions).prompt

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"vectors", needed(self.positions)})

    def key(self) -> dict[str, Any]:
        vectors = {layer: digest(v.tobytes()) for layer, v in self.vectors().items()}
        settings: dict[str, Any] = {
            "plan": {str(layer): vectors[layer] for layer in sorted(vectors)},
            "operator": component(self.operator),
        }
        gated = self.gate.open is not None
        if gated:
            settings["gate"] = component(self.gate)
            if self.asked_at is not None:
                settings["asked_at"] = self.asked_at
        if self.positions != GENERATION:
            settings["positions"] = self.positions
        if gated or type(self.operator) is not Add:
            # Add without a gate reads the scaled vectors and nothing else.
            settings["dial"] = self.dial
            settings["parts"] = {
                str(layer): {name: digest(part.tobytes()) for name, part in sorted(parts.items())}
                for layer, parts in self.parts().items()
            }
        return settings

    def steer(self, model: torch.nn.Module) -> AbstractContextManager[torch.nn.Module]:
        """Steer a plain transformers model by forward hooks while the block runs.

            with plan.steer(model):
                model.generate(**inputs)

        The same tokens as the program's own runs: see :func:`corrsteer.steering.hooks.steered`.
        """
        from corrsteer.steering.hooks import steered

        return steered(model, self)

    # -- on disk --------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write ``plan.json`` and ``vectors.safetensors`` into ``folder``."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        arrays = {f"layer_{e.layer}": e.vector for e in self.entries}
        for e in self.entries:
            read = {} if e.encoder is None else e.encoder.arrays()
            arrays |= {f"encoder_{e.layer}.{name}": a for name, a in read.items()}
            told = {} if e.probe is None else e.probe.arrays()
            arrays |= {f"probe_{e.layer}.{name}": a for name, a in told.items()}
            arrays |= {f"own_{e.layer}.{name}": a for name, a in e.arrays.items()}
        save_file(arrays, folder / VECTORS)
        entries = [
            {
                "layer": e.layer,
                "feature": e.feature,
                "r": e.r,
                "coefficient": e.coefficient,
                # SAEs differ in where they keep their scale: a coefficient says little without it.
                "norm": e.norm,
                **({} if e.encoder is None else {"encoder": e.encoder.settings()}),
                **({} if e.probe is None else {"probe": True}),
                **e.about,
            }
            for e in self.entries
        ]
        content = {
            "format": FORMAT,
            "vectors": digest((folder / VECTORS).read_bytes()),
            "coef": self.coef,
            "operator": spec_of(self.operator),
            "positions": self.positions,
            "gate": spec_of(self.gate),
            "entries": entries,
            **self.about,
        }
        (folder / FILE).write_bytes(signed(content))


_ENTRY = ("layer", "feature", "r", "coefficient", "norm", "encoder", "probe")
_OWN = ("format", "vectors", "coef", "operator", "positions", "gate", "entries", KEY)
_LARGEST = 1e30  # in float32 a dial or a norm beyond it is infinite soon


def plan_folder(path: str | Path) -> Path:
    """A plan's folder: itself, or ``plan/`` in that of a run. DataError where there is none."""
    folder = Path(path)
    if not (folder / FILE).exists():
        folder = folder / "plan"
    if not (folder / FILE).exists():
        raise DataError(
            f"there is no plan in {path}; give the folder of a finished run (of a sweep that of one"
            " job, SWEEP/0), or its plan/"
        )
    return folder


def load_plan(path: str | Path) -> Plan:
    """Read a plan of format 1 to 3: the folder of a plan, or of the run that made it.

    Raises DataError when it does not hold a whole one, or one of whose files a byte was changed
    (formats before 3 say that of the vectors alone). Operators and gates are imported by name, as
    a config's components are, and must be dataclasses: importing a module runs it, so read plans of
    people you trust, or look at ``plan.json`` first.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    folder = plan_folder(path)
    try:
        text = (folder / FILE).read_bytes()
        content = json.loads(text.decode("utf-8"))
        raw = (folder / VECTORS).read_bytes()
        vectors = load(raw)
        if content["format"] not in range(1, FORMAT + 1):
            raise DataError(
                f"{folder} holds a plan of format {content['format']}, but this program reads"
                f" formats 1 to {FORMAT}; make the plan again"
            )
        _check(content, text, raw)
        entries = tuple(_entry(e, vectors) for e in content["entries"])
        if len({e.layer for e in entries}) < len(entries):
            raise ValueError(f"several entries have one layer: {[e.layer for e in entries]}")
        own = {f"layer_{e.layer}" for e in entries}
        own |= {
            f"encoder_{e.layer}.{name}" for e in entries if e.encoder for name in e.encoder.arrays()
        }
        own |= {f"probe_{e.layer}.{name}" for e in entries if e.probe for name in e.probe.arrays()}
        own |= {f"own_{e.layer}.{name}" for e in entries for name in e.arrays}
        if more := vectors.keys() - own:
            raise ValueError(f"{VECTORS} has {min(more)}, which no entry of {FILE} has")
        if len(widths := {e.vector.size for e in entries}) > 1:
            raise ValueError(f"its vectors have several widths: {sorted(widths)}")
        how: dict[str, Any] = {}
        if content["format"] > 1:
            how["operator"] = made(content["operator"], "apply", folder / FILE)
            how["gate"] = made(content["gate"], "open", folder / FILE)
            how["positions"] = content["positions"]
            bare = [e.layer for e in entries if e.encoder is None]
            if bare and reads_features(how["operator"], how["gate"]):
                raise ValueError(f"the encoder of layer {bare[0]} is not there, which it reads")
            bare = [e.layer for e in entries if e.probe is None]
            if bare and reads_probe(how["operator"], how["gate"]):
                raise ValueError(f"the probe of layer {bare[0]} is not there, which it reads")
        about = {name: value for name, value in content.items() if name not in _OWN}
        return Plan(entries, _number("coef", content["coef"]), **how, about=about)
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError,
        ConfigError,
    ) as error:  # fmt: skip
        words = " ".join(str(error).split())[:300]
        raise DataError(
            f"{folder} is not a plan ({type(error).__name__}: {words}); give the plan/ folder "
            "of a finished run"
        ) from error


def _check(content: Mapping[str, Any], text: bytes, raw: bytes) -> None:
    """ValueError for a plan that was changed, or does not say what it belongs to. ``text``: its
    ``plan.json``; ``raw``: its vectors."""
    new = content["format"] > 1
    if (content["format"] == FORMAT or KEY in content) and not unchanged(text):
        raise ValueError(
            f"{FILE} was changed since it was saved; to turn the dial, load the plan as it was"
            " made and save plan.turned_to(0.5)"
        )
    if new and "vectors" not in content:
        raise ValueError(f"{FILE} does not say which {VECTORS} it was saved with")
    if content.get("vectors") not in (*(() if new else (None,)), digest(raw)):
        raise ValueError(f"{VECTORS} is not the one that {FILE} was saved with")
    # Who makes a plan by hand need not say a model; a run, which says its SAEs, always does.
    said = "model" in content or (new and "saes" in content)
    if said and not isinstance(content.get("model"), dict):
        raise ValueError(f"{FILE} does not say which model it was made for")
    check_told(content)


def _entry(e: Mapping[str, Any], vectors: Mapping[str, np.ndarray]) -> PlanEntry:
    """ValueError for one whose vector is none, or not as long as its ``norm`` says."""
    layer = _whole("layer", e["layer"], 0)
    vector = vectors[f"layer_{layer}"]
    if vector.ndim != 1 or not vector.size or vector.dtype != np.float32:
        raise ValueError(f"layer_{layer} is {vector.dtype}{list(vector.shape)}, not float32[M]")
    if not np.isfinite(vector).all():
        raise ValueError(f"layer_{layer} is not finite")
    entry = PlanEntry(
        layer=layer,
        feature=_whole("feature", e["feature"], -1),
        r=_number("r", e["r"]),
        coefficient=_number("coefficient", e["coefficient"]),
        vector=vector,
        about={name: value for name, value in e.items() if name not in _ENTRY},
        encoder=_encoder(e, layer, vectors) if "encoder" in e else None,
        probe=_probe(layer, vectors) if "probe" in e else None,
        arrays=_of(f"own_{layer}.", vectors),
    )
    if not all(np.isfinite(a).all() or n == "numbers" for n, a in entry.arrays.items()):
        raise ValueError(f"what the operator reads at layer {layer} is not finite")
    if "norm" in e and not math.isclose(_number("norm", e["norm"]), entry.norm, rel_tol=1e-3):
        raise ValueError(
            f"layer_{layer} has the norm {entry.norm:.4g}, and {FILE} says {e['norm']:.4g}"
        )
    return entry


def _encoder(e: Mapping[str, Any], layer: int, vectors: Mapping[str, np.ndarray]) -> Encoder:
    return Encoder.read(
        e["encoder"], _of(f"encoder_{layer}.", vectors), vectors[f"layer_{layer}"].size
    )


def _probe(layer: int, vectors: Mapping[str, np.ndarray]) -> Probe:
    return Probe.read(_of(f"probe_{layer}.", vectors), vectors[f"layer_{layer}"].size)


def _of(before: str, vectors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose names begin so, without that."""
    return {n.removeprefix(before): a for n, a in vectors.items() if n.startswith(before)}


def _whole(name: str, value: Any, least: int) -> int:
    if type(value) is not int or not least <= value < 2**31:
        raise ValueError(f"{name}={value!r} is no whole number from {least} on")
    return value


def _number(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) < _LARGEST:
        raise ValueError(f"{name} is {value!r}, no finite number")
    number: float = value
    return number
