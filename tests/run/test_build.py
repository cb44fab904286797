"""What is known to be wrong with a run's parts before anything is computed: one test per seam.

A component of each seam is made here that has all its protocol asks, and nothing else; then it is
spoilt in one place. The config names it as it would name anybody's.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from corrsteer.config import bundled
from corrsteer.errors import ConfigError
from corrsteer.methods.protocol import Method, Tunable
from corrsteer.models.local import Local
from corrsteer.models.protocol import STEERING, Backend
from corrsteer.models.spec import Model
from corrsteer.records import Question, Score
from corrsteer.run.build import build
from corrsteer.run.typed import plain_words
from corrsteer.saes.folder import Folder
from corrsteer.saes.protocol import SAEProvider
from corrsteer.seams import members, mismatch, named
from corrsteer.selectors.protocol import Selector
from corrsteer.stages import bench as bench_module
from corrsteer.steering.operators import add
from corrsteer.steering.protocol import Gate, Operator
from corrsteer.tasks.protocol import Scorer, Task
from corrsteer.trackers.protocol import Tracker
from tests.test_config import composed

pytestmark = pytest.mark.long

# All that each seam asks for: methods, and values that are no settings.
WHOLE: dict[type, dict[str, Any]] = {
    Task: {
        "name": "odd", "max_new_tokens": 4, "data": "mine", "shots": 0, "lists_options": False,
        "likelihood": "sum",
        "scorer": None,
        "questions": lambda self: [Question(f"q{n}", {"q": str(n)}, "x") for n in range(60)],
        "decoding": lambda self, wanted, questions: "free",
        "arranged": lambda self, questions, seed: questions,
        "ask": lambda self, splits, *, chat: ({name: () for name in splits}, ()),
        "metrics": lambda self, examples, answers: {},
        "one_answer": lambda self, examples: None,
        "other_half": lambda self: None,
        "about_data": lambda self, questions: None,
        "about_prompts": lambda self, dealt, *, chat, decoding, stop: None,
    },
    Scorer: {"__call__": lambda self, example, text: Score(1.0, text)},
    SAEProvider: {
        "name": "odd", "check": "off", "budget_gb": 1.0,
        "layers": lambda self: (0,),
        "sae_id": lambda self, layer: "odd/0",
        "fingerprint": lambda self, layer: "ab",
        "neuronpedia": lambda self, layer: None,
        "trained_on": lambda self, layer: None,
        "validate": lambda self, layer, d_model: None,
        "load": lambda self, layer, device="cpu": None,
    },
    Selector: {
        "score": "r", "criterion": "matters", "null": False, "classes": None,
        "rank": lambda self, stats: (),
    },
    Operator: {
        "additive": True, "apply": staticmethod(add),
        "parts": lambda self, entry: {"vector": entry.vector},
    },
    Gate: {"open": None, "parts": lambda self, entry: {}},
    Method: {
        "name": "Odd", "variant": "", "needs": frozenset(),
        "share": lambda self, bench: [],
        "fit": lambda self, bench: None,
    },
    Backend: {
        "key": lambda self, model: {"model": "ab"},
        "supports": lambda self: STEERING,
        "load": lambda self, model: None,
    },
    Tracker: {
        "enabled": False,
        "open": lambda self, home, *, name, group, job_type, tags, config: None,
    },
}  # fmt: skip
WHOLE[Tunable] = {**WHOLE[Method], "plain": lambda self, bench, pooling: None}
# Where the config names a component of each seam.
PLACES = {
    Task: "task", Scorer: "task.scorer", SAEProvider: "sae", Selector: "selector",
    Operator: "operator", Gate: "gate", Method: "strategy", Backend: "backend", Tracker: "tracker",
}  # fmt: skip


def made(body, frozen: bool = True) -> type:
    return dataclass(frozen=frozen)(type("Odd", (), dict(body)))


def without(body, name: str) -> dict:
    return {member: value for member, value in body.items() if member != name}


def methods_of(seam) -> list[str]:
    return [name for name, value in WHOLE[seam].items() if inspect.isfunction(value)]


def spoilt(seam) -> Iterator[tuple[str, type, str]]:
    """(what is wrong, a component's class, what the message must name) of every kind there is."""
    body = WHOLE[seam]
    for name in body:
        yield f"no {name}", made(without(body, name)), name
        if name in methods_of(seam):
            more = {name: lambda self, a, b, c, d, e, f, g, h: None}
            yield f"{name} asks for more", made(body | more), name
            yield f"{name} takes nothing", made({**body, name: lambda: None}), name
            yield f"{name} is a value", made({**body, name: 7}), name
            # Looked at, not run.
            boom = property(lambda self: 1 / 0)
            yield f"{name} is a property", made({**body, name: boom}), name
        else:
            yield f"{name} is a method", made({**body, name: lambda self: 1}), name
    yield "not frozen", made(body, frozen=False), "frozen dataclass"
    yield "no dataclass", type("Odd", (), dict(body)), "frozen dataclass"


# -- the protocols -------------------------------------------------------------------------------


@pytest.mark.parametrize("seam", WHOLE)
def test_what_has_all_of_a_seam_passes(seam):
    assert mismatch(made(WHOLE[seam])(), seam) == ""
    assert set(WHOLE[seam]) == set(members(seam))


@pytest.mark.parametrize("seam", WHOLE)
def test_whatever_is_wrong_is_named(seam):
    for what, kind, part in spoilt(seam):
        line = mismatch(kind(), seam)
        assert part in line and "\n" not in line, (what, line)
        assert seam.__name__ in line or part == "frozen dataclass", (what, line)


def test_members_of_what_a_protocol_extends_are_asked_for():
    for seam, name in ((Task, "max_new_tokens"), (Tunable, "fit")):
        assert name in mismatch(made(without(WHOLE[seam], name))(), seam)


def test_a_field_may_be_what_a_protocol_asks_for():
    @dataclass(frozen=True)
    class Fields:
        apply: object = add
        additive: bool = True

        def parts(self, entry):
            return {}

    assert mismatch(Fields(), Operator) == ""
    assert mismatch(Fields(apply=lambda x, parts, dial: x), Operator) == ""

    @dataclass(frozen=True, slots=True)
    class Slots:
        additive: bool
        apply: object

    assert mismatch(Slots(True, add), Operator) == "an Operator must have parts(entry: 'PlanEntry')"


# -- through the door ----------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def imported():
    """What building imports is no test's own cost: transformers says how many layers there are."""
    Model("bundled", bundled("model")).shape()
    Folder(bundled("saes")).validate(0, 128)


@pytest.fixture(scope="module")
def settings():
    words = ["task=bbq", "backend.device=cpu", "limit=10", "classes=null", "side_effects=none"]
    return composed(*words)


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    def fail(*_):
        raise AssertionError("loaded")

    monkeypatch.setattr(bench_module, "load_model", fail)
    monkeypatch.setattr(Local, "load", fail)
    monkeypatch.setattr(Model, "fingerprint", fail)


@pytest.fixture
def build_with(settings, tmp_path, monkeypatch, nothing_is_loaded):
    """``build_with(place, kind)``: a run with an ``Odd`` component there; what it was told."""

    def build_(place, kind, **changes) -> str:
        module = ModuleType("odd_parts")
        module.__dict__["Odd"] = kind
        monkeypatch.setitem(sys.modules, "odd_parts", module)
        cfg = settings.copy()
        OmegaConf.set_struct(cfg, False)
        cfg.cache = str(tmp_path / "cache")
        for name, value in changes.items():
            OmegaConf.update(cfg, name, value)
        OmegaConf.update(cfg, place, {"_target_": "odd_parts.Odd"}, merge=False)
        with pytest.raises(ConfigError) as caught:
            build(cfg)
        line = str(caught.value)
        assert "\n" not in line
        assert not list((tmp_path / "cache").glob("*/*"))
        return line

    return build_


@pytest.mark.parametrize("seam", PLACES, ids=lambda seam: seam.__name__)
def test_a_component_that_lacks_a_member_is_refused(build_with, seam):
    place, body = PLACES[seam], WHOLE[seam]
    method = methods_of(seam)[-1]
    line = build_with(place, made(without(body, method)))
    assert line.startswith(f"{place}=") and f"{named(seam)} must have {method}(" in line


@pytest.mark.parametrize("seam", [Task, SAEProvider, Selector, Operator, Gate, Method, Tracker])
def test_a_component_that_lacks_a_value_is_refused(build_with, seam):
    place, body = PLACES[seam], WHOLE[seam]
    value = next(name for name in body if name not in methods_of(seam))
    line = build_with(place, made(without(body, value)))
    assert line.startswith(f"{place}=") and line.endswith(f"{named(seam)} must have {value}")


@pytest.mark.parametrize("seam", PLACES, ids=lambda seam: seam.__name__)
def test_a_component_with_a_wrong_signature_is_refused(build_with, seam):
    place, body = PLACES[seam], WHOLE[seam]
    method = methods_of(seam)[0]
    line = build_with(place, made({**body, method: lambda self, a, b, c, d: None}))
    assert line.startswith(f"{place}=") and f"{method}(a, b, c, d)" in line


@pytest.mark.night
@pytest.mark.parametrize("seam", PLACES, ids=lambda seam: seam.__name__)
def test_a_component_that_can_change_is_refused(build_with, seam):
    place, body = PLACES[seam], WHOLE[seam]
    for kind in (made(body, frozen=False), type("Odd", (), dict(body))):
        line = build_with(place, kind)
        assert line.startswith(f"{place}=") and "it must be a frozen dataclass" in line


def test_a_scorer_of_a_task_of_transfer_is_refused_under_its_task(build_with, settings):
    whole = OmegaConf.to_container(settings.task, resolve=True)
    body = without(WHOLE[Scorer], "__call__")
    line = build_with("transfer.mine.scorer", made(body), **{"transfer.mine": whole})
    assert line.startswith("transfer=mine: transfer.mine.scorer=Odd: a Scorer must have __call__(")


def test_what_a_search_turns_must_be_turnable(build_with, settings):
    search = {"_target_": "corrsteer.methods.search.Pareto", "method": "${strategy}"}
    line = build_with("strategy", made(WHOLE[Method]), search=search)
    assert line.startswith("strategy=odd_parts.Odd: a Tunable must have plain(")


@pytest.mark.parametrize("seam", [Backend, SAEProvider])
def test_what_is_loaded_once_per_process_is_hashable(build_with, seam):
    listed = {"places": field(default_factory=list), "__annotations__": {"places": list}}
    line = build_with(PLACES[seam], made(WHOLE[seam] | listed))
    assert line.startswith(f"{PLACES[seam]}=Odd: its settings must be hashable")


@pytest.mark.parametrize(
    ("seam", "name", "value", "words"),
    [
        (Method, "needs", "vectors", "its needs must be a frozenset of texts, not 'vectors'"),
        (Method, "needs", frozenset({1}), "its needs must be a frozenset of texts"),
        (Method, "variant", 2, "its variant must be a text, not 2"),
        (Method, "name", None, "its name must be a text, not None"),
        (Selector, "score", ("r",), "its score must be a text"),
        (Selector, "null", "yes", "its null must be true or false, not 'yes'"),
        (Operator, "additive", "yes", "its additive must be true or false"),
        (Method, "variant", property(lambda self: 1 / 0), "its variant cannot be read (ZeroDiv"),
    ],
)
def test_a_value_of_another_type_is_refused(build_with, seam, name, value, words):
    line = build_with(PLACES[seam], made({**WHOLE[seam], name: value}))
    assert line.startswith(f"{PLACES[seam]}=odd_parts.Odd: ") and words in line


def test_supports_of_another_type_is_refused(build_with):
    for value in (None, ["vectors"], {"vectors": 1}, frozenset({1})):
        line = build_with("backend", made({**WHOLE[Backend], "supports": lambda self, v=value: v}))
        assert "supports() must give a frozenset of texts" in line


# -- what an operator and a gate do to a made-up layer --------------------------------------------


@pytest.mark.parametrize(
    ("seam", "body", "words"),
    [
        (Operator, {"apply": staticmethod(lambda x, p, d: x / 0)}, "not finite (nan or inf)"),
        (Operator, {"apply": staticmethod(lambda x, p, d: x.double())}, "keep the type of x"),
        (Operator, {"apply": staticmethod(lambda x, p, d: x[:1])}, "an operator made [1, 128]"),
        (Operator, {"apply": staticmethod(lambda x, p, d: p["none"])}, "KeyError: 'none'"),
        (Operator, {"apply": staticmethod(lambda x, p, d: None)}, "cannot act (AttributeError"),
        (Gate, {"open": staticmethod(lambda x, p, d: x > 0)}, "a gate made torch.bool [3, 128]"),
        (Gate, {"open": staticmethod(lambda x, p, d: x.mean(-1))}, "a gate made torch.float32 [3]"),
        (Gate, {"open": staticmethod(lambda x, p, d: True)}, "cannot act (AttributeError"),
    ],
)
def test_what_acts_wrongly_is_refused(build_with, seam, body, words):
    line = build_with(PLACES[seam], made({**WHOLE[seam], **body}))
    assert words in line and "operator " in line and " and gate " in line


# -- what a method needs and a backend can do ----------------------------------------------------


def test_a_method_that_needs_what_the_backend_cannot_do_is_refused(build_with):
    body = {**WHOLE[Method], "needs": frozenset({"vectors", "gradients"})}
    line = build_with("strategy", made(body))
    assert line == (
        "strategy Odd needs gradients, but backend Local supports next-token distributions,"
        " positions=all, positions=decode, positions=first_k, positions=generation,"
        " positions=prompt, residuals while it writes,"
        " training, vectors, weights"
    )


def test_positions_that_the_backend_cannot_steer_are_refused(build_with):
    body = {**WHOLE[Backend], "supports": lambda self: frozenset({"vectors"})}
    line = build_with("backend", made(body))
    assert line == "strategy CorrSteer needs positions=generation, but backend Odd supports vectors"


def test_positions_that_are_none_are_refused(settings, nothing_is_loaded):
    cfg = settings.copy()
    cfg.positions = "first_k"
    with pytest.raises(ConfigError, match="'first_k' is unknown: use generation, all, prompt, dec"):
        build(cfg)


def test_a_control_of_a_study_that_is_none_is_refused(settings, nothing_is_loaded):
    """Its name is only read when all jobs are done."""
    cfg = settings.copy()
    cfg.study = {"claim": "c", "subject": "P", "reference": "A", "control": "subsets"}
    with pytest.raises(ConfigError, match="study.control=subsets is unknown; choose one of: const"):
        build(cfg)


@pytest.mark.parametrize(
    "task",
    [
        ["task=gsm8k"],
        ["task=bbq", "task.prompt='{context} {question}'"],
        ["task=bbq", "task.cot=true", "task.max_new_tokens=64"],
    ],
)
def test_answers_are_restricted_only_to_letters_that_the_prompts_show(task, tmp_path):
    cfg = composed(
        *task, "limit=4", "strategy=constrained", "backend.device=cpu", f"cache={tmp_path}"
    )
    with pytest.raises(ConfigError, match="Prompt-constrained cannot answer task") as refused:
        build(cfg)
    assert refused.value.before_compute and "\n" not in str(refused.value)


# -- what is read once ---------------------------------------------------------------------------


def test_the_weights_are_read_once_per_process(tmp_path, monkeypatch):
    """Although every task of ``transfer`` has keys of its own, and every job builds."""
    calls, fingerprint = [], Model.fingerprint

    def count(self, **settings):
        calls.append(self.path)
        return fingerprint(self, **settings)

    monkeypatch.setattr(Model, "fingerprint", count)
    checks = SimpleNamespace(check_prompts=lambda prompts, room: None)
    monkeypatch.setattr(bench_module, "load_model", lambda backend, model: checks)
    bench_module.model_key.cache_clear()
    words = plain_words(["task=bbq", "limit=4", "transfer=[mmlu,gsm8k,bbq]", "backend.device=cpu"])
    for name in ("first", "second"):
        parts = build(composed(*words, f"cache={tmp_path / name}"))
        assert list(parts.others) == ["mmlu", "gsm8k", "bbq"]
        assert parts.bench.model_key["model"] == parts.bench.model_key["model"]
    assert len(calls) == 1
    bench_module.model_key.cache_clear()
