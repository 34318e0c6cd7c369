"""Why a run is slower than the fastest of its workload: by how much, and which phase of the step costs most of it.

Phases are means over ranks and the step is that of the slowest rank; what they leave over is a part of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

from hpc_accel.report.judge import ranking, wording
from hpc_accel.report.judge.cells import Cell
from hpc_accel.report.load.run_record import RunRecord

PHASES = {
    "data": "data",
    "forward": "forward",
    "backward": "backward",
    "comm_exposed": "exposed communication",
    "pipeline_wait": "pipeline wait",
    "optimizer": "optimizer",
    "other": "other",
}
REST = "rest of the step"
Fastest = dict[str, RunRecord]


def fastest_of(runs: Iterable[RunRecord]) -> Fastest:
    """The fastest run of each workload."""
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(run.workload, []).append(run)
    return {name: best.run for name, group in groups.items() if (best := ranking.fastest(group))}


def rest_ms(run: RunRecord) -> float | None:
    """What the phases leave of the step time; None where they are missing or add up to more than it."""
    step, phases = ranking.step_time_ms(run), run.summary.phases_ms
    if step is None or phases.forward.value is None:
        return None
    return max(0.0, step.value - sum(phases.of(name).value or 0.0 for name in PHASES)) or None


def slower_by_ms(run: RunRecord, fastest: Fastest) -> Cell:
    """Milliseconds a step of the fastest run's batch takes longer."""
    best = fastest.get(run.workload)
    mine, theirs = ranking.step_time_ms(run), ranking.step_time_ms(best) if best else None
    if not run.counts or best is None or mine is None or theirs is None:
        return Cell(reason=f"the run is {run.status}")
    return Cell(value=max(0.0, mine.value * _scale(run, best) - theirs.value))


def words(run: RunRecord, fastest: Fastest) -> str:
    """`most of it pipeline wait (+2.4 ms)`; "" where phases do not tell."""
    best = fastest.get(run.workload)
    if best is None or best is run:
        return ""
    mine, theirs = _parts(run, _scale(run, best)), _parts(best, 1.0)
    more = {name: mine.get(name, 0.0) - theirs.get(name, 0.0) for name in {**mine, **theirs}}
    if not mine or not theirs or max(more.values()) <= 0:
        return ""
    name = max(more, key=lambda key: more[key])
    return f"{name} +{wording.short(more[name])} ms"


def _scale(run: RunRecord, best: RunRecord) -> float:
    return ranking.global_batch_size(best) / ranking.global_batch_size(run)


def _parts(run: RunRecord, scale: float) -> dict[str, float]:
    phases = run.summary.phases_ms
    if phases.forward.value is None:
        return {}
    found = {name: phases.of(key).value or 0.0 for key, name in PHASES.items()}
    found[REST] = rest_ms(run) or 0.0
    return {name: value * scale for name, value in found.items()}
