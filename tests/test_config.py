"""What the config accepts, what it refuses in which words, and that every option can be built."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf

from corrsteer import config
from corrsteer.errors import ConfigError

CONF = Path(__file__).parents[1] / "conf"
OPTIONS = sorted(
    (file.parent.name, file.stem)
    for file in CONF.glob("*/*.yaml")
    if file.parent.name not in ("hydra", "experiment", "arm")
)
OPTIONS = [o for o in OPTIONS if o not in (("search", "none"), ("job", "steer"))]  # no components
OPEN = {  # settings without a default
    ("sae", "folder"): ["sae.path=x"],
    ("job", "train_sae"): ["job.text=x", "job.out=x"],
    ("model", "folder"): ["model.path=x", "sae.path=x"],
    ("model", "gguf"): ["model.path=x", "sae.path=x"],
    ("task", "custom"): ["task.path=x", "task.prompt='{q}'", "scorer@task.scorer=exact"],
    ("task", "lm_eval"): ["task.name=x"],
    ("scorer", "function"): ["task.scorer.path=operator.eq"],
    ("scorer", "regex"): ["task.scorer.pattern=x"],
    ("scorer", "words"): ["task.scorer.wanted=[good]", "task.scorer.unwanted=[bad]"],
}


OPENED = (
    "task", "model", "sae", "selector", "strategy", "search", "controls", "side_effects", "backend",
    "tracker", "coefficient",
)  # fmt: skip


def composed(*overrides: str):
    return copy.deepcopy(_composed(overrides))


@functools.cache  # Hydra takes a quarter of a second
def _composed(overrides: tuple[str, ...]):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def option(group: str, name: str):
    """(whole config, node of the option), settings without a default filled in."""
    if (group, name) not in WHOLE:
        return option_by_hydra(group, name)
    cfg = composed()
    holder, key = (cfg.task, "scorer") if group == "scorer" else (cfg, group)
    holder[key] = WHOLE[group, name]
    return cfg, holder[key]


def option_by_hydra(group: str, name: str):
    place = "scorer@task.scorer" if group == "scorer" else group
    cfg = composed(f"{place}={name}", *OPEN.get((group, name), []))
    return cfg, cfg.task.scorer if group == "scorer" else cfg[group]


# Options whose file says everything: for these Hydra is asked at night only.
WHOLE = {
    (group, name): node
    for group, name in OPTIONS
    if group != "model" and (group, name) not in OPEN  # a model names its SAEs, too
    if "defaults" not in (node := OmegaConf.load(CONF / group / f"{name}.yaml"))
}


def refusal(*overrides: str) -> str:
    """The one line a user sees for a wrong command."""
    with pytest.raises((ConfigError, *config.SETTING_ERRORS)) as caught:
        cfg = composed(*overrides)
        config.check(cfg)
        for group in OPENED:
            if group != "search" or cfg.search:
                config.instantiate(cfg[group])
    line = config.explain(caught.value)
    assert "\n" not in line
    return line


def test_the_defaults_pass_their_own_check():
    cfg = composed()
    config.check(cfg)
    assert (cfg.layers, cfg.coef, cfg.seed, cfg.limit, cfg.name) == ("all", 1.0, 0, None, "bbq")


@pytest.mark.parametrize("override", ["layers=[1,3]", "layers=2-4", "layers=3", "layers=all"])
def test_layers_keep_the_form_they_were_typed_in(override):
    cfg = composed(override)
    config.check(cfg)
    form = OmegaConf.to_container(cfg)["layers"]
    assert form == {"[1,3]": [1, 3], "3": 3}.get(override[7:], override[7:])


@pytest.mark.long
@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("task=bbx", ["task=bbx", "did you mean bbq?", "bbq, blimp, crows_pairs"]),
        ("selector=nosuch", ["selector=nosuch", "choose one of: auroc, correlation, "]),
        ("modle=bundled", ["modle", "did you mean model?", "the keys are", "coef"]),
        ("+coeff=2", ["coeff", "did you mean coef?"]),
        ("task.contxt=ambig", ["task.contxt", "did you mean context?", "the keys of task are"]),
        ("+task.contxt=ambig", ["task.contxt", "did you mean context?"]),
        ("+task.scorer.x=1", ["task.scorer.x", "the keys of task.scorer are"]),
        ("collect.poling=max", ["collect.poling", "did you mean pooling?", "shuffles"]),
        ("+collect.poling=max", ["collect.poling", "did you mean pooling?"]),
        ("model.pth=x", ["model.pth", "did you mean path?"]),
        ("coef=strong", ["coef=strong: it must be a number"]),
        ("coef=nan", ["coef=nan", "finite"]),
        ("coef=-inf", ["coef=-inf", "finite"]),
        ("decoding=fre", ["decoding=fre", "did you mean free?", "constrained, loglikelihood"]),
        ("seed=1.5", ["seed=1.5: it must be a whole number"]),
        ("splits.official=often", ["splits.official=often: it must be true or false"]),
        ("splits.test=null", ["splits.test=null: it must have a value"]),
        ("task.max_new_tokens=1.5", ["task.max_new_tokens=1.5: it must be a whole number"]),
        ("task.subset=7", ["task.subset=7: it must be a text or a list or null"]),
        ("task.name=7", ["task.name=7: it must be a text; type task.name='\"7\"'"]),
        ("task.prompt=[a]", ["task.prompt=['a']: it must be a text"]),
        ("sae.budget_gb=much", ["sae.budget_gb=much: it must be a number"]),
        ("strategy=corsteer", ["did you mean corrsteer_a?"]),
        ("task._target_=null", ["task._target_=None", "full name of a class"]),
        ("task._target_=3", ["task._target_=3", "full name of a class"]),
        ("task._target_=.tasks.bbq.BBQ", ["task._target_=.tasks", "full name of a class"]),
        ("task._target_=builtins.int", ["task._target_=builtins.int", "cannot be a component"]),
        ("~task._target_", ["task names no component", "_target_: package.module.Class"]),
        ("limit=0", ["limit=0", "at least 1"]),
        ("splits.test=0", ["splits.test=0", "at least 1"]),
        ("splits.selection=-1", ["splits.selection=-1", "at least 1"]),
        ("collect.shuffles=19", ["collect.shuffles=19", "at least 20"]),
        ("collect.resamples=19", ["collect.resamples=19", "at least 20"]),
        ("collect.pooling=mx", ["collect.pooling=mx", "did you mean max?", "max, mean"]),
        ("collect.token_source=last", ["token_source=last", "generated, last_prompt, prompt, all"]),
        ("cache=", ["cache is empty", "cache=VALUE"]),
        (
            "task=custom",
            ["task.scorer has no value: type task.scorer=NAME", "choice, contains, exact"],
        ),
        ("sae=folder", ["sae.path has no value", "sae.path=VALUE"]),
        ("~coef", ["coef is missing"]),
        ("~collect.pooling", ["collect.pooling"]),
        ("task=null", ["group"]),
        ("search.trials=64", ["unknown key search.trials", "also type search=pareto"]),
        ("controls.random_features=0", ["controls.random_features=0", "at least 1", "or auto"]),
        ("controls.random_features=lots", ["controls.random_features=lots", "or auto"]),
        ("controls.stop=0", ["controls.stop=0", "at least 1", "or null"]),
        ("controls.other_half=some", ["controls.other_half=some", "true or false"]),
        ("controls.shuffled_outcomes=all", ["controls.shuffled_outcomes=all", "or auto"]),
        ("controls.shuffled_layers=-1", ["controls.shuffled_layers=-1", "at least 0"]),
        ("controls.flipped=maybe", ["controls.flipped=maybe", "true or false"]),
        ("controls.instruction=''", ["controls.instruction is empty", "null"]),
        ("side_effects.draws=0", ["side_effects.draws=0", "at least 1"]),
        ("side_effects.unrelated=many", ["side_effects.unrelated=many", "at least 0"]),
        ("neutral=", ["neutral is empty", "neutral=VALUE"]),
        ("transfer.mmlu.few_shot=1", ["unknown key transfer.mmlu", "also type transfer=[mmlu]"]),
        (
            "+transfer.mmlu.few_shot=1",
            ["transfer.mmlu has settings but no task", "transfer=[mmlu]"],
        ),
        ("task._target_=corrsteer.tasks.bbq.BBX", ["task._target_", "BBX"]),
        ("data=${nosuch}", ["nosuch"]),
        ("layers", ["'layers'", "KEY=VALUE"]),
        ("layers=[1", ["'layers=[1'", "KEY=VALUE"]),
        ("selector.top_k=0", ["top_k"]),
        ("selector.classes=[semantik]", ["['semantik']", "structural, semantic, unclear", "null"]),
        ("classes=", ["classes is empty", "classes=null"]),
        ("descriptions=maybe", ["descriptions", "maybe"]),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(override, parts):
    line = refusal(override)
    assert [part for part in parts if part not in line] == [], line


@pytest.mark.long
@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_every_option_can_be_built_offline(group, name):
    if name in ("ifeval", "instructions"):
        pytest.importorskip("langdetect")
    cfg, node = option(group, name)
    config.check(cfg)
    if (group, name) == ("search", "none"):
        assert not node  # the strategy alone
        return
    built = config.instantiate(node)
    assert type(built) is get_class(node._target_)
    assert dataclasses.is_dataclass(built)


@pytest.mark.long
@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_every_parameter_of_a_component_stands_in_its_file(group, name):
    """Otherwise Hydra refuses it as unknown, although the component has it."""
    _, node = option(group, name)
    if (group, name) == ("search", "none"):
        return
    parameters = set(inspect.signature(get_class(node._target_)).parameters)
    assert parameters == {str(key) for key in node if key != "_target_"}


@pytest.mark.night
@pytest.mark.parametrize(("group", "name"), WHOLE)
def test_hydra_makes_an_option_of_its_file_alone(group, name):
    (found, node), (expected, by_hydra) = option(group, name), option_by_hydra(group, name)
    assert found == expected
    assert list(node) == list(by_hydra)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(file.stem for file in CONF.glob("experiment/*.yaml")))
def test_an_experiment_is_a_sweep_with_a_claim(name):
    cfg = composed(f"experiment={name}")
    config.check(cfg)
    assert cfg.study.claim and cfg.study.widen == 3
    assert ("rule" in cfg.study) == (name not in ("variants", "compare"))
    swept = OmegaConf.load(CONF / "experiment" / f"{name}.yaml").hydra.sweeper.params
    subjects = cfg.study.get("subject") or []
    named = {*([subjects] if isinstance(subjects, str) else subjects), cfg.study.get("reference")}
    for by in cfg.study.get("by", []):
        assert by == "coef" or named <= {*swept[by].split(",")}


def test_the_study_of_selectors_has_every_one():
    swept = OmegaConf.load(CONF / "experiment" / "selectors.yaml").hydra.sweeper.params
    assert set(swept.selector.split(",")) == {
        name for group, name in OPTIONS if group == "selector"
    }


@pytest.mark.night
@pytest.mark.long
@pytest.mark.parametrize("name", sorted(file.stem for file in CONF.glob("arm/*.yaml")))
def test_an_arm_is_a_few_settings_that_fit_together(name):
    cfg = composed(f"arm={name}", "coefficient=total_norm")
    assert "arm" not in cfg
    config.check(cfg)
    for group in OPENED:
        if group != "search":
            config.instantiate(cfg[group])


@pytest.mark.long
def test_a_study_that_lacks_something_is_refused():
    assert "study.subjekt" in refusal("experiment=variants", "+study.subjekt=x")
    assert "study.subject has no value" in refusal("+study={claim: c}")
    assert "study=P: type experiment=variants" in refusal("study=P")
    assert "study.control has no value" in refusal("experiment=gates", "study.control=null")
    assert "study.rule=gate is unknown" in refusal("experiment=gates", "study.rule=gate")
    assert "study.widen=x: it must be" in refusal("experiment=gates", "study.widen=x")
    assert "study.measure=x is unknown" in refusal("experiment=gates", "+study.measure=[x]")


@pytest.mark.long
def test_rivals_are_compared_within_a_margin():
    cfg = composed("experiment=compare")
    config.check(cfg)
    assert set(cfg.study) == {"claim", "subject", "margin", "widen"}
    assert "study.widen=-1: it must be" in refusal("experiment=compare", "study.widen=-1")
    assert "study.margin=0: it must be" in refusal("experiment=compare", "study.margin=0")
    assert "study.reference" in refusal("experiment=compare", "+study.reference=A")


@pytest.mark.long
def test_fine_tuning_is_compared_on_gold_on_own_right_and_on_shuffled_answers():
    swept = OmegaConf.load(CONF / "experiment" / "compare.yaml").hydra.sweeper.params
    arms = [name for name in swept.strategy.split(",") if name.startswith("lora")]
    assert [composed(f"strategy={name}").strategy.data for name in arms] == [
        *("gold", "own_right", "shuffled")
    ]
    for kind in ("lora", "finetune", "bias_only"):
        for data in ("own_right", "shuffled"):
            by_word = composed(f"strategy={kind}_{data}").strategy
            assert by_word == composed(f"strategy={kind}", f"strategy.data={data}").strategy


def test_no_knob_shares_its_name_with_a_folder_of_choices():
    groups = {group for group, _ in OPTIONS}
    knobs = {f.name for f in dataclasses.fields(config.Root)} - groups
    assert knobs & {folder.name for folder in CONF.iterdir()} == set()


def test_what_a_constructor_refuses_comes_out_as_it_is():
    node = OmegaConf.create({"_target_": "corrsteer.models.spec.Model", "name": "", "path": "x"})
    with pytest.raises(ConfigError, match="must not be empty"):
        config.instantiate(node)


def test_components_get_plain_values():
    settings = {"id": "1", "prompt": "?", "gold": "A", "options": ["x", "y"], "meta": {"a": "b"}}
    built = config.instantiate(
        OmegaConf.create({"_target_": "corrsteer.records.Example", **settings})
    )
    assert (type(built.options), type(built.meta)) == (list, dict)


def test_a_resolved_config_reads_back_without_interpolations():
    text = config.resolved_yaml(composed("name=mine", "data=rows"))
    read = OmegaConf.create(text)
    assert "${" not in text
    assert (read.name, read.task.data) == ("mine", "rows")
    assert read.model.path == config.bundled("model")


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("bbq", ["task=bbq", "coef=1,2"], "bbq"),
        ("bbq", ["task=bbq,mmlu"], "bbq-mmlu"),
        ("mine", ["task=bbq,mmlu", "name=mine"], "mine"),
        ("a/b c", [], "a-b-c"),
        ("../up", [], "up"),
        ("..", [], "run"),
        ("-x", [], "x"),
        ("a\nb", [], "a-b"),
        ("a\0b", [], "a-b"),
        ("\udcff", [], "run"),
        ("x" * 300, [], "x" * 100),
        ("é" * 300, [], "é" * 50),
    ],
)
def test_the_folder_of_a_run_has_a_plain_name(name, overrides, expected):
    assert config.run_name(name, overrides) == expected


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("my.jsonl", "my"),
        ("data/my.csv.gz", "my"),
        ("data/my.v2.parquet", "my.v2"),
        ("folder/", "folder"),
        ("org/model", "model"),
        ("hub", "custom"),
        ("bundled", "custom"),
        (None, "custom"),
    ],
)
def test_a_task_or_a_model_of_ones_own_is_called_by_its_file(path, name):
    assert config.file_name(path, "custom") == name


def test_what_is_called_by_its_file_has_the_name_everywhere():
    words = ["task=custom", "task.path=data/my.jsonl", "task.prompt='{q}'"]
    cfg = composed(*words, "scorer@task.scorer=exact", "model=folder", "model.path=m/tiny")
    assert (cfg.task.name, cfg.name, cfg.model.name) == ("my", "my", "tiny")
    assert composed(*words, "scorer@task.scorer=exact", "name=first").name == "first"
    assert "model.path has no value: type model.path=VALUE" in refusal("model=folder")
