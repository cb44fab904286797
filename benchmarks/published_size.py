"""Time and memory of every stage at the size of a published model, with random weights.

    python benchmarks/published_size.py                       # Gemma-2 2B, 26 SAEs of 16k
    python benchmarks/published_size.py --blocks 4 --prompts 32

Builds a random Gemma-2 and random jumprelu SAEs in FOLDER (18 GB at full size, kept for the next
time), then answers, collects, selects, steers and evaluates as a run does. Answers of a random
model mean nothing, so a hash of each stands for its outcome. bfloat16 on a GPU that has it,
float32 elsewhere. The prompts and the tokenizer are the bundled model's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from corrsteer.config import bundled
from corrsteer.models.local import Local
from corrsteer.models.spec import Model
from corrsteer.records import Example, Score
from corrsteer.saes.folder import CONFIG, WEIGHTS, Folder
from corrsteer.scorers.choice import Choice
from corrsteer.selectors.correlation import Correlation
from corrsteer.stages.bench import Cached
from corrsteer.stages.evaluate import evaluate
from corrsteer.steering.operators import Add
from corrsteer.store.entries import Store
from corrsteer.tasks.bbq import BBQ

D_MODEL, FEATURES = 2304, 16384  # Gemma-2 2B, Gemma Scope
NEW_TOKENS = 8
PROMPT = "{context}\n{question}\n{options}\nAnswer:"


def build_model(folder: Path, blocks: int) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    # Every other size is Gemma-2 2B's, which is the default.
    config = Gemma2Config(num_hidden_layers=blocks)
    torch.manual_seed(0)
    with torch.device("meta"):
        model = Gemma2ForCausalLM(config)
    model = model.to_empty(device="cpu").to(torch.bfloat16)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    model.tie_weights()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(bundled("model")) / name, folder)


def build_sae(folder: Path, layer: int) -> None:
    from safetensors.torch import save_file

    rng = torch.Generator().manual_seed(layer)
    rows = torch.nn.functional.normalize(torch.randn(FEATURES, D_MODEL, generator=rng), dim=1)
    weights = {
        "W_dec": rows,
        "W_enc": rows.T.contiguous(),
        "b_enc": torch.zeros(FEATURES),
        "b_dec": torch.zeros(D_MODEL),
        # Lets 0.13 % of random directions through, 22 features, where a residual has the length
        # of an embedding, sqrt(M).
        "threshold": torch.full((FEATURES,), 3.0),
    }
    folder.mkdir(parents=True)
    save_file(weights, folder / WEIGHTS)
    config = {
        "architecture": "jumprelu",
        "d_in": D_MODEL,
        "d_sae": FEATURES,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"hook_name": f"blocks.{layer}.hook_resid_post"},
    }
    (folder / CONFIG).write_text(json.dumps(config))


def by_hash(example: Example, text: str) -> Score:
    return Score(float(hashlib.sha256(f"{example.id}{text}".encode()).digest()[0] & 1), text)


@contextmanager
def timed(stage: str, found: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    found[stage] = time.perf_counter() - start
    print(f"{stage:<12} {found[stage]:8.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/published_size"))
    parser.add_argument("--blocks", type=int, default=26)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--budget-gb", type=float, default=8.0)
    arguments = parser.parse_args()
    folder = arguments.folder / f"gemma2_{arguments.blocks}_blocks"
    if not (folder / "model").is_dir():
        build_model(folder / "model", arguments.blocks)
    layers = range(arguments.blocks)
    for layer in layers:
        if not (folder / "saes" / f"layer_{layer}").is_dir():
            build_sae(folder / "saes" / f"layer_{layer}", layer)

    task = BBQ(name="bbq", prompt=PROMPT, scorer=Choice(), max_new_tokens=NEW_TOKENS)
    step = len(task.examples()) // arguments.prompts
    examples = task.examples()[:: max(1, step)][: arguments.prompts]
    object.__setattr__(task, "scorer", by_hash)
    backend = Local(batch_size=arguments.batch_size)
    model = Model("random", str(folder / "model"))
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as cache:
        stages = Cached(
            store=Store(Path(cache)),
            backend=backend,
            model_spec=model,
            sae=Folder(str(folder / "saes"), check="off", budget_gb=arguments.budget_gb),
            task=task,
            strategy=Add(),
            selector=Correlation(),
            seed=0,
        )
        with timed("fingerprint", seconds):
            key = stages.model_key
        with timed("load", seconds):
            loaded = stages.model
        with timed("answer", seconds):
            base = stages.answers(examples, {"baseline": None}, "selection")["baseline"]
        with timed("collect", seconds):
            stats = stages.statistics(
                examples, base, list(layers), token_source="generated", pooling="max", shuffles=100
            )
        with timed("select", seconds):
            _, chosen, plan, random = stages.plans(stats, draws=5)
        arms = {
            "baseline": None,
            "steered": plan,
            **{f"random_{n}": p for n, p in enumerate(random)},
        }
        with timed("evaluate", seconds):
            test = stages.answers(examples, arms, "test")
            evaluate(test, examples, chosen, seed=0)
        with timed("contexts", seconds):
            stages.contexts(examples[:64], base.iloc[:64], chosen)
    report = {
        "device": str(loaded.device),
        "dtype": key["dtype"],
        "blocks": arguments.blocks,
        "features": FEATURES,
        "prompts": len(examples),
        "new_tokens": NEW_TOKENS,
        "seconds": {stage: round(value, 1) for stage, value in seconds.items()},
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }
    if torch.cuda.is_available():
        report["device"] = torch.cuda.get_device_name()
        report["peak_gpu_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
