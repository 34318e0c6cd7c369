"""summary.csv: one row per chosen run, the columns that people read, and why a cell is empty as JSON in the last.

A cell that was not measured is empty, never 0.
"""

from __future__ import annotations

import csv
import io

from hpc_accel.report.judge.cells import Row
from hpc_accel.report.show import summary_table
from hpc_accel.report.show.csv_cells import cell


def render(rows: list[Row]) -> str:
    """The whole file."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(summary_table.CSV_COLUMNS)
    for row in rows:
        *columns, _ = summary_table.CSV_COLUMNS
        writer.writerow([*(cell(row[column].value) for column in columns), summary_table.reasons_json(row)])
    return out.getvalue()
