"""The command line as people type it, with the pipeline stubbed: in real processes, but for most of
the wrong commands.

Each test works in an empty folder with links to ``src`` and ``conf``, so the commands stand here
word for word and leave their outputs there. Options of one command are tested in test_config.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from corrsteer.run.interrupt import INTERRUPTED
from tests.command import ROOT, in_this_process

pytestmark = pytest.mark.long

# Takes the place of corrsteer.run.pipeline and of the report.
PARTS = """
import json, sys, time, types

def run(cfg, folder):
    call = {"coef": cfg.coef, "layers": str(cfg.layers), "task": cfg.task.name}
    call["folder"] = str(folder)
    with open("calls.jsonl", "a") as file:
        file.write(json.dumps(call) + chr(10))
    import logging
    logging.getLogger("corrsteer").info("at work")
    if cfg.coef == 404:
        from corrsteer.errors import DataError
        raise DataError("rows.jsonl is missing: put it into data/")
    if cfg.coef == 500:
        raise RuntimeError("a bug")
    if cfg.coef == 130:
        print("waiting", flush=True)
        time.sleep(600)
    return cfg.coef

def write_sweep_report(folder):
    columns = "job,state,chosen,task,model,method,variant,selector,operator,gate,positions"
    columns += ",layers,seed,token_source,pooling,coef"
    columns += ",validation_baseline,validation_steered,baseline,steered,gain,random_gain_max"
    columns += ",control_best,fixed,broken,ser,p_holm,chosen_share"
    rows = "0,done,False,bbq,m,M,A,S,O,G,P,all,0,generated,max,0.5"
    rows += ",0.49,0.51,0.5,0.52,0.02,0.01,0.015,12,3,0.2,0.0123,1"
    rows += chr(10) + "1,failed,False,bbq,m,M,A,S,O,G,P,all,0,generated,max,1.0" + "," * 12
    (folder / "summary.csv").write_text(columns + chr(10) + rows + chr(10))

pipeline = sys.modules["corrsteer.run.pipeline"] = types.ModuleType("corrsteer.run.pipeline")
pipeline.run = run
report = types.ModuleType("corrsteer.report.sweep_page")
sys.modules["corrsteer.report.sweep_page"] = report
report.write_sweep_report = write_sweep_report
"""
# Starts src.main as -m does.
STUB = f"""
import atexit, runpy, sys

heavy = {{"torch", "nnsight", "sae_lens", "transformers", "wandb", "pandas", "scipy"}}
atexit.register(lambda: open("heavy.txt", "w").write(str(sorted(heavy & set(sys.modules)))))
{PARTS}
sys.argv[0] = "src/main.py"
runpy.run_module("src.main", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def home(tmp_path) -> Path:
    for name in ("src", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def start(home: Path, command: str, stub: str = STUB) -> subprocess.Popen[str]:
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "src.main"]
    return subprocess.Popen(
        [sys.executable, "-c", stub, *words[3:]],
        cwd=home,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(job: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = job.communicate(timeout=120)
    return job.returncode, out, err


def type_(home: Path, command: str) -> tuple[int, str, str]:
    return finish(start(home, command))


def calls(home: Path) -> list[dict]:
    file = home / "calls.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def status(folder: Path) -> dict:
    return json.loads((folder / "status.json").read_text())


def test_the_sweep_word_for_word(home):
    code, out, err = type_(home, "python -m src.main task=bbq layers=all -m coef=0.5,1,2")
    assert code == 0, err
    assert [(c["task"], c["layers"], c["coef"]) for c in calls(home)] == [
        ("bbq", "all", 0.5),
        ("bbq", "all", 1),
        ("bbq", "all", 2),
    ]
    [sweep] = (home / "outputs" / "sweeps").iterdir()
    assert sweep.name.endswith("_bbq")
    assert [c["folder"] for c in calls(home)] == [str(sweep / str(n)) for n in range(3)]
    for n, coef in enumerate((0.5, 1, 2)):
        assert OmegaConf.load(sweep / str(n) / "config.yaml").coef == coef
        assert status(sweep / str(n))["state"] == "done"
        assert "at work" in (sweep / str(n) / "log.txt").read_text()
        assert not (sweep / str(n) / ".hydra").exists()
    assert f"report: outputs/sweeps/{sweep.name}/report.html" in out
    assert "+2.0" in out
    assert "error" not in err


def test_the_single_run_word_for_word(home):
    code, _, err = type_(home, "python -m src.main task=bbq layers=all coef=1")
    assert code == 0, err
    [call] = calls(home)
    [run] = (home / "outputs" / "runs").iterdir()
    assert (call["coef"], call["folder"]) == (1, str(run))
    assert run.name.endswith("_bbq")
    saved = status(run)
    assert (saved["state"], saved["error"]) == ("done", None)
    assert saved["seconds"] >= 0
    assert saved["overrides"] == ["task=bbq", "layers=all", "coef=1"]


def test_layers_reach_the_pipeline_as_typed(home):
    type_(home, "python -m src.main task=bbq data=../somewhere 'layers=[1,3]'")
    type_(home, "python -m src.main task=bbq data=../somewhere layers=2-4")
    assert [c["layers"] for c in calls(home)] == ["[1, 3]", "2-4"]


def test_a_sweep_over_tasks_keeps_its_jobs_in_one_folder(home):
    code, _, err = type_(home, "python -m src.main --multirun task=bbq,mmlu")
    assert code == 0, err
    [sweep] = (home / "outputs" / "sweeps").iterdir()
    assert sweep.name.endswith("_bbq-mmlu")
    assert sorted(f.name for f in sweep.iterdir() if f.is_dir()) == ["0", "1"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("task=bbx", "did you mean bbq?"),
        ("modle=bundled", "did you mean model?"),
        ("task.contxt=ambig", "did you mean context?"),
        ("+coeff=1", "did you mean coef?"),
        ("coef=nan", "finite"),
        ("-m coef=1,strong", "coef=strong: it must be a number"),
        ("coef=404", "rows.jsonl is missing: put it into data/"),
        ("hydra.run.dir=calls.jsonl/run", "cannot write calls.jsonl/run"),
        ("-m coef=1,2 hydra.sweep.dir=calls.jsonl/sweep", "cannot write calls.jsonl/sweep"),
    ],
)
def test_a_wrong_command_ends_in_one_line(home, words, part, monkeypatch):
    for name in ("corrsteer.run.pipeline", "corrsteer.report.sweep_page"):
        monkeypatch.setitem(sys.modules, name, None)  # puts it back
    exec(PARTS, {})
    (home / "calls.jsonl").touch()  # also a file where a folder is wanted
    ended = in_this_process(f"python -m src.main {words}", cwd=home)
    assert part in the_line(ended.code, ended.out, ended.err)
    if words != "coef=404":
        assert calls(home) == []


def the_line(code: int, out: str, err: str) -> str:
    """All that a refused command says."""
    lines = [line for line in err.splitlines() if line != "at work"]
    assert (code, out, len(lines)) == (2, "", 1), err
    assert lines[0].startswith("error: ")
    return lines[0]


def test_a_wrong_input_is_on_record(home):
    line = the_line(*type_(home, "python -m src.main coef=404"))
    assert "rows.jsonl is missing: put it into data/" in line
    [run] = (home / "outputs" / "runs").iterdir()
    assert status(run)["state"] == "failed"
    assert status(run)["error"] == "rows.jsonl is missing: put it into data/"
    assert "traceback" not in status(run)
    assert "rows.jsonl is missing" in (run / "log.txt").read_text()


def test_a_bug_keeps_its_traceback(home):
    code, _, err = type_(home, "python -m src.main coef=500")
    [run] = (home / "outputs" / "runs").iterdir()
    assert code == 1
    assert status(run)["error"] == "RuntimeError: a bug"
    for text in (err, (run / "log.txt").read_text(), status(run)["traceback"]):
        assert text.count("Traceback") == 1
        assert "RuntimeError: a bug" in text


def test_failed_jobs_do_not_hide_the_others(home):
    code, out, err = type_(home, "python -m src.main -m coef=0.5,404,500,nan,2")
    assert code == 1
    assert [c["coef"] for c in calls(home)] == [0.5, 404, 500, 2]
    [sweep] = (home / "outputs" / "sweeps").iterdir()
    states = [status(sweep / str(n))["state"] for n in range(5)]
    assert states == ["done", "failed", "failed", "failed", "done"]
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [
        "error: job 1 (coef=404) failed: rows.jsonl is missing: put it into data/",
        "error: job 2 (coef=500) failed: RuntimeError: a bug",
        "error: job 3 (coef=nan) failed: coef=nan: it must be a finite number, such as coef=1",
    ]
    assert err.count("Traceback") == 1  # the bug's
    assert "report.html" in out


def test_a_report_that_fails_is_said_and_keeps_its_traceback(home):
    stub = STUB.replace("    columns =", "    raise OSError('disk full')\n    columns =", 1)
    code, _, err = finish(start(home, "python -m src.main -m coef=1,404", stub))
    assert code == 1
    assert "OSError: disk full" in err
    assert "error: job 1 (coef=404) failed" in err
    assert "could not be written" in err.splitlines()[-1]


def test_an_interrupted_run_says_so(home):
    job = start(home, "python -m src.main coef=130")
    assert job.stdout is not None
    assert job.stdout.readline() == "waiting\n"
    job.send_signal(signal.SIGINT)
    code, _, err = finish(job)
    assert (code, err.splitlines()[-1]) == (130, INTERRUPTED)
    assert "Traceback" not in err
    [run] = (home / "outputs" / "runs").iterdir()
    assert (status(run)["state"], status(run)["error"]) == ("failed", "interrupted")


@pytest.mark.parametrize("words", ["--help", "task=bbx", "coef=nan", "coef=1"])
def test_a_command_is_checked_without_heavy_imports(home, words):
    ended = type_(home, f"python -m src.main {words}")
    if words in ("task=bbx", "coef=nan"):
        assert the_line(*ended)
    assert (home / "heavy.txt").read_text() == "[]"


def test_help_answers_within_three_seconds():
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-m", "src.main", "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    after = os.times()
    assert done.returncode == 0, done.stderr
    assert "python -m src.main task=bbq layers=all -m coef=0.5,1,2" in done.stdout
    assert "task: bbq, " in done.stdout
    # Processor time: on a machine busy with other work the clock on the wall says nothing.
    seconds = after.children_user + after.children_system
    seconds -= before.children_user + before.children_system
    assert seconds < 3
