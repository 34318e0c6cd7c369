"""What became of each attempt at a run that trains to its end, a line for each event: `attempts.jsonl` beside run.json.

The script's supervisor notes begin and end, rank 0 what it reached. A job that is killed leaves the lines before. Light
on purpose: it is imported before every run.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from hpc_accel.files import read_json

FILE = "attempts.jsonl"


def is_kept(run_dir: Path) -> bool:
    """Whether the run in this directory trains to its end."""
    return bool(read_json(run_dir / "run.json").get("production"))


def note(run_dir: Path, event: str, *, unix_s: float | None = None, **facts: Any) -> None:
    """One line more, of now unless `unix_s` says another time. One that cannot be written is left out: the training
    does not depend on it.
    """
    line = json.dumps({"event": event, "unix_s": time.time() if unix_s is None else unix_s, **facts}) + "\n"
    try:
        with (run_dir / FILE).open("a") as file:
            file.write(line)
    except OSError:
        return


def read(run_dir: Path) -> list[dict[str, Any]]:
    """The events in their order; lines that are none are left out."""
    found = []
    try:
        lines = (run_dir / FILE).read_text(errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("unix_s"), int | float):
            found.append(event)
    return found


def is_finished(run_dir: Path) -> bool:
    """Whether the training in this directory has come to its end."""
    run, summary = read_json(run_dir / "run.json"), read_json(run_dir / "summary.json")
    return summary.get("status") == "completed" and summary.get("run_id") == run.get("run_id")
