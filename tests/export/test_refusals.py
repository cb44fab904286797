"""What an export refuses, in a line and before anything is written; it overwrites nothing."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from corrsteer.__main__ import main
from corrsteer.errors import ConfigError, DataError, ModelError
from corrsteer.export.formats import ALL, FORMATS, NOT_FIRST, STEERS
from corrsteer.export.place import written
from corrsteer.export.source import check_made_for, check_says
from corrsteer.models.spec import Model
from corrsteer.steering.plan import load_plan
from corrsteer.store.runfolder import RunFolder
from tests.export.conftest import finish, plan_of
from tests.operators import Clamp, Side
from tests.store.full_disk import full_after


def test_every_format_has_a_module_and_known_positions():
    for name, format_ in FORMATS.items():
        assert callable(importlib.import_module(f"corrsteer.export.{name}").write)
        assert format_.acts in STEERS and set(format_.takes) <= {"generation", "all"}
    assert FORMATS["gguf"].is_exact(ALL, {1, 2}) and not FORMATS["gguf"].is_exact(ALL, {0, 2})
    assert FORMATS["gguf"].acts == NOT_FIRST and not FORMATS["gguf"].is_exact("generation", {1})
    assert FORMATS["lm_eval"].is_exact(ALL, {0}) and FORMATS["easysteer"].is_exact(
        "generation", {0}
    )


# -- plans ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "name", "words"),
    [
        (plan_of(operator=Clamp()), "gguf", "can only add vectors, .* operator is Clamp"),
        (plan_of(operator=Clamp()), "transformers", "can only add vectors"),
        (plan_of(gate=Side(1)), "vllm", "has no gates, and the plan's is Side"),
        (
            plan_of(positions="all"),
            "transformers",
            "positions=all.*can: gguf, lm_eval, folded, vllm",
        ),
        (plan_of(positions="prompt"), "lm_eval", "cannot say positions=prompt"),
        (plan_of(positions="first_3"), "folded", "cannot say positions=first_3"),
        (plan_of(layers=()), "gguf", "the plan has no layers"),
    ],
)
def test_a_plan_that_a_format_cannot_say_is_refused(plan, name, words):
    with pytest.raises(ConfigError, match=words) as caught:
        check_says(plan, name)
    assert "\n" not in str(caught.value)


def test_a_plan_for_all_positions_is_taken_by_what_steers_them():
    for name in ("gguf", "lm_eval", "folded", "vllm"):
        check_says(plan_of(positions="all"), name)


# -- runs ----------------------------------------------------------------------------------------


def refused(capsys, *words) -> str:
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and said.out == ""
    return said.err


def test_what_is_no_finished_run_is_one_line(tmp_path, capsys):
    assert "there is no folder" in refused(capsys, "export", tmp_path / "none", "gguf")
    assert "there is no plan in" in refused(capsys, "export", tmp_path, "gguf")
    state = RunFolder(tmp_path)
    state.start([])
    state.failed("layer 9 is out of range")
    assert "failed (layer 9" in refused(capsys, "export", tmp_path, "gguf")
    finish(tmp_path)
    plan_of().save(tmp_path / "plan")
    assert "config.yaml cannot be read" in refused(capsys, "export", tmp_path, "gguf")
    (tmp_path / "config.yaml").write_text("just: text")
    assert "no model and no task" in refused(capsys, "export", tmp_path, "gguf")
    (tmp_path / "config.yaml").write_text(
        "model: {_target_: corrsteer.models.spec.Modell}\ntask: 1"
    )
    assert "Modell" in refused(capsys, "export", tmp_path, "gguf")
    raw = bytearray((tmp_path / "plan" / "vectors.safetensors").read_bytes())
    raw[-1] ^= 1
    (tmp_path / "plan" / "vectors.safetensors").write_bytes(raw)
    assert "is not the one that plan.json was saved with" in refused(
        capsys, "export", tmp_path, "gguf"
    )
    assert sorted(f.name for f in tmp_path.iterdir() if not f.name.startswith(".")) == [
        "config.yaml", "log.txt", "metrics.json", "plan", "status.json",
    ]  # fmt: skip


@pytest.mark.parametrize("words", ["gguff", "gguf --limit 0", "gguf --limit all", "gguf --out"])
def test_a_wrong_word_is_one_line(tmp_path, capsys, words):
    with pytest.raises(SystemExit) as end:
        main(["export", str(tmp_path), *words.split()])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


# -- models --------------------------------------------------------------------------------------


def test_another_model_than_the_plan_s_is_refused(run_of, tiny_model, tmp_path):
    plan, tiny = load_plan(run_of("llama")), str(tiny_model("llama"))
    check_made_for(plan, Model("tiny", tiny))
    with pytest.raises(ModelError, match="made for a llama, and .* is a gpt2"):
        check_made_for(plan, Model("tiny", str(tiny_model("gpt2"))))
    wide = replace(plan_of(width=16), about=plan.about)
    with pytest.raises(
        ModelError, match="width 16 at layer 0, and .* has layers 0 to 2 of width 32"
    ):
        check_made_for(wide, Model("tiny", tiny))
    shutil.copytree(tiny, tmp_path / "other")
    (tmp_path / "other" / "generation_config.json").write_text("{}")
    with pytest.raises(ModelError, match="is not the model that the plan was made for") as caught:
        check_made_for(plan, Model("tiny", str(tmp_path / "other")))
    assert "\n" not in str(caught.value)


def moved(run: Path, place: Path, text: str, other: str) -> Path:
    """A copy of a run, a text of its settings replaced."""
    shutil.copytree(run, place)
    config = place / "config.yaml"
    assert text in config.read_text()
    config.write_text(config.read_text().replace(text, other))
    return place


def test_a_run_whose_model_is_gone_keeps_the_files_and_says_so(
    run_of, tiny_model, tmp_path, capsys
):
    run = moved(run_of("llama"), tmp_path / "run", str(tiny_model("llama")), "/nowhere/model")
    assert main(["export", str(run), "transformers"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line.startswith("not measured: ")] == said[-1:]
    assert "/nowhere/model" in said[-1]
    assert (run / "export" / "transformers" / "steer.py").is_file()
    for name in ("lm_eval", "folded"):
        assert "/nowhere/model" in refused(capsys, "export", run, name)
        assert not (run / "export" / name).exists()


def test_a_run_whose_questions_have_changed_says_so(run_of, tmp_path, capsys):
    rows = run_of("llama").parent / "rows.jsonl"
    other = tmp_path / "other.jsonl"
    other.write_text(rows.read_text().replace("Say", "Tell"))
    run = moved(run_of("llama"), tmp_path / "run", str(rows), str(other))
    assert main(["export", str(run), "transformers"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("not measured: ") and "type the run's command again" in line


# -- folders -------------------------------------------------------------------------------------


def fill(folder: Path, text: str = "1") -> None:
    (folder / "a").write_text(text)


def test_a_folder_that_holds_something_else_is_left_as_it_is(tmp_path):
    out = tmp_path / "deep" / "out"
    with written(out) as folder:
        fill(folder)
    (out / "__pycache__").mkdir()  # steer.py was imported from there
    with written(out) as folder:  # the same again
        fill(folder)
    with pytest.raises(DataError, match="holds other files .*--out FOLDER"), written(out) as folder:
        fill(folder, "2")
    assert (out / "a").read_text() == "1"
    (out / "mine").touch()
    with pytest.raises(DataError, match="holds other files"), written(out) as folder:
        fill(folder)
    assert sorted(f.name for f in out.iterdir()) == ["__pycache__", "a", "mine"]
    assert [f.name for f in out.parent.iterdir()] == ["out"]


def test_a_link_or_a_file_in_its_place_is_refused_and_an_empty_folder_is_used(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "file").write_text("mine")
    for name in ("link", "file"):
        with pytest.raises(DataError, match="is no folder"), written(tmp_path / name) as folder:
            fill(folder)
    with written(tmp_path / "target") as folder:
        fill(folder)
    assert (tmp_path / "target" / "a").read_text() == "1"
    assert (tmp_path / "file").read_text() == "mine"


def test_the_folder_one_is_in_is_one_like_others(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for place in (".", "..", "/"):
        (tmp_path / "here" / "mine").touch()
        with pytest.raises(DataError, match="--out FOLDER"), written(Path(place)) as folder:
            fill(folder)
    assert [f.name for f in tmp_path.rglob("*")] == ["here", "mine"]


def test_what_ends_half_way_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), written(tmp_path / "out") as folder:
        fill(folder)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    full = pytest.raises(ConfigError, match="No space left")
    with full_after(1, tmp_path), full as caught, written(tmp_path / "out") as folder:
        fill(folder)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_only_others_may_write_is_one_line():
    place = Path(tempfile.mkdtemp())
    place.chmod(0o555)
    try:
        assert as_a_normal_user(place / "out") == (
            f"cannot write {place / 'out'}: Permission denied; type --out FOLDER to use another"
        )
    finally:
        place.chmod(0o755)
        place.rmdir()


def as_a_normal_user(out: Path) -> str:
    """What writing there says in a process of a user who is not root."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        said = "it was written"
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            with written(out):
                pass
        except BaseException as error:  # nothing of pytest's may go on in the child
            said = str(error)
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.close(writing)
    with open(reading) as told:
        said = told.read()
    os.waitpid(child, 0)
    return said
