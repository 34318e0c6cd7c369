"""Writing the report of a study: summary.csv, summary.parquet, inference.csv, report.html and answer.txt."""

from __future__ import annotations

from pathlib import Path

from hpc_accel.files import write_atomically
from hpc_accel.report.judge.answer import Answer, answer
from hpc_accel.report.load import study_records
from hpc_accel.report.show import inference_csv, page, summary_csv, summary_parquet


def write(study_dir: Path) -> Answer:
    """Write the files of a study and return its answer. Runs may be missing: they are listed with what to do.

    Raises DataError without a readable plan.json, and what `write_atomically` raises when a file cannot be written.
    """
    study = study_records.load(study_dir)
    found = answer(study)
    write_atomically(study_dir / "summary.csv", summary_csv.render(study))
    write_atomically(study_dir / "summary.parquet", summary_parquet.render(study))
    if study.inference_runs:
        write_atomically(study_dir / "inference.csv", inference_csv.render(study))
    write_atomically(study_dir / "report.html", page.render(study, found))
    # The answer last: whoever waits for it finds the page it speaks of.
    write_atomically(study_dir / "answer.txt", found.text)
    return found
