"""SAEs trained on a tiny random model: on what, what is saved, and how it is judged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from corrsteer.errors import ConfigError, DataError
from corrsteer.models.local import Local
from corrsteer.models.spec import Model
from corrsteer.models.stream import loss, read, rows_of
from corrsteer.run import train as job
from corrsteer.saes import training
from corrsteer.saes.folder import Folder
from corrsteer.saes.recipe import TrainSAE
from corrsteer.stages.sites import problem, site_fits
from tests.test_config import composed

pytestmark = pytest.mark.long

ROWS = [[1, *range(5, 25)], [1, *range(60, 70)], [1, 40, 41, 42]]  # BOS first
SMALL = [
    *("layers=all", "job.context=32", "job.batch=64", "job.positions=1536", "job.k=8"),
    *("job.heldout_positions=256", "job.loss_positions=128", "job.lr=0.003", "backend.device=cpu"),
]


@pytest.fixture(scope="module")
def model(tiny_llama):
    return Local("cpu").load(Model("tiny", str(tiny_llama)))


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """8,000 words of three letters."""
    file = tmp_path_factory.mktemp("text") / "words.txt"
    letters = np.random.default_rng(0).choice(list("abcdefghij"), (8000, 3))
    file.write_text(" ".join("".join(word) for word in letters).replace("a ", "a.\n"))
    return file


def settings(model_folder, text, out, *more):
    words = [f"model.path={model_folder}", f"job.text={text}", f"job.out={out}", "sae.path=x"]
    return composed("job=train_sae", "model=folder", *words, *SMALL, *more)


def run(cfg, folder: Path) -> dict:
    folder.mkdir(exist_ok=True)
    job.run(cfg, folder)
    return json.loads((folder / "saes.json").read_text())


@pytest.fixture(scope="module")
def trained(tiny_llama, text, tmp_path_factory):
    """(folder of the SAEs, what the run recorded, the run's folder)"""
    place = tmp_path_factory.mktemp("trained")
    return place / "saes", run(settings(tiny_llama, text, place / "saes"), place), place


@pytest.fixture(scope="module")
def good(tiny_llama, text, tmp_path_factory):
    """The same, trained for longer."""
    place = tmp_path_factory.mktemp("good")
    more = ["job.positions=24000", "job.k=16"]
    return place / "saes", run(settings(tiny_llama, text, place / "saes", *more), place), place


# -- the stream ------------------------------------------------------------------------------


def test_rows_are_the_text_in_order_with_bos_each(model):
    text = "Some words, and then some more of them."
    rows = list(rows_of(model, [text, "x", "yes"], 8))
    assert {row[0] for row in rows} == {1} and max(map(len, rows)) == 8
    whole = [i for row in rows for i in row[1:]]
    assert model._tokenizer.decode(whole) == f"{text}yes"  # one token predicts nothing
    with pytest.raises(DataError, match="room for 256"):
        next(rows_of(model, [text], 257))


def test_all_layers_of_one_pass_are_those_of_plain_hooks(model):
    found = read(model, ROWS, [0, 2])
    for i, layer in enumerate((0, 2)):
        caught: list = []
        block = model._module.model.layers[layer]
        hook = block.register_forward_hook(lambda m, a, out, c=caught: c.append(out))
        with torch.no_grad():
            for row in ROWS:
                model._module(torch.tensor([row]))
        hook.remove()
        plain = torch.cat([(c[0] if isinstance(c, tuple) else c)[0][1:] for c in caught])
        assert torch.allclose(found.x[:, i], plain, atol=1e-5)
    assert found.sinks == 0


def test_a_position_with_a_norm_above_ten_medians_is_left_out(model, monkeypatch):
    whole = read(model, ROWS, [0, 1]).x

    def with_sink(*given):
        residuals, fired = type(model)._residuals(model, *given)
        residuals[1][3] *= 200
        return residuals, fired

    monkeypatch.setattr(model, "_residuals", with_sink)
    left = read(model, ROWS, [0, 1])
    assert left.sinks == 1
    assert torch.equal(left.x, torch.cat([whole[:3], whole[4:]]))


def test_the_loss_is_that_of_a_plain_hook(model):
    def reference(layer, change):
        def swap(module, given, out):
            hidden = out[0] if isinstance(out, tuple) else out
            hidden[:, 1:] = change(hidden[:, 1:])
            return out

        hook = model._module.model.layers[layer].register_forward_hook(swap)
        nats = 0.0
        with torch.no_grad():
            for row in ROWS:
                logs = model._module(torch.tensor([row])).logits[0, :-1].log_softmax(-1)
                nats -= logs.gather(1, torch.tensor(row[1:])[:, None]).sum().item()
        hook.remove()
        return nats

    tokens = sum(len(row) - 1 for row in ROWS)
    clean = reference(1, lambda x: x)
    assert loss(model, ROWS) == (pytest.approx(clean, rel=1e-5), tokens)
    for change in (lambda x: x * 0, lambda x: x.flip(-1)):
        found, _ = loss(model, ROWS, 1, change)
        assert found == pytest.approx(reference(1, change), rel=1e-4)
        assert found != pytest.approx(clean, rel=1e-3)


# -- training --------------------------------------------------------------------------------


def test_saes_load_in_sae_lens_with_the_same_activations_and_fit_their_site(good, model, text):
    from sae_lens import SAE

    folder = Folder(str(good[0]))
    assert folder.layers() == (0, 1, 2)
    prompts = text.read_text().splitlines()[:40]
    saes = {layer: folder.load(layer) for layer in range(3)}
    fits = site_fits(model, saes, prompts)
    x = read(model, list(rows_of(model, prompts, 32)), [0, 1, 2]).x
    for layer, ours in saes.items():
        plain = SAE.load_from_disk(good[0] / f"layer_{layer}").requires_grad_(False)
        acts = ours.encode(x[:, layer])
        assert torch.allclose(acts, plain.encode(x[:, layer]), atol=1e-4) and acts.any()
        assert plain.cfg.metadata.hook_name == f"blocks.{layer}.hook_resid_post"
        assert plain.cfg.metadata.model_name == folder.trained_on(layer) == good[1]["model"]
        assert problem(fits[layer], folder.sae_id(layer)) is None
        assert fits[layer].explained > 0.3, fits[layer]
    assert not (good[0] / ".training").exists()


def test_held_out_rows_are_not_trained_on_and_come_from_all_of_the_text(model, text, tmp_path):
    parts = job.build(settings(model._model.path, text, tmp_path / "saes"))
    rows, heldout = job._rows(parts, model)
    every = list(rows_of(model, [text.read_text()], 32))[: len(rows) + len(heldout)]
    assert sorted(rows + heldout) == sorted(every)
    assert sum(len(row) - 1 for row in heldout) >= 256
    gaps = np.diff([every.index(row) for row in heldout])
    assert set(gaps) == {gaps[0]} and gaps[0] > 1
    more = job.build(settings(model._model.path, text, "x", f"job.heldout={text}"))
    rows, heldout = job._rows(more, model)
    assert heldout[0] == rows[0] == every[0]  # the user's own choice


def test_the_record_says_how_good_each_layer_is_on_held_out_text(good, model, text):
    out, record, folder = good
    assert [row["layer"] for row in record["layers"]] == [0, 1, 2]
    given = settings(model._model.path, text, out, "job.positions=24000")
    x = read(model, job._rows(job.build(given), model)[1], [0, 1, 2]).x.double()
    for n, row in enumerate(record["layers"]):
        sae = Folder(str(out)).load(n)
        x_hat, l0 = sae.reconstruct(x[:, n].float())
        error = (x[:, n] - x_hat).square().sum()
        explained = 1 - error / (x[:, n] - x[:, n].mean(0)).square().sum()
        assert row["positions"] == len(x) >= 256
        assert row["explained"] == pytest.approx(float(explained), abs=1e-5)
        assert row["l0"] == pytest.approx(float(l0.mean()))
        assert 0 < row["dead"] < 1
        lost = row["loss_zero"] - row["loss"]
        assert row["recovered"] == pytest.approx((row["loss_zero"] - row["loss_sae"]) / lost)
        assert len({row["loss"], row["loss_sae"], row["loss_zero"]}) == 3
    assert record["points"][-1]["samples"] == 24000
    page = (folder / "report.html").read_text()
    assert "Quality by layer" in page and "never trained on" in page


@pytest.mark.night
def test_saes_of_the_bundled_model_keep_most_of_its_loss(tmp_path):
    """300 steps, on questions about its own world."""
    from corrsteer.config import bundled, instantiate

    task = instantiate(composed("task=bbq", "data=bundled").task)
    questions = [" ".join(q.fields.values()) for q in task.questions()][:3000]
    (tmp_path / "text.jsonl").write_text("\n".join(json.dumps({"text": q}) for q in questions))
    more = ["layers=[1,4]", "job.positions=19200", "job.context=64", "job.k=16", "job.lr=0.001"]
    more += ["job.heldout_positions=1000", "job.loss_positions=500"]
    cfg = settings(bundled("model"), tmp_path / "text.jsonl", tmp_path / "saes", *more)
    for row in run(cfg, tmp_path)["layers"]:
        assert row["loss"] < row["loss_sae"] < row["loss_zero"], row
        assert row["recovered"] > 0.8 and row["explained"] > 0.7, row


def test_training_that_was_stopped_ends_with_the_same_weights(
    trained, tiny_llama, text, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "CHECKPOINTS_EVERY", -1.0)
    cfg = settings(tiny_llama, text, tmp_path / "saes")
    seen: list[int] = []

    def stop(samples, point, layers, words=job._words):
        seen.append(samples)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return words(samples, point, layers)

    with monkeypatch.context() as patch:
        patch.setattr(job, "_words", stop)
        with pytest.raises(KeyboardInterrupt):
            run(cfg, tmp_path)
    assert not (tmp_path / "saes" / "saes.json").exists()
    other = settings(tiny_llama, text, tmp_path / "saes", "job.lr=0.004")
    with pytest.raises(ConfigError, match="unfinished training with other settings"):
        run(other, tmp_path)
    monkeypatch.setattr(job, "_words", lambda s, *_: seen.append(s) or "")
    record = run(cfg, tmp_path)
    assert seen[4] == seen[2] and seen[4:] == sorted({*seen[4:]}) and seen[-1] == 1536
    out, whole, _ = trained
    for layer in range(3):
        one, two = (Folder(str(o)).load(layer) for o in (out, tmp_path / "saes"))
        assert torch.equal(one.W_enc, two.W_enc) and torch.equal(one.threshold, two.threshold)
    assert record["points"] == whole["points"]
    # Once more: they are there.
    monkeypatch.setattr(training, "train", None)
    assert run(cfg, tmp_path) == record
    with pytest.raises(ConfigError, match="holds other SAEs"):
        run(other, tmp_path)


@pytest.mark.parametrize("architecture", ["topk", "jumprelu"])
def test_other_architectures_are_saved_as_what_they_are(tiny_llama, text, tmp_path, architecture):
    more = [f"job.architecture={architecture}", "job.positions=512", "layers=[1]"]
    more += ["job.loss_positions=0", "job.dtype=float16"]
    record = run(settings(tiny_llama, text, tmp_path / "saes", *more), tmp_path)
    sae = Folder(str(tmp_path / "saes")).load(1)
    assert sae.architecture == architecture
    (row,) = record["layers"]
    assert (row["loss"], row["recovered"]) == (None, None)
    assert row["l0"] == pytest.approx(8, abs=0.1 if architecture == "topk" else 100)
    from safetensors.torch import load_file

    weights = load_file(tmp_path / "saes" / "layer_1" / "sae_weights.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float16}


# -- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["job.text=nowhere"], "job.text='nowhere': no such file"),
        (["job.heldout=nowhere"], "job.heldout='nowhere': no such file"),
        (["job.k=1000"], "fewer than job.k=1000"),
        (["job.width=0"], "job.width=0: it must be a number above 0"),
        (["job.architecture=gated"], "batchtopk, topk, jumprelu"),
        (["job.positions=1.5"], "whole number"),
        (["job.memory_gb=0.0001"], "allows less: choose fewer layers"),
        (["layers=7"], "layer 7 is out of range"),
        (["backend=ndif"], "type backend=local"),
        (["job.context=1000"], "room for 256"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(tiny_llama, text, tmp_path, more, words):
    if more == ["backend=ndif"]:
        cfg = composed("job=train_sae", "model=folder", f"model.path={tiny_llama}", "sae.path=x",
                       f"job.text={text}", "job.out=x", *more)  # fmt: skip
    else:
        cfg = settings(tiny_llama, text, tmp_path / "saes", *more)
    with pytest.raises((ConfigError, DataError)) as caught:
        run(cfg, tmp_path / "run")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_memory_is_bounded_and_stated():
    recipe = TrainSAE("x", "y", memory_gb=2.0)
    used, size = recipe.memory(30, 576)
    assert used <= 2e9 and size % recipe.batch == 0
    more, larger = TrainSAE("x", "y", memory_gb=4.0).memory(30, 576)
    assert used < more <= 4e9 and larger > size


def test_a_text_that_is_too_short_leaves_a_folder_free_and_a_file_is_refused(
    tiny_llama, text, tmp_path
):
    short = tmp_path / "short.txt"
    short.write_text("x")
    with pytest.raises(DataError, match="too short"):
        run(settings(tiny_llama, short, tmp_path / "saes"), tmp_path)
    (tmp_path / "saes" / ".training" / "stopped" / "checkpoints").mkdir(parents=True)
    assert run(settings(tiny_llama, text, tmp_path / "saes"), tmp_path)["layers"]
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match="is a file: give a folder"):
        job.run(settings(tiny_llama, text, file), tmp_path)
