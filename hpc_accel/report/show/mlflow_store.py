"""The runs of a study in the layout of MLflow's file store, written without MLflow: `mlflow ui` opens the directory.

    DIR/<experiment>/meta.yaml
                    /<run>/meta.yaml, params/<name>, tags/<name>, artifacts/
                          /metrics/<name>, "<milliseconds since 1970> <value> <step>" a line

The ids are digests of the study and the run, so that a second export replaces the first.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from hpc_accel.files import write_atomically
from hpc_accel.report.judge.cells import Row
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.study_records import StudyRecords
from hpc_accel.report.show import summary_table

FINISHED, FAILED = 3, 4
"""Of MLflow's RunStatus."""
LOCAL = 4
"""Of its SourceType."""
PARAMETERS = (*summary_table.IDENTITY, "energy_scope", "metric")
HISTORY = {"step_ns": ("steps/time_ms", 1e-6), "loss": ("steps/loss", 1.0)}
"""Columns of steps.parquet of which every step is kept, the time as that of the slowest rank, the loss as the mean."""


def write(records: StudyRecords, rows: list[Row], directory: Path) -> None:
    """Write an experiment with a run for each run of the study. Raises what `write_atomically` raises."""
    experiment = str(int(hashlib.sha256(f"{records.study} {records.site}".encode()).hexdigest()[:14], 16))
    home = directory / experiment
    times = [_ms(run.summary.started_utc) for run in (*records.runs, *records.inference_runs)]
    began = min((time for time in times if time), default=0)
    _yaml(home / "meta.yaml", {
        "artifact_location": home.resolve().as_uri(),
        "creation_time": began,
        "experiment_id": experiment,
        "last_update_time": max(times, default=0),
        "lifecycle_stage": "active",
        "name": f"{records.study} at {records.site}",
    })  # fmt: skip
    (directory / ".trash").mkdir(exist_ok=True)  # of MLflow, which misses it
    for run, row in zip((*records.runs, *records.inference_runs), rows, strict=True):
        _write_run(run, row, home, experiment)


def _write_run(run: RunRecord, row: Row, home: Path, experiment: str) -> None:
    name = hashlib.sha256(run.run_id.encode()).hexdigest()[:32]
    where = home / name
    began, ended = _ms(run.summary.started_utc), _ms(run.summary.ended_utc)
    _yaml(where / "meta.yaml", {
        "artifact_uri": (where / "artifacts").resolve().as_uri(),
        "end_time": ended,
        "entry_point_name": "",
        "experiment_id": experiment,
        "lifecycle_stage": "active",
        "run_id": name,
        "run_name": f"{run.workload} {run.label}",
        "run_uuid": name,
        "source_name": "",
        "source_type": LOCAL,
        "source_version": "",
        "start_time": began,
        "status": FINISHED if run.counts else FAILED,
        "tags": [],
        "user_id": "",
    })  # fmt: skip
    (where / "artifacts").mkdir(exist_ok=True)
    for column in PARAMETERS:
        if row[column].value is not None:
            write_atomically(where / "params" / column, str(row[column].value))
    tags = {"mlflow.runName": f"{run.workload} {run.label}", "hpc_accel.status": run.status}
    tags |= {"hpc_accel.warnings": str(row["warnings"].value)} if row["warnings"].value else {}
    for tag, text in tags.items():
        write_atomically(where / "tags" / tag, text)
    for column in (*summary_table.CSV_COLUMNS, *summary_table.MORE_COLUMNS):
        value = row[column].value if column in row else None
        if isinstance(value, int | float) and not isinstance(value, bool) and column not in PARAMETERS:
            write_atomically(where / "metrics" / column, f"{ended or began} {float(value)!r} 0\n")
    for metric, lines in _history(run, ended or began).items():
        write_atomically(where / "metrics" / metric, lines)


def _history(run: RunRecord, time_ms: int) -> dict[str, str]:
    """Every timed step of the run, of repeats the first's; nothing where it cannot be read."""
    path = (run.repeats[0] if run.repeats else run).directory / "steps.parquet"
    try:
        frame = pl.read_parquet(path, columns=["step", "warmup", *HISTORY]).filter(~pl.col("warmup"))
        steps = frame.group_by("step").agg(pl.col("step_ns").max(), pl.col("loss").mean()).sort("step")
    except (OSError, pl.exceptions.PolarsError):
        return {}
    found = {}
    for column, (metric, factor) in HISTORY.items():
        known = steps.select("step", column).drop_nulls().drop_nans()
        lines = [f"{time_ms} {value * factor!r} {step}\n" for step, value in known.iter_rows()]
        if lines:
            found[metric] = "".join(lines)
    return found


def _ms(utc: str) -> int:
    """Milliseconds since 1970; 0 where the record has no time."""
    try:
        return int(datetime.fromisoformat(utc).timestamp() * 1000)
    except ValueError:
        return 0


def _yaml(path: Path, content: dict[str, Any]) -> None:
    """Flat mappings alone: JSON values are YAML."""
    write_atomically(path, "".join(f"{key}: {json.dumps(value)}\n" for key, value in content.items()))
