"""Runs and jobs that were on one node at the same time: each took from the other what it was measured by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord

MIN_OVERLAP_S = 2.0
"""Ends are noted to the second, and clocks of nodes differ."""
MOST_NAMED = 3


def with_overlaps(runs: Mapping[str, RunRecord]) -> dict[str, RunRecord]:
    """The runs; a warning of those that others overlapped names the others and the node."""
    times = {run_id: found for run_id, run in runs.items() if (found := _times(run)) is not None}
    in_order = sorted(times, key=lambda run_id: times[run_id][0])
    beside: dict[str, list[str]] = {run_id: [] for run_id in runs}
    for index, first in enumerate(in_order):
        for second in in_order[index + 1 :]:
            if times[second][0] > times[first][1] - MIN_OVERLAP_S:
                break  # so did all later ones
            both = min(times[first][1], times[second][1]) - times[second][0]
            if both > MIN_OVERLAP_S and set(runs[first].summary.hosts) & set(runs[second].summary.hosts):
                beside[first].append(second)
                beside[second].append(first)
    return {
        run_id: _warned(run, _suspended(run), _shared(run), _overlapped(run, [runs[other] for other in beside[run_id]]))
        for run_id, run in runs.items()
    }


def _warned(run: RunRecord, *found: str) -> RunRecord:
    """With those of the warnings that say something; a run without a record has no figures to be warned of."""
    said = [text for text in found if text]
    if not said or not run.has_record:
        return run
    return replace(run, summary=run.summary.changed(warnings=(*run.summary.warnings, *said)))


def _suspended(run: RunRecord) -> str:
    suspended_s = safe_json.positive(run.accounting, "suspended_s")
    return f"disturbed: Slurm suspended its job for {suspended_s:g} s: measure it again" if suspended_s else ""


def _shared(run: RunRecord) -> str:
    """Of the jobs that its own found on its nodes. How much they took of its CPUs is measured apart."""
    listed = run.job.get("neighbours")
    found = [safe_json.clean(each) for each in listed if isinstance(each, str)] if isinstance(listed, list) else []
    if not found:
        return ""
    return f"shared: {_named(found)} ran beside it: `exclusive: true` in the site file keeps others off its nodes"


def _overlapped(run: RunRecord, others: list[RunRecord]) -> str:
    if not others:
        return ""
    nodes = sorted(set(run.summary.hosts) & set(others[0].summary.hosts))
    names = _named([f"{other.workload} {other.label}" for other in others])
    return (
        f"disturbed: on {nodes[0]} other runs of this study ran at the same time ({names}): measure on nodes of "
        "its own (`exclusive: true` in the site file), or one run after the other"
    )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _times(run: RunRecord) -> tuple[float, float] | None:
    """Begin and end in seconds since 1970; None where they were not noted."""
    if not run.has_record:
        return None
    try:
        begin, end = (datetime.fromisoformat(text) for text in (run.summary.started_utc, run.summary.ended_utc))
        return begin.timestamp(), end.timestamp()
    except ValueError:
        return None
