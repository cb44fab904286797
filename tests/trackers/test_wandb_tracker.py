"""What a sweep sends to wandb, read back record by record from the offline files, and a wandb
that fails."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from corrsteer.__main__ import main
from corrsteer.errors import ConfigError
from corrsteer.report.examples import flipped_answers
from corrsteer.report.judgement import judge
from corrsteer.report.record import read_record
from corrsteer.report.sweep_page import write_sweep_report
from corrsteer.stats.claims import Claim
from corrsteer.trackers import sending as tracking
from corrsteer.trackers.none import NoTracker
from corrsteer.trackers.protocol import Handle, Tracker
from corrsteer.trackers.sending import track
from corrsteer.trackers.wandb import FOREIGN, MAX_ROWS, Wandb, _environment
from tests.report.fabricated_run import fabricate_run, set_status

pytestmark = pytest.mark.long

BLOCK = 32768
COEFS = (0.5, 1.0, 2.0)
LAYERS = (0, 1, 2, 3, 4, 5)
PLACES = ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ERROR_REPORTING")


def records(path: Path) -> Iterator[object]:
    """The protobuf records of a .wandb file: a LevelDB log behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, parts = 7, b""
    while at + 7 <= len(data):
        left = BLOCK - at % BLOCK
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def values(items) -> dict[str, object]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


class Sent:
    """One offline run, read back."""

    def __init__(self, file: Path) -> None:
        give_up = time.monotonic() + 30
        by_kind: dict[str, list] = {}
        # wandb's own process writes the file and may still be at it on a busy machine.
        while "exit" not in by_kind and time.monotonic() < give_up:
            by_kind = {}
            for record in records(file):
                kind = record.WhichOneof("record_type")  # type: ignore[attr-defined]
                by_kind.setdefault(kind, []).append(getattr(record, kind))
        [self.run] = by_kind["run"][:1]
        self.config = values(self.run.config.update)
        self.history = [values(row.item) for row in by_kind["history"]]
        self.summary: dict[str, object] = {}
        for update in by_kind["summary"]:
            self.summary |= values(update.update)
        self.steps = {m.glob_name: m.step_metric for m in by_kind["metric"] if m.glob_name}
        self.artifacts = {
            a.name: (a.type, {c.path: Path(c.local_path) for c in a.manifest.contents})
            for a in by_kind["artifact"]
        }
        self.code = by_kind["exit"][0].exit_code
        self.files = file.parent / "files"

    def table(self, name: str) -> pd.DataFrame:
        [file] = self.files.glob(f"media/table/{name}_*.json")
        content = json.loads(file.read_text())
        return pd.DataFrame(content["data"], columns=content["columns"])

    def over(self, step: str, name: str) -> dict[float, float]:
        """A curve: step -> value."""
        return {row[step]: row[name] for row in self.history if name in row}

    @property
    def names(self) -> set[str]:
        return {name for row in self.history for name in row}


def ablations() -> pd.DataFrame:
    """Invented: gain k/100 or layer/100; nothing flips without layers."""
    rows = []
    for kind in ("alone", "left_out", "by_depth", "by_r"):
        for n in LAYERS if kind in ("alone", "left_out") else range(len(LAYERS) + 1):
            none = kind.startswith("by") and n == 0
            k = {"alone": 1, "left_out": len(LAYERS) - 1}.get(kind, n)
            layer = n if not kind.startswith("by") else (None if none else n - 1)
            rows.append(
                {
                    "kind": kind, "k": k, "layer": layer, "layers": " ".join(map(str, range(k))),
                    "arm": f"{kind}_{n}", "n": 100, "accuracy": 0.5 + n / 100, "low": 0.4,
                    "high": 0.7, "gain": n / 100, "gain_low": -0.1, "gain_high": 0.1,
                    "fixed": n, "broken": 0, "ser": None if none else 0.0,
                }
            )  # fmt: skip
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def fabricate_job(folder: Path, overrides: list[str], coef: float, **tracker: object) -> None:
    fabricate_run(folder, coef=coef, n_test=60, layers=LAYERS, broken=0.0 if coef < 1 else 0.1)
    file = folder / "plan" / "plan.json"
    plan = json.loads(file.read_text())
    for entry in plan["entries"]:
        entry["norm"] = 1 + entry["layer"]
    file.write_text(json.dumps(plan))
    settings = {
        "name": "bbq", "layers": "all", "coef": coef, "seed": 0, "task": {"name": "bbq"},
        "backend": {"host": None}, "tracker": tracker,
    }  # fmt: skip
    (folder / "config.yaml").write_text(json.dumps(settings))  # JSON is YAML
    status = json.loads((folder / "status.json").read_text()) | {"overrides": overrides}
    (folder / "status.json").write_text(json.dumps(status))
    (folder / "report.html").write_text("<html>")
    ablations().to_csv(folder / "ablations.csv", index=False)


WANDB = {"_target_": "corrsteer.trackers.wandb.Wandb"}


@pytest.fixture(scope="module")
def own_places(tmp_path_factory):
    """As on a machine whose user has set nothing but the id of a run to resume, with a home folder
    that shows what gets there."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in (*PLACES, "WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
            patch.delenv(name, raising=False)
        for name, value in {"RUN_ID": "x", "RESUME": "must", "SWEEP_ID": "s"}.items():
            patch.setenv(f"WANDB_{name}", value)
        for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
            patch.setenv(name, str(home))
        patch.setenv("WANDB_CONFIG_DIR", str(home / "config"))
        patch.setenv("NETRC", str(home / "netrc"))
        yield home


@pytest.fixture(scope="module")
def sweep(own_places, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps") / "2026-01-01_bbq"
    for n, coef in enumerate(COEFS):
        fabricate_job(
            folder / str(n),
            ["task=bbq", "layers=all", "ablations=True", f"coef={coef}"],
            coef,
            **WANDB,
        )
    (folder / "1" / "trials.csv").write_text("trial,coef\n0,0.5\n1,1.0\n")
    set_status(folder / "3", "failed", "no such layer", ("task=bbq", "layers=all", "coef=4"))
    task = ["task=bbq", "layers=all", "ablations=true", "coef=0.5,1,2,4"]
    (folder / "multirun.yaml").write_text(json.dumps({"hydra": {"overrides": {"task": task}}}))
    write_sweep_report(folder)
    # wandb in one process of its own for all of them, which takes 2 s each to start.
    code = "import sys; from pathlib import Path; from corrsteer.trackers.sending import send\n"
    code += "for folder in sys.argv[1:]: send(Path(folder))"
    homes = [str(folder / str(n)) for n in range(len(COEFS))]
    done = subprocess.run([sys.executable, "-c", code, *homes, str(folder)], timeout=120)
    assert done.returncode == 0
    return folder


@pytest.fixture(scope="module")
def sent(sweep) -> list[Sent]:
    """The runs of the jobs, in their order, and that of the sweep's report."""
    runs = [Sent(file) for file in sweep.glob("wandb/offline-run-*/*.wandb")]
    return sorted(runs, key=lambda s: (s.run.job_type == "report", s.config.get("coef")))


def metrics(sweep, n) -> dict:
    return json.loads((sweep / str(n) / "metrics.json").read_text())


@pytest.mark.night
def test_the_runs_of_a_sweep_stand_together(sweep, sent):
    assert [s.run.job_type for s in sent] == ["evaluate"] * 3 + ["report"]
    assert {s.run.project for s in sent} == {"corrsteer"}
    assert {s.run.run_group for s in sent} == {sweep.name}
    names = [s.run.display_name for s in sent]
    assert names == [f"coef={c}" for c in COEFS] + [f"report of {sweep.name}"]
    assert [s.code for s in sent] == [0, 0, 0, 0]
    for job, coef in zip(sent, COEFS, strict=False):
        assert set(job.run.tags) == {
            "bbq", "bundled", "CorrSteer-A", "Correlation", "Add", "all layers",
        }  # fmt: skip
        assert (job.config["coef"], job.config["task"]) == (coef, {"name": "bbq"})


@pytest.mark.night
def test_the_summary_has_the_numbers_of_the_run(sweep, sent):
    for n, job in enumerate(sent[:3]):
        m = metrics(sweep, n)
        expected = {
            "gain": m["gain"], "gain_low": m["gain_ci"][0], "gain_high": m["gain_ci"][1],
            "accuracy/baseline": m["arms"]["baseline"]["accuracy"],
            "accuracy/steered": m["arms"]["steered"]["accuracy"],
            "accuracy/constrained": m["arms"]["constrained"]["accuracy"],
            "fixed": m["flips"]["fixed"], "broken": m["flips"]["broken"], "ser": m["flips"]["ser"],
            "mcnemar_p": m["flips"]["mcnemar_p"], "chance": m["chance"],
            "invalid_rate/baseline": m["arms"]["baseline"]["invalid_rate"],
            "invalid_rate/steered": m["arms"]["steered"]["invalid_rate"],
            "random_gain_max": max(m["controls"]["random"]["gains"]),
            "random_at_least_as_good": m["controls"]["random"]["at_least_as_good"],
            "null_p": m["controls"]["random"]["p"],
            "shuffled_p": None,
            "plans_on_test": m["odometer"]["plans"],
            **{f"format/{name}": count for name, count in m["format"].items()},
            "constrained_gain": (
                m["arms"]["constrained"]["accuracy"] - m["arms"]["baseline"]["accuracy"]
            ),
            "noise_share": m["noise"]["below_ceiling"] / m["noise"]["features"],
            "layers_steered": len(LAYERS), "plan_coef": COEFS[n], "seconds": 28.36,
            "validation/baseline": m["validation"]["baseline"]["accuracy"],
            "validation/steered": m["validation"]["steered"]["accuracy"],
            "validation/gain": (
                m["validation"]["steered"]["accuracy"] - m["validation"]["baseline"]["accuracy"]
            ),
            "beats_all_controls": int(judge(read_record(sweep / str(n))).beats_all),
            **{f"claim/{c.name.lower()}": int(c is judge(read_record(sweep / str(n))).claim)
               for c in Claim},
            **{f"control_gain/{kind}": max(c["gains"]) for kind, c in m["controls"].items()},
            **{f"ser_as/{name}": ratio for name, ratio in m["ser"].items()},
            **{f"changed/{name}": count for name, count in m["changes"].items()},
        }  # fmt: skip
        effects = m["side_effects"]
        for name, arms, value in (
            ("off_target/rate", effects["off_target"]["arms"], "rate"),
            ("neutral/kl", effects["neutral"]["arms"], "kl"),
            ("neutral/top1_changed", effects["neutral"]["arms"], "top1_changed"),
            ("text/perplexity", effects["text"]["arms"], "perplexity"),
            ("text/repetition", effects["text"]["arms"], "repetition"),
        ):
            expected |= {f"{name}/{arm}": numbers[value] for arm, numbers in arms.items()}
        expected = {name: value for name, value in expected.items() if value is not None}
        numbers = {
            name: value
            for name, value in job.summary.items()
            if not name.startswith("_") and name.split("/")[0] not in TABLES
        }
        assert numbers == pytest.approx(expected)


TABLES = ("correlations", "flips", "ablations", "dose_response", "trials", "transfer")


def test_what_is_undefined_is_absent(tmp_path):
    fabricate_run(tmp_path / "run", fixed=0.0, broken=0.0, options=False, n_test=20)
    numbers = tracking.summary(read_record(tmp_path / "run"))
    absent = {name for name, value in numbers.items() if value is None}
    assert absent == {
        "ser", "chance", "accuracy/constrained", "constrained_gain", "ser_as/flips",
        "ser_as/changed", "ser_as/off_target", "text/perplexity/random_2", "margin_shift",
        "shuffled_p",
    }  # fmt: skip
    logged = []
    handle = tracking_handle(SimpleNamespace(log=logged.append))
    handle.log({**numbers, "nan": float("nan"), "zero": 0.0})
    assert absent.isdisjoint(logged[0]) and "nan" not in logged[0] and logged[0]["zero"] == 0


def tracking_handle(run):
    from corrsteer.trackers.wandb import WandbRun

    return WandbRun(run)


@pytest.mark.night
def test_curves_run_over_layers(sweep, sent):
    best = pd.read_csv(sweep / "2" / "features.csv").query("rank == 1").set_index("layer")
    job = sent[2]
    assert job.steps["by_layer/*"] == "layer"
    for name in ("r", "ceiling", "coefficient", "freq_right", "freq_wrong"):
        assert job.over("layer", f"by_layer/{name}") == pytest.approx(best[name].to_dict())
    assert job.over("layer", "by_layer/norm") == {n: 2.0 * (1 + n) for n in LAYERS}  # coef 2


def plain(frame: pd.DataFrame) -> list[list[object]]:
    """Rows with None for whatever stands for a missing value."""
    return frame.astype(object).where(frame.notna(), None).values.tolist()


@pytest.mark.night
def test_side_effects_over_layers_and_transfer(sweep, sent):
    m = metrics(sweep, 1)
    assert sent[1].steps["activity/*"] == "layer"
    layers = m["side_effects"]["activity"]["layers"]
    for name in ("l0_before", "l0_after", "new", "lost"):
        expected = {row["layer"]: row[name] for row in layers}
        assert sent[1].over("layer", f"activity/{name}") == pytest.approx(expected)
    table = tracking.transfer_table(read_record(sweep / "1"))
    assert table["tested_on"].tolist() == list(m["transfer"]) and set(table["chosen_on"]) == {"bbq"}
    assert table["gain"].tolist() == [tested["gain"] for tested in m["transfer"].values()]


@pytest.mark.night
def test_curves_of_ablations(sent):
    for kind, step, at in (
        *(("alone", "layer", LAYERS), ("left_out", "layer", LAYERS)),
        *(("by_depth", "k", range(7)), ("by_r", "k", range(7))),
    ):
        assert sent[0].steps[f"ablation/{kind}/*"] == step
        assert sent[0].over(step, f"ablation/{kind}/gain") == pytest.approx(
            {n: n / 100 for n in at}
        )
    assert 0 not in sent[0].over("k", "ablation/by_r/ser")
    expected = ablations().astype(object).replace("", None)
    assert plain(sent[0].table("ablations")) == plain(expected)


@pytest.mark.night
def test_tables_hold_features_and_flips(sweep, sent):
    features = pd.read_csv(sweep / "1" / "features.csv").sort_values(["layer", "rank"])
    table = sent[1].table("correlations")
    pd.testing.assert_frame_equal(table, features.reset_index(drop=True), check_dtype=False)
    assert plain(sent[1].table("trials")) == [[0, 0.5], [1, 1.0]]
    assert not list(sent[0].files.glob("media/table/trials_*"))
    answers = pd.read_parquet(sweep / "1" / "answers.parquet").query("split == 'test'")
    before, after = (
        answers[answers["arm"] == arm].set_index("id") for arm in ("baseline", "steered")
    )
    flips = sent[1].table("flips").set_index("id")
    for kind, was, becomes in (("fixed", 0, 1), ("broken", 1, 0)):
        ids = before.index[(before["score"] == was) & (after["score"] == becomes)]
        assert len(ids) > 0 and set(flips.index[flips["kind"] == kind]) == set(ids)
    for name, row in flips.iterrows():
        assert row["prompt"] == before["prompt"][name]
        assert (row["before"], row["after"]) == (before["answer"][name], after["answer"][name])
        assert row["gold"] == before["gold"][name]


@pytest.mark.night
def test_artifacts_are_whole_and_below_the_sweep(sweep, sent, own_places):
    kinds = {"plan": "plan", "features": "statistics", "report": "report"}
    names = {f"{name}_bbq_bundled_CorrSteer-A": kind for name, kind in kinds.items()}
    for n, job in enumerate(sent[:3]):
        assert {k: kind for k, (kind, _) in job.artifacts.items() if kind != "run_table"} == names
        for name in names:
            for path, local in job.artifacts[name][1].items():
                where = sweep / str(n) / ("plan" if name.startswith("plan") else "")
                assert local.read_bytes() == (where / path).read_bytes()
                assert local.is_relative_to(sweep / "wandb")
        assert set(job.artifacts["plan_bbq_bundled_CorrSteer-A"][1]) == {"plan.json"}
    kind, files = sent[3].artifacts["sweep_bbq"]
    assert (kind, set(files)) == ("report", {"report.html", "summary.csv"})
    assert [file for file in own_places.rglob("*") if file.is_file()] == []
    assert [name for name in PLACES if name in os.environ] == []


@pytest.mark.night
def test_the_report_of_the_sweep_has_its_dose_response(sweep, sent):
    report = sent[3]
    assert report.steps["dose_response/*"] == "coef"
    table = pd.read_csv(sweep / "summary.csv").query("state == 'done'")
    for name in ("steered", "gain", "ser", "random_gain_max"):
        assert report.over("coef", f"dose_response/{name}") == pytest.approx(
            dict(zip(table["coef"], table[name], strict=True))
        )
    assert (report.summary["jobs"], report.summary["jobs_done"]) == (4, 3)
    chosen = table[table["chosen"]].iloc[0]
    assert report.summary["chosen/coef"] == chosen["coef"]
    assert report.summary["chosen/gain"] == pytest.approx(chosen["gain"])
    assert report.table("dose_response")["state"].tolist() == ["done"] * 3 + ["failed"]


def test_jobs_that_differ_in_more_than_coef_are_curves_of_their_own():
    jobs = pd.DataFrame(
        {"coef": [2.0, 1.0], **{name: [0.2, float("nan")] for name in tracking.DOSE}}
    )
    rows = list(tracking.dose_rows(jobs, "seed 1"))
    assert [row["coef"] for row in rows] == [1.0, 2.0]
    assert rows[1]["dose_response/seed 1/gain"] == 0.2


@pytest.mark.night
def test_the_dashboard_draws_what_is_sent(sent):
    from corrsteer.trackers.dashboard import workspace

    view = workspace("me", "corrsteer", "2026-01-01_bbq")
    asked = panel_names(view)
    assert len(asked) > 25
    there = {f"summary:{name}" for job in sent for name in job.summary}
    there |= {f"config:{name}" for job in sent[:3] for name in job.config}
    there |= {f"history:{name}" for job in sent for name in job.names}
    there |= {f"table:{name}" for name in TABLES}
    assert asked - there == set()
    used = {name.split(":")[1] for name in asked if name.startswith("table:")}
    assert used == set(TABLES) - {"trials"}  # not every run searches
    saved = view._to_model().model_dump_json(by_alias=True)
    assert '"value":"2026-01-01_bbq"' in saved.replace(" ", "")


def panel_names(view) -> set[str]:
    """What the panels of a workspace read, as ``where:name``."""
    import wandb_workspaces.reports.v2 as wr

    names = set()

    def add(metric, default: str = "history") -> None:
        where = {wr.Config: "config", wr.SummaryMetric: "summary"}.get(type(metric), default)
        names.add(f"{where}:{metric if isinstance(metric, str) else metric.name}")

    for panel in (panel for section in view.sections for panel in section.panels):
        if isinstance(panel, wr.LinePlot):
            for metric in (panel.x, *panel.y):
                add(metric)
        elif isinstance(panel, wr.ScatterPlot):
            add(panel.x)
            add(panel.y)
        elif isinstance(panel, wr.BarPlot):
            for metric in panel.metrics:
                add(metric)
        elif isinstance(panel, wr.ParallelCoordinatesPlot):
            for column in panel.columns:
                add(column.metric)
        else:
            names.add(f"table:{panel.table_name}")
    return names


# -- a wandb that fails ----------------------------------------------------------------------


def only_warning(caplog) -> str:
    [record] = [r for r in caplog.records if r.levelname == "WARNING" and r.msg != "tracker: %s"]
    return record.getMessage()


@pytest.fixture
def job(own_places, tmp_path):
    folder = tmp_path / "run"
    fabricate_job(folder, [], 1.0, **WANDB)
    return folder


def set_tracker(folder: Path, **tracker: object) -> None:
    settings = json.loads((folder / "config.yaml").read_text()) | {"tracker": tracker}
    (folder / "config.yaml").write_text(json.dumps(settings))


@pytest.mark.night
def test_a_run_alone_is_sent_by_a_process_of_its_own(job, caplog):
    track(job)
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert all("left out: every job is a run of its own" in line for line in warned)
    [file] = job.glob("wandb/offline-run-*/*.wandb")
    run = Sent(file).run
    assert (run.display_name, run.run_group, run.job_type) == ("bbq", "", "evaluate")


@pytest.mark.parametrize("key", [None, "short"])
def test_online_without_a_good_key_is_left_out_soon(job, key, monkeypatch, caplog):
    set_tracker(job, **WANDB, mode="online")
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    began, before = time.monotonic(), sorted(job.iterdir())
    track(job)
    assert time.monotonic() - began < 20
    words = "WANDB_API_KEY invalid" if key else "wandb has no API key: type wandb login"
    assert words in only_warning(caplog)
    assert sorted(file for file in job.iterdir() if file.name != "wandb") == before


@pytest.mark.night
def test_a_server_that_falls_silent_is_given_up(job, monkeypatch, caplog):
    """It knows the key and the run, and answers nothing more."""
    known = {
        "viewer": {"viewer": {"id": "v", "entity": "me", "username": "me", "flags": "{}"}},
        "UpsertBucket": {"upsertBucket": {"bucket": {
            "id": "b", "name": "run", "project": {
                "id": "p", "name": "corrsteer", "entity": {"id": "e", "name": "me"}}}}},
    }  # fmt: skip

    class Silent(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = self.rfile.read(int(self.headers["content-length"])).decode("utf-8", "replace")
            answer = next((a for word, a in known.items() if word in asked), None)
            if answer is None:
                fell_silent.set()
                over.wait(60)
                return
            body = json.dumps({"data": answer}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    fell_silent, over = threading.Event(), threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.setattr(tracking, "LIMIT_S", 12)
        set_tracker(job, **WANDB, mode="online")
        began = time.monotonic()
        track(job)
        assert time.monotonic() - began < 30
        over.set()
        server.shutdown()
    assert fell_silent.is_set()
    assert "not done after 12 s" in only_warning(caplog)


def test_a_folder_that_cannot_be_written_is_no_failure_of_the_run(job, caplog, monkeypatch):
    """A full disk shows the same: files that cannot be made."""
    (job / "wandb").write_text("in the way")
    monkeypatch.setenv("TMPDIR", str(job / "wandb"))
    track(job)
    assert "left out" in only_warning(caplog)


def test_no_process_can_be_started(job, caplog, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    track(job)
    assert "FileNotFoundError" in only_warning(caplog)


def test_wandb_missing_altogether(job, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it raises ImportError
    assert main(["track", str(job)]) == 2
    assert "import of wandb halted" in capsys.readouterr().err


@pytest.mark.parametrize(
    "broken", ["init", "log", "define_metric", "log_artifact", "add_file", "Table", "finish"]
)
def test_whatever_call_fails_ends_in_one_line(job, broken, capsys, monkeypatch):
    codes = []

    class Fake:
        def __getattr__(self, name):
            def call(*args, **kwargs):
                if name == broken:
                    raise OSError(28, "No space left on device")
                return self

            return call

        def __enter__(self):
            return self

        def __exit__(self, kind, *_):
            codes.append(kind)
            self.finish()

    monkeypatch.setitem(sys.modules, "wandb", Fake())
    assert main(["track", str(job)]) == 2
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device\n"
    # wandb ends a run in which something was raised as failed.
    assert codes == {"init": [], "finish": [None]}.get(broken, [OSError])


def test_a_folder_that_is_not_whole_raises_nothing(job, capsys, caplog):
    (job / "features.csv").unlink()
    assert main(["track", str(job)]) == 2
    assert "features.csv" in capsys.readouterr().err
    (job / "config.yaml").unlink()  # it failed before it had settings, so nobody asked for wandb
    track(job)
    assert [r for r in caplog.records if r.levelname == "WARNING"] == []


def test_nothing_is_started_where_nothing_is_tracked(job, monkeypatch, caplog):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    sweep = job.parent / "sweep"
    sweep.mkdir()
    (sweep / "0").symlink_to(job)
    for tracker in (
        {"_target_": "corrsteer.trackers.none.NoTracker"},
        {**WANDB, "mode": "disabled"},
    ):
        set_tracker(job, **tracker)
        track(job)
        track(sweep)
    assert [r for r in caplog.records if r.levelname == "WARNING"] == []


@pytest.mark.night
def test_every_job_is_a_run_of_its_own(sent):
    ids = [run.run.run_id for run in sent]
    assert len(set(ids)) == len(ids) and "x" not in ids
    assert {run.run.sweep_id for run in sent} == {""}


def test_what_a_run_does_not_do_of_the_users_environment_is_said(monkeypatch):
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert Wandb().left_out == ""
    monkeypatch.setenv("WANDB_RUN_ID", "x")
    assert Wandb().left_out == "WANDB_RUN_ID is left out: every job is a run of its own"
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    monkeypatch.setenv("WANDB_MODE", "online")
    assert Wandb().left_out == (
        "WANDB_RUN_ID, WANDB_SWEEP_ID are left out: every job is a run of its own;"
        " WANDB_MODE=online is left out: type tracker.mode=online"
    )
    assert "tracker.mode" not in Wandb(mode="online").left_out


@pytest.mark.parametrize(
    ("name", "value", "enabled"),
    [
        ("WANDB_MODE", "disabled", False),
        ("WANDB_DISABLED", "true", False),
        ("WANDB_DISABLED", "false", True),
        ("WANDB_MODE", "offline", True),
    ],
)
def test_the_users_environment_may_switch_it_off(monkeypatch, name, value, enabled):
    for each in ("WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(each, raising=False)
    assert Wandb().enabled
    monkeypatch.setenv(name, value)
    assert Wandb().enabled is enabled


def test_what_the_user_has_set_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", "mine")
    monkeypatch.delenv("WANDB_CACHE_DIR", raising=False)
    with _environment(tmp_path):
        assert os.environ["WANDB_DIR"] == "mine"
        assert os.environ["WANDB_CACHE_DIR"] == str(tmp_path / "wandb" / "cache")
    assert os.environ["WANDB_DIR"] == "mine" and "WANDB_CACHE_DIR" not in os.environ


def test_the_id_of_a_run_is_set_aside_and_put_back(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "x")
    with _environment(tmp_path):
        assert "WANDB_RUN_ID" not in os.environ
    assert os.environ["WANDB_RUN_ID"] == "x"


def test_long_texts_and_many_flips_are_cut(tmp_path):
    fabricate_run(tmp_path / "run", n_test=1000, fixed=0.6, broken=0.6, hostile=True)
    answers = pd.read_parquet(tmp_path / "run" / "answers.parquet").query("split == 'test'")
    arms = [answers[answers["arm"] == arm] for arm in ("baseline", "steered")]
    all_kinds = pd.Series([flip["kind"] for flip in flipped_answers(*arms)]).value_counts()
    assert (all_kinds > tracking.FLIPS).all()
    table = tracking.flips_table(tmp_path / "run")
    assert table["kind"].value_counts().to_dict() == dict.fromkeys(
        ("fixed", "broken"), tracking.FLIPS
    )
    texts = table[["prompt", "before", "after", "gold"]].stack()
    assert texts.str.len().max() == tracking.TEXT + 2
    json.dumps(texts.tolist()).encode()
    texts.map(lambda text: text.encode())


def test_features_of_all_layers_are_sent_however_many_there_are():
    features = pd.DataFrame([{"layer": n, "rank": k} for n in range(40) for k in range(1, 51)])
    kept = tracking._fair(features, MAX_ROWS)
    assert kept["layer"].value_counts().to_dict() == dict.fromkeys(range(40), 25)
    assert kept["rank"].max() == 25


def test_trackers_and_their_handles_have_every_method(tmp_path):
    trackers = [NoTracker(), Wandb()]
    assert all(isinstance(tracker, Tracker) for tracker in trackers)
    assert [tracker.enabled for tracker in trackers] == [False, True]  # type: ignore[attr-defined]
    assert isinstance(tracking_handle(SimpleNamespace()), Handle)
    about = {"name": "n", "group": None, "job_type": "j", "tags": [], "config": {}}
    with NoTracker().open(tmp_path, **about) as handle:
        assert isinstance(handle, Handle)
        handle.axis("by_layer/*", "layer")
        handle.log({"gain": 0.1, "ser": None})
        handle.table("flips", pd.DataFrame())
        handle.artifact("plan", "plan", [tmp_path / "nowhere"])
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match="offline, online, disabled"):
        Wandb(mode="offlin")
