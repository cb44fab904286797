"""Tiny random models and SAEs, built once per session, and what a test may cost; no downloads.

Weights are drawn larger than usual so that residuals differ from token to token and greedy
answers differ from prompt to prompt: equality tests on them can fail.
"""

from __future__ import annotations

import copy
import gc
import importlib
import os
import re
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest
from hypothesis import HealthCheck, settings

# A machine that is busy generates slowly, which says nothing of a test.
settings.register_profile("busy", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# What a shell starts in the background ignores Ctrl-C, and so does all that it starts: the program
# would not hear what a test sends it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["HF_HUB_OFFLINE"] = "1"
# Test files run side by side; threads of one would only slow the others.
os.environ.setdefault("OMP_NUM_THREADS", "1")

WIDTH, LAYERS = 32, 3

# -- what a test may cost ------------------------------------------------------------------------

LIMIT = 5.0  # CPU seconds of a test by day
SHARED_LIMIT = 20.0  # of the fixtures that it is the first to use and others use after it
MODELS = {"tiny_model", "tiny_llama", "tiny_gemma2", "tiny_gpt2", "save_sae", "tiny_saes"}
# Imported before the first test that runs a model, which would be charged for it otherwise.
IMPORTED = ("torch", "transformers", "nnsight", "sae_lens", "pandas", "scipy.stats", "plotly.io")
# CPU seconds of _loop on the machine that the limits are for. An idle server takes half as long
# again, and one that is busy more, if not as much more as it takes for other things.
QUIET = 0.02
BESIDE = 1.6  # times the CPU seconds of a test alone, where another runs on the same core's threads
AT_START, BEGAN, SHARED = (pytest.StashKey[float]() for _ in range(3))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file that is marked as a whole is not even imported where its mark is left out."""
    left_out = re.findall(r"not (\w+)", config.getoption("markexpr"))
    if not left_out or collection_path.suffix != ".py":
        return None
    whole = rf"^pytestmark = pytest\.mark\.({'|'.join(left_out)}) *(#.*)?$"
    return bool(re.search(whole, collection_path.read_text(), re.MULTILINE)) or None


@pytest.hookimpl(tryfirst=True)  # before -m is applied
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("markexpr"):
        spared = [item for item in items if item.get_closest_marker("day_only")]
        config.hook.pytest_deselected(items=spared)
        items[:] = [item for item in items if item not in {*spared}]
    for item in items:
        if MODELS & set(getattr(item, "fixturenames", ())):
            item.add_marker("long")
    # The dearest files first: no worker is to begin with one when the others have nothing left.
    marks: dict[Path, set[str]] = {}
    for item in items:
        marks.setdefault(item.path, set()).update(mark.name for mark in item.iter_markers())
    items.sort(key=lambda item: ("night" not in marks[item.path], "long" not in marks[item.path]))


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[AT_START] = _slowness()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("long") and not gc.get_freeze_count():
        for name in IMPORTED:
            importlib.import_module(name)
        gc.freeze()  # else each look for garbage goes through all that these hold: 0.3 seconds
    item.stash[BEGAN], item.stash[SHARED] = _cpu_seconds(), 0.0


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    began = _cpu_seconds()
    try:
        return (yield)
    finally:
        if fixturedef.scope != "function":
            request._pyfuncitem.stash[SHARED] += _cpu_seconds() - began


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Fails a test of ``make quick`` or ``make test`` that costs more than it may."""
    report = yield
    by_day = "not night" in item.config.getoption("markexpr")
    if by_day and report.when == "call" and report.passed:
        shared = item.stash[SHARED]
        own = _cpu_seconds() - item.stash[BEGAN] - shared
        over = max(own / LIMIT, shared / SHARED_LIMIT) / BESIDE
        if over > 1 and over > max(item.config.stash[AT_START], _slowness()):
            report.outcome = "failed"
            report.longrepr = (
                f"took {own:.1f} CPU seconds, of at most {LIMIT:.0f} by day, and for shared"
                f" fixtures {shared:.1f}, of at most {SHARED_LIMIT:.0f}: make it smaller, or mark"
                " it night"
            )
    return report


@pytest.fixture(scope="session", autouse=True)
def conf_is_read_once():
    """Hydra parses thirty files at every command, a third of what it takes to compose one."""
    from hydra._internal.core_plugins.file_config_source import FileConfigSource

    read, known = FileConfigSource.load_config, {}

    def load(self, config_path):
        file = Path(self.path, self._normalize_file_name(config_path))
        at = file.stat() if file.is_file() else None
        key = self.path, self.provider, config_path, at and (at.st_mtime_ns, at.st_size, at.st_ino)
        if key not in known:
            known[key] = read(self, config_path)
        return copy.deepcopy(known[key])  # it is taken to pieces

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileConfigSource, "load_config", load)
        yield


def _cpu_seconds() -> float:
    """Of this process and of those that it waited for."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _loop() -> float:
    began, total = time.process_time(), 0
    for n in range(200_000):
        total += n * n % 7
    return time.process_time() - began


def _slowness() -> float:
    """How much longer this machine takes, now, than the one that LIMIT was set on; at least 1."""
    return max(1.0, median(_loop() for _ in range(5)) / QUIET)


# -- models and data -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data and models, which is not part of the project."""
    default = Path(__file__).resolve().parents[1].parent / "shared"
    folder = Path(os.environ.get("CORRSTEER_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}: set CORRSTEER_SHARED to its folder")
    return folder


def byte_tokenizer(bos: bool):
    """Byte-level BPE over all 256 bytes; only " A" to " D" and a few pairs are merged."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    merges = [("\u0120", letter) for letter in "ABCD"] + [("t", "h"), ("th", "e"), ("e", "r")]
    pieces = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces += [left + right for left, right in merges]
    core = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
# What each family adds to the sizes they share: (config class, model class, settings).
FAMILIES = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {}),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {"head_dim": 8, "sliding_window": 16}),
    "gemma3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {"head_dim": 8, "sliding_window": 16, "layer_types": _SLIDING},
    ),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {"head_dim": 8}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
    "qwen3_5": (
        "Qwen3_5TextConfig",
        "Qwen3_5ForCausalLM",
        {
            "head_dim": 8,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            **_LINEAR,
        },
    ),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {}),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", {}),
}


def _save(family: str, folder: Path) -> Path:
    import torch
    import transformers

    tokenizer = byte_tokenizer(bos=family != "gpt2")
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": len(tokenizer)}
    ids["tie_word_embeddings"] = False  # tied random weights repeat their input for ever
    sizes = {
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.25,
    }
    if family == "gpt2":
        sizes = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 256}
        sizes["initializer_range"] = 0.25
    config_class, model_class, settings = FAMILIES[family]
    config = getattr(transformers, config_class)(**ids, **sizes, **settings)
    torch.manual_seed(0)
    getattr(transformers, model_class)(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Callable[[str], Path]:
    """``tiny_model(family)``: the folder of a random model of one of ``FAMILIES``: 3 layers,
    width 32, 256 positions, grouped key/value heads where the family has them."""
    folders: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in folders:
            folders[family] = _save(family, tmp_path_factory.mktemp(f"tiny_{family}"))
        return folders[family]

    return folder


@pytest.fixture(scope="session")
def tiny_llama(tiny_model) -> Path:
    return tiny_model("llama")


@pytest.fixture(scope="session")
def tiny_gemma2(tiny_model) -> Path:
    """Every other layer attends to the last 16 positions only."""
    return tiny_model("gemma2")


@pytest.fixture(scope="session")
def tiny_gpt2(tiny_model) -> Path:
    """Learned absolute positions, and no BOS, as in the original."""
    return tiny_model("gpt2")


@pytest.fixture(scope="session")
def save_sae() -> Callable[..., Path]:
    """Writes a random SAE with sae_lens's own ``save_model``.

    ``save_sae(folder, layer, kind="jumprelu", hook=..., width=32, features=256, **settings)``;
    ``hook`` None leaves the hook name out of the metadata.
    """

    def save(
        folder: Path,
        layer: int,
        kind: str = "jumprelu",
        hook: str | None = "blocks.{layer}.hook_resid_post",
        width: int = WIDTH,
        features: int = 256,
        **settings,
    ) -> Path:
        import torch
        from sae_lens.registry import get_sae_class
        from sae_lens.saes.sae import SAEMetadata

        named = {} if hook is None else {"hook_name": hook.format(layer=layer)}
        sae_class, config_class = get_sae_class(kind)
        config = config_class(d_in=width, d_sae=features, metadata=SAEMetadata(**named), **settings)
        sae = sae_class(config)
        rng = torch.Generator().manual_seed(layer)
        for parameter in sae.parameters():
            parameter.data = torch.randn(parameter.shape, generator=rng)
        if kind == "jumprelu":
            sae.threshold.data = 6 * sae.threshold.data.abs()
        sae.save_model(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def tiny_saes(tmp_path_factory, save_sae) -> Path:
    """A folder with a jumprelu SAE of 256 features for every layer of the tiny models."""
    root = tmp_path_factory.mktemp("tiny_saes")
    for layer in range(LAYERS):
        save_sae(root / f"layer_{layer}", layer)
    return root
