"""Published releases, from small checkpoints in their own file formats in a Hub cache."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from corrsteer.errors import ConfigError, ModelError
from corrsteer.saes.pretrained import Pretrained
from corrsteer.saes.provider import same_model
from corrsteer.saes.registry import find_release

pytestmark = pytest.mark.long

M, D = 32, 128


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def residuals() -> torch.Tensor:
    return random(50, M, seed=9)


def weights(threshold: bool = True) -> dict[str, torch.Tensor]:
    """W_enc [M, D], W_dec [D, M] with rows of different lengths, and biases."""
    made = {
        "W_enc": random(M, D, seed=1),
        "W_dec": random(D, M, seed=2) * (0.5 + random(D, 1, seed=3).abs()),
        "b_enc": random(D, seed=4),
        "b_dec": random(M, seed=5),
    }
    return made | {"threshold": 6 * random(D, seed=6).abs()} if threshold else made


def jumprelu(x: torch.Tensor, w: dict[str, torch.Tensor]) -> torch.Tensor:
    pre = x @ w["W_enc"] + w["b_enc"]
    return torch.where(pre > w["threshold"], pre, 0)


def close(got, expected, tolerance: float = 1e-5) -> None:
    got, expected = torch.as_tensor(got), torch.as_tensor(expected)
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


def agrees(provider: Pretrained, layer: int, x, acts, x_hat) -> None:
    """The provider's SAE has these activations and this reconstruction, feature by feature."""
    provider.validate(layer, M)
    loaded = provider.load(layer)
    assert (loaded.layer, loaded.width, loaded.d_model) == (layer, D, M)
    assert 0.01 < (acts > 0).float().mean() < 0.95
    assert torch.equal(loaded.encode(x) > 0, acts > 0)
    got, l0 = loaded.reconstruct(x)
    close(got, x_hat)
    assert torch.equal(l0, (acts > 0).sum(1).float())
    rows = torch.from_numpy(loaded.directions(range(D)))
    change = loaded.encode(x)[1:] @ rows - loaded.encode(x)[:-1] @ rows
    close(change, x_hat[1:] - x_hat[:-1], 1e-4)  # what is the same everywhere drops out


def refusal(provider: Pretrained, layer: int = 0) -> str:
    """What ``validate`` and ``load`` say, which has to be the same."""
    told = []
    for use in (lambda: provider.validate(layer, M), lambda: provider.load(layer)):
        with pytest.raises((ConfigError, ModelError)) as caught:
            use()
        assert "\n" not in str(caught.value)
        told.append(str(caught.value))
    assert told[0] == told[1]
    return told[0]


# -- one release of each format ------------------------------------------------------------------

GEMMA_2 = Pretrained(
    "gemma-scope-2b-pt-res-canonical", "layer_{layer}/width_16k/canonical", "gemma"
)
GEMMA_3 = Pretrained("gemma-scope-2-1b-pt-res-all", "layer_{layer}_width_16k_l0_small", "gemma3")
LLAMA = Pretrained("llama_scope_lxr_8x", "l{layer}r_8x", "llama")
QWEN = Pretrained("qwen-scope-3-1.7b-base-w32k-l50", "layer{layer}", "qwen")
GPT2 = Pretrained("gpt2-small-resid-post-v5-32k", "blocks.{layer}.hook_resid_post", "gpt2")
GPT2_JB = Pretrained("gpt2-small-res-jb", "blocks.{layer}.hook_resid_pre", "jb")
PYTHIA = Pretrained("pythia-70m-deduped-res-sm", "blocks.{layer}.hook_resid_post", "pythia")


def npz(arrays: dict[str, torch.Tensor]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **{name: value.numpy() for name, value in arrays.items()})
    return file.getvalue()


def pt(value) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def sae_lens_files(folder: str, w: dict[str, torch.Tensor], **config) -> dict[str, bytes]:
    """cfg.json as sae_lens wrote it before version 6, when these releases were made."""
    config = {"d_in": M, "d_sae": D, "dtype": "torch.float32", "activation_fn_str": "relu"} | config
    w = w | {"scaling_factor": torch.ones(D)}  # written for a while, without effect
    return {
        f"{folder}/cfg.json": json.dumps(config).encode(),
        f"{folder}/sae_weights.safetensors": save(w),
    }


def llama_files(layer: int, w: dict[str, torch.Tensor], dtype=torch.bfloat16, **own):
    folder = f"Llama3_1-8B-Base-L{layer}R-8x"
    hook = f"blocks.{layer}.hook_resid_post"
    raw = {
        "encoder.weight": w["W_enc"].T,
        "encoder.bias": w["b_enc"],
        "decoder.weight": w["W_dec"].T,
        "decoder.bias": w["b_dec"],
    }
    # The factor that the registry has for this layer: sqrt(d_model) / norm.
    factor = find_release("llama_scope_lxr_8x").saes[f"l{layer}r_8x"]["norm_scaling_factor"]
    config = {
        "d_model": M,
        "d_sae": D,
        "hook_point_in": hook,
        "hook_point_out": hook,
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.52,
        "dataset_average_activation_norm": {"in": math.sqrt(M) / factor, "out": 1.0},
        **own,
    }
    return {
        f"{folder}/hyperparams.json": json.dumps(config).encode(),
        f"{folder}/checkpoints/final.safetensors": save(
            {name: value.to(dtype).contiguous() for name, value in raw.items()}
        ),
    }


def test_gemma_scope(publish, residuals):
    w = weights()
    publish("google/gemma-scope-2b-pt-res", {"layer_3/width_16k/average_l0_59/params.npz": npz(w)})
    acts = jumprelu(residuals, w)
    agrees(GEMMA_2, 3, residuals, acts, acts @ w["W_dec"] + w["b_dec"])
    close(GEMMA_2.load(3).encode(residuals), acts)
    assert GEMMA_2.neuronpedia(3) == "gemma-2-2b/3-gemmascope-res-16k"
    assert GEMMA_2.sae_id(3) == "gemma-scope-2b-pt-res-canonical/layer_3/width_16k/canonical"


def gemma_3_files(w, **config):
    names = {"W_enc": "w_enc", "W_dec": "w_dec"}
    folder = "resid_post_all/layer_7_width_16k_l0_small"
    files = {f"{folder}/params.safetensors": save({names.get(k, k): v for k, v in w.items()})}
    if config:
        files[f"{folder}/config.json"] = json.dumps(config).encode()
    return files


@pytest.mark.parametrize(
    "config", [{}, {"architecture": "jump_relu", "hf_hook_point_in": "model.layers.7.output"}]
)
def test_gemma_scope_2_without_network(config, publish, residuals):
    w = weights()
    publish("google/gemma-scope-2-1b-pt", gemma_3_files(w, **config))
    acts = jumprelu(residuals, w)
    agrees(GEMMA_3, 7, residuals, acts, acts @ w["W_dec"] + w["b_dec"])
    assert (GEMMA_3.neuronpedia(7), GEMMA_3.trained_on(7)) == (None, "google/gemma-3-1b-pt")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"architecture": "jump_relu", "hf_hook_point_in": "model.layers.6.output"},
            "names two sites, blocks.7.hook_resid_post and model.layers.6.output",
        ),
        ({"architecture": "abstopk"}, "can be negative"),
    ],
)
def test_gemma_scope_2_has_to_be_what_its_own_config_says(config, message, publish):
    publish("google/gemma-scope-2-1b-pt", gemma_3_files(weights(), **config))
    assert message in refusal(GEMMA_3, 7)


def openmoss(x: torch.Tensor, raw: dict[str, torch.Tensor], norm: float, threshold: float):
    """Activations and reconstruction as Llama Scope was released: the input is scaled to length
    sqrt(d), every decoder row to 1, and a pre-activation counts from the threshold on, in units
    of the residual stream."""
    s = math.sqrt(x.shape[1]) / norm
    length = raw["W_dec"].norm(dim=1)
    hidden = ((x * s) @ raw["W_enc"] + raw["b_enc"]) * length / s
    acts = torch.where(hidden > threshold, hidden, 0)
    return acts, acts @ (raw["W_dec"] / length[:, None]) + raw["b_dec"] / s


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_llama_scope_gates_as_it_was_trained(dtype, publish, residuals, hub_cache):
    w = {name: value.to(dtype).float() for name, value in weights(threshold=False).items()}
    files = llama_files(8, w, dtype)
    publish("fnlp/Llama3_1-8B-Base-LXR-8x", files)
    own = json.loads(next(iter(files.values())))
    norm = own["dataset_average_activation_norm"]["in"]
    w = {name: value.double() for name, value in w.items()}
    acts, x_hat = openmoss(residuals.double(), w, norm, 0.52)
    assert 0.05 < (acts > 0).float().mean() < 0.6
    agrees(LLAMA, 8, residuals, acts, x_hat.float())
    close(LLAMA.load(8).encode(residuals), acts.float())
    np.testing.assert_allclose(
        np.linalg.norm(LLAMA.load(8).directions(range(D)), axis=1), 1, rtol=1e-5
    )
    for name, content in files.items():  # reading changes no file
        found = list(hub_cache.glob(f"*/snapshots/*/{name}"))
        assert [file.read_bytes() for file in found] == [content]


def test_llama_scope_is_gated_otherwise_by_sae_lens(publish, residuals, hub_cache, monkeypatch):
    import sae_lens.loading.pretrained_sae_loaders as loaders
    from sae_lens import SAE

    def local(repo_id, filename, subfolder="", force_download=False):
        (found,) = hub_cache.glob(f"*/snapshots/*/{Path(subfolder) / filename}")
        return str(found)

    monkeypatch.setattr(loaders, "hf_hub_download", local)
    w = weights(threshold=False)
    publish("fnlp/Llama3_1-8B-Base-LXR-8x", llama_files(8, w, torch.float32))
    plain = SAE.from_pretrained("llama_scope_lxr_8x", "l8r_8x")
    fixed = SAE.from_pretrained("llama_scope_lxr_8x", "l8r_8x", fold_W_dec_norm=True)
    with torch.no_grad():
        fixed.threshold.fill_(0.52)
        ours = LLAMA.load(8)
        close(ours.encode(residuals), fixed.encode(residuals))
        close(ours.reconstruct(residuals)[0], fixed(residuals))
        l0 = (ours.encode(residuals) > 0).float().sum(1).mean()
        theirs = (plain.encode(residuals) > 0).float().sum(1).mean()
        assert abs(l0 - theirs) > 3
        assert (plain(residuals) - ours.reconstruct(residuals)[0]).abs().max() > 0.1
    # with decoder rows of length 1 there is no difference
    w["W_dec"] /= w["W_dec"].norm(dim=1, keepdim=True)
    publish("fnlp/Llama3_1-8B-Base-LXR-8x", llama_files(8, w, torch.float32))
    plain = SAE.from_pretrained("llama_scope_lxr_8x", "l8r_8x")
    with torch.no_grad():
        close(LLAMA.load(8).reconstruct(residuals)[0], plain(residuals))


def test_qwen_scope(publish, residuals):
    w = weights(threshold=False)
    raw = w | {"W_enc": w["W_enc"].T, "W_dec": w["W_dec"].T}
    raw = {name: value.contiguous() for name, value in raw.items()}
    publish("Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50", {"layer20.sae.pt": pt(raw)})
    pre = residuals @ w["W_enc"] + w["b_enc"]
    least = pre.topk(50, dim=1).values[:, -1:]
    acts = torch.where(pre >= least, pre, 0).relu()
    agrees(QWEN, 20, residuals, acts, acts @ w["W_dec"] + w["b_dec"])
    half = {name: value.to(torch.bfloat16) for name, value in raw.items()}
    publish("Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50", {"layer20.sae.pt": pt(half)})
    assert QWEN.load(20).W_enc.dtype == torch.float32


class Payload:
    def __reduce__(self):
        return print, ("unpickled",)


def test_nothing_is_unpickled(publish, capsys):
    content = pt({"W_enc": torch.zeros(D, M), "x": Payload()})
    publish("Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50", {"layer0.sae.pt": content})
    assert "would have to be unpickled: choose another" in refusal(QWEN)
    arrays = io.BytesIO()
    np.savez(arrays, W_enc=np.zeros((M, D)), W_dec=np.array([Payload()], dtype=object))
    name = "layer_3/width_16k/average_l0_59/params.npz"
    publish("google/gemma-scope-2b-pt-res", {name: arrays.getvalue()})
    with pytest.raises(ModelError, match="cannot be read"):
        GEMMA_2.load(3)
    assert "unpickled" not in capsys.readouterr().out


def test_gpt2_normalises_every_position(publish, residuals):
    w = weights(threshold=False)
    config = {"hook_name": "blocks.11.hook_resid_post", "normalize_activations": "layer_norm"}
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 16}}
    # The folder is called like a file.
    publish(
        "jbloom/GPT2-Small-OAI-v5-32k-resid-post-SAEs",
        sae_lens_files("v5_32k_layer_11.pt", w, **config, **topk),
    )
    mean, std = residuals.mean(1, keepdim=True), residuals.std(1, keepdim=True)
    pre = ((residuals - mean) / (std + 1e-5) - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    least = pre.topk(16, dim=1).values[:, -1:]
    acts = torch.where(pre >= least, pre, 0).relu()
    x_hat = (acts @ w["W_dec"] + w["b_dec"]) * std + mean
    loaded = GPT2.load(11)
    close(loaded.encode(residuals), acts * std)
    close(loaded.reconstruct(residuals)[0], x_hat)
    rows = torch.from_numpy(loaded.directions(range(D)))
    close(loaded.encode(residuals) @ rows + w["b_dec"] * std + mean, x_hat)


def test_the_input_of_a_block_serves_the_one_before_and_is_centred(publish, residuals):
    assert GPT2_JB.layers() == tuple(range(11))
    assert GPT2_JB.sae_id(4) == "gpt2-small-res-jb/blocks.5.hook_resid_pre"
    assert GPT2_JB.neuronpedia(4) == "gpt2-small/5-res-jb"
    w, hook = weights(threshold=False), "blocks.5.hook_resid_pre"
    publish("jbloom/GPT2-Small-SAEs-Reformatted", sae_lens_files(hook, w, hook_point=hook))
    mean = residuals.mean(1, keepdim=True)
    assert mean.abs().max() > 0.1
    acts = ((residuals - mean - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    loaded = GPT2_JB.load(4)
    close(loaded.encode(residuals), acts)
    close(loaded.reconstruct(residuals)[0], acts @ w["W_dec"] + w["b_dec"] + mean)


def test_the_registry_goes_over_a_config_of_version_6_too(publish, save_sae, tmp_path):
    hook = "blocks.5.hook_resid_pre"
    folder = save_sae(tmp_path / "x", 5, "standard", hook=hook)
    config = json.loads((folder / "cfg.json").read_text())
    config["metadata"]["model_from_pretrained_kwargs"] = {}
    (folder / "cfg.json").write_text(json.dumps(config))
    files = {f"{hook}/{file.name}": file.read_bytes() for file in folder.iterdir()}
    publish("jbloom/GPT2-Small-SAEs-Reformatted", files)
    assert GPT2_JB.load(4).centred


def test_a_factor_of_the_registry_is_folded(publish, residuals):
    provider = Pretrained("gemma-2b-res-jb", "blocks.{layer}.hook_resid_post", "gemma")
    entries = find_release(provider.release).saes
    (with_factor,) = (n for n, e in entries.items() if "norm_scaling_factor" in e)
    layer, factor = int(with_factor.split(".")[1]), entries[with_factor]["norm_scaling_factor"]
    other = next(n for n in provider.layers() if n != layer)
    w = weights(threshold=False)
    for number in (layer, other):
        hook = f"blocks.{number}.hook_resid_post"
        config = {"hook_name": hook, "normalize_activations": "expected_average_only_in"}
        files = sae_lens_files(entries[hook]["path"], w, **config)
        publish("jbloom/Gemma-2b-Residual-Stream-SAEs", files)
    acts = ((residuals * factor - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    x_hat = (acts @ w["W_dec"] + w["b_dec"]) / factor
    agrees(provider, layer, residuals, acts, x_hat)
    assert "by a factor that sae_lens's registry does not have" in refusal(provider, other)


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "template", "message"),
    [
        ("gemma-scope-2b-res", "layer_{layer}", "nearest are: gemma-scope-2b-pt-res"),
        ("gemma-scope-2b-pt-res-canonical", "layer_{layer}/width_17k/canonical", "width_16k/can"),
        ("gemma-scope-2b-pt-res-canonical", "{layer}", "matches no SAE"),
        # The embeddings are no block's output, and the registry's entry for them is wrong too.
        ("pythia-70m-deduped-res-sm", "blocks.{layer}.hook_resid_pre", "matches no SAE"),
        ("llama-3.1-8b-instruct-andyrdt", "resid_post_layer_{layer}_trainer_1", "dictionary_lea"),
        ("temporal-sae-gemma-2-2b", "blocks.{layer}.hook_resid_post", "the format temporal"),
    ],
)
def test_a_wrong_release_or_template_is_refused(release, template, message):
    provider = Pretrained(release, template, "x")
    with pytest.raises((ConfigError, ModelError), match=message) as caught:
        provider.layers()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_layer_without_an_sae_is_refused():
    provider = Pretrained("gemma-scope-9b-it-res-canonical", GEMMA_2.template, "x")
    assert provider.layers() == (9, 20, 31)
    with pytest.raises(ModelError, match="no SAE of layer 3 .* layers that have one: 9, 20, 31"):
        provider.sae_id(3)


@pytest.mark.parametrize(
    ("release", "template", "repo", "files", "message"),
    [
        (
            "gemma-scope-2b-pt-mlp-canonical",
            "layer_{layer}/width_16k/canonical",
            "google/gemma-scope-2b-pt-mlp",
            {"layer_0/width_16k/average_l0_119/params.npz": npz(weights())},
            "only the output of a block",
        ),
        (
            "gemma-scope-2-1b-pt-att-all",
            "layer_{layer}_width_16k_l0_small",
            "google/gemma-scope-2-1b-pt",
            {
                "attn_out_all/layer_0_width_16k_l0_small/params.safetensors": save(
                    {"w_enc": torch.zeros(M, D)}
                )
            },
            "only the output of a block",
        ),
        (
            "llama_scope_lxr_8x",
            "l{layer}r_8x",
            "fnlp/Llama3_1-8B-Base-LXR-8x",
            llama_files(0, weights(), hook_point_out="blocks.0.hook_mlp_out"),
            "only the output of a block",
        ),
        (
            "llama_scope_lxr_8x",
            "l{layer}r_8x",
            "fnlp/Llama3_1-8B-Base-LXR-8x",
            llama_files(
                0,
                weights(),
                hook_point_in="blocks.1.hook_resid_post",
                hook_point_out="blocks.1.hook_resid_post",
            ),
            "the output of block 1, not of block 0",
        ),
        (
            "pythia-70m-deduped-res-sm",
            "blocks.{layer}.hook_resid_post",
            "ctigges/pythia-70m-deduped__res-sm_processed",
            sae_lens_files("0-res-sm", weights(), hook_name="blocks.0.hook_attn_out"),
            "only the output of a block",
        ),
        (
            "pythia-70m-deduped-res-sm",
            "blocks.{layer}.hook_resid_post",
            "ctigges/pythia-70m-deduped__res-sm_processed",
            {"0-res-sm/cfg.json": b"{", "0-res-sm/sae_weights.safetensors": b""},
            "cannot be read (JSONDecodeError",
        ),
    ],
)
def test_another_site_is_refused(release, template, repo, files, message, publish):
    publish(repo, files)
    assert message in refusal(Pretrained(release, template, "x"))


def test_files_that_cannot_be_had_are_one_line_with_the_command(hub_cache):
    told = refusal(LLAMA, 8)
    folder = "Llama3_1-8B-Base-L8R-8x"
    assert "SAE llama_scope_lxr_8x/l8r_8x is not on this machine" in told
    assert f"{folder}/hyperparams.json {folder}/checkpoints/final.safetensors" in told
    assert "hf download fnlp/Llama3_1-8B-Base-LXR-8x" in told


def test_another_width_is_refused_before_loading(publish):
    publish("fnlp/Llama3_1-8B-Base-LXR-8x", llama_files(8, weights()))
    with pytest.raises(ModelError, match="reads width 32, but .* has width 4096"):
        LLAMA.validate(8, 4096)


@pytest.mark.parametrize(
    "bad",
    [
        {"release": ""},
        {"name": ""},
        {"template": "layer"},
        {"template": "{layer}{layer}"},
        {"check": "no"},
        {"budget_gb": -1},
    ],
)
def test_settings_are_checked_when_built(bad):
    with pytest.raises(ConfigError):
        Pretrained(**({"release": "r", "template": "{layer}", "name": "n"} | bad))


# -- identity, and what it costs -----------------------------------------------------------------


def test_fingerprint_is_the_content_of_the_files(publish, hub_cache):
    repo = "fnlp/Llama3_1-8B-Base-LXR-8x"
    publish(repo, llama_files(8, weights()) | llama_files(9, weights()))
    first = LLAMA.fingerprint(8)
    assert first == LLAMA.fingerprint(8) != LLAMA.fingerprint(9)
    # another commit with the same content is the same SAE; a blob's name is believed
    publish(repo, llama_files(8, weights()), commit="d" * 40)
    assert LLAMA.fingerprint(8) == first
    (weights_file,) = hub_cache.glob(f"*/snapshots/{'d' * 40}/*/checkpoints/final.safetensors")
    blob = weights_file.resolve()
    blob.rename(blob.with_name("0" * 64))
    weights_file.unlink()
    weights_file.symlink_to(blob.with_name("0" * 64))
    assert LLAMA.fingerprint(8) != first
    # where the cache has no links, the file is read
    content = weights_file.read_bytes()
    weights_file.unlink()
    weights_file.write_bytes(content)
    assert LLAMA.fingerprint(8) == first
    weights_file.write_bytes(content[:-1] + b"x")
    assert LLAMA.fingerprint(8) != first


def test_layers_are_known_without_importing_torch_or_sae_lens():
    code = (
        "import sys; from corrsteer.saes.pretrained import Pretrained;"
        "p = Pretrained('gemma-scope-9b-pt-res-canonical', 'layer_{layer}/width_16k/canonical',"
        " 'x'); assert p.layers() == tuple(range(42)), p.layers();"
        "assert p.trained_on(0) == 'gemma-2-9b';"
        "assert not {'torch', 'sae_lens', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_model_is_named_as_the_hub_names_it_where_the_registry_does():
    assert GEMMA_2.trained_on(0) == "google/gemma-2-2b"
    assert PYTHIA.trained_on(0) == "EleutherAI/pythia-70m-deduped"
    assert GPT2_JB.trained_on(0) == "gpt2-small"  # linked to a page of another name
    assert QWEN.trained_on(0) == "Qwen/Qwen3-1.7B-Base"


@pytest.mark.parametrize(
    ("trained_on", "path", "same"),
    [
        ("gemma-2-2b", "google/gemma-2-2b", True),
        ("google/gemma-2-2b", "google/gemma-2-2b-it", False),
        ("gpt2-small", "openai-community/gpt2", True),
        ("google/gemma-3-1b-pt", "google/gemma-3-1b-pt", True),
        ("google/gemma-3-270m", "google/gemma-3-270m-pt", True),
        ("meta-llama/Llama-3.1-8B", "/data/models/llama-3.1-8b/", True),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct", False),
    ],
)
def test_names_of_one_model(trained_on, path, same):
    assert same_model(trained_on, path) is same
