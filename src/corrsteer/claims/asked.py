"""The claims, in plain words, and the studies that decide them: what is typed, and who reads it.

A claim of the paper, of others who steer, or of this project. A study is one command; several
claims may be read from one. An experiment of ``conf/experiment`` is a study as soon as its file is
there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from corrsteer.claims import concepts, dial, evidence, sweeps
from corrsteer.claims.answer_file import study_file
from corrsteer.claims.record import Found

Reader = Callable[[Path], Mapping[str, Found]]

DIALS = "coef=0.5,1,2"
TASKS = "task=bbq,mmlu,mmlu_pro,gsm8k,simpleqa,harmbench,xstest"
BARE = ("controls=few", "side_effects=none")
ONE_SEED = ("seed",)
"""What studies whose readers know one seed do not take."""


@dataclass(frozen=True)
class Claim:
    """``says``: the claim, so that it can be wrong. ``source``: who made it. ``decided``: what
    makes it supported, refuted, undecided. ``study``: the name of the one that answers it."""

    name: str
    says: str
    source: str
    decided: str
    study: str


@dataclass(frozen=True)
class Study:
    """``words``: typed after ``python -m MODULE``. ``read``: the answers, by claim, from the folder
    that the command leaves. ``needs``: a file that has to be there, else there is no such study
    yet. ``place``: what stands before the folder that a command writes to. ``drops``: names
    of settings that it does not take from those typed for all studies."""

    name: str
    words: tuple[str, ...]
    read: Reader
    module: str = "src.main"
    needs: str | None = None
    place: str = "hydra.sweep.dir="
    drops: tuple[str, ...] = ()

    @property
    def there(self) -> bool:
        return self.needs is None or Path(self.needs).exists()

    def taken(self, words: Sequence[str]) -> list[str]:
        """Of the settings that were typed for all studies, those that it does not set itself."""
        own = {*self.drops, *(word.partition("=")[0] for word in self.words)}
        return [word for word in words if word.partition("=")[0] not in own]


PAPER = "CorrSteer, arXiv 2508.12535"
METHODS = "the method's authors or others"
HERE = "this project, to be tested"

CLAIMS = (
    Claim(
        "chosen_features",
        "The gain is the chosen features': random features of the same norm in the same layers,"
        " and features chosen on shuffled outcomes, gain less.",
        PAPER,
        "Seven tasks, the dial by validation. On a task it holds if McNemar's test and both ranks"
        " among drawn plans are at most 5 %, corrected for the table. It fails if accuracy is"
        " lower, or higher while more than 5 % of the drawn plans, uncorrected, do as well."
        " Supported or refuted: it holds, or fails, on more than half of the tasks.",
        "verdict",
    ),
    Claim(
        "beats_prompt",
        "Steering gains more than one sentence put before every prompt.",
        HERE,
        "Mean over the seven tasks of (steered minus instruction), paired by question; Student's"
        " interval over tasks above 0: supported, below 0: refuted.",
        "verdict",
    ),
    Claim(
        "layer_matters",
        "Which layer a feature came from matters: its vectors dealt to other layers gain less.",
        HERE,
        "As before, of (steered minus the plan's own vectors at other layers).",
        "verdict",
    ),
    Claim(
        "content",
        "Most of what is fixed is content: the answer could be read before, and was wrong.",
        HERE,
        "Share of fixed answers that were readable wrong ones before, over all seven tasks, with"
        " Wilson's interval: above one half supported, below it refuted.",
        "verdict",
    ),
    Claim(
        "ser_is_enough",
        "A low side effect ratio on the task means that the rest of the model is left alone.",
        HERE,
        "Of the tasks with SER at most 0.2, the share of answers to unrelated prompts that change"
        " to the letter: Student's interval over tasks above 10 % refutes it, below 10 % supports"
        " it.",
        "verdict",
    ),
    Claim(
        "seeds",
        "The gain holds over seeds, each with its own splits.",
        HERE,
        "Mean gain over five seeds on bbq, each at the dial that its validation split chose, with"
        " Student's interval: above 0 supported, below 0 refuted.",
        "seeds",
    ),
    Claim(
        "every_layer",
        "Static steering is pushed to its limit by steering every layer: more layers gain more.",
        METHODS,
        "One and some layers in three orders against all of them, each at the dial that "
        "validation chose and at equal total norm, paired. Supported: every arm of one layer "
        "is below, and all layers beat random features; refuted: one layer gains more.",
        "depth",
    ),
    Claim(
        "memory",
        "No activations are stored: memory does not grow with samples, at two lengths of prompt.",
        PAPER,
        "Peak memory of a selection at several sizes and two lengths of prompt, all tokens "
        "pooled. Supported: at both the slope's upper bound is below 5 % of what storing every "
        "residual of every layer would add per sample; refuted: at one the lower bound is "
        "above it.",
        "memory",
    ),
    Claim(
        "generated_tokens",
        "Features pooled over generated tokens are better than features of the prompt.",
        PAPER,
        "One arm per token source, each at the dial that validation chose and at equal norm, "
        "paired on test. Supported: generated tokens gain more than the prompt's and than "
        "random features; refuted: they gain less.",
        "token_source",
    ),
    Claim(
        "verified_layers",
        "Layers whose feature alone gains on validation (P) are a better plan than all layers (A).",
        PAPER,
        "P against A, S and others, each at the dial that validation chose: exact McNemar, Holm,"
        " and P above the best of five random sets of as many layers.",
        "variants",
    ),
    Claim(
        "dial",
        "The plan is a dial: turned up, it does more of the same, until the text breaks.",
        METHODS,
        "17 coefficients from -1 to 3. Usable range: the largest interval around 0 with at most"
        " 2 % degenerate answers and at most 0.1 nats of KL divergence on neutral text. Supported:"
        " it reaches 1 and accuracy rises over it without a significant reversal (permutation,"
        " isotonic against free fit); refuted: it does not reach 1, or there is one.",
        "dial",
    ),
    Claim(
        "instability",
        "Steering every layer is clearly unstable: it collapses soon after its best dial.",
        METHODS,
        "Unreadable or degenerate answers, dial by dial. Supported: more than 5 % of the "
        "answers at a dial up to twice the best one; refuted: surely not. Beside random "
        "directions of equal norm, spread over seeds, and norms layer by layer.",
        "instability",
    ),
    Claim(
        "filling",
        "What steers is filling sparse activations: adding where the feature is inactive.",
        METHODS,
        "Add only where inactive, only where active, to a level, and a uniform push, paired. "
        "Supported: filling is no worse than adding by 2 points, and the rise of active "
        "features predicts the gain beyond the norm; refuted: it is worse.",
        "filling",
    ),
    Claim(
        "fine_tuning",
        "Steering matches fine-tuning at half the side effects.",
        PAPER,
        "LoRA, full and bias-only tuning, each paired with the plan at equal validation accuracy."
        " Matches: equivalence within 2 points on test. Half: every measured ratio (broken per"
        " fixed, off-target changes, KL) at least 2, its interval above 1. Supported: against all"
        " three; refuted: against all three, less accurate or a ratio's interval below 2.",
        "compare",
    ),
    Claim(
        "gating",
        "Gating worsens steering.",
        METHODS,
        "Every gate against static steering, random duty and equal dose, paired. Supported: every"
        " interval of (gate - static) below 0. Refuted: one gate above static, random duty and"
        " matched dose.",
        "gates",
    ),
    Claim(
        "selector",
        "Correlation is the right way to rank features.",
        PAPER,
        "Every selector against correlation, paired, each at the dial that validation chose "
        "and at equal norm. Supported: no other gains 2 points and a choice by chance is "
        "worse; refuted: one gains more.",
        "selectors",
    ),
    Claim(
        "concepts",
        "The chosen features are readable concepts.",
        PAPER,
        "Share of chosen features that fire on content words (a rule over their strongest"
        " contexts) less that of random live features of the same frequency: interval above 0"
        " supported, below 0 refuted.",
        "concepts",
    ),
    Claim(
        "one_feature",
        "One feature of every layer is enough.",
        PAPER,
        "k = 2, 3, 5, 10 features per layer against one at equal total norm and as they are, each"
        " at the dial of validation, paired, Holm over all eight. Refuted: one of them gains more."
        " Supported: the upper bound of every one is below 2 points.",
        "features",
    ),
    Claim(
        "tuned_for_free",
        "A coefficient of every layer, tuned on validation, gains without a price elsewhere.",
        HERE,
        "One run of corrsteer_optimised on bbq, and the KL divergence on neutral text under its"
        " plan: its interval below 0.1 nat, and a gain on test by McNemar's test, supports it;"
        " above 0.1 nat refutes it.",
        "optimised",
    ),
    Claim(
        "seldom_wrong",
        "Where there is nothing to find, an effect is claimed in at most 5 % of runs.",
        HERE,
        "Chains of plans that a selection on shuffled outcomes chose: Wilson's interval of how"
        " often an effect is claimed, below 5 % supported, above it refuted.",
        "calibration",
    ),
    Claim(
        "positions",
        "Where a plan acts is part of what it is: at other positions it is another intervention.",
        HERE,
        "The same plan at generation positions, at all, and at generated tokens alone, coef 1:"
        " paired on test, Holm. Supported: one has another accuracy. Refuted: all are within 2"
        " points.",
        "positions",
    ),
)  # fmt: skip


def experiment(claim: str, name: str, *words: str, what: str = "") -> Study:
    """One of ``conf/experiment``, which leaves its answer as ``study.json``. ``words``: besides;
    ``what``: as for :func:`study_file`."""
    needs = f"conf/experiment/{name}.yaml"
    return Study(name, (f"experiment={name}", *words), study_file(claim, what), needs=needs)


STUDIES = (
    Study(
        "positions", ("-m", "task=bbq", "positions=generation,all,decode", *BARE),
        sweeps.positions, drops=ONE_SEED,
    ),
    Study(
        "seeds", ("-m", "task=bbq", "seed=0,1,2,3,4", "coef=1,2", "side_effects=none"), sweeps.seeds
    ),
    Study(
        "concepts", ("-m", TASKS, "selector=correlation,random", concepts.WORD, *BARE),
        concepts.read, drops=ONE_SEED,
    ),
    Study(
        "features",
        (
            "-m", "task=bbq", "strategy.k=1,2,3,5,10", "coefficient=mean_right,total_norm", DIALS,
            *BARE,
        ),
        sweeps.features, drops=ONE_SEED,
    ),
    Study("dial", ("-m", "task=bbq", dial.WORD, "controls=few"), dial.read, drops=ONE_SEED),
    Study(
        "memory", (), study_file("memory"), "experiments.memory.measure", place="",
        drops=("limit", "seed", "cache"),  # its cache is empty at each point
    ),
    Study(
        "optimised", ("-m", "task=bbq", "strategy=corrsteer_optimised", "controls=few"),
        sweeps.optimised, drops=ONE_SEED,
    ),
    Study(
        "calibration", ("task=bbq",), evidence.calibration, "experiments.calibration.measure",
        place="", drops=ONE_SEED,
    ),
    experiment("verified_layers", "variants"),
    experiment("gating", "gates"),
    experiment("selector", "selectors"),
    experiment("generated_tokens", "token_source"),
    experiment("every_layer", "depth"),
    experiment("filling", "filling"),
    experiment(
        "instability", "instability", what="more answers that cannot be read or are degenerate",
    ),
    experiment("fine_tuning", "compare", "strategy=corrsteer_a,lora,finetune,bias_only"),
    Study("verdict", ("-m", TASKS, DIALS), evidence.read),
)  # fmt: skip
"""In the order in which they run: the cheapest first."""
