"""Writing the report of a study: tables, page, methods, the crate that describes them, and the answer.

Other programs' formats (OpenMetrics, MLflow's file store) are written where they are asked for.
"""

from __future__ import annotations

from pathlib import Path

from hpc_accel.files import write_atomically
from hpc_accel.report.judge.answer import Answer, answer
from hpc_accel.report.load import study_records
from hpc_accel.report.show import (
    inference_csv,
    methods,
    mlflow_store,
    open_metrics,
    page,
    ro_crate,
    summary_csv,
    summary_json,
    summary_parquet,
    summary_table,
)


def write(study_dir: Path, *, openmetrics: Path | None = None, mlflow: Path | None = None) -> Answer:
    """Write the files of a study and return its answer. Runs may be missing: they are listed with what to do.

    `openmetrics` is a file and `mlflow` a directory outside of it, for other programs.

    Raises DataError without a readable plan.json, and what `write_atomically` raises when a file cannot be written.
    """
    study = study_records.load(study_dir)
    found = answer(study)
    rows = summary_table.rows(study)
    write_atomically(study_dir / "summary.csv", summary_csv.render(rows))
    write_atomically(study_dir / "summary.parquet", summary_parquet.render(rows))
    write_atomically(study_dir / "summary.json", summary_json.render(study, rows))
    if study.inference_runs:
        write_atomically(study_dir / "inference.csv", inference_csv.render(study))
    write_atomically(study_dir / "report.html", page.render(study, found))
    write_atomically(study_dir / "methods.md", methods.render(study))
    if openmetrics is not None:
        write_atomically(openmetrics, open_metrics.render(study, rows))
    if mlflow is not None:
        mlflow_store.write(study, rows, mlflow)
    write_atomically(study_dir / ro_crate.NAME, ro_crate.render(study))
    # The answer last: whoever waits for it finds the page it speaks of.
    write_atomically(study_dir / "answer.txt", found.text)
    return found
