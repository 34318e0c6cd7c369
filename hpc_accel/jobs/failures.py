"""What failed since the workflow started, in the words of those who know why: shown below what Snakemake says.

A run's cause stands in its summary.json. A rule's stands in its log: an error as value, rule and remedy, or a
traceback, of which the last line and the user's line are told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from hpc_accel.files import end_of, read_json
from hpc_accel.jobs.attempt import SUCCESSFUL
from hpc_accel.study.sources import is_users

MOST_SHOWN = 10
MAX_READ_BYTES = 10**6
"""Of a log, from its end: an error ends what a program says."""
_BLOCK = re.compile(r"^(?:error: |rank \d+: )(.*\n(?:  .*\n?)*  remedy: .*)", re.MULTILINE)
_FRAME = re.compile(r'^  File "(.*)", line (\d+), in (.*)$', re.MULTILINE)
TRACEBACK = "Traceback (most recent call last):"


def failures(results: Path, logs: Path, since_unix_s: float) -> Iterator[str]:
    """One text for each cause that was noted since then, runs first; the same cause of several once."""
    told: dict[str, list[str]] = {}
    for path in _newer(results.glob("runs/*/summary.json"), since_unix_s):
        summary = read_json(path)
        if summary.get("status") not in SUCCESSFUL and isinstance(summary.get("error"), dict):
            error = summary["error"]
            cause = f"error: {error.get('message')}\n  remedy: {error.get('remedy')}"
            told.setdefault(cause, []).append(path.parent.name)
    for path in _newer(logs.rglob("*.log"), since_unix_s):
        cause = known_cause(end_of(path, MAX_READ_BYTES))
        if cause:
            told.setdefault(cause, []).append(str(path))
    for cause, places in list(told.items())[:MOST_SHOWN]:
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        yield f"{places[0]}{more}:\n{cause}"
    if len(told) > MOST_SHOWN:
        yield f"{len(told) - MOST_SHOWN} more causes; see {logs} and {results}/runs"


def known_cause(text: str) -> str:
    """The first error that `text` tells as value, rule and remedy, else the first traceback's end; "" for neither."""
    block = _BLOCK.search(text)
    if block:
        return f"error: {block[1]}"
    _, found, rest = text.partition(TRACEBACK)
    if not found:
        return ""
    last = next((line for line in rest.splitlines() if line[:1].strip()), "")
    trace = rest.partition(last)[0] if last else rest
    frames = [frame for frame in _FRAME.findall(trace) if is_users(Path(frame[0]))]
    where = "".join(f"\n  where:  {path}:{line} in {function}" for path, line, function in frames[-1:])
    return f"error: {last}{where}"


def cause_since(log: Path, start: int) -> str:
    """The cause of a failure in what was added to `log` after byte `start`; its last line where nothing tells more."""
    text = end_of(log, MAX_READ_BYTES, start=start)
    lines = [line for line in text.splitlines() if line.strip()]
    return known_cause(text) or (f"error: {lines[-1].strip()}" if lines else "error: it said nothing")


def _newer(paths: Iterator[Path], since_unix_s: float) -> list[Path]:
    return sorted(path for path in paths if path.stat().st_mtime >= since_unix_s)
