"""What people type is what Hydra reads: free text and scorers by name."""

from __future__ import annotations

import os
import re
import shlex
import string
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from hypothesis import given
from hypothesis import strategies as st

from corrsteer import config
from corrsteer.errors import ConfigError
from corrsteer.run.typed import GROUPS, check_command, flags_first, plain_words
from corrsteer.tasks.prompts import Template
from corrsteer.wording import explain
from tests.test_config import CONF, composed

TEXTS = [
    "{question}\\nAnswer:",
    "Q: {a}, {b}; [x] (y) = 'z' \"w\"",
    "\\d+ (?:a|b) [^,]* \\\\",
    "ends in a backslash \\",
    'a quote after one \\"',
    " leading space: {x}",
    "$100 and 50% #tag !bang ~tilde",
    "日本語 {x} ½ é",
    "a backslash before the last line's end\\\n",
]


def read(override: str):
    return OverridesParser.create().parse_override(override)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("key", ["task.prompt", "task.chat_prompt", "+task.scorer.pattern"])
def test_free_text_arrives_letter_by_letter(key, text):
    (word,) = plain_words([f"{key}={text}"])
    assert read(word).value() == text


@given(st.text(alphabet=string.printable.replace("\r", ""), min_size=1, max_size=30))
def test_any_free_text_arrives(text):
    if text[0] in "'\"" or text == "null" or re.search(r"\$\{\w+\}", text):
        return
    (word,) = plain_words([f"task.prompt={text}"])
    assert read(word).value() == text


@pytest.mark.long
def test_a_dollar_sign_before_a_field_is_one():
    for typed in ("It costs ${price}. {question}", r"It costs \${price}. {question}"):
        cfg = composed("task=mmlu", *plain_words([f"task.prompt={typed}"]))
        config.check(cfg)
        assert cfg.task.prompt == "It costs ${price}. {question}"
        # A component gets what is shown; Hydra by itself would resolve it once more.
        assert config.instantiate(cfg.task).prompt == cfg.task.prompt
        assert Template(cfg.task.prompt).names == ("price", "question")
    words = plain_words(["task.scorer=regex", r"task.scorer.pattern=[${2}]|b"])
    cfg = composed("task=mmlu", *words)
    assert config.instantiate(cfg.task).scorer.pattern == cfg.task.scorer.pattern
    for key in ("task.prompt", "task.chat_prompt"):
        cfg = composed("task=mmlu", *plain_words([f"{key}='It costs ${{price}}.'"]))  # as in a file
        with pytest.raises(ConfigError, match=r"{price} write \\\${price}$"):
            config.check(cfg)
    cfg = composed("task=mmlu", *plain_words(["task.chat_prompt=${task.prompt}"]))
    config.check(cfg)
    assert cfg.task.chat_prompt == cfg.task.prompt


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        (r"{q}\nAnswer:", "{q}\nAnswer:"),
        (r"Is {q} \\neq 0?\nAnswer:", "Is {q} \\neq 0?\nAnswer:"),
        (r"\\nu of {q}", "\\nu of {q}"),
        (r"\frac of {q}", "\\frac of {q}"),
        (r"{q} \\\n", "{q} \\\n"),
        (r"{q} \\\\", "{q} \\\\"),
    ],
)
def test_backslashes_of_a_prompt(typed, text):
    cfg = composed("task=mmlu", *plain_words([f"task.prompt={typed}"]))
    assert Template(cfg.task.prompt).text == text


def test_quoted_text_and_null_are_left_alone():
    for word in ('task.prompt="{a}, b"', "task.prompt='{a}'", "task.chat_prompt=null"):
        assert plain_words([word]) == [word]


def test_tasks_of_transfer_are_options_of_the_group():
    assert plain_words(["transfer=[mmlu,gsm8k]"]) == [
        "+task@transfer.mmlu=mmlu", "+task@transfer.gsm8k=gsm8k",
    ]  # fmt: skip
    assert plain_words(["transfer=mmlu"]) == ["+task@transfer.mmlu=mmlu"]
    assert len(plain_words(["transfer=all"])) == 7
    for nothing in ("transfer=[]", "transfer=null", "transfer="):
        assert plain_words([nothing]) == []
    assert plain_words(["transfer={}", "transfer.mmlu.cot=true"]) == [
        "transfer={}", "transfer.mmlu.cot=true",
    ]  # fmt: skip
    words = ["task=bbq", "transfer=[mmlu,gsm8k]", "transfer.mmlu.cot=true"]
    cfg = composed(*plain_words([*words, "transfer.mmlu.max_new_tokens=99"]))
    assert plain_words(["transfer.mmlu.scorer=exact"]) == ["scorer@transfer.mmlu.scorer=exact"]
    assert list(cfg.transfer) == ["mmlu", "gsm8k"]
    # Each has its own settings, and its scorer those of its own task.
    assert cfg.transfer.mmlu.scorer.reasoning is True and cfg.task.scorer.reasoning is False
    assert cfg.transfer.gsm8k.name == "gsm8k"


def test_a_scorer_is_chosen_by_name_or_dotted_path():
    assert plain_words(["task.scorer=exact"]) == ["scorer@task.scorer=exact"]
    assert plain_words(["task.scorer=exact,token_f1", "-m"]) == [
        "scorer@task.scorer=exact,token_f1", "-m",
    ]  # fmt: skip
    assert plain_words(["task.scorer=my.module.fn"]) == [
        "scorer@task.scorer=function", "task.scorer.path=my.module.fn",
    ]  # fmt: skip
    for word in ("task.scorer.version=2", "task=bbq", "coef=0.5,1,2", "task.scorer={a:1}"):
        assert plain_words([word]) == [word]


def test_the_chosen_scorer_replaces_the_tasks_own_with_its_settings():
    words = plain_words(["task=gsm8k", "task.scorer=regex", "task.scorer.pattern=#+ ([0-9,]+)$"])
    scorer = composed(*words).task.scorer
    assert scorer._target_.endswith("regex.Regex")
    assert scorer.pattern == "#+ ([0-9,]+)$"


@pytest.mark.parametrize(
    ("typed", "understood"),
    [
        ("task=bbq --config-dir D coef=2", "--config-dir D task=bbq coef=2"),
        ("task=bbq --config-dir D -m coef=1,2", "--config-dir D -m task=bbq coef=1,2"),
        ("task=bbq --config-dir=D coef=2", "--config-dir=D task=bbq coef=2"),
        ("task=bbq --config-d D coef=2", "--config-d D task=bbq coef=2"),
        ("task=bbq -cd D -cn config coef=2 -m", "-cd D -cn config -m task=bbq coef=2"),
        ("task=bbq -c job coef=2", "-c job task=bbq coef=2"),
        ("task=bbq --info coef=2", "--info all task=bbq coef=2"),
        ("task=bbq -i config coef=2", "-i config task=bbq coef=2"),
        ("task=bbq --resolve --cfg job coef=2", "--resolve --cfg job task=bbq coef=2"),
        ("task=bbq coef=2 --config-dir", "--config-dir task=bbq coef=2"),
    ],
)
def test_flags_and_their_values_may_stand_anywhere(typed, understood):
    assert flags_first(typed.split()) == understood.split()


def test_an_unknown_flag_and_one_without_a_value_are_one_line():
    for typed, part in (("--nosuch", "--nosuch"), ("--cfg nothing", "'nothing'"), ("-cn", "-cn")):
        with pytest.raises(ConfigError, match=part) as caught:
            check_command(typed.split())
        assert "\n" not in str(caught.value)
    check_command(["-m", "--config-dir", "D", "coef=1,2"])


@pytest.mark.parametrize(
    ("typed", "part"),
    [
        ("data=my data (1)", """'data="my data (1)"'"""),
        ("data=~/x", f"""'data="{Path.home()}/x"'"""),
        ("data=a=b", """'data="a=b"'"""),
        ("layers=[1", "brackets closed"),
        ('data="x', "quotes and brackets closed"),
        ("data=a\nb", "KEY=VALUE"),
    ],
)
def test_a_value_that_hydra_cannot_read_is_shown_in_quotes(typed, part):
    with pytest.raises(OverrideParseException) as caught:
        OverridesParser.create().parse_overrides([typed])
    line = explain(caught.value)
    assert part in line and "\n" not in line and "^" not in line
    if '="' in line and "put the value in quotes" in line:  # what it says can be typed
        (suggested,) = shlex.split(line.rpartition("quotes, ")[2])
        value = typed.partition("=")[2]
        assert read(suggested).value() == os.path.expanduser(value)


@pytest.mark.parametrize(
    ("typed", "understood"),
    [
        ("task=bbq -m coef=1,2", "-m task=bbq coef=1,2"),
        ("task=bbq coef=1", "task=bbq coef=1"),
        ("task=bbq hydra/launcher=slurm", "-m task=bbq hydra/launcher=slurm"),
        ("task=bbq hydra/launcher=local --multirun", "--multirun task=bbq hydra/launcher=local"),
        ("--config-dir mine hydra/launcher=slurm", "-m --config-dir mine hydra/launcher=slurm"),
        ("--cfg job hydra/launcher=slurm", "--cfg job hydra/launcher=slurm"),
        ("--cfg=job hydra/launcher=slurm", "--cfg=job hydra/launcher=slurm"),
        ("hydra.launcher.mem_gb=8", "hydra.launcher.mem_gb=8"),
    ],
)
def test_choosing_a_launcher_asks_for_a_sweep(typed, understood):
    assert flags_first(typed.split()) == understood.split()


def test_the_groups_are_those_of_conf():
    folders = {folder.name for folder in CONF.iterdir() if folder.is_dir()}
    assert {*GROUPS} == folders - {"hydra"}


@pytest.mark.parametrize("word", ["task=[1]", "experiment=[null]", "strategy=[a, 2]", "gate=[]"])
def test_a_list_of_options_has_names(word):
    with pytest.raises(ConfigError, match="an option of a group has a name"):
        check_command([word])


@pytest.mark.parametrize("word", ["layers=[1,3]", "task=[bbq]", "+task=[a, b-c]", "task.stop=[1]"])
def test_other_lists_are_left_to_hydra(word):
    check_command([word])
