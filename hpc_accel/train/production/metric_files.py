"""The curve of a training, a row for each evaluation: metrics.parquet, metrics.csv, and events for TensorBoard."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl

from hpc_accel.files import write_atomically


def column(metric: str) -> str:
    """The column of a metric: its name alone might be that of another one."""
    return f"held_out_{metric}"


class MetricFiles:
    """Written anew at each evaluation, by rank 0."""

    def __init__(self, directory: Path, first_step: int) -> None:
        self._directory = directory
        self._events: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            # Events of an attempt that ended behind its last checkpoint are taken back.
            self._events = SummaryWriter(str(directory / "tensorboard"), purge_step=first_step + 1)

    def write(self, rows: list[dict[str, Any]], metric: str | None) -> None:
        """`rows` are those of all evaluations. Raises what `write_atomically` raises."""
        flat = [
            {
                **{key: value for key, value in row.items() if key not in ("value", "also")},
                **({column(metric): row["value"]} if metric is not None else {}),
                **row["also"],
            }
            for row in rows
        ]
        frame = pl.DataFrame(flat, infer_schema_length=None)
        table = io.BytesIO()
        frame.write_parquet(table)
        write_atomically(self._directory / "metrics.parquet", table.getvalue())
        write_atomically(self._directory / "metrics.csv", frame.write_csv())
        if self._events is not None:
            for name, value in flat[-1].items():
                if name != "step" and value is not None:
                    self._events.add_scalar(name, value, flat[-1]["step"])
            self._events.flush()

    def close(self) -> None:
        """No evaluation follows."""
        if self._events is not None:
            self._events.close()
