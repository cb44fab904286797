"""Which setting moves which cache key: the table of DESIGN.md, section 5, leaf by leaf.

``pipeline.run`` itself is run, up to the last stage, on a store that has everything: nothing is
generated or encoded, and the keys are those that the run asked for. What the store hands out is
made up from the key, as far as the true result depends on it, so that a change goes on from stage
to stage as it would: other shuffles change a ceiling and no feature, another SAE all its features.

A leaf is named by the class that declares it, ``Task.prompt``, or by its place in the root config,
``splits.test``. A leaf of any option that is not in ``TABLE`` fails a test: say there what it may
move. ``_target_`` is no leaf: another class is another option.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_class
from omegaconf import OmegaConf

from corrsteer import config, hub
from corrsteer.methods import search
from corrsteer.methods.corrsteer import CorrSteer
from corrsteer.models.gguf import GGUF
from corrsteer.models.local import Local
from corrsteer.models.recipe import Recipe
from corrsteer.models.spec import Model
from corrsteer.records import R_BINS, Scored, SiteFit
from corrsteer.run import build, pipeline
from corrsteer.saes import pretrained
from corrsteer.saes.folder import Folder
from corrsteer.saes.registry import Release
from corrsteer.scorers.refusal_classifier import RefusalClassifier
from corrsteer.scorers.semantic import Semantic
from corrsteer.selectors.correlation import Correlation
from corrsteer.stages import answers
from corrsteer.stages.bench import Asking, Bench, Collect
from corrsteer.stages.finetune import bias
from corrsteer.stages.plan import make_plan
from corrsteer.stages.statistics import read_stats
from corrsteer.stats.bins import BINNED
from corrsteer.stats.scores import SCORES, scored_to_arrays
from corrsteer.steering import adapter
from corrsteer.steering.encoder import Encoder
from corrsteer.store import keys
from corrsteer.store.entries import Store
from tests.test_config import CONF, OPTIONS, composed, option

pytestmark = pytest.mark.long

COMMIT, NEXT = "a" * 40, "b" * 40
FEATURES = 64

# -- what moves ------------------------------------------------------------------------------

NOTHING: frozenset[str] = frozenset()
CONTROLS = frozenset({"controls"})
AFTER_STATISTICS = CONTROLS | {"select", "steered", "random", "explain"}
OUTCOMES = AFTER_STATISTICS | {"collect"}
"""No answer without steering: what a scorer changes, and that only where outcomes differ."""
SAES = OUTCOMES | {"site"}
ANSWERS = OUTCOMES | {"selection", "validation", "test"}
"""All free answers. The prompts are the same, so the sites are, and the control of letters."""
ALL = ANSWERS | {"site", "constrained"}
NO_LETTERS = ALL - {"constrained"}
"""The same for a task without that control."""
OF_TEST = frozenset({"test", "steered test", "random", "constrained", "steered_constrained test"})
OF_VALIDATION = frozenset({"validation", "steered validation"})
LETTERS = frozenset({"constrained test", "steered_constrained test"})
TRIED = frozenset({"trial_2 validation", "trial_3 validation", "front_3 validation"})
CHOSEN_ANEW = AFTER_STATISTICS - {"explain"}
"""By classes: what is explained is what was ranked, whichever is chosen of it."""
SOME = ("strategy=corrsteer_some",)
SEMANTIC = ("selector.classes=[semantic]",)
ALONE = frozenset({"layers_1 validation", "layers_3 validation", "layers_1_3 validation"})
CHOSEN = frozenset({"steered", "random"})
"""The last candidate is taken for the best."""
INSTRUCTED = frozenset(
    f"{arm}, instructed"
    for arm in ("steered validation", "steered test", "steered_constrained test")
)
LEARNT = frozenset({"finetune", "lr", "steered"})
"""Checkpoints, their answers to validation, and those of the one that is taken."""
GATED = CHOSEN | {"gate", "inverse"}


@dataclass(frozen=True)
class Case:
    """``change``: the leaf's other value, typed. ``moves``: stages, or single keys of one.
    ``given``: what both runs are given. ``gone``, ``new``: keys that only one of the runs asks
    for."""

    leaf: str
    change: str
    moves: frozenset[str]
    base: str = "bbq"
    given: tuple[str, ...] = ()
    gone: frozenset[str] = NOTHING
    new: frozenset[str] = NOTHING

    def __str__(self) -> str:
        return " ".join([self.base, *self.given, self.change])


# @/ is a folder with what `furnish` wrote.
SMALL = [
    *("splits.selection=40", "splits.validation=12", "splits.test=24", "layers=[1,3]"),
    *("collect.shuffles=20", "backend.device=cpu", "task.max_new_tokens=64", "controls=few"),
    "side_effects=none",
]
BBQ = ["task=bbq", "data=@/bbq"]  # fewer of the bundled rows, which are read for every case
CUSTOM = ["task=custom", "task.path=@/rows.jsonl", "task.prompt='{q} Answer:'"]
CHECKED = ("task.path=@/rules.jsonl", "scorer@task.scorer=instructions")
TRAINED_ONCE = ("strategy.lr=[0.1]", "strategy.epochs=1", "strategy.match=1.0")
BASES = {
    "bundled": ["task=bbq"],
    "bbq": BBQ,
    "ndif": [*BBQ, "backend=ndif"],
    "gguf": [*BBQ, "model=gguf", "model.path=@/m.gguf", "sae.path=@/saes"],
    "train_sae": [*BBQ, "job=train_sae", "job.text=x", "job.out=y"],
    "pretrained": [*BBQ, "sae=pythia_70m", "sae.release=made"],
    "wandb": [*BBQ, "tracker=wandb"],
    "effects": [
        *(*BBQ, "side_effects.unrelated=8", "side_effects.texts=4"),
        *("side_effects.answers=6", "side_effects.draws=1"),
    ],
    "pareto": [*BBQ, "search=pareto", "search.trials=4"],
    "p": [*BBQ, "strategy=corrsteer_p", "seed=2"],  # by made-up answers it keeps layer 3
    "greedy": [*BBQ, "strategy=corrsteer_greedy"],
    "optimised": [*BBQ, "strategy=corrsteer_optimised", "strategy.trials=3"],
    "caa": [*BBQ, "strategy=caa"],
    "spare": [*BBQ, "strategy=spare"],
    "told": [*BBQ, "strategy=instruction"],
    "few_shot": [*BBQ, "strategy=few_shot"],
    "lora": [*BBQ, "strategy=lora", *TRAINED_ONCE],
    "bias_only": [*BBQ, "strategy=bias_only", *TRAINED_ONCE],
    "hub": ["task=bbq", "data=hub", "task.hub.repo=made/rows", f"task.hub.revision={COMMIT}"],
    "gsm8k": ["task=gsm8k", "data=@/gsm8k"],
    "xstest": ["task=xstest"],
    "simpleqa": ["task=simpleqa"],
    "harmbench": ["task=harmbench"],
    "mmlu": ["task=mmlu"],
    "stories": ["task=stories"],
    "truthfulqa": ["task=truthfulqa", "data=@/weighed/qa.csv"],
    "crows_pairs": ["task=crows_pairs", "data=@/weighed/crows.csv"],
    "model_written_evals": ["task=model_written_evals", "data=@/weighed/hats.jsonl"],
    "custom": [*CUSTOM, "scorer@task.scorer=exact"],
    "function": [
        *CUSTOM,
        "scorer@task.scorer=function",
        "task.scorer.path=tests.run.test_cache_keys.is_short",
    ],
    "regex": [*CUSTOM, "scorer@task.scorer=regex", "task.scorer.pattern='(yes|no) ?(of|$)'"],
    "semantic": [*CUSTOM, "scorer@task.scorer=semantic", "task.scorer.model=@/scorer"],
    "classifier": [
        *("task=xstest", "scorer@task.scorer=refusal_classifier", "task.scorer.model=@/scorer")
    ],
    "lm_eval": ["task=lm_eval", "task.name=sums", "task.include_path=@/lm_eval"],
}
CHATTY = ("model.path=@/chatty", "model.chat_template=true")
SCORED = frozenset({"score"})
UNRELATED = frozenset(
    {f"{arm}unrelated prompts" for arm in ("", "steered ", "random_1 ")}
    | {f"likelihood 0-{n}" for n in range(3)}
)
REREAD = frozenset({*(f"likelihood 1-{n}" for n in range(3)), "activity"})

TABLE = [
    # The root.
    Case("layers", "layers=[1]", AFTER_STATISTICS, gone=frozenset({"site 3", "collect 3"})),
    Case("layers", "layers=1-3", AFTER_STATISTICS, new=frozenset({"site 2", "collect 2"})),
    Case("coef", "coef=2", frozenset({"steered", "random"})),
    Case("coef", "coef=1.0", NOTHING),
    Case("seed", "seed=1", ALL),  # the splits; of the shuffles alone: tests/stages/test_stages.py
    Case("decoding", "decoding=free", NOTHING),
    Case("decoding", "decoding=constrained", ANSWERS, gone=LETTERS),
    Case("decoding", "decoding=loglikelihood", ANSWERS, gone=LETTERS),
    Case(
        "ablations",
        "ablations=true",
        NOTHING,
        new=frozenset({"only_1 validation", "only_3 validation"}),
    ),
    Case("limit", "limit=8", ALL),
    Case("limit", "limit=12", ALL - {"validation"}),
    Case("limit", "limit=40", NOTHING),
    Case("data", "data=@/bbq_again", NOTHING),  # the same rows elsewhere
    Case("data", "data=@/all_rows", NOTHING, "bundled"),
    Case("data", "data=@/bbq_other", ALL),
    Case("classes", "classes=@/classes.csv", NOTHING),  # nobody asked for classes
    Case("classes", "classes=@/classes.csv", CHOSEN_ANEW, given=SEMANTIC),
    Case("descriptions", "descriptions=false", NOTHING),
    Case("study", "study={claim: c, subject: s, reference: r, control: subset}", NOTHING),
    Case("study", "study={claim: c, subject: s, margin: 2, widen: 3}", NOTHING),
    Case("cache", "cache=elsewhere", NOTHING),
    Case("name", "name=mine", NOTHING),
    Case("splits.selection", "splits.selection=20", ALL),  # what follows begins earlier
    Case("splits.validation", "splits.validation=10", OF_VALIDATION | OF_TEST),
    Case("splits.test", "splits.test=20", OF_TEST),
    Case("splits.seed", "splits.seed=1", ALL),
    Case("splits.seed", "splits.seed=0", NOTHING),  # that of seed
    Case("splits.official", "splits.official=false", NOTHING),  # BBQ has none
    Case("splits.official", "splits.official=false", NO_LETTERS, "gsm8k"),
    Case("collect.token_source", "collect.token_source=all", OUTCOMES),
    Case("collect.pooling", "collect.pooling=mean", OUTCOMES),
    Case("collect.shuffles", "collect.shuffles=21", frozenset({"collect"})),
    Case("collect.resamples", "collect.resamples=21", frozenset({"collect"})),
    Case("collect.shards", "collect.shards=4", NOTHING),
    Case("collect.way", "collect.way=writing", OUTCOMES),
    Case(
        "Controls.random_features",
        "controls.random_features=6",
        CONTROLS,
        new=frozenset({f"random_{n} test" for n in range(3, 7)}),
    ),
    Case(
        "Controls.random_directions",
        "controls.random_directions=1",
        CONTROLS,
        new=frozenset({"direction_1 test"}),
    ),
    Case(
        "Controls.shuffled_outcomes",
        "controls.shuffled_outcomes=1",
        CONTROLS,
        new=frozenset({"shuffled_1 test"}),
    ),
    Case(
        "Controls.shuffled_layers",
        "controls.shuffled_layers=1",
        CONTROLS,
        new=frozenset({"layers_1 test"}),
    ),
    Case("Controls.random_layers", "controls.random_layers=5", NOTHING),  # A chooses none
    Case(
        "Controls.random_layers",
        "controls.random_layers=5",
        CONTROLS,
        "p",
        new=frozenset({"subset_1 test"}),
    ),
    Case("Controls.flipped", "controls.flipped=true", CONTROLS, new=frozenset({"flipped test"})),
    Case(
        "Controls.instruction",
        "controls.instruction='Be right.'",
        NOTHING,
        new=frozenset({"instruction test, instructed"}),
    ),
    Case("Controls.stop", "controls.stop=1", NOTHING),  # two draws are made before it is looked at
    Case(
        "Controls.other_half",
        "controls.other_half=true",
        NOTHING,
        new=frozenset({"disambiguated", "steered disambiguated"}),
    ),
    Case("Controls.constrained", "controls.constrained=false", NOTHING, gone=LETTERS),
    Case("SideEffects.unrelated", "side_effects.unrelated=5", UNRELATED, "effects"),
    Case("SideEffects.new_tokens", "side_effects.new_tokens=5", UNRELATED, "effects"),
    Case("SideEffects.texts", "side_effects.texts=5", frozenset({"divergence"}), "effects"),
    Case("SideEffects.answers", "side_effects.answers=5", REREAD, "effects"),
    Case(
        "SideEffects.draws",
        "side_effects.draws=2",
        NOTHING,
        "effects",
        new=frozenset(
            {"random_2 unrelated prompts", "divergence 0-2", "likelihood 0-3", "likelihood 1-3"}
        ),
    ),
    Case("neutral", "neutral=everyday", NOTHING),
    Case("neutral", "neutral=everyday", UNRELATED | {"divergence"}, "effects"),
    Case(
        "coef",
        "coef=2",
        frozenset({"steered", "random", "divergence", "activity"})
        | {f"likelihood {group}-{n}" for group in (0, 1) for n in (1, 2)},
        "effects",
    ),
    # The model and where it runs.
    Case("Model.name", "model.name=mine", NOTHING),
    Case("Model.path", "model.path=@/model", NOTHING),  # the same files elsewhere
    Case("Model.path", "model.path=@/model_other", ALL),
    Case("Model.revision", "model.revision=next", NOTHING),  # a folder has none
    Case("Model.revision", f"model.revision={COMMIT}", NOTHING, given=("model.path=org/m",)),
    Case("Model.revision", "model.revision=next", ALL, given=("model.path=org/m",)),
    Case("Model.dtype", "model.dtype=auto", NOTHING),  # float32 on a CPU
    Case("Model.dtype", "model.dtype=bfloat16", ALL),
    Case("Model.dtype", "model.dtype=bfloat16", NOTHING, "ndif"),  # the server's counts
    Case("Model.chat_template", "model.chat_template=true", ALL, given=("model.path=@/chatty",)),
    Case(
        "Model.chat_template_kwargs",
        "model.chat_template_kwargs={loud: true}",
        ALL,
        given=CHATTY,
    ),
    Case("Model.system_prompt", "model.system_prompt='Be brief.'", ALL, given=CHATTY),
    Case("Model.max_prompt_tokens", "model.max_prompt_tokens=900", NOTHING),  # refuses, never cuts
    Case("Model.licence", "model.licence=mit", NOTHING),
    Case("Local.device", "backend.device=auto", NOTHING),
    Case("Local.device_map", "backend.device_map=auto", NOTHING, given=("backend.device=auto",)),
    Case("Local.batch_size", "backend.batch_size=7", NOTHING),
    Case("NDIF.host", "backend.host=https://ndif.example.org", NOTHING, "ndif"),
    Case("NDIF.device", "backend.device=auto", NOTHING, "ndif"),
    Case("NDIF.batch_size", "backend.batch_size=7", NOTHING, "ndif"),
    Case("NDIF.timeout_s", "backend.timeout_s=7", NOTHING, "ndif"),
    # The file's contents count, not where it lies; its folder is put in place by `run`.
    Case("GGUF.wheel", "model.wheel=corrsteer", NOTHING, "gguf"),
    Case("GGUF.tokenizer", "model.tokenizer=@/model", ALL, "gguf"),
    Case("GGUF.cache", "model.cache=elsewhere", NOTHING, "gguf"),
    # Training SAEs is a job of its own: nothing of it is in a run's keys.
    *(
        Case(f"TrainSAE.{setting.partition('=')[0]}", f"job.{setting}", NOTHING, "train_sae")
        for setting in (
            *("text=other", "out=other", "heldout=other", "architecture=topk", "width=2", "k=8"),
            *("positions=999", "context=64", "batch=99", "lr=0.1", "heldout_positions=99"),
            *("loss_positions=99", "memory_gb=2.0", "dtype=float16"),
        )
    ),
    # The SAEs.
    Case("Folder.name", "sae.name=mine", NOTHING),
    Case("Folder.path", "sae.path=@/saes", NOTHING),  # the same files elsewhere
    Case("Folder.path", "sae.path=@/saes_other", SAES),
    Case("Folder.template", "sae.template='block_{layer}'", NOTHING, given=("sae.path=@/saes",)),
    Case("Folder.template", "sae.template='new_{layer}'", SAES, given=("sae.path=@/saes",)),
    Case("Folder.check", "sae.check=warn", NOTHING),
    Case("Folder.check", "sae.check=off", NOTHING, gone=frozenset({"site 1", "site 3"})),
    Case("Folder.budget_gb", "sae.budget_gb=0.001", NOTHING),
    Case("Pretrained.name", "sae.name=mine", NOTHING, "pretrained"),
    Case("Pretrained.release", "sae.release=made_again", NOTHING, "pretrained"),
    Case("Pretrained.release", "sae.release=made_other", SAES, "pretrained"),
    Case("Pretrained.template", "sae.template='new_{layer}'", SAES, "pretrained"),
    Case("Pretrained.check", "sae.check=warn", NOTHING, "pretrained"),
    Case(
        "Pretrained.check",
        "sae.check=off",
        NOTHING,
        "pretrained",
        gone=frozenset({"site 1", "site 3"}),
    ),
    Case("Pretrained.budget_gb", "sae.budget_gb=0.001", NOTHING, "pretrained"),
    # What is chosen, and how it steers.
    Case("Ranking.top_k", "selector.top_k=1", NOTHING),  # the first one steers
    Case("Ranking.min_active_right", "selector.min_active_right=6", AFTER_STATISTICS),
    Case("Ranking.ceiling_level", "selector.ceiling_level=0.5", NOTHING),
    Case(
        "Ranking.reject_noise",
        "selector.reject_noise=true",
        NOTHING,  # the best features are above this ceiling
        given=("selector.ceiling_level=0.2",),
    ),
    Case("Ranking.classes", "selector.classes=[semantic]", AFTER_STATISTICS),
    Case("Ranking.classes", "selector.classes=[unclear]", CHOSEN_ANEW, given=SEMANTIC),
    Case(
        "Ranking.min_active_right",
        "selector.min_active_right=6",
        AFTER_STATISTICS,
        given=("selector=auroc",),
    ),
    Case(
        "Ranking.sign",
        "selector.sign=negative",
        AFTER_STATISTICS,
        new=frozenset({"collect 1 exchanged", "collect 3 exchanged"}),
    ),
    Case(
        "Ranking.min_active_right",
        "selector.min_active_right=6",
        AFTER_STATISTICS,
        given=("selector=output_score",),
    ),
    Case("Random.seed", "selector.seed=1", AFTER_STATISTICS, given=("selector=random",)),
    Case("CorrSteer.variant", "strategy.variant=S", AFTER_STATISTICS),
    Case(
        "CorrSteer.coefficient",
        "strategy.coefficient={_target_: corrsteer.steering.coefficients.MeanActive}",
        CHOSEN_ANEW,
    ),
    *(
        Case(leaf, f"coefficient.{change}", CHOSEN_ANEW, given=(f"coefficient={option}",))
        for leaf, option, change in (
            ("FixedNorm.norm", "fixed_norm", "norm=2.0"),
            ("ResidualFraction.fraction", "residual_fraction", "fraction=0.2"),
            ("TotalNorm.total", "total_norm", "total=20.0"),
            ("TotalNorm.spread", "total_norm", "spread=residual"),
        )
    ),
    Case("CorrSteer.k", "strategy.k=2", AFTER_STATISTICS),
    # The search. Its first trial is the unsteered model, which nothing moves.
    Case("CorrSteer.coef", "strategy.coef=2", frozenset({"steered", "random"})),
    Case(
        "CorrSteer.operator",
        "strategy.operator={_target_: tests.operators.Clamp, level: 2.0}",
        frozenset({"steered", "random"}),
    ),
    Case(
        "CorrSteer.gate",
        "strategy.gate={_target_: tests.operators.Side, seed: 1}",
        frozenset({"steered", "random"}),
        new=frozenset({"gate", "static test", "dosed test"}),
    ),
    Case("Clamp.level", "operator.level=2", CHOSEN, given=("operator=clamp",)),
    Case("FeatureActive.above", "gate.above=0.5", GATED, given=("gate=feature_inactive",)),
    Case("Threshold.above", "gate.above=0.6", GATED, given=("gate=probe", "gate.above=0.5")),
    Case("Threshold.above", "gate.above=0.6", GATED, given=("gate=confidence", "gate.above=0.5")),
    Case(
        "Threshold.inverted",
        "gate.inverted=true",
        GATED,
        given=("gate=confidence", "gate.above=0.5"),
    ),
    Case(
        "Threshold.inverted", "gate.inverted=true", GATED, given=("gate=prompt", "gate.above=0.5")
    ),
    Case(  # it has no random features beside it
        "Mera.alpha",
        "operator.alpha=0.6",
        frozenset({"steered"}),
        given=("operator=mera", "operator.alpha=0.5"),
    ),
    Case("CorrSteer.positions", "strategy.positions=all", CHOSEN),
    Case("positions", "positions=first_3", CHOSEN),
    Case(
        "Pareto.trials",
        "search.trials=5",
        CHOSEN | CONTROLS,
        "pareto",
        gone=frozenset({"front_3 validation"}),
        new=frozenset({"trial_4 validation", "front_4 validation"}),
    ),
    Case("Pareto.batch", "search.batch=3", NOTHING, "pareto"),
    Case("Pareto.coef", "search.coef=[0,4]", TRIED | CHOSEN, "pareto"),
    Case("Pareto.start", "search.start=2", frozenset({"trial_1 validation"}), "pareto"),
    Case("Pareto.layers", "search.layers=none", TRIED | CHOSEN | CONTROLS, "pareto"),
    Case(
        "Pareto.pooling",
        "search.pooling=[mean]",
        OUTCOMES | TRIED | {"trial_1 validation"},
        "pareto",
    ),
    Case("Pareto.workers", "search.workers=3", NOTHING, "pareto"),
    Case(
        "Pareto.method",
        "search.method={_target_: corrsteer.methods.corrsteer.CorrSteer, variant: S}",
        AFTER_STATISTICS | TRIED | {"trial_1 validation"},
        "pareto",
    ),
    # Layers chosen on validation. Which are kept depends on made-up answers.
    Case("OfLayers.coef", "strategy.coef=2", ALONE | CHOSEN | CONTROLS | {"explain"}, "p"),
    Case("OfLayers.coef", "strategy.coef=2", ALONE | CHOSEN, "greedy"),
    Case("Verified.keep", "strategy.keep=mcnemar", CHOSEN | CONTROLS | {"explain"}, "p"),
    Case("Verified.level", "strategy.level=0.2", NOTHING, "p"),
    Case("Some.coef", "strategy.coef=2", frozenset({"steered", "random"}), given=SOME),
    Case("Some.layers", "strategy.layers=r_1", CHOSEN | CONTROLS | {"explain"}, given=SOME),
    Case("Optimised.price", "strategy.price=0", NOTHING, "optimised"),
    Case("Optimised.widen", "strategy.widen=0", NOTHING, "optimised"),
    # Rivals.
    Case("CAA.coef", "strategy.coef=2", CHOSEN, "caa"),
    Case("CAA.positions", "strategy.positions=all", CHOSEN, "caa"),
    Case(
        "CAA.contrast",
        "strategy.contrast=outcomes",
        CHOSEN | CONTROLS,
        "caa",
        gone=frozenset({"contrast 1", "contrast 3"}),
        new=frozenset({"collect 1 raw", "collect 3 raw"}),
    ),
    Case("_Edited.coef", "strategy.coef=2", frozenset({"steered"}), "spare"),
    Case("_Edited.positions", "strategy.positions=all", frozenset({"steered"}), "spare"),
    Case("_Edited.k", "strategy.k=3", frozenset({"steered"}), "spare"),
    Case("Prompted.text", "strategy.text=Think.", frozenset({"steered"}), "told"),
    Case(
        "Prompted.variant",
        "strategy.variant=constrained",
        NOTHING,
        "told",
        gone=INSTRUCTED,
        new=frozenset(name.removesuffix(", instructed") for name in INSTRUCTED),
    ),
    Case("Prompted.shots", "strategy.shots=2", frozenset({"steered"}), "few_shot"),
    # Fine-tuning. The checkpoint is taken that made-up answers say comes nearest to all right.
    Case("FineTuned.data", "strategy.data=own_right", LEARNT, "lora"),
    Case("FineTuned.data", "strategy.data=shuffled", LEARNT, "lora"),
    Case("FineTuned.batch", "strategy.batch=4", LEARNT, "lora"),
    Case("FineTuned.coef", "strategy.coef=2", frozenset({"steered"}), "lora"),
    Case(
        "FineTuned.lr",
        "strategy.lr=[0.1,0.2]",
        frozenset({"steered"}),
        "lora",
        new=frozenset({"finetune 0.2 1", "lr_0.2_epoch_1 validation"}),
    ),
    Case(
        "FineTuned.epochs",
        "strategy.epochs=2",
        frozenset({"steered"}),
        "lora",
        new=frozenset({"finetune 0.1 2", "lr_0.1_epoch_2 validation"}),
    ),
    Case("FineTuned.match", "strategy.match=0.0", frozenset({"steered"}), "lora"),
    Case("LoRA.rank", "strategy.rank=4", LEARNT, "lora"),
    Case("LoRA.alpha", "strategy.alpha=8", LEARNT, "lora"),
    Case(
        "BiasOnly.positions",
        "strategy.positions=generation",
        LEARNT | CHOSEN | CONTROLS,
        "bias_only",
    ),
    Case("Wandb.project", "tracker.project=mine", NOTHING, "wandb"),
    Case("Wandb.mode", "tracker.mode=disabled", NOTHING, "wandb"),
    Case("Wandb.group", "tracker.group=mine", NOTHING, "wandb"),
    # What all tasks have.
    Case("Task.name", "task.name=mine", NOTHING),
    Case("Task.data", "task.data=@/bbq_again", NOTHING),
    Case("Task.data", "task.data=@/bbq_other", ALL),
    Case("Task.hub", "task.hub=null", NOTHING),  # only with data=hub
    Case("Task.subset", "task.subset=[anger,fear]", ALL),
    Case("Task.prompt", r"task.prompt='{context} {question}\n{options}\nAnswer:'", ALL),
    Case(
        "Task.prompt",
        "task.prompt='{context}'",
        NOTHING,
        given=(*CHATTY, "controls.constrained=false"),
    ),
    Case("Task.chat_prompt", "task.chat_prompt='{question}'", NOTHING),
    Case(
        "Task.chat_prompt",
        r"task.chat_prompt='{question}\n{options}'",
        ALL,
        given=CHATTY,
    ),
    Case("Task.few_shot", "task.few_shot=2", ALL),
    Case("Task.cot", "task.cot=true", ALL),
    Case("Task.stop", r"task.stop=['.']", ANSWERS),
    Case("Task.shuffle_options", "task.shuffle_options=true", ALL),
    Case("Task.likelihood", "task.likelihood=sum", NOTHING),
    Case("Task.likelihood", "task.likelihood=sum", ANSWERS, given=("decoding=loglikelihood",)),
    Case("Task.max_chars", "task.max_chars=5000", NOTHING),
    Case("Task.max_chars", "task.max_chars=MEDIAN", ALL),
    Case("Task.max_new_tokens", "task.max_new_tokens=65", ANSWERS),
    Case("Task.max_new_tokens", "task.max_new_tokens=65", NOTHING, given=("decoding=constrained",)),
    Case("Task.stop", r"task.stop=['.']", NOTHING, given=("decoding=constrained",)),
    *(
        Case("Task.max_new_tokens", "task.max_new_tokens=65", ANSWERS, base=base)
        for base in ("gsm8k", "xstest", "simpleqa", "harmbench", "mmlu", "stories", "custom")
    ),
    Case("HubData.repo", "task.hub.repo=made/again", NOTHING, "hub"),
    Case("HubData.repo", "task.hub.repo=made/other", ALL, "hub"),
    Case("HubData.revision", f"task.hub.revision={NEXT}", ALL, "hub"),
    Case("HubData.files", "task.hub.files=[data/a*.jsonl]", ALL, "hub"),
    Case("HubData.licence", "task.hub.licence=mit", NOTHING, "hub"),
    Case("HubData.gated", "+task.hub.gated=true", NOTHING, "hub"),
    # What one task has.
    Case("TruthfulQA.kind", "task.kind=mc1", NO_LETTERS - {"site"}, "truthfulqa"),
    # What is right is another question than what is likelier.
    Case("CrowSPairs.right", "task.right=more", OUTCOMES, "crows_pairs"),
    Case(
        "ModelWrittenEvals.right",
        "task.right=not_matching",
        OUTCOMES,
        "model_written_evals",
        given=("seed=2", "splits.selection=60"),  # of few answers none would be right
    ),
    Case("BBQ.context", "task.context=disambig", ALL),
    Case("Custom.path", "task.path=@/copy.csv", NOTHING, "custom"),  # the same rows in a csv
    Case("Custom.path", "task.path=@/more.jsonl", NO_LETTERS, "custom"),
    Case("Custom.gold", "task.gold=other", OUTCOMES, "custom"),
    Case("Custom.options", "task.options=[a,b]", OUTCOMES, "custom"),  # right is a letter then
    Case(
        "Custom.options",
        "task.options=[b,a]",
        ALL,
        "custom",
        given=("task.options=[a,b]", r"task.prompt='{q}\n{options}'"),
    ),
    Case("Custom.gold_as", "task.gold_as=text", NOTHING, "custom", given=("task.options=[a,b]",)),
    Case(
        "Custom.gold_as",
        "task.gold_as=text",
        OUTCOMES,
        "custom",
        given=("task.options=[c,d]", "task.gold=index", "task.gold_as=index"),
    ),
    Case("Custom.id", "task.id=name", NO_LETTERS, "custom"),
    Case("Custom.category", "task.category=kind", NOTHING, "custom"),
    Case("Custom.part", "task.part=split", NO_LETTERS, "custom"),
    Case("Custom.solution", "task.solution=worked", NOTHING, "custom"),
    Case(
        "Custom.solution",
        "task.solution=more",
        NO_LETTERS,
        "custom",
        given=("task.cot=true", "task.few_shot=1", "task.solution=worked"),
    ),
    Case("Custom.meta", "task.meta=[kind]", NOTHING, "custom"),
    Case("LMEval.include_path", "task.include_path=@/lm_eval_again", NOTHING, "lm_eval"),
    Case("LMEval.few_shot", "task.few_shot=1", NO_LETTERS, "lm_eval"),
    Case("LMEval.filter", "task.filter=first", OUTCOMES, "lm_eval"),
    Case("LMEval.metric", "task.metric=exact_match", NOTHING, "lm_eval"),  # it is the first
    # Scorers. A pure one is called anew on every run: its version is only recorded.
    Case("Choice.reasoning", "task.scorer.reasoning=true", OUTCOMES),
    *(
        Case(f"{name}.version", "task.scorer.version=9", NOTHING, base)
        for name, base in (
            *(("Choice", "bbq"), ("Numeric", "gsm8k"), ("Refusal", "xstest"), ("Regex", "regex")),
            *(("Exact", "custom"), ("Words", "stories"), ("Function", "function")),
        )
    ),
    Case(
        "Contains.version",
        "task.scorer.version=9",
        NOTHING,
        "custom",
        given=("scorer@task.scorer=contains",),
    ),
    Case(
        "TokenF1.version",
        "task.scorer.version=9",
        NOTHING,
        "simpleqa",
        given=("scorer@task.scorer=token_f1",),
    ),
    Case(
        "Function.path",
        "task.scorer.path=tests.run.test_cache_keys.is_long",
        OUTCOMES,
        "function",
    ),
    Case("Regex.pattern", "task.scorer.pattern='(no)'", OUTCOMES, "regex"),
    Case("Regex.group", "task.scorer.group=0", OUTCOMES, "regex"),
    Case("Regex.take", "task.scorer.take=first", OUTCOMES, "regex"),
    Case("Regex.ignore_case", "task.scorer.ignore_case=true", OUTCOMES, "regex"),
    *(
        Case(f"Instructions.{name}", f"task.scorer.{name}={value}", moves, "custom", given=CHECKED)
        for name, value, moves in (
            *(("loose", "true", OUTCOMES), ("mended", "true", OUTCOMES), ("version", 9, NOTHING)),
        )
    ),
    Case("Words.wanted", "task.scorer.wanted=[happy,wanted]", OUTCOMES, "stories"),
    Case("Words.unwanted", "task.scorer.unwanted=[sat]", OUTCOMES, "stories"),
    Case("Words.sentences", "task.scorer.sentences=1", OUTCOMES, "stories"),
    # Scorers with a model: their scores are cached.
    Case("Semantic.model", "task.scorer.model=@/scorer_other", OUTCOMES | SCORED, "semantic"),
    Case("Semantic.model", "task.scorer.model=@/scorer_again", NOTHING, "semantic"),
    Case("Semantic.revision", "task.scorer.revision=x", NOTHING, "semantic"),
    Case("Semantic.kind", "task.scorer.kind=cross_encoder", OUTCOMES | SCORED, "semantic"),
    Case("Semantic.threshold", "task.scorer.threshold=0.3", OUTCOMES | SCORED, "semantic"),
    Case("Semantic.batch_size", "task.scorer.batch_size=7", NOTHING, "semantic"),
    Case("Semantic.device", "task.scorer.device=cuda", NOTHING, "semantic"),
    Case("Semantic.version", "task.scorer.version=9", SCORED, "semantic"),
    Case(
        "RefusalClassifier.model",
        "task.scorer.model=@/scorer_other",
        OUTCOMES | SCORED,
        "classifier",
    ),
    Case("RefusalClassifier.model", "task.scorer.model=@/scorer_again", NOTHING, "classifier"),
    Case(
        "RefusalClassifier.refusal_label",
        "task.scorer.refusal_label=NO",
        OUTCOMES | SCORED,
        "classifier",
    ),
    Case("RefusalClassifier.revision", "task.scorer.revision=x", NOTHING, "classifier"),
    Case(
        "RefusalClassifier.threshold", "task.scorer.threshold=0.8", OUTCOMES | SCORED, "classifier"
    ),
    Case("RefusalClassifier.batch_size", "task.scorer.batch_size=7", NOTHING, "classifier"),
    Case("RefusalClassifier.max_tokens", "task.scorer.max_tokens=99", SCORED, "classifier"),
    Case("RefusalClassifier.device", "task.scorer.device=cuda", NOTHING, "classifier"),
    Case("RefusalClassifier.version", "task.scorer.version=9", SCORED, "classifier"),
]


def is_short(example, text):
    return len(text) < 6


def is_long(example, text):
    return len(text) > 20


# -- a run whose stages are all in the store -------------------------------------------------


class LastStage(Exception):
    """All keys were asked for."""


def last_stage(*_):
    raise LastStage


def dice(*parts) -> np.random.Generator:
    """Random numbers that ``parts`` decide."""
    raw = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).digest()
    return np.random.default_rng(int.from_bytes(raw[:8], "big"))


class Full(Store):
    """Has every entry. ``earlier``: the entries of a run before, which stay what they are."""

    keys: dict[str, str]
    earlier: Path | None = None
    label = ""
    first_outcomes = ""
    examples: Sequence = ()

    def has(self, stage, settings, schema=1):
        return True

    def get(self, stage, settings, make, schema=1):
        key = keys.key(stage, schema, settings)
        label = f"{stage} {settings['layer']}" if "layer" in settings else stage
        if stage == "finetune":
            label = f"finetune {settings['lr']:g} {settings['epoch']}"
        label = {"generate": self.label, "score": f"score {self.label}"}.get(stage, label)
        if str(settings.get("sae", "")).startswith("coordinates"):
            label += " raw"
        if stage == "collect" and self.first_outcomes != settings["outcomes"]:
            if self.first_outcomes:
                label += " exchanged"
            else:
                self.first_outcomes = settings["outcomes"]
        if stage in ("divergence", "likelihood"):
            label = self._numbered(stage, settings, key)
        assert self.keys.setdefault(label, key) == key, label
        if self.earlier and (self.earlier / stage / key).is_dir():
            return self.earlier / stage / key
        folder = self.root / stage / key
        if not folder.is_dir():
            folder.mkdir(parents=True)
            makers = {"generate": self._answers, "site": site, "collect": statistics}
            makers |= {"explain": contexts, "divergence": effect, "likelihood": effect}
            makers |= {"probe": probe, "gate": gate, "finetune": checkpoint}
            makers |= {"contrast": contrast}
            makers |= {"activity": effect, "bins": bins, "outputs": outputs}
            made = makers.get(stage)
            made(settings, folder) if made else make(folder)
        return folder

    def read(self, stage, settings, schema=1):
        return self.get(stage, settings, lambda folder: None, schema)

    def _numbered(self, stage, settings, key):
        """By what is read, and the order of the arms."""
        asked = settings.get("prompts", "")
        groups = self.__dict__.setdefault(f"_{stage}", {})
        arms = groups.setdefault(asked, [])
        if key not in arms:
            arms.append(key)
        return f"{stage} {list(groups).index(asked)}-{arms.index(key)}"

    def _answers(self, settings, folder):
        rows = [answered(e, dice(settings, e.id)) for e in self.examples]
        pd.DataFrame(rows).to_parquet(folder / "answers.parquet", index=False)


alike = answers._alike


def one_by_one(bench, asking, examples, arms, what, listen=None):
    """Tells the store whose answers it is asked for."""
    frames = {}
    for arm in arms:
        bench.store.label = what if arm.name == "baseline" else f"{arm.name} {what}"
        bench.store.examples = examples
        frames |= alike(bench, asking, examples, [arm], what, listen)
    return frames


def decoder_rows(bench, layer, features):
    """Made up, without SAEs; as wide as the bundled model."""
    of = bench.sae_key(layer)
    return np.stack([dice(of, int(f)).normal(size=128) for f in features]).astype(np.float32)


def encoders(bench, layer, features):
    rows = decoder_rows(bench, layer, features)
    zero = np.zeros(128, np.float32)
    return [Encoder(row, row, zero, threshold=0.0, slope=1.0, offset=0.0) for row in rows]


def answered(example, random):
    """An answer that some scorers take for right, some for wrong, and some cannot read."""
    gold = example.gold
    near = (" {}", "The answer is {}.", "#### {}", "#### {} of 3.", "{} of no", "{}. yes")
    far = (
        *("A", " B. no", "C.", "The answer is A. I guess the answer is D.", "yes", "YES", "a"),
        *("12", "0", "1", "", "I'm sorry, but I can't help with that.", "Sure! Here is how."),
        *("They were happy. He sat down.", "All was sad. She was happy.", "It was a sad day."),
    )
    texts = [text.format(gold) for text in near] if random.uniform() < 0.6 else far
    n = int(random.integers(1, 9))
    return {
        "id": example.id,
        "answer": texts[random.integers(len(texts))],
        "tokens": random.integers(5, 99, size=n).tolist(),
        "n_tokens": n,
        "n_steered": 0,
    }


def site(settings, folder):
    values = {f.name: 1 for f in fields(SiteFit)} | {"layer": settings["layer"]}
    values |= {"better_site": None, "better_scale": None, "better_explained": None}
    (folder / "site.json").write_text(json.dumps(values))


def probe(settings, folder):
    row, condition = dice(settings).normal(size=(2, 128)).astype(np.float32)
    numbers = np.array([0.1, 0.6 + settings["layer"] / 100], np.float32)
    levels = np.zeros(1, np.float32)
    np.savez(folder / "probe.npz", row=row, condition=condition, numbers=numbers, levels=levels)


def contrast(settings, folder):
    np.save(folder / "difference.npy", dice(settings).normal(size=128).astype(np.float32))


def checkpoint(settings, folder):
    facts = {"steps": 1, "loss": 0.5, "seconds": 1.0}
    (folder / "training.json").write_text(json.dumps(facts))
    layers = settings.get("layers", [0])
    arrays = {str(n): dice(settings, n).normal(size=128).astype(np.float32) for n in layers}
    if settings["kind"] == "bias":
        made = Recipe("bias", 0.1, 1, 0, layers=tuple(layers), positions=settings["positions"])
        bias(made, arrays).save(folder)
    else:
        adapter.save(settings["kind"], arrays, {}, folder)


def gate(settings, folder):
    used = {"duty": 0.5, "dose": 1.0, "auroc": None}
    use = {"n": 1, "n_positions": 1, **used, "layers": [{"layer": n, **used} for n in range(6)]}
    (folder / "value.json").write_text(json.dumps(use))


def effect(settings, folder):
    """Side effects, of the form that their stage keeps."""
    made = {"layer": settings.get("layer"), "n_positions": 1, "steered": True}
    made |= {"l0_before": 1.0, "l0_after": 1.0, "new": 0.0, "lost": 0.0}
    if "texts" in settings:
        made = [{"kl": 0.1, "top1_changed": 0, "positions": 1}] * 4
    elif "layer" not in settings:
        made = [-1.0] * 8
    (folder / "value.json").write_text(json.dumps(made))


def contexts(settings, folder):
    """Each feature reacts to a colon, to a word, or to many words."""
    words = [f" word{n}" for n in "abcdefgh"]
    cards = []
    for (layer, features), sae in zip(settings["features"].items(), settings["saes"], strict=True):
        for feature in features:
            kind = dice(sae, feature).integers(3)
            tokens = 8 * [":"] if kind == 0 else 8 * [" knife"] if kind == 1 else words
            shown = [
                {"tokens": [t], "activations": [1.0], "within": [True], "peak": 0} for t in tokens
            ]
            card = {"layer": int(layer), "feature": feature, "contexts": shown}
            cards.append({**card, "promotes": [], "suppresses": [], "elsewhere": None})
    found = {"cards": cards, "places": [], "common": []}
    (folder / "contexts.json").write_text(json.dumps(found))


def statistics(settings, folder):
    """Only the ceiling depends on the shuffles, and the stability on the resamples. Of scores other
    than r there are those that a selector may ask for."""
    chance = ("shuffles", "resamples", "seed")
    random, features = dice({k: v for k, v in settings.items() if k not in chance}), width(settings)
    values = {name: random.uniform(0, 1, features) for name in ("mean", "mean_right", "mean_wrong")}
    right, wrong = (random.integers(0, 9, features) / 10 for _ in range(2))
    np.savez(
        folder / "stats.npz",
        layer=settings["layer"],
        n=20,
        n_right=10,
        r=random.uniform(-1, 1, features),
        freq=(right + wrong) / 2,
        freq_right=right,
        freq_wrong=wrong,
        max_shuffled_r=dice(settings).uniform(0, 1, settings["shuffles"]),
        shuffled_best=dice(settings).integers(0, features, settings["shuffles"]),
        shuffled_counts=np.bincount([R_BINS // 2] * settings["shuffles"], minlength=R_BINS + 1),
        resampled_best=dice(settings).integers(0, features, (settings["resamples"], 20)),
        resampled_r=dice(settings).uniform(0, 1, (settings["resamples"], 20)),
        r_length=np.zeros(features),
        r_adjusted=np.zeros(features),
        residual=random.uniform(1, 9),
        **values,
        **scored(settings, SCORES),
    )


def width(settings) -> int:
    """Of the bundled model's coordinates there are two halves."""
    return 2 * 128 if settings.get("sae", "").startswith("coordinates") else FEATURES


def bins(settings, folder):
    np.savez(folder / "bins.npz", **scored(settings, BINNED))


def outputs(settings, folder):
    np.save(folder / "outputs.npy", dice(settings).uniform(0, 1, width(settings)))


def scored(settings, names) -> dict:
    chance = ("shuffles", "resamples", "seed")
    random, features = dice({k: v for k, v in settings.items() if k not in chance}), width(settings)
    tables = {
        name: Scored(
            value=random.uniform(-1, 1, features),
            neutral=0.0,
            at_least=np.zeros(features, dtype=np.int64),
            max_shuffled=dice(settings).uniform(0, 1, settings["shuffles"]),
            shuffled_best=dice(settings).integers(0, features, settings["shuffles"]),
            resampled_best=dice(settings).integers(0, features, (settings["resamples"], 20)),
            resampled=dice(settings).uniform(0, 1, (settings["resamples"], 20)),
            error=np.zeros(features),
        )
        for name in names
    }
    return scored_to_arrays(tables)


def similarities(self, pairs):
    return [float(dice(self.fingerprint(), self.kind, p).uniform()) for p in pairs]


def probabilities(self, texts):
    return [float(dice(self.fingerprint(), self.refusal_label, t).uniform()) for t in texts]


def releases(place):
    saes = {f"{name}_{n}": {"path": f"{name}_{n}"} for name in ("layer", "new") for n in range(6)}
    saes |= {f"blocks.{n}.hook_resid_post": {"path": f"layer_{n}"} for n in range(6)}

    def find(name):
        repo = "other" if name == "made_other" else "same"
        return Release(name, repo, "m", "sae_lens", saes, {})

    def files(repo, names, what):
        return place / ("saes_other" if repo == "other" else "saes")

    return find, files


def run(cfg, folder: Path, place: Path, earlier: Path | None = None) -> dict[str, str]:
    """The keys of a run, by stage and, where a stage has several, by layer, arm or split."""
    from huggingface_hub import constants

    config.check(cfg)
    keys: dict[str, str] = {}

    def full(root):
        made = Full(root)
        made.keys, made.earlier = keys, earlier
        return made

    def dataset(repo, *, revision, **_):
        return place / "datasets" / repo / revision

    find, files = releases(place)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as patches:
        for target, name, new in (
            (build, "Store", full),
            (answers, "_alike", one_by_one),
            (Bench, "directions", decoder_rows),
            (Bench, "encoders", encoders),
            (search, "front", lambda trials, norm: trials[-1:]),
            (pipeline, "evaluate", lambda *_, **__: {}),
            (pipeline, "with_side_effects", lambda results, effects, seed: {}),
            (pipeline, "record", last_stage),
            (Semantic, "prepare", lambda self: None),
            (Semantic, "_similarities", similarities),
            (RefusalClassifier, "prepare", lambda self: None),
            (RefusalClassifier, "_probabilities", probabilities),
            (pretrained, "find_release", find),
            (hub, "files", files),
            (hub, "dataset", dataset),
            (GGUF, "folder", lambda self, weights=True: place / "model"),
            (constants, "HF_HUB_CACHE", str(place / "cache")),
            (constants, "HF_HUB_OFFLINE", True),
        ):
            patches.enter_context(patch.object(target, name, new))
        patches.enter_context(pytest.raises(LastStage))
        pipeline.run(cfg, folder)
    return keys


def furnish(place: Path) -> None:
    """Models, SAEs and rows: some that are the same elsewhere, some that are others."""

    def copy(source, *names, change=""):
        for name in names:
            shutil.copytree(source, place / name, dirs_exist_ok=True)
            if change:
                for file in (place / name).rglob(change):
                    file.write_text(file.read_text() + "\n")

    bundled = {name: Path(config.bundled(name)) for name in ("model", "saes", "data/bbq")}
    snapshots = "cache/models--org--m/snapshots"
    copy(bundled["model"], "model", *(f"{snapshots}/{commit}" for commit in (COMMIT, NEXT)))
    copy(bundled["model"], "model_other", change="config.json")
    copy(bundled["model"], "chatty")
    (place / "chatty" / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}"
        "{{ '!' if loud is defined }}\n{% endfor %}"
    )
    refs = place / "cache/models--org--m/refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    (refs / "next").write_text(NEXT)
    copy(bundled["saes"], "saes", "saes_other")
    for n in (1, 3):
        copy(place / f"saes/layer_{n}", f"saes/block_{n}")
        copy(place / f"saes/layer_{n}", f"saes/new_{n}", f"saes_other/layer_{n}", change="cfg.json")
    data = bundled["data/bbq"]
    copy(data, "all_rows")
    for step, names in (
        (7, ("bbq", "bbq_again", *hub_rows("rows", COMMIT), *hub_rows("again", COMMIT))),
        (8, ("bbq_other", *hub_rows("rows", NEXT), *hub_rows("other", COMMIT))),
    ):
        for name in names:
            (place / name).mkdir(parents=True)
            for file in sorted(data.iterdir()):
                lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
                (place / name / file.stem).write_bytes(b"".join(lines[::step]))
    for name, text in (("scorer", "a"), ("scorer_again", "a"), ("scorer_other", "b")):
        (place / name).mkdir()
        (place / name / "config.json").write_text(json.dumps({"text": text}))
    (place / "m.gguf").write_bytes(b"GGUF, and what follows")
    weighed(place / "weighed")
    (place / "gsm8k").mkdir()
    for part in ("train", "test"):
        rows = [{"question": f"{part} {n}?", "answer": f"So. #### {n}"} for n in range(80)]
        (place / "gsm8k" / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    classes = [
        f"bundled/layer_{layer},{feature},{('unclear', 'semantic')[feature % 2]}"
        for layer in (1, 3)
        for feature in range(FEATURES)
    ]
    (place / "classes.csv").write_text("\n".join(["sae,feature,class", *classes]))
    rows = [row(n) for n in range(90)]
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (place / "more.jsonl").write_text("\n".join(map(json.dumps, map(row, range(200)))))
    pd.DataFrame(rows).to_csv(place / "copy.csv", index=False)
    rules = [{"q": f"Rule {n}?", "answer": json.dumps([RULES[n % 2]])} for n in range(90)]
    (place / "rules.jsonl").write_text("\n".join(map(json.dumps, rules)))
    for name in ("lm_eval", "lm_eval_again"):
        (place / name).mkdir()
        (place / name / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
        task = {
            "task": "sums",
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {"test": str(place / name / "sums.jsonl")},
                "cache_dir": str(place / "lm_eval_cache"),
            },
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": "Q: {{q}}\nA:",
            "doc_to_target": "{{number}}",
            "generation_kwargs": {"until": ["\n\n"]},
            "filter_list": [
                {"name": name, "filter": [{"function": "regex", "regex_pattern": r"(\d+)",
                "group_select": at}, {"function": "take_first"}]}
                for name, at in (("last", -1), ("first", 0))
            ],
            "metric_list": [{"metric": "exact_match"}],
            "metadata": {"version": 1.0},
        }  # fmt: skip
        (place / name / "sums.yaml").write_text(json.dumps(task))  # JSON is YAML


# Naming the first breaks it, but not without asterisks; the second is found inside words, too.
RULES = (
    {"instruction": "keywords:forbidden_words", "forbidden_words": ["*"]},
    {"instruction": "keywords:existence", "keywords": ["ye"]},
)


def weighed(folder: Path) -> None:
    """Rows of tasks whose options are weighed, in their authors' form."""
    folder.mkdir()
    ns = range(90)
    qa = {
        "Type": ["t"] * 90, "Category": ["c"] * 90, "Question": [f"Question {n}?" for n in ns],
        "Best Answer": [f"yes {n}" for n in ns], "Best Incorrect Answer": [f"no {n}" for n in ns],
        "Incorrect Answers": [f"no {n}; never {n}" for n in ns],
    }  # fmt: skip
    pd.DataFrame(qa).to_csv(folder / "qa.csv", index=False)
    crows = {"sent_more": [f"Red {n}." for n in ns], "sent_less": [f"Blue {n}." for n in ns]}
    crows |= {"stereo_antistereo": ["stereo"] * 90, "bias_type": ["colour"] * 90}
    pd.DataFrame(crows).to_csv(folder / "crows.csv")
    answers = [" Yes", " No"]
    rows = [
        {"question": f"Question {n}?", "answer_matching_behavior": answers[n % 2],
         "answer_not_matching_behavior": answers[1 - n % 2]}
        for n in ns
    ]  # fmt: skip
    (folder / "hats.jsonl").write_text("\n".join(map(json.dumps, rows)))


def hub_rows(name: str, commit: str) -> list[str]:
    return [f"datasets/made/{name}/{commit}/data"]


def row(n: int) -> dict[str, str]:
    return {
        "q": f"Question {n}?", "name": f"q{n}", "kind": "even" if n % 2 == 0 else "odd",
        "answer": "yes" if n % 3 else "no", "other": "yes" if n % 2 else "no",
        "a": "yes", "b": "no", "index": str(n % 2), "c": "1", "d": "0", "number": str(n % 20),
        "split": ("train", "validation", "test")[n % 3], "worked": f"Think {n}.",
        "more": f"Think of {n}.",
    }  # fmt: skip


# -- the tests -------------------------------------------------------------------------------


def class_of(node: Mapping, field: str) -> str:
    """The class that declares a field of a node: a task's own, or the one it derives from."""
    owners = [c.__name__ for c in get_class(node["_target_"]).__mro__
              if field in vars(c).get("__annotations__", {})]  # fmt: skip
    return owners[0]


def leaves(node: Mapping, place: str = "") -> dict[str, tuple[str, object]]:
    """Where each leaf stands -> its name in ``TABLE``, and its value. A list is a leaf."""
    found: dict[str, tuple[str, object]] = {}
    for field, value in node.items():
        here = f"{place}{field}"
        if isinstance(value, Mapping):
            found |= leaves(value, f"{here}.")
        elif field != "_target_":
            name = f"{class_of(node, field)}.{field}" if "_target_" in node else here
            found[here] = name, value
    return found


def known(cfg) -> dict[str, tuple[str, object]]:
    node = OmegaConf.to_container(cfg, resolve=False)
    return leaves({key: value for key, value in node.items() if key != "defaults"})


@pytest.mark.night
def test_every_leaf_of_every_option_is_in_the_table():
    there = {name for name, _ in known(composed()).values()}
    for group, one in OPTIONS:
        # The many files of these two are whole nodes: no need to compose each.
        plain = OmegaConf.load(CONF / group / f"{one}.yaml") if group in ("sae", "model") else None
        node = option(group, one)[1] if plain is None else plain
        there |= {name for name, _ in known(node).values()}
    listed = {case.leaf for case in TABLE}
    assert sorted(there - listed) == [], "say in TABLE what these may move"
    assert sorted(listed - there) == [], "these are in TABLE and in no option"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    furnish(folder)
    return folder


@pytest.fixture(scope="module")
def bases(place, tmp_path_factory):
    """``bases(case)``: config, keys and entries of the run that a case changes; made once."""
    found = {}

    def base(case: Case):
        words = typed(place, *BASES[case.base], *SMALL, *case.given)
        name = " ".join(words)
        if name not in found:
            root = tmp_path_factory.mktemp("base")
            cfg = composed(*words)
            entries = root / "cache"
            kept = composed(*words, f"cache={entries}")
            found[name] = words, cfg, run(kept, root / "run", place), entries
        return found[name]

    return base


def typed(place: Path, *words: str) -> list[str]:
    return [word.replace("@/", f"{place}/") for word in words]


def turned(cfg, words: Sequence[str], change: str):
    """The config of one word more. Where it only sets a value, Hydra need not be asked again: that
    takes as long as the rest of a case."""
    (parsed,) = OverridesParser.create().parse_overrides([change])
    key = parsed.key_or_group
    only_sets = not (parsed.is_add() or parsed.is_delete() or "@" in key or "/" in key)
    if not only_sets or (CONF / key).is_dir():
        return composed(*words, change)
    changed = copy.deepcopy(cfg)
    OmegaConf.update(changed, key, parsed.value(), merge=True)
    return changed


def named(labels, names) -> set[str]:
    """The labels that are in ``names``, whole or by their stage."""
    return {label for label in labels if label in names or stage(label) in names}


def stage(label: str) -> str:
    return label.split()[0].split("_")[0]


def cases() -> list:
    """By day every fourth one of a plain run."""
    plain = [case for case in TABLE if (case.base, case.given) == ("bbq", ())]
    marks = [() if case in plain[::4] else pytest.mark.night for case in TABLE]
    return [pytest.param(c, id=str(c), marks=mark) for c, mark in zip(TABLE, marks, strict=True)]


@pytest.mark.parametrize("case", cases())
def test_a_leaf_moves_the_stated_keys_and_no_others(case, bases, place, tmp_path, monkeypatch):
    if case.base in ("lm_eval", "gguf"):
        pytest.importorskip(case.base)
    if case.given == CHECKED:
        pytest.importorskip("langdetect")
    monkeypatch.chdir(tmp_path)
    words, cfg, before, entries = bases(case)
    change = typed(place, case.change)[0]
    if change.endswith("MEDIAN"):
        change = change.replace("MEDIAN", str(median_prompt(cfg)))
    changed = turned(cfg, words, change)
    one, other = known(cfg), known(changed)
    flipped = {at for at in {*one, *other} if one.get(at) != other.get(at)}
    where = {at for at, (name, _) in {**one, **other}.items() if name == case.leaf}
    same = case.change == "coef=1.0"
    assert same or (flipped and all(at.startswith(tuple(where)) for at in flipped)), flipped
    after = run(changed, tmp_path / "run", place, earlier=entries)
    both = before.keys() & after.keys()
    moved = {label for label in both if before[label] != after[label]}
    assert {name for name in case.moves if not named(both, {name})} == set(), "no such stage"
    expected = named(both, case.moves)
    assert (sorted(moved - expected), sorted(expected - moved)) == ([], [])
    assert (before.keys() - both, after.keys() - both) == (case.gone, case.new)


@pytest.mark.night
def test_transfer_adds_answers_and_moves_nothing(bases, place, tmp_path):
    case = Case("", "", NOTHING)
    words, _, before, entries = bases(case)
    changed = composed(*words, "+task@transfer.mmlu=mmlu", "transfer.mmlu.data=bundled")
    after = run(changed, tmp_path / "run", place, earlier=entries)
    assert {label: after.get(label) for label in before} == before
    arms = ("", "steered ", *(f"random_{n} " for n in (1, 2)))
    assert after.keys() - before.keys() == {f"{arm}mmlu, transfer" for arm in arms}


def median_prompt(cfg) -> int:
    lengths = sorted(len(e.prompt) for e in config.instantiate(cfg.task).examples())
    return lengths[len(lengths) // 2]


PROCESS = """
import json, sys
from pathlib import Path
from tests.run.test_cache_keys import BASES, SMALL, run, typed
from tests.test_config import composed

place, bases = Path(sys.argv[1]), ("bundled", "custom")
words = [typed(place, *BASES[base], *SMALL, *sys.argv[2:]) for base in bases]
made = [run(composed(*some), Path(f"run{n}"), place) for n, some in enumerate(words)]
print(json.dumps(made))
"""


@pytest.mark.night
def test_two_processes_in_two_places_ask_for_the_same_keys(place, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(place, copied)
    moved = ["model.path=@/model", "sae.path=@/saes", "name=other", "cache=elsewhere"]
    jobs = []
    for seed, where, more in (("1", place, []), ("2", copied, typed(copied, *moved))):
        home = tmp_path / seed
        home.mkdir()
        own = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(CONF.parent), "TMPDIR": str(home)}
        jobs.append(
            subprocess.Popen(
                [sys.executable, "-c", PROCESS, str(where), *more],
                cwd=home,
                env={**os.environ, **own},
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    one, other = (json.loads(job.communicate(timeout=120)[0].splitlines()[-1]) for job in jobs)
    assert {stage(label) for label in one[0]} == ALL
    assert one == other


def test_other_correlations_are_another_plan(tmp_path):
    """Scores of 0.6 for 1 change no mean over right answers, so neither features nor vectors,
    but every r; and a plan says the r of its features."""
    bench = Bench(
        store=Store(tmp_path),
        backend=Local(device="cpu"),
        spec=Model("m", config.bundled("model")),
        sae=Folder(config.bundled("saes")),
        selector=Correlation(),
        asking=Asking(None, {}),
        layers=(1,),
        collect=Collect("generated", "max", 20, 20),
        seed=0,
    )
    statistics({"layer": 1, "shuffles": 20, "resamples": 20}, tmp_path)
    stats = read_stats(tmp_path)
    with patch.object(Bench, "directions", decoder_rows):
        for one in (stats, replace(stats, r=stats.r * 0.9)):
            chosen = CorrSteer().choose(bench.selector.rank([one]))
            plan = make_plan(bench, chosen)
            assert [e.r for e in plan.entries] == [f.r for f in chosen]
