"""The benchmarks still run, and what they print is of answers that were compared."""

from __future__ import annotations

import json
import math

import pytest


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
def test_generate_compares_answers_and_prints_ratios(capsys):
    from benchmarks import generate

    generate.main(["--small"])
    printed = capsys.readouterr().out
    assert "16 prompts in batches of 8" in printed
    ratios = table(printed)
    assert list(ratios) == [
        "plain generate", "plain generate, again", "plan.steer(model)", "program, no plan",
        "program, 1 plan", "program, 3 plans", "collect",
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

    said = collecting.main(["--small"])
    assert list(said) == [1, 64]
    for table_of in said.values():
        assert table_of["plain generate"] == (1, 1) and len(table_of) == 5
    assert capsys.readouterr().out.count("chosen both ways") == 2


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
