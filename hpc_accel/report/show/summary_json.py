"""summary.json of a study: the rows of summary.parquet for programs that read JSON, with the version of the table."""

from __future__ import annotations

import json

from hpc_accel.report.load.study_records import StudyRecords
from hpc_accel.report.show import summary_table


def render(records: StudyRecords) -> str:
    """The whole file. A column without a value is null, and `reasons` says why."""
    columns = (*summary_table.CSV_COLUMNS[:-1], *summary_table.MORE_COLUMNS)
    runs = [
        {
            **{column: row[column].value for column in columns},
            "reasons": {column: why for column in columns if (why := row[column].reason)},
        }
        for row in summary_table.rows(records)
    ]
    content = {"format": summary_table.FORMAT, "study": records.study, "site": records.site, "runs": runs}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
