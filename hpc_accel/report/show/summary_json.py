"""summary.json of a study: the rows of summary.parquet for programs that read JSON, with the version of the table."""

from __future__ import annotations

import json
from typing import Any

from hpc_accel.report.judge.cells import Row
from hpc_accel.report.load.study_records import StudyRecords
from hpc_accel.report.show import summary_table


def render(records: StudyRecords, rows: list[Row]) -> str:
    """The whole file, one line for each run. A column without a value is null, and `reasons` says why."""
    columns = (*summary_table.CSV_COLUMNS[:-1], *summary_table.MORE_COLUMNS)
    head = {"format": summary_table.FORMAT, "study": records.study, "site": records.site}
    runs = []
    for row in rows:
        found: dict[str, Any] = {column: row[column].value for column in columns}
        found["reasons"] = {column: why for column in columns if (why := row[column].reason)}
        runs.append(json.dumps(found, ensure_ascii=False, allow_nan=False))
    return json.dumps(head, ensure_ascii=False)[:-1] + ', "runs": [\n' + ",\n".join(runs) + "\n]}\n"
