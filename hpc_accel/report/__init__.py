"""The report of a study: reads the files its runs left, writes summary.csv, answer.txt and report.html,
and inference.csv for a study that serves. Nothing else.

`write(study_dir)` is the room's one door. It may run while runs are still missing: what is there is reported,
what is not is listed with what to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hpc_accel.files import write_atomically

if TYPE_CHECKING:
    from hpc_accel.report.answer import Answer


def write(study_dir: Path) -> Answer:
    """Write the files of a study and return its answer.

    Raises DataError without a readable plan.json, and what `write_atomically` raises when a file cannot be written.
    """
    # Imported here, so that `import hpc_accel.report` costs nothing to a command that writes no report.
    from hpc_accel.report import answer, page, records, serving_csv, summary_csv

    study = records.load(study_dir)
    found = answer.answer(study)
    write_atomically(study_dir / "summary.csv", summary_csv.render(study))
    if study.served:
        write_atomically(study_dir / "inference.csv", serving_csv.render(study))
    write_atomically(study_dir / "report.html", page.render(study, found))
    # The answer last: whoever waits for it finds the page it speaks of.
    write_atomically(study_dir / "answer.txt", found.text)
    return found
