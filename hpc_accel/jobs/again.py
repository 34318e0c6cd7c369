"""A run that something disturbed is measured again, if its study allows that; the quietest measurement is its result.

disturbed-1/, disturbed-2/     the measurements that are not the result, whole
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpc_accel.files import read_json, write_json
from hpc_accel.jobs import allocation

RECORDS = ("summary.json", "job.json", "steps.parquet", "energy.parquet", "trace.json", "checkpoints")
"""What a measurement leaves."""
ROOM = 1.2
"""A repeat starts where so many times the last one's duration is left."""
MARK = "disturbed:"


class Again:
    """The measurements of one run's directory."""

    def __init__(self, run_dir: Path, tell: Callable[[str], None]) -> None:
        self._run_dir, self._tell = run_dir, tell
        measure = read_json(run_dir / "run.json").get("measure") or {}
        self._left = int(measure.get("repeat_disturbed") or 0)
        self._aside: list[Path] = []
        for earlier in run_dir.glob("disturbed-*"):  # of an earlier start, whose result is measured anew
            shutil.rmtree(earlier, ignore_errors=True)

    def is_wanted(self) -> bool:
        """Whether the run is to be measured once more; then its records are put aside."""
        found = _disturbances(self._run_dir)
        if not found or not self._left:
            return False
        job = read_json(self._run_dir / "job.json")
        needed_s = ROOM * (job.get("ended_unix_s", 0.0) - job.get("script_started_unix_s", 0.0))
        left_s = _left_s()
        if left_s is not None and left_s < needed_s:
            self._tell(
                f"{found[0]}; not measured again: {left_s:.0f} s are left, one measurement takes {needed_s:.0f} s"
            )
            return False
        self._left -= 1
        aside = self._run_dir / f"disturbed-{len(self._aside) + 1}"
        _move(self._run_dir, aside)
        self._aside.append(aside)
        self._tell(f"{found[0]}; measured again, these records are in {aside.name}")
        return True

    def settled(self, exit_code: int) -> int:
        """Leave the quietest measurement as the run's result; the exit code, `exit_code` being the last one's."""
        if not self._aside:
            return exit_code
        if exit_code == 0:
            best = min([self._run_dir, *self._aside], key=lambda each: _how_much(each / "summary.json"))
        else:  # the repeat failed or was stopped: what was measured before stands
            best = min(self._aside, key=lambda each: _how_much(each / "summary.json"))
        if best != self._run_dir:
            spare = self._run_dir / ".aside"
            _move(self._run_dir, spare)
            _move(best, self._run_dir)
            _move(spare, best)
            shutil.rmtree(spare, ignore_errors=True)
        summary = read_json(self._run_dir / "summary.json")
        number = len(self._aside) + 1
        kept = "the quietest counts" if exit_code == 0 else "the last one did not end, the quietest before it counts"
        told = f"measured {number} times because others disturbed it: {kept}, the others are in disturbed-*"
        write_json(self._run_dir / "summary.json", summary | {"warnings": [*summary.get("warnings", []), told]})
        return 0


def _disturbances(run_dir: Path) -> list[str]:
    warnings = read_json(run_dir / "summary.json").get("warnings") or []
    return [text for text in warnings if isinstance(text, str) and text.startswith(MARK)]


def _how_much(path: Path) -> tuple[int, float]:
    """How much a measurement was disturbed."""
    shares: dict[str, Any] = read_json(path).get("disturbance") or {}
    taken = [
        (shares.get(key) or {}).get("value") or 0.0 for key in ("others_share", "node_others_share", "stolen_share")
    ]
    return len(_disturbances(path.parent)), sum(taken)


def _move(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for name in RECORDS:
        if (source / name).exists():
            (source / name).replace(target / name)


def _left_s() -> float | None:
    """Seconds until the allocation ends; None where there is no limit, or nobody says."""
    job_id = os.environ.get("SLURM_JOB_ID")
    end_unix_s = allocation.end_unix_s(job_id) if job_id else None
    return None if end_unix_s is None else end_unix_s - time.time()
