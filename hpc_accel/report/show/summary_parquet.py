"""summary.parquet: every column of the table of runs, typed, and after each figure's the reason where it is empty."""

from __future__ import annotations

import io

import polars as pl

from hpc_accel.report.judge.cells import Row
from hpc_accel.report.show import summary_table

TEXTS = frozenset((
    "run_id", "workload", "label", "status", "status_reason", "shard", "schedule", "precision", "options", "compile",
    "recompute", "compression", "backend", "device", "mode", "energy_scope", "energy_method", "energy_reason", "metric",
    "estimated_method", "warnings",
))  # fmt: skip
INTEGERS = frozenset((
    "num_nodes", "num_ranks", "dp", "pp", "tp", "micro_batch_size", "accumulation_steps", "global_batch_size",
    "peak_memory_bytes", "num_repeats", "num_timed_steps", "num_warmup_detected", "num_outliers", "batch_size",
))  # fmt: skip
FLAGS = frozenset(("deadline_passed",))


def render(rows: list[Row]) -> bytes:
    """The whole file. The schema is the same whatever was measured."""
    series = []
    for column in (*summary_table.CSV_COLUMNS[:-1], *summary_table.MORE_COLUMNS):
        series.append(pl.Series(column, [row[column].value for row in rows], dtype=_dtype(column), strict=False))
        if column not in (*summary_table.IDENTITY, *TEXTS):
            series.append(pl.Series(f"{column}_reason", [row[column].reason for row in rows], dtype=pl.String))
    series.append(pl.Series("reasons", [summary_table.reasons_json(row) for row in rows], dtype=pl.String))
    out = io.BytesIO()
    pl.DataFrame(series).write_parquet(out, metadata={"hpc_accel_summary_format": str(summary_table.FORMAT)})
    return out.getvalue()


def _dtype(column: str) -> type[pl.DataType]:
    if column in TEXTS:
        return pl.String
    if column in FLAGS:
        return pl.Boolean
    return pl.Int64 if column in INTEGERS else pl.Float64
