"""A run that others disturbed is measured again, and the quietest measurement is what is left."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpc_accel.files import read_json, write_json
from hpc_accel.jobs import allocation
from hpc_accel.jobs.again import Again

from .bench import HPC_ACCEL

PROGRAM = """
import json, sys
from pathlib import Path
number = len(list(Path().glob("disturbed-*")))
share = SHARES[number]
if share is None:
    sys.exit(1)
Path("steps.parquet").write_text(str(number))
warnings = ["disturbed: others took some"] if share > 0.1 else []
figures = {"others_share": {"value": share}, "node_others_share": {"value": None}}
record = {"status": "completed", "warnings": warnings, "disturbance": figures, "number": number}
Path("summary.json").write_text(json.dumps(record))
"""
RUN = """{"measure": {"repeat_disturbed": %d}}"""


def measured(directory: Path, shares: list[float | None], most: int) -> tuple[int, str]:
    """Exit code, and what was told, of a supervised program that finds these shares of others one after the other."""
    (directory / "run.json").write_text(RUN % most)
    code = PROGRAM.replace("SHARES", repr(shares))
    command = [HPC_ACCEL, "supervise", directory, "--", sys.executable, "-c", code]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    done = subprocess.run(command, env=kept, cwd=directory, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("shares", "most", "kept", "aside"),
    [
        ([0.4], 0, 0, []),
        ([0.05, 0.0], 3, 0, []),
        ([0.4, 0.05, 0.0], 3, 1, [0]),
        ([0.4, 0.2, 0.3], 2, 1, [0, 2]),
    ],
)
def test_the_quietest_measurement_is_kept_whole(tmp_path, shares, most, kept, aside):
    exit_code, told = measured(tmp_path, shares, most)
    summary = read_json(tmp_path / "summary.json")
    assert (exit_code, summary["number"]) == (0, kept)
    assert (tmp_path / "steps.parquet").read_text() == str(kept)
    others = [read_json(path)["number"] for path in tmp_path.glob("disturbed-*/summary.json")]
    assert sorted(others) == aside
    again = [text for text in summary["warnings"] if text.startswith(f"measured {len(aside) + 1} times")]
    assert bool(again) == ("measured again" in told) == bool(aside)


def test_a_repeat_that_fails_leaves_what_was_measured(tmp_path, monkeypatch):
    write_json(tmp_path / "summary.json", {"status": "completed", "warnings": ["disturbed: others took some"]})
    (tmp_path / "run.json").write_text(RUN % 1)
    again = Again(tmp_path, lambda told: None)
    assert again.is_wanted() and not (tmp_path / "summary.json").exists()
    write_json(tmp_path / "summary.json", {"status": "failed"})
    assert again.settled(70) == 0
    summary = read_json(tmp_path / "summary.json")
    assert summary["status"] == "completed" and "the last one did not end" in summary["warnings"][-1]


def test_a_repeat_that_the_time_limit_would_cut_is_not_begun(tmp_path, monkeypatch):
    (tmp_path / "run.json").write_text(RUN % 3)
    write_json(tmp_path / "summary.json", {"warnings": ["disturbed: others took some"]})
    write_json(tmp_path / "job.json", {"script_started_unix_s": 100.0, "ended_unix_s": 200.0})
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    told: list[str] = []
    for left_s, wanted in ((60.0, False), (3600.0, True)):
        monkeypatch.setattr(allocation, "end_unix_s", lambda job_id, left_s=left_s: time.time() + left_s)
        assert Again(tmp_path, told.append).is_wanted() is wanted
    assert "that takes 120 s, and 60 s are left" in told[0] or "60 s are left, one measurement takes 120 s" in told[0]
