"""Records that tests' runs left, read as everything reads them: a record that is none fails the test."""

from __future__ import annotations

from pathlib import Path

from hpc_accel import record
from hpc_accel.record import Summary


def summary_in(directory: Path) -> Summary:
    """The record of the run in `directory`."""
    found = record.read(directory / "summary.json")
    assert isinstance(found, Summary), found.reason
    return found
