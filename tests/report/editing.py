"""Find a run of a made study by what it is called, and edit its records."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from hpc_accel.record import Summary
from hpc_accel.record.energy import Energy
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.study_records import load
from hpc_accel.report.show import summary_parquet, summary_table

ERROR = {"rank": None, "kind": "killed", "message": "a rank was killed", "remedy": "see log.txt"}
"""What a run that failed says of itself."""


def run_of(study_dir: Path, workload: str, label: str) -> RunRecord:
    """The run of that workload and label."""
    return next(run for run in load(study_dir).runs if (run.workload, run.label) == (workload, label))


def row_of(study_dir: Path, workload: str, label: str) -> dict[str, Any]:
    """The run's row of summary.parquet."""
    frame = pl.read_parquet(io.BytesIO(summary_parquet.render(summary_table.rows(load(study_dir)))))
    return frame.row(by_predicate=(pl.col("workload") == workload) & (pl.col("label") == label), named=True)


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_summary(study_dir: Path, workload: str, label: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the summary of one run."""
    edit(run_of(study_dir, workload, label).directory / "summary.json", change)


def missing(figure: dict[str, Any], reason: str) -> None:
    """Make a figure of the record one that was not measured."""
    figure.update(value=None, reason=reason)


def no_energy(reason: str) -> Callable[[dict[str, Any]], Any]:
    """A change that takes all energy away."""
    return lambda s: s.update(energy=Energy.missing(reason).model_dump(mode="json"))


def is_fixed(key: str, value: Any) -> bool:
    """Whether a record that holds anything else there is none, and is not read at all."""
    return value == "" or key in ("run_id", "status", "unit", "mode") or (key == "method" and value == "none")


def edit_all(study_dir: Path, change: Callable[[dict[str, Any]], Any], workload: str = "") -> None:
    """Change every summary there is, or those of one workload."""
    for path in study_dir.glob(f"runs/{workload}*/summary.json"):
        edit(path, change)


def set_time(median: float, low: float | None = None, high: float | None = None) -> Callable[[dict[str, Any]], Any]:
    """A change of the step time."""
    return lambda s: s["step_time_ms"].update(value=median, ci_low=low or median, ci_high=high or median)


def change_texts(summary: dict[str, Any], change: Callable[[str], str]) -> None:
    """Change every text of a summary that may be anything: with it the summary is still a record."""
    num_changed = 0
    for holder, key in _texts(summary):
        original = holder[key]
        holder[key] = change(original)
        try:
            Summary.model_validate_json(json.dumps(summary))
            num_changed += 1
        except ValidationError:
            holder[key] = original
    assert num_changed > 10, "a record has more texts than that"


def _texts(value: Any) -> Iterator[tuple[Any, Any]]:
    """Where texts are: an object or a list, and the key or the position in it. Not the id that names the record."""
    for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
        if isinstance(item, dict | list):
            yield from _texts(item)
        elif isinstance(item, str) and key != "run_id":
            yield value, key
