"""Times as Slurm writes them, in seconds. Light: job scripts import it before every run.

30, 30:00            minutes, minutes:seconds
2:30:00              hours:minutes:seconds
1-12, 1-12:30:00     days-hours, days-hours:minutes:seconds
"""

from __future__ import annotations

import re

FORMS = "minutes, or Slurm's forms: hours:minutes:seconds (2:30:00), days-hours:minutes:seconds (1-00:00:00)"


def seconds_of(text: str) -> int | None:
    """The seconds of one of Slurm's forms; None for another text, such as "infinite"."""
    if not re.fullmatch(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}", text, re.ASCII):
        return None
    days, _, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    # After days the first figure is hours; else hours only where there are three.
    hours, minutes, seconds = (*parts, 0, 0)[:3] if days or len(parts) == 3 else (0, *parts, 0)[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
