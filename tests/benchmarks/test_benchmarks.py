"""The benchmarks still run, and what they print is of answers that were compared."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from scipy.stats import linregress


def table(printed: str) -> dict[str, tuple[float, float]]:
    """Name -> ratios (fastest, median) of a printed table."""
    lines = printed.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("times plain generate"))
    rows = [line.rsplit(maxsplit=2) for line in lines[start + 1 :] if line[:1].isalpha()]
    return {name.strip(): (float(fastest), float(median)) for name, fastest, median in rows}


def check(ratios: dict[str, tuple[float, float]]) -> None:
    assert ratios["plain generate"] == (1, 1)
    assert all(math.isfinite(r) and r > 0 for both in ratios.values() for r in both)


@pytest.mark.night
def test_generate_compares_answers_and_prints_ratios(capsys, monkeypatch):
    from benchmarks import generate, rivals

    installed = [name for name in rivals.LIBRARIES if find_spec(name.replace("-", "_"))]
    monkeypatch.setitem(rivals.RIVALS, "idle", lambda model, vectors: nullcontext())
    said = generate.main(["--small"])
    printed = capsys.readouterr().out
    assert "16 prompts in batches of 8" in printed
    assert "idle is not timed: RuntimeError: all positions of idle: " in printed
    assert [name for name in rivals.LIBRARIES if f"{name} is not installed" in printed] == [
        name for name in rivals.LIBRARIES if name not in installed
    ]
    ratios = table(printed)
    assert list(ratios) == list(said) == [
        "plain generate", "plain generate, again", "plan.steer(model)", "program, no plan",
        "program, 1 plan", "program, 3 plans", "plan.steer, all positions",
        "program, all positions", "plain hooks", "bias in the weights", *installed, "collect",
    ]  # fmt: skip
    check(ratios)


@pytest.mark.night
def test_generate_refuses_to_time_answers_that_differ(monkeypatch):
    from benchmarks import generate

    scale = generate.Scale(prompts=16, batch_size=8, repeats=1, plans=1)
    monkeypatch.setattr(generate, "LOUD", 0.0)
    with pytest.raises(RuntimeError, match="changes no answer"):
        generate.measure(scale, lambda: 0.0)


@pytest.mark.night
def test_published_size_runs_every_stage_small(tmp_path, capsys):
    from benchmarks import published_size

    published_size.main(["--small", "--folder", str(tmp_path)])
    printed = capsys.readouterr().out
    ratios = table(printed)
    assert list(ratios) == [
        "plain generate", "fingerprint", "load", "sites", "answer", "collect", "select", "controls",
        "evaluate", "contexts",
    ]  # fmt: skip
    check(ratios)
    found = json.loads(printed[printed.index("{") :])
    assert found["same_answers"] == 1
    assert found["blocks"] == 3 and found["prompts"] == 24
    assert found["peak_memory_gb"] > 0


@pytest.mark.night
def test_draws_print_what_more_of_them_cost(capsys):
    from benchmarks import draws

    ratios = draws.main(["--small"])
    assert list(ratios) == ["5 draws", "39 draws", "in chunks", "ended early", "beside"]
    assert ratios["5 draws"] == 1 and ratios["39 draws"] > ratios["ended early"] > 0
    assert "16 prompts in batches of 8" in capsys.readouterr().out


@pytest.mark.night
def test_variants_print_what_p_asks(capsys):
    from benchmarks import variants

    assert list(variants.main(["--small"])) == [6, 26, 48]
    assert "16 prompts in batches of 8" in capsys.readouterr().out


@pytest.mark.night
def test_options_are_compared_before_they_are_timed(capsys):
    from benchmarks import options

    said = options.main(["--small"])
    assert said["1 arm, one pass per option"] == (1, 1) and len(said) == 4
    assert "4 questions of 40 tokens" in capsys.readouterr().out


@pytest.mark.night
def test_collecting_compares_what_is_chosen_before_it_is_timed(capsys):
    from benchmarks import collecting

    said = collecting.main(["--small", "--tokens", "1", "8"])
    assert list(said) == [1, 8]
    for table_of in said.values():
        assert table_of["plain generate"] == (1, 1) and len(table_of) == 8
    assert capsys.readouterr().out.count("chosen both ways") == 2


@pytest.mark.night
def test_correlations_are_compared_of_a_random_model_too(monkeypatch, tmp_path):
    from benchmarks import collecting, made

    monkeypatch.setattr(made, "FOLDER", tmp_path)
    monkeypatch.setattr(collecting.Asked, "stored", lambda asked: asked.hooked() + 1)
    with pytest.raises(RuntimeError, match="other correlations"):
        collecting.main(["--small", "--model", made.GEMMA, "--width", "64", "--tokens", "1"])
    assert (tmp_path / "tiny" / "config.json").exists()


@pytest.mark.night
def test_whole_commands_are_times_plain_generate(capsys, monkeypatch):
    from benchmarks import job

    typed = []
    monkeypatch.setattr(job, "command", lambda words, limit: typed.append((words[0], limit)))
    said = job.main(["--small"])
    assert list(said) == ["plain generate", "main job"] and typed == [("coef=1", 24)]
    assert "72 prompts" in capsys.readouterr().out


@pytest.mark.night
def test_a_point_of_scaling_says_time_and_memory():
    from benchmarks import scaling

    point = scaling.Point(samples=8, tokens=1, layers=1, width=64, batch_size=8, small=True)
    seconds, megabytes = scaling.spent(point)
    assert seconds > 0 and 0 <= megabytes < 2000


def test_scaling_fits_every_axis(capsys, monkeypatch):
    from benchmarks import scaling

    asked = []

    def spent(point):
        asked.append(point)
        return point.samples * point.tokens / 4, 5.0 + point.tokens * (point.way != scaling.PLAIN)

    monkeypatch.setattr(scaling, "spent", spent)
    said = scaling.main(["--small"])
    assert list(said) == ["samples", "tokens"] and len(asked) == 12
    for fits in (one["fits"] for one in said.values()):
        assert fits["exponent of time"] == pytest.approx((1, 1, 1))
    beyond = "MB per unit beyond plain generate"
    assert said["samples"]["fits"][beyond] == pytest.approx((0, 0, 0))
    assert said["tokens"]["fits"][beyond] == pytest.approx((1, 1, 1))
    assert "samples: 8, 16, 24, bundled" in capsys.readouterr().out


def test_a_slope_has_its_interval():
    from benchmarks.scaling import fit, fitted

    x, y = [1, 2, 3, 5], [2.0, 4.1, 5.9, 10.2]
    told = linregress(x, y)
    half = 4.302653 * told.stderr  # of t with 2 degrees of freedom
    assert fit(x, y) == pytest.approx((told.slope, told.slope - half, told.slope + half))
    both = np.array([[4.0, 4.0], [8.0, 8.0], [16.0, 16.0]])
    fits = fitted([1, 2, 4], both, both)
    assert fits["exponent of time"] == pytest.approx((1, 1, 1))
    assert fits["MB per unit"] == pytest.approx((4, 4, 4))
    assert fits["MB per unit beyond plain generate"] == pytest.approx((0, 0, 0))


@pytest.mark.long  # transformers
@torch.no_grad()
def test_a_vector_in_the_weights_leaves_no_trace():
    """It does what hooks do, and is gone afterwards."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from benchmarks.rivals import bias, hooks
    from corrsteer.errors import ModelError

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    model, ids = LlamaForCausalLM(config).eval(), torch.arange(4)[None]
    before, names = model(ids).logits, [name for name, _ in model.named_parameters()]
    vectors = {0: np.linspace(-1, 1, 16, dtype=np.float32)}
    steered = []
    for way in (bias, hooks):
        with way(model, vectors):
            steered.append(model(ids).logits)
    torch.testing.assert_close(*steered)
    assert not torch.allclose(steered[0], before, atol=1e-3)
    assert [name for name, _ in model.named_parameters()] == names
    assert torch.equal(model(ids).logits, before)
    model.config.model_type = "gemma2"
    with pytest.raises(ModelError, match="no bias of a gemma2"), bias(model, vectors):
        pass


def test_the_tables_are_those_of_the_last_results(tmp_path):
    from benchmarks import tables

    page = tmp_path / "README.md"
    text = "A\n".join(tables.MARK.format(g) + "\nold\n" + tables.END.format(g) for g in tables.MADE)
    page.write_text(text)
    about = {"date": "2026-11-30", "machine": "2 CPU cores, no GPU", "seconds": 5}
    words = ["--model", "m", "--width", "64", "--tokens", "1", "--batch-size", "8"]
    heard = {"plain generate": [1, 1], "hooks at every token": [2, 2.5],
             "encoders alone": [1, 0.25], "statistics, paid once": [1, 0.5],
             "heard while writing": [1, 1.5]}  # fmt: skip
    kept = {
        "one": {"group": "collecting", "words": words, "found": {"1": heard}, **about},
        "two": {"group": "collecting", "words": words, "failed": "no memory", **about},
        "three": {"group": "scaling", "words": [], **about,
                  "found": {"samples": {"fits": {"exponent of time": [1, 0.9, 1.1]}}}},
    }  # fmt: skip
    tables.render(kept, page)
    made = page.read_text()
    assert "old" not in made and made.count("**Not measured.**") == 3
    assert "|1|m|64|1|8|2.5|0.25|0.5|1.5|1.2|0.6|0.8|0.4|" in made
    assert "|2|m|64|1|8|–|–|–|–|–|–|–|–|" in made
    assert "1. `one`: 2026-11-30, 2 CPU cores, no GPU, 5 s" in made
    assert "|1|samples|exponent of time|1 [0.9, 1.1]|" in made
    tables.render(kept, page)
    assert page.read_text() == made


def test_the_readme_has_a_place_for_every_table():
    from benchmarks import tables

    page = tables.README.read_text()
    for group in tables.MADE:
        assert page.index(tables.MARK.format(group)) < page.index(tables.END.format(group))


def test_what_bench_runs_can_be_listed(capsys):
    from benchmarks import bench, tables

    assert bench.main(["--list", "--only", "collecting", "--model", "bundled"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * 2 * len(bench.WIDTHS) + 1
    assert "OMP_NUM_THREADS=1 python -m benchmarks.collecting --model bundled" in lines[0]
    groups = {part.group for part in bench.small()}
    assert groups == set(bench.GROUPS) == set(tables.MADE)


def test_a_part_that_fails_ends_no_other(monkeypatch):
    from benchmarks import bench

    part = bench.Part("arms", "nothing", ("--x",), 1)
    monkeypatch.setattr(bench, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    assert bench.done(part)["failed"].startswith("ModuleNotFoundError")


@pytest.mark.night
def test_training_all_layers_runs_the_model_once(capsys):
    from benchmarks import train_saes

    said = train_saes.main(["--small"])
    one, apart = said["one pass"], said["a run per layer"]
    assert said["layers"] == [0, 1] and apart["read"] == 2 * one["read"] >= 2 * said["positions"]
    for spent in (one, apart):
        assert spent["positions_per_s"] > 0 and 0 < spent["in_the_model"] < 1
    assert "times one pass" in capsys.readouterr().out


def test_ratios_are_of_the_fastest_and_of_the_median():
    from benchmarks.plain import ratios

    seconds = {"plain": [4.0, 2.0, 3.0], "other": [6.0, 12.0, 30.0]}
    assert ratios(seconds, "plain") == {"plain": (1, 1), "other": (3, 4)}


def test_an_answer_that_differs_is_found():
    from benchmarks.generate import same

    same("x", [(1, 2), (3,)], [(1, 2), (3,)])
    with pytest.raises(RuntimeError, match="x: 1 of 2 answers"):
        same("x", [(1, 2), (3,)], [(1, 2), (4,)])
