"""The report of a study: reads the files its runs left, writes summary.csv, answer.txt and report.html. Nothing else.

`write(study_dir)` is the room's one door. It may run while runs are still missing: what is there is reported,
what is not is listed with what to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpc_accel.report.answer import Answer


def write(study_dir: Path) -> Answer:
    """Write the three files of a study and return its answer.

    Raises DataError without a readable plan.json, CannotCreateError when a file cannot be written.
    """
    # Imported here, so that `import hpc_accel.report` costs nothing to a command that writes no report.
    from hpc_accel.report import answer, files, page, records, summary_csv

    study = records.load(study_dir)
    found = answer.answer(study)
    files.write_text(study_dir / "summary.csv", summary_csv.render(study))
    files.write_text(study_dir / "report.html", page.render(study, found))
    # The answer last: whoever waits for it finds the page it speaks of.
    files.write_text(study_dir / "answer.txt", found.text)
    return found
