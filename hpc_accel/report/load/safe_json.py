"""Reading values out of records that may be broken: a value of the wrong kind is not measured, never 0, never a crash.

A record may have been cut short, edited or written by another version, and its texts (run names, host
names, error messages) are other people's. Everything enters the report through these functions, so that
control characters (terminal escapes, NUL) end here and no later code has to distrust a type.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Terminal escapes first as whole sequences, so that no "[31m" is left behind; then single control characters.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_MAX_TEXT = 4000

PERCENTILES = ("p50", "p90", "p99", "p99_9")
"""Keys of `latency_ms` in summary.json."""


def clean(value: str) -> str:
    """The text without control characters, newlines and tabs kept, bounded in length."""
    text = _ESCAPES.sub("", value.encode("utf-8", "replace").decode("utf-8"))
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + " ... (cut)"


def at(record: Any, *path: str) -> Any:
    """The value under nested keys, or None where any of them is missing."""
    for key in path:
        if not isinstance(record, Mapping):
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
    return dict(value) if isinstance(value, Mapping) else {}


def items(record: Any, *path: str) -> list[dict[str, Any]]:
    """The objects of a list, or an empty list."""
    value = at(record, *path)
    return [dict(item) for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def read_json(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """A JSON object and no problem, or None and what is wrong with the file."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8", "replace"))
    except FileNotFoundError:
        return None, f"{path.name} is missing"
    except OSError as error:
        return None, f"{path.name} cannot be read: {error.strerror or error}"
    except (ValueError, RecursionError) as error:
        return None, f"{path.name} is not valid JSON ({clean(str(error))})"
    if not isinstance(content, dict):
        return None, f"{path.name} holds no JSON object"
    return content, None
