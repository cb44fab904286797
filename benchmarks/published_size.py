"""Time and memory of a run's stages at the size of a published model, with random weights.

    python -m benchmarks.published_size                       # Gemma-2 2B, 26 SAEs of 16k
    python -m benchmarks.published_size --blocks 4 --prompts 32
    python -m benchmarks.published_size --small               # tiny: shows that it works

Makes a random Gemma-2 and random jumprelu SAEs in FOLDER (18 GB at full size, kept for the next
time), then answers, collects, selects, steers, evaluates and explains as a run does; without side
effects. Times are ratios to transformers' own ``generate`` on the same prompts and batches, which
is timed first; the first repeat imports sae_lens, too. Answers of a random model mean nothing, so a
hash of each stands for its outcome. bfloat16 on a GPU that has it, float32 elsewhere. The prompts
and the tokenizer are the bundled model's.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import logging
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.plain import Plain, Tokens, show
from corrsteer.config import bundled
from corrsteer.methods.corrsteer import CorrSteer
from corrsteer.models.local import Local
from corrsteer.models.protocol import chosen_device
from corrsteer.models.spec import Model
from corrsteer.records import Example, Score
from corrsteer.saes.folder import Folder
from corrsteer.selectors.correlation import Correlation
from corrsteer.stages.answers import answers
from corrsteer.stages.bench import Asking, Bench, Collect, load_model, model_key, sae_key
from corrsteer.stages.contexts import contexts
from corrsteer.stages.controls import controls
from corrsteer.stages.evaluate import evaluate
from corrsteer.stages.plan import make_plan
from corrsteer.stages.sites import sites
from corrsteer.stages.statistics import statistics
from corrsteer.steering.arms import BASELINE, baseline, steered
from corrsteer.store.entries import Store
from corrsteer.tasks.bbq import BBQ

PROMPT = "{context}\n{question}\n{options}\nAnswer:"
NEW_TOKENS = 8
CONTROLS = {"random": 5, "direction": 0, "shuffled": 0, "layers": 0, "flipped": 0}
PLAIN = "plain generate"


@dataclass(frozen=True)
class Scale:
    """``features``: of every SAE, each of which is active where it is above ``threshold``. The
    bundled prompts are cut into two splits of ``prompts``."""

    blocks: int
    width: int
    features: int
    threshold: float
    prompts: int
    batch_size: int
    repeats: int
    shape: Mapping[str, int] = field(default_factory=dict)
    """What else of the model is not Gemma-2 2B's, whose sizes are the defaults of its config."""


# Gemma-2 2B, Gemma Scope. The threshold lets 0.13 % of random directions through, 22 features,
# where a residual has the length of an embedding, sqrt(width).
FULL = Scale(26, 2304, 16_384, threshold=3.0, prompts=256, batch_size=64, repeats=3)
SMALL = Scale(
    3, 64, 256, threshold=1.0, prompts=24, batch_size=8, repeats=2,
    shape={
        "vocab_size": 1200, "intermediate_size": 128, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16,
    },
)  # fmt: skip


# -- random weights ----------------------------------------------------------------------------


def build_model(folder: Path, scale: Scale) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        num_hidden_layers=scale.blocks, hidden_size=scale.width, **dict(scale.shape)
    )
    torch.manual_seed(0)
    with torch.device("meta"):
        model = Gemma2ForCausalLM(config).to(torch.bfloat16)
    model = model.to_empty(device=chosen_device("auto"))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    model.tie_weights()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(bundled("model")) / name, folder)


def build_sae(folder: Path, layer: int, scale: Scale, dtype: torch.dtype) -> None:
    """``dtype``: of the file; what reads it computes in float32."""
    from safetensors.torch import save_file

    rng = torch.Generator().manual_seed(layer)
    rows = torch.randn(scale.features, scale.width, generator=rng)
    rows = torch.nn.functional.normalize(rows, dim=1)
    weights = {
        "W_dec": rows,
        "W_enc": rows.T.contiguous(),
        "b_enc": torch.zeros(scale.features),
        "b_dec": torch.zeros(scale.width),
        "threshold": torch.full((scale.features,), scale.threshold),
    }
    folder.mkdir(parents=True)
    kept = {name: tensor.to(dtype) for name, tensor in weights.items()}
    save_file(kept, folder / "sae_weights.safetensors")
    config = {
        "architecture": "jumprelu",
        "d_in": scale.width,
        "d_sae": scale.features,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"hook_name": f"blocks.{layer}.hook_resid_post"},
    }
    (folder / "cfg.json").write_text(json.dumps(config))


def build(folder: Path, scale: Scale, dtype: torch.dtype = torch.float32) -> None:
    if not (folder / "model").is_dir():
        build_model(folder / "model", scale)
    for layer in range(scale.blocks):
        if not (folder / "saes" / f"layer_{layer}").is_dir():
            build_sae(folder / "saes" / f"layer_{layer}", layer, scale, dtype)


# -- the stages --------------------------------------------------------------------------------


def by_hash(example: Example, text: str) -> Score:
    return Score(float(hashlib.sha256(f"{example.id}{text}".encode()).digest()[0] & 1), text)


def asking(scale: Scale) -> Asking:
    """Prompts of all lengths, each in one split."""
    task = BBQ(name="bbq", prompt=PROMPT, scorer=by_hash, max_new_tokens=NEW_TOKENS)
    examples = task.examples()
    examples = examples[:: max(1, len(examples) // (2 * scale.prompts))][: 2 * scale.prompts]
    return Asking(task, {"selection": examples[::2], "test": examples[1::2]})


def plain_answers(bench: Bench, scale: Scale, seconds: dict[str, list[float]]) -> Tokens:
    """transformers' own, timed; its weights are gone before the program loads them."""
    assert isinstance(bench.backend, Local)
    plain = Plain(
        Path(bench.spec.path),
        bench.backend.dtype(bench.spec),
        chosen_device(bench.backend.device),
    )
    prompts = [example.prompt for example in bench.selection]
    batches = plain.batches(prompts, scale.batch_size)
    found = plain.generate(prompts, batches, NEW_TOKENS)  # warms up
    for _ in range(scale.repeats):
        with timed(PLAIN, seconds):
            found = plain.generate(prompts, batches, NEW_TOKENS)
    return found


def run(bench: Bench, seconds: dict[str, list[float]]) -> Tokens:
    """Every stage once, from nothing; the answers to the selection split."""
    for kept in (load_model, model_key, sae_key):
        kept.cache_clear()
    gc.collect()
    with timed("fingerprint", seconds):
        bench.model_key  # noqa: B018  # read for the time it takes
    with timed("load", seconds):
        bench.model  # noqa: B018
    with timed("sites", seconds):
        sites(bench)
    with timed("answer", seconds):
        selection = answers(bench, bench.asking, "selection", [baseline()])[BASELINE]
    with timed("collect", seconds):
        stats = statistics(bench, selection)
    with timed("select", seconds):
        chosen = CorrSteer().choose(bench.selector.rank(stats))
        plan = make_plan(bench, chosen)
    with timed("controls", seconds):
        arms = [baseline(), steered(plan), *controls(bench, plan, stats, CONTROLS)]
    with timed("evaluate", seconds):
        test = answers(bench, bench.asking, "test", arms)
        examples = bench.asking.splits["test"]
        evaluate(test, arms, examples, chosen, task_metrics=lambda *_: {})
    with timed("contexts", seconds):
        contexts(bench, selection, chosen)
    return [tuple(tokens) for tokens in selection["tokens"]]


@contextmanager
def timed(stage: str, seconds: dict[str, list[float]]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds.setdefault(stage, []).append(time.perf_counter() - start)


def measure(folder: Path, scale: Scale, budget_gb: float) -> dict[str, Any]:
    """Prints the table of ratios and returns what else there is to say."""
    build(folder, scale)
    # Random SAEs fit nowhere; the check is made for its time.
    logging.getLogger("corrsteer.stages.sites").setLevel(logging.ERROR)
    seconds: dict[str, list[float]] = {}
    bench = Bench(
        store=Store(folder),
        backend=Local(batch_size=scale.batch_size),
        spec=Model("random", str(folder / "model")),
        sae=Folder(str(folder / "saes"), check="warn", budget_gb=budget_gb),
        selector=Correlation(),
        asking=asking(scale),
        layers=tuple(range(scale.blocks)),
        collect=Collect("generated", "max", shuffles=100, resamples=50),
        seed=0,
    )
    plain = plain_answers(bench, scale, seconds)
    for _ in range(scale.repeats):
        with tempfile.TemporaryDirectory() as cache:
            ours = run(replace(bench, store=Store(Path(cache))), seconds)
    show(seconds, PLAIN)
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "dtype": bench.model_key["dtype"],
        "threads": torch.get_num_threads(),
        **asdict(scale),
        "budget_gb": budget_gb,
        "same_answers": sum(map(tuple.__eq__, ours, plain)) / len(plain),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        **(
            {"peak_gpu_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2)}
            if cuda
            else {}
        ),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/published_size"))
    parser.add_argument("--small", action="store_true", help="a tiny model, to show that it works")
    parser.add_argument("--budget-gb", type=float, default=8.0, help="SAEs held at a time")
    for name in ("blocks", "prompts", "batch-size", "repeats"):
        parser.add_argument(f"--{name}", type=int, help="other than the setting's")
    args = parser.parse_args(arguments)
    given = {
        name: value
        for name in ("blocks", "prompts", "batch_size", "repeats")
        if (value := getattr(args, name)) is not None
    }
    scale = replace(SMALL if args.small else FULL, **given)
    folder = args.folder / f"{scale.blocks}_blocks_of_{scale.width}"
    print(json.dumps(measure(folder, scale, args.budget_gb), indent=2))


if __name__ == "__main__":
    main()
