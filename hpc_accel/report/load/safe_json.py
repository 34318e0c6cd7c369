"""Reading values out of plan.json, run.json, hardware.json and accounting.json, any of which may be broken.

A value of the wrong kind is not known: never 0, never a crash. Control characters in texts end here. A run's own record
is typed and enters through `hpc_accel.record`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hpc_accel.files import read_object
from hpc_accel.record.text import clean


def at(record: Any, *path: str) -> Any:
    """The value under nested keys, or None where any of them is missing."""
    for key in path:
        if not isinstance(record, dict):
            return None
        record = record.get(key)
    return record


def number(record: Any, *path: str) -> float | None:
    """A finite number, else None."""
    value = at(record, *path)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def positive(record: Any, *path: str) -> float | None:
    """A number above 0, else None: a time or an energy of 0 or less is a broken clock, not a measurement."""
    value = number(record, *path)
    return value if value is not None and value > 0 else None


def text(record: Any, *path: str) -> str | None:
    """A cleaned text that is not empty, else None."""
    value = at(record, *path)
    return (clean(value) or None) if isinstance(value, str) else None


def mapping(record: Any, *path: str) -> dict[str, Any]:
    """An object, or an empty one."""
    value = at(record, *path)
    return dict(value) if isinstance(value, dict) else {}


def items(record: Any, *path: str) -> list[dict[str, Any]]:
    """The objects of a list, or an empty list."""
    value = at(record, *path)
    return [dict(item) for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def read_json(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """A JSON object and no problem, or None and what is wrong with the file."""
    content = read_object(path)
    return (None, clean(content)) if isinstance(content, str) else (content, None)
