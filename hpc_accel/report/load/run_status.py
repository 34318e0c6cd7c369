"""Whether a run counts: its status by its summary and its parity with the serial run, and what to do about it."""

from __future__ import annotations

from typing import Any

from hpc_accel.report.load import safe_json

STATUSES = ("completed", "wrong", "failed", "preempted", "hung", "timeout", "cancelled")
"""What summary.json may say; the report adds `missing` and `unchecked`."""
WRONG_REMEDY = "the losses are not those of the serial run: do not use this layout before they agree"
NO_ROOM_REMEDY = (
    "a run counts when its losses were compared with the serial run, which the device had no room for: compare a "
    "smaller model of the same kind, or run it where the device has more memory"
)
UNCHECKED_REMEDY = "a run counts when its losses were compared with the serial run: set measure.parity_steps to 5"


def status_of(study: str, summary: dict[str, Any], problems: list[str]) -> tuple[str, str | None]:
    """The status the report works with, and what to do about it. May add to `problems`."""
    again = (
        "read its log.txt, then run the workflow again, which continues where it stopped: "
        f"snakemake --cores all --config study=studies/{study}.yaml"
    )
    if not summary:
        return "missing", again
    status = safe_json.text(summary, "status")
    if status not in STATUSES:
        problems.append(f"status {status!r} is none of {', '.join(STATUSES)}")
        return "failed", again
    if status != "completed":
        default = WRONG_REMEDY if status == "wrong" else again
        return status, safe_json.text(summary, "error", "remedy") or default
    if safe_json.positive(summary, "step_time_ms", "median") is None:
        problems.append("step_time_ms is no number above 0")
        return "failed", again
    return compared(summary)


def compared(summary: dict[str, Any]) -> tuple[str, str | None]:
    """Whether a completed run computed the right thing, as far as that was looked at."""
    passed = safe_json.at(summary, "parity", "passed")
    if safe_json.positive(summary, "parity", "steps") is None or not isinstance(passed, bool):
        # Why it was not compared stands in the record: the study left it out, or the reference had no room.
        no_room = "memory" in (safe_json.text(summary, "parity", "reason") or "")
        return "unchecked", NO_ROOM_REMEDY if no_room else UNCHECKED_REMEDY
    return ("completed", None) if passed else ("wrong", WRONG_REMEDY)
