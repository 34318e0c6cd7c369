"""Several runs take turns in one allocation, each started by its own job.sbatch as it would be alone.

What has a summary.json is not measured again, so an allocation that ended early is taken up by the next. A run that
fails is tried once more; then its record of the failure stands, and the others go on.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hpc_accel.files import write_json
from hpc_accel.jobs.child import Child
from hpc_accel.jobs.supervise import IN_PACK, tell

NUM_TRIES = 2
BAD_CONFIGURATION = 78
"""Exit code of a run that would fail again in the same way."""


def take_turns(done: Path, run_dirs: Sequence[Path]) -> int:
    """Run what has no summary yet, and write `done` when all have one. 75 when the allocation ended before."""
    child = Child()
    environ = dict(os.environ) | {IN_PACK: "1"}
    for run_dir in run_dirs:
        if _has_summary(run_dir):
            continue
        for _ in range(NUM_TRIES):
            (run_dir / "summary.json").unlink(missing_ok=True)
            if child.asked_to_stop:
                return 75
            with (run_dir / "log.txt").open("ab") as log:
                code = child.run(["bash", str(run_dir / "job.sbatch")], environ, stdout=log, stderr=log)
            if child.asked_to_stop:  # what the end of the allocation cut short is no result
                if code:
                    (run_dir / "summary.json").unlink(missing_ok=True)
                return 75
            if code in {0, BAD_CONFIGURATION}:
                break
        tell(f"{run_dir.name}: exit code {code}")
    missing = [str(run_dir) for run_dir in run_dirs if not _has_summary(run_dir)]
    if missing:
        tell(f"no record in {', '.join(missing)}")
        return 70
    write_json(done, {"runs": [run_dir.name for run_dir in run_dirs]})
    return 0


def _has_summary(run_dir: Path) -> bool:
    path = run_dir / "summary.json"
    return path.is_file() and path.stat().st_size > 0
