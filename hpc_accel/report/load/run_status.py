"""Whether a run counts: its status by its summary and its parity with the serial run, and what to do about it."""

from __future__ import annotations

from hpc_accel.record import Broken, Summary
from hpc_accel.record.parts import Parity

WRONG_REMEDY = "the run does not compute what the serial run does: do not use this layout before they agree"
NO_ROOM_REMEDY = (
    "a run counts when it was compared with the serial run, which the device had no room for: compare a "
    "smaller model of the same kind, or run it where the device has more memory"
)
UNCHECKED_REMEDY = "a run counts when it was compared with the serial run: set measure.parity_steps to 5"

REPAIR_REMEDY = (
    "a run counts when it was compared with the serial run: remove the cause named beside it (docs/parity.md)"
)


def status_of(study: str, found: Summary | Broken) -> tuple[str, str | None]:
    """The status the report works with, and what to do about it: the record's, or `missing`, or `unchecked`."""
    again = (
        "read its log.txt, then run the workflow again, which continues where it stopped: "
        f"snakemake --cores all --config study=studies/{study}.yaml"
    )
    if isinstance(found, Broken):
        return "missing", again if found.is_absent else found.remedy
    if found.status != "completed":
        default = WRONG_REMEDY if found.status == "wrong" else again
        return found.status, found.error.remedy if found.error and found.error.remedy else default
    return compared(found.parity)


def compared(parity: Parity) -> tuple[str, str | None]:
    """Whether a completed run computed the right thing, as far as that was looked at."""
    if not parity.steps:
        # Why it was not compared stands in the record: the study left it out, or the reference had no room.
        reason = parity.reason or ""
        if "memory" in reason:
            return "unchecked", NO_ROOM_REMEDY
        return "unchecked", REPAIR_REMEDY if reason.startswith(("the serial run", "build()")) else UNCHECKED_REMEDY
    return ("completed", None) if parity.passed else ("wrong", WRONG_REMEDY)
