"""A record on disk: written whole or not at all, read as a Summary or, whatever is wrong with it, as Broken."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpc_accel.files import read_object, write_atomically
from hpc_accel.record.summary import FORMAT, Summary
from hpc_accel.record.text import clean

MEASURE = "start the workflow again, which measures the run"
MEASURE_AGAIN = "delete its summary.json and start the workflow again, which measures the run anew"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A record that cannot be used, and which of its faults is to blame."""

    reason: str
    remedy: str = MEASURE_AGAIN
    is_absent: bool = False


def write(path: Path, summary: Summary) -> None:
    """Replace the record at `path`. Raises what `write_atomically` raises."""
    write_atomically(path, summary.model_dump_json(indent=1) + "\n")


def read(path: Path, run_id: str | None = None) -> Summary | Broken:
    """The record at `path`, which must be that of `run_id` where one is given. Never raises for what is in the file."""
    content = read_object(path)
    if isinstance(content, str):
        absent = not path.exists()
        return Broken(reason=clean(content), remedy=MEASURE if absent else MEASURE_AGAIN, is_absent=absent)
    found_format, found_id = content.get("format"), content.get("run_id")
    if found_format != FORMAT:
        return Broken(reason=f"{path.name} has format {_short(found_format)}, this version reads format {FORMAT}")
    if run_id is not None and found_id != run_id:
        return Broken(reason=f"{path.name} belongs to run {_short(found_id)}: not used")
    try:
        return Summary.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        return Broken(reason=f"{path.name} is not a record: {_first(error)}")
    except (ValueError, RecursionError) as error:
        return Broken(reason=f"{path.name} is not a record: {clean(str(error))}")


def _short(value: Any) -> str:
    if isinstance(value, str):
        return repr(clean(value)[:80])
    return repr(value)[:80] if value is None or isinstance(value, int | float) else f"of type {type(value).__name__}"


def _first(error: ValidationError) -> str:
    """Where the first fault is, what it is, and how many more there are."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    where = ".".join(str(each) for each in faults[0]["loc"])
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return clean(f"{where}: {faults[0]['msg']}" if where else faults[0]["msg"])[:300] + more
