"""The table of runs for other programs: summary.json, OpenMetrics text, MLflow's file store."""

from __future__ import annotations

import json
import os
import re

import polars as pl
import pytest
from ruamel.yaml import YAML

from hpc_accel.report.load.study_records import load
from hpc_accel.report.show import open_metrics
from hpc_accel.report.show.summary_table import CSV_COLUMNS, MORE_COLUMNS, rows
from hpc_accel.report.write import write
from tests.cli.test_mistakes import call
from tests.report.editing import edit_summary

SAMPLE = re.compile(r'(\w+)\{((?:\w+="(?:[^"\\]|\\.)*",?)*)\} (\S+)')


def test_json_has_the_rows_of_parquet_with_their_reasons(study):
    write(study)
    table = json.loads((study / "summary.json").read_text())
    frame = pl.read_parquet(study / "summary.parquet")
    assert table["format"] == 1
    assert len(table["runs"]) == frame.height
    for run, row in zip(table["runs"], frame.iter_rows(named=True), strict=True):
        for column in (*CSV_COLUMNS[:-1], *MORE_COLUMNS):
            assert run[column] == row[column], column
            if f"{column}_reason" in row and column != "status":  # why it does not count is a column of its own
                assert run["reasons"].get(column) == row[f"{column}_reason"], column
    assert pl.read_parquet_metadata(study / "summary.parquet")["hpc_accel_summary_format"] == "1"


def samples(text):
    """Family -> its samples as (labels, value), by the grammar of OpenMetrics 1.0."""
    lines = text.split("\n")
    assert lines[-2:] == ["# EOF", ""]
    found: dict[str, list] = {}
    name = ""
    for line in lines[:-2]:
        if line.startswith("# "):
            kind, name, rest = line[2:].split(" ", 2)
            if kind == "TYPE":
                assert name not in found, "a family stands in one place"
                assert rest == "gauge"
                found[name] = []
            elif kind == "UNIT":
                assert name.endswith(f"_{rest}")
            else:
                assert kind == "HELP"
            continue
        matched = SAMPLE.fullmatch(line)
        assert matched, line
        assert matched[1] == name
        found[name].append((matched[2], float(matched[3])))
    return found


def test_openmetrics_has_each_measured_figure_in_base_units(energy_study):
    records = load(energy_study)
    found = samples(open_metrics.render(records, rows(records)))
    counting = [run for run in records.runs if run.summary.step_time_ms.value]
    times = found["hpc_accel_step_time_seconds"]
    assert len(times) == len(counting)
    assert times[0][1] == pytest.approx(counting[0].summary.step_time_ms.value / 1e3)
    assert len({labels for labels, _ in times}) == len(times)
    assert found["hpc_accel_energy_joules"]
    assert "hpc_accel_latency_p99_seconds" not in found, "what was not measured has no sample"


def test_openmetrics_escapes_what_others_wrote(study):
    run = next(run for run in load(study).runs if run.counts)
    edit_summary(
        study, run.workload, run.label, lambda summary: summary["metric"].update(name='a"b\\c', value=1.0, reason="")
    )
    records = load(study)
    text = open_metrics.render(records, rows(records))
    samples(text)
    assert 'metric="a\\"b\\\\c"' in text
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    families = {each.name: each for each in parser.text_string_to_metric_families(text)}
    assert families["hpc_accel_metric"].samples[0].labels["metric"] == 'a"b\\c'


def test_the_commands_write_both_and_say_the_answer(energy_study):
    done = call(energy_study.parent, "report", "demo", "--openmetrics", "m.prom", "--mlflow", "mlruns")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Best for time")
    assert samples((energy_study.parent / "m.prom").read_text())
    (experiment,) = [path for path in (energy_study.parent / "mlruns").iterdir() if path.name.isdigit()]
    yaml = YAML(typ="safe", pure=True)
    assert yaml.load(experiment / "meta.yaml")["name"] == "demo at local"
    records = load(energy_study)
    runs = [path for path in experiment.iterdir() if path.is_dir()]
    assert len(runs) == len(records.runs)
    for path in runs:
        meta = yaml.load(path / "meta.yaml")
        assert meta["run_id"] == path.name
        assert meta["status"] == 3
        assert (path / "params/precision").read_text() in ("fp32", "bf16")
        for metric in (path / "metrics").iterdir():
            if metric.is_file():
                time, value, step = metric.read_text().split()
                assert int(time) > 0 and float(value) == float(value) and step == "0"


def test_a_second_export_to_mlflow_keeps_no_figure_of_the_first(energy_study):
    store = energy_study.parent / "mlruns"
    write(energy_study, mlflow=store)
    (experiment,) = [path for path in store.iterdir() if path.name.isdigit()]
    run = load(energy_study).runs[0]
    (home,) = [path for path in experiment.glob("*") if run.run_id == _text(path / "params/run_id")]
    assert (home / "metrics/energy_j").exists() and (home / "metrics/steps/time_ms").exists()
    (home / "tags/mine").write_text("kept")
    for name in ("summary.json", "steps.parquet"):
        (run.directory / name).unlink()
    write(energy_study, mlflow=store)
    left = {path.name for path in home.rglob("*") if path.is_file()}
    assert not left & {"energy_j", "final_loss", "step_time_ms", "time_ms", "loss"}
    assert "mine" in left
    assert {path.name for path in home.iterdir()} == {"meta.yaml", "params", "metrics", "tags", "artifacts"}
    assert "status: 4" in (home / "meta.yaml").read_text()


def _text(path):
    return path.read_text() if path.exists() else ""


def test_mlflow_reads_the_store(energy_study, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.setitem(os.environ, "MLFLOW_ALLOW_FILE_STORE", "true")
    write(energy_study, mlflow=energy_study.parent / "mlruns")
    write(energy_study, mlflow=energy_study.parent / "mlruns")
    client = tracking.MlflowClient(tracking_uri=(energy_study.parent / "mlruns").as_uri())
    (experiment,) = [each for each in client.search_experiments() if each.name == "demo at local"]
    runs = client.search_runs([experiment.experiment_id])
    records = load(energy_study)
    assert {run.data.params["run_id"] for run in runs} == {run.run_id for run in records.runs}
    by_id = {run.data.params["run_id"]: run for run in runs}
    for record in records.runs:
        found = by_id[record.run_id]
        assert found.data.metrics["step_time_ms"] == pytest.approx(record.summary.step_time_ms.value)
        assert found.info.status == "FINISHED"
    history = client.get_metric_history(runs[0].info.run_id, "steps/time_ms")
    assert len(history) == 30
