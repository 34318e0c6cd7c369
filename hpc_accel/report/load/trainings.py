"""Trainings to their end of a study, under way or done: production/<name>/{run.json,summary.json,metrics.parquet}."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from hpc_accel.record import Summary, read
from hpc_accel.record.production import Forecast, read_forecast
from hpc_accel.report.load import safe_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One of them. `summary` is None before its first attempt has ended; it has `production` once all is done."""

    name: str
    directory: Path
    run: dict[str, Any]
    summary: Summary | None
    forecast: Forecast | None
    metrics: tuple[dict[str, Any], ...]
    """A row for each evaluation."""

    @property
    def num_steps(self) -> int:
        """That it was to take."""
        return int(safe_json.positive(self.run, "measure", "steps") or 0)

    @property
    def metric(self) -> str | None:
        """The column of the workload's metric among `metrics`."""
        return next((name for name in (self.metrics[-1] if self.metrics else {}) if name.startswith("held_out_")), None)


def trainings_of(study_dir: Path) -> tuple[Training, ...]:
    """Those of a study, by name; a directory without a run.json is none."""
    found = []
    for path in sorted((study_dir / "production").glob("*/run.json")):
        run, _ = safe_json.read_json(path)
        if run is None:
            continue
        directory = path.parent
        record = read(directory / "summary.json", safe_json.text(run, "run_id"))
        found.append(
            Training(
                name=safe_json.clean(directory.name),
                directory=directory,
                run=run,
                summary=record if isinstance(record, Summary) else None,
                forecast=read_forecast(directory),
                metrics=_metrics(directory / "metrics.parquet"),
            )
        )
    return tuple(found)


def _metrics(path: Path) -> tuple[dict[str, Any], ...]:
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError):
        return ()
    needed = {"step", "loss", "evaluation_s"}
    return tuple(frame.sort("step").iter_rows(named=True)) if needed <= set(frame.columns) else ()
