"""Records that tests' runs left, read as everything reads them: a record that is none fails the test."""

from __future__ import annotations

from pathlib import Path

from hpc_accel import record
from hpc_accel.record import Figure, Summary
from hpc_accel.record.figure import Part


def summary_in(directory: Path) -> Summary:
    """The record of the run in `directory`."""
    found = record.read(directory / "summary.json")
    assert isinstance(found, Summary), found.reason
    return found


def figures(part: Part, path: str = "") -> dict[str, Figure]:
    """Every figure of a record by its path, `phases_ms.comm_exposed`; those of lists by number."""
    found: dict[str, Figure] = {}
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, Figure):
            found[path + name] = value
        elif isinstance(value, Part):
            found |= figures(value, f"{path}{name}.")
        elif isinstance(value, tuple):
            for index, each in enumerate(value):
                if isinstance(each, Part):
                    found |= figures(each, f"{path}{name}.{index}.")
    return found
