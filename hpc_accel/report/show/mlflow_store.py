"""The runs of a study in the layout of MLflow's file store, written without MLflow: `mlflow ui` opens the directory.

    DIR/<experiment>/meta.yaml
                    /<run>/meta.yaml, params/<name>, tags/<name>, artifacts/
                          /metrics/<name>, "<milliseconds since 1970> <value> <step>" a line

The ids are digests of the study and the run, so that a second export replaces the first: of a run its parameters and
metrics, and of its tags those that stand here. No file of a run is forced to disk: an export that was cut off is
repeated.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from hpc_accel.files import write_atomically, writing
from hpc_accel.report.judge.cells import Row
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.study_records import StudyRecords
from hpc_accel.report.show import summary_table

FINISHED, FAILED = 3, 4
"""Of MLflow's RunStatus."""
WARNINGS = "hpc_accel.warnings"
"""The tag that a run has only if it has warnings."""
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
    meta = _yaml_text({
        "artifact_location": home.resolve().as_uri(),
        "creation_time": began,
        "experiment_id": experiment,
        "last_update_time": max(times, default=0),
        "lifecycle_stage": "active",
        "name": f"{records.study} at {records.site}",
    })  # fmt: skip
    write_atomically(home / "meta.yaml", meta)
    (directory / ".trash").mkdir(exist_ok=True)  # of MLflow, which misses it
    for run, row in zip((*records.runs, *records.inference_runs), rows, strict=True):
        _write_run(run, row, home, experiment)


def _write_run(run: RunRecord, row: Row, home: Path, experiment: str) -> None:
    name = hashlib.sha256(run.run_id.encode()).hexdigest()[:32]
    where = home / name
    part = where / ".part"  # MLflow looks at known names alone
    began, ended = _ms(run.summary.started_utc), _ms(run.summary.ended_utc)
    meta = _yaml_text({
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
    with writing(where):
        shutil.rmtree(part, ignore_errors=True)
        for directory, files in {"params": _params(row), "metrics": _metrics(run, row, ended or began)}.items():
            _plainly(part / directory, files)
            if (where / directory).exists():
                shutil.rmtree(where / directory)
            (part / directory).replace(where / directory)
        (where / "tags" / WARNINGS).unlink(missing_ok=True)
        _plainly(where / "tags", _tags(run, row))
        (where / "artifacts").mkdir(exist_ok=True)
        _plainly(part, {"meta.yaml": meta})
        (part / "meta.yaml").replace(where / "meta.yaml")  # last: with it the run is one
        part.rmdir()


def _params(row: Row) -> dict[str, str]:
    return {column: str(row[column].value) for column in PARAMETERS if row[column].value is not None}


def _tags(run: RunRecord, row: Row) -> dict[str, str]:
    tags = {"mlflow.runName": f"{run.workload} {run.label}", "hpc_accel.status": run.status}
    return tags | ({WARNINGS: str(row["warnings"].value)} if row["warnings"].value else {})


def _metrics(run: RunRecord, row: Row, time_ms: int) -> dict[str, str]:
    """The figures of a run that were measured, and its steps."""
    found = {}
    for column in (*summary_table.CSV_COLUMNS, *summary_table.MORE_COLUMNS):
        value = row[column].value if column in row else None
        if isinstance(value, int | float) and not isinstance(value, bool) and column not in PARAMETERS:
            found[column] = f"{time_ms} {float(value)!r} 0\n"
    return found | _history(run, time_ms)


def _plainly(directory: Path, files: dict[str, str]) -> None:
    """Write files by name into a directory, which is made, though it stays empty."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(text.encode("utf-8", "replace"))


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


def _yaml_text(content: dict[str, Any]) -> str:
    """Flat mappings alone: JSON values are YAML."""
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in content.items())
